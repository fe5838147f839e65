-- The accounts of baseline.sql in transaction-service's history, so that the fraud rules evaluate their transfers.
-- Parameters: accounts, transfers (per account).

CREATE FUNCTION bench_account(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid $$;

INSERT INTO accounts (id, owner, currency, account_number)
SELECT bench_account(n), 'bench', 'USD', lpad(n::text, 16, '0')
FROM generate_series(1, :accounts) AS n;

-- The deposits of baseline.sql and, with transfers = 5, the transfers of growth.sql.
INSERT INTO transactions (id, type, status, amount, currency, from_account, to_account, created_at)
SELECT ('00000000-0000-7000-9000-' || lpad(to_hex(n), 12, '0'))::uuid, 'deposit', 'posted', 1000000000000, 'USD',
       bench_account(0), bench_account(n), now() - interval '30 days'
FROM generate_series(1, :accounts) AS n;

INSERT INTO transactions (id, type, status, amount, currency, from_account, to_account, created_at)
SELECT ('00000000-0000-7000-a000-' || lpad(to_hex(k * :accounts::bigint + n), 12, '0'))::uuid, 'transfer', 'posted', 1,
       'USD', bench_account(n), bench_account(n % :accounts + 1), now() - interval '30 days' + k * interval '5 days'
FROM generate_series(1, :transfers) AS k, generate_series(1, :accounts) AS n;

INSERT INTO entries (account_id, transaction_id, seq, counterparty, amount, balance_after, created_at)
SELECT from_account, id, CASE type WHEN 'deposit' THEN n ELSE 2 * k END, to_account, -amount,
       CASE type WHEN 'deposit' THEN -1000000000000 * n ELSE 1000000000000 - 1 END, created_at
FROM (SELECT *, row_number() OVER (PARTITION BY type ORDER BY id) AS n,
             row_number() OVER (PARTITION BY from_account, type ORDER BY id) AS k FROM transactions) AS numbered
UNION ALL
SELECT to_account, id, CASE type WHEN 'deposit' THEN 1 ELSE 2 * k + 1 END, from_account, amount, 1000000000000, created_at
FROM (SELECT *, row_number() OVER (PARTITION BY to_account, type ORDER BY id) AS k FROM transactions) AS numbered
ORDER BY 1, 2;
VACUUM (ANALYZE);
