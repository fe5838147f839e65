-- Exports what scripts/ledger/verify_ledger.py reads, one row a line: psql -XAtq -f export.sql > export.ndjson
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL timezone TO 'UTC';
SELECT json_build_object('table', 'export', 'row', json_build_object('created_at', now()));
SELECT json_build_object('table', 'accounts', 'row', json_build_object('id', id, 'balance', balance, 'seq', seq)) FROM accounts;
SELECT json_build_object('table', 'transactions', 'row', to_json(r)) FROM transactions r;
SELECT json_build_object('table', 'entries', 'row', to_json(r)) FROM entries r;
SELECT json_build_object('table', 'ledger_leaves', 'row', to_json(r)) FROM ledger_leaves r;
SELECT json_build_object('table', 'ledger_roots', 'row', to_json(r)) FROM ledger_roots r;
COMMIT;
