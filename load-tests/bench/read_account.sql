-- An account, as account-service selects it.
\set a random(1, :accounts)
SELECT id, account_number, owner, name, kind, currency, status, balance, held, seq, created_at FROM accounts WHERE id = bench_account(:a);
