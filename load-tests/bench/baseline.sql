-- Additions of the benchmark to account-service's schema: accounts, and the transfer as one function.
-- Parameters: accounts, events_bytes and body_bytes (stored by account-service for one transfer).

CREATE FUNCTION bench_account(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid $$;

CREATE FUNCTION bench_text(bytes bigint) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT convert_to(repeat('x', bytes::int), 'UTF8') $$;

-- Account 0 is the cash desk; each customer account starts with one deposit, so that the ledger's invariants hold.
INSERT INTO accounts (id, account_number, owner, kind, currency, status, balance, held, seq, created_at, updated_at)
SELECT bench_account(n), CASE n WHEN 0 THEN 'CASHUSD' ELSE lpad(n::text, 16, '0') END, CASE n WHEN 0 THEN '' ELSE 'bench' END,
       CASE n WHEN 0 THEN 'cash' ELSE 'customer' END, 'USD', 'active',
       CASE n WHEN 0 THEN -1000000000000 * :accounts ELSE 1000000000000 END, 0, CASE n WHEN 0 THEN :accounts ELSE 1 END, now(), now()
FROM generate_series(0, :accounts) AS n;

INSERT INTO transactions (id, type, amount, currency, from_account, to_account, created_at)
SELECT ('00000000-0000-7000-9000-' || lpad(to_hex(n), 12, '0'))::uuid, 'deposit', 1000000000000, 'USD',
       bench_account(0), bench_account(n), now()
FROM generate_series(1, :accounts) AS n;

INSERT INTO entries (account_id, seq, transaction_id, amount, balance_after)
SELECT t.to_account, 1, t.id, t.amount, t.amount FROM transactions t
UNION ALL
SELECT t.from_account, row_number() OVER w, t.id, -t.amount, sum(-t.amount) OVER w FROM transactions t WINDOW w AS (ORDER BY t.id);

CREATE FUNCTION bench_transfer(from_id uuid, to_id uuid, moved bigint, used_key text, events bytea, answer bytea)
RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    new_id uuid := gen_random_uuid();
    payer record;
    payee record;
BEGIN
    PERFORM request_hash, status, body FROM idempotency_keys WHERE subject = 'bench' AND key = used_key;
    PERFORM 1 FROM accounts WHERE id IN (from_id, to_id) ORDER BY id FOR NO KEY UPDATE;
    SELECT * INTO payer FROM accounts WHERE id = from_id;
    SELECT * INTO payee FROM accounts WHERE id = to_id;
    IF payer.balance - payer.held < moved THEN
        RAISE EXCEPTION 'insufficient funds';
    END IF;
    INSERT INTO transactions (id, type, amount, currency, from_account, to_account, created_at)
    VALUES (new_id, 'transfer', moved, 'USD', from_id, to_id, now());
    UPDATE accounts SET status = v.status, balance = v.balance, held = v.held, seq = v.seq, updated_at = now()
    FROM (VALUES (from_id, payer.status, payer.balance - moved, payer.held, payer.seq + 1),
                 (to_id, payee.status, payee.balance + moved, payee.held, payee.seq + 1)) AS v (id, status, balance, held, seq)
    WHERE accounts.id = v.id;
    -- After the balances, because the ledger's trigger compares them.
    INSERT INTO entries (account_id, seq, transaction_id, amount, balance_after)
    VALUES (from_id, payer.seq + 1, new_id, -moved, payer.balance - moved), (to_id, payee.seq + 1, new_id, moved, payee.balance + moved);
    INSERT INTO outbox (size, events, created_at) VALUES (2, events, now());
    INSERT INTO idempotency_keys (subject, key, request_hash, status, body, created_at)
    VALUES ('bench', used_key, decode('00112233445566778899aabbccddeeff', 'hex'), 201, answer, now());
    RETURN new_id;
END $$;
