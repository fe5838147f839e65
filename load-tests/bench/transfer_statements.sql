-- Variant A: the statements of a transfer one by one, one database transaction per transfer; entries after the balances, which the trigger compares.
\set a random(1, :accounts)
\set b 1 + (:a - 1 + random(1, :accounts - 1)) % :accounts
\set key1 random(1, 9000000000000000)
\set key2 random(1, 9000000000000000)
BEGIN;
SELECT request_hash, status, body FROM idempotency_keys WHERE subject = 'bench' AND key = :key1 || '-' || :key2;
WITH locked AS (SELECT id, currency, status, balance, held, seq FROM accounts WHERE id IN (bench_account(:a), bench_account(:b)) ORDER BY id FOR NO KEY UPDATE) SELECT gen_random_uuid() AS id, max(balance) FILTER (WHERE id = bench_account(:a)) AS a_balance, max(seq) FILTER (WHERE id = bench_account(:a)) AS a_seq, max(balance) FILTER (WHERE id = bench_account(:b)) AS b_balance, max(seq) FILTER (WHERE id = bench_account(:b)) AS b_seq FROM locked \gset
INSERT INTO transactions (id, type, amount, currency, from_account, to_account, created_at) VALUES (:id::uuid, 'transfer', 1, 'USD', bench_account(:a), bench_account(:b), now());
UPDATE accounts SET status = 'active', balance = v.balance, held = 0, seq = v.seq, updated_at = now() FROM (VALUES (bench_account(:a), :a_balance::bigint - 1, :a_seq::bigint + 1), (bench_account(:b), :b_balance::bigint + 1, :b_seq::bigint + 1)) AS v (id, balance, seq) WHERE accounts.id = v.id;
INSERT INTO entries (account_id, seq, transaction_id, amount, balance_after) VALUES (bench_account(:a), :a_seq::bigint + 1, :id::uuid, -1, :a_balance::bigint - 1), (bench_account(:b), :b_seq::bigint + 1, :id::uuid, 1, :b_balance::bigint + 1);
INSERT INTO outbox (size, events, created_at) VALUES (2, bench_text(:events_bytes), now());
INSERT INTO idempotency_keys (subject, key, request_hash, status, body, created_at) VALUES ('bench', :key1 || '-' || :key2, decode('00112233445566778899aabbccddeeff', 'hex'), 201, bench_text(:body_bytes), now());
COMMIT;
