-- A grown ledger: five transfers to the next account for each account of baseline.sql, and idempotency keys.
-- Parameters: accounts, keys, body_bytes. Triggers and foreign keys are disabled for speed; all rows are consistent.
SET session_replication_role = replica;

INSERT INTO transactions (id, type, amount, currency, from_account, to_account, created_at)
SELECT ('00000000-0000-7000-a000-' || lpad(to_hex(k * :accounts::bigint + n), 12, '0'))::uuid, 'transfer', 1, 'USD',
       bench_account(n), bench_account(n % :accounts + 1), now() - interval '30 days' + k * interval '5 days'
FROM generate_series(1, 5) AS k, generate_series(1, :accounts) AS n;

-- Each account alternately sends and receives 1: its balance is the deposit minus 1, then the deposit again.
ALTER TABLE entries DROP CONSTRAINT entries_pkey;
INSERT INTO entries (account_id, seq, transaction_id, amount, balance_after)
SELECT bench_account((n - 1 + side) % :accounts + 1), 2 * k + side,
       ('00000000-0000-7000-a000-' || lpad(to_hex(k * :accounts::bigint + n), 12, '0'))::uuid,
       CASE side WHEN 0 THEN -1 ELSE 1 END, 1000000000000 - 1 + side
FROM generate_series(1, :accounts) AS n, generate_series(1, 5) AS k, generate_series(0, 1) AS side;
ALTER TABLE entries ADD PRIMARY KEY (account_id, seq);
UPDATE accounts SET seq = 11 WHERE kind = 'customer';

ALTER TABLE idempotency_keys DROP CONSTRAINT idempotency_keys_pkey;
INSERT INTO idempotency_keys (subject, key, request_hash, status, body, created_at)
SELECT 'bench', md5(n::text), decode('00112233445566778899aabbccddeeff', 'hex'), 201, bench_text(:body_bytes), now()
FROM generate_series(1, :keys) AS n;
ALTER TABLE idempotency_keys ADD PRIMARY KEY (subject, key);
VACUUM FULL accounts;
VACUUM (ANALYZE);
