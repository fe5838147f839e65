-- Variant A1: the transfer as one function call, one round trip per transfer.
\set a random(1, :accounts)
\set b 1 + (:a - 1 + random(1, :accounts - 1)) % :accounts
\set key1 random(1, 9000000000000000)
\set key2 random(1, 9000000000000000)
SELECT bench_transfer(bench_account(:a), bench_account(:b), 1, :key1 || '-' || :key2, bench_text(:events_bytes), bench_text(:body_bytes));
