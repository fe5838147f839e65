-- One role and one database per service; `make up` runs it every time, so a new password takes effect with it.
\set ON_ERROR_STOP on
\set account_password `cat /run/secrets/account_password`
\set transaction_password `cat /run/secrets/transaction_password`

SELECT format('CREATE ROLE %I LOGIN', name)
FROM unnest(ARRAY['account', 'transaction']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

ALTER ROLE account PASSWORD :'account_password';
ALTER ROLE transaction PASSWORD :'transaction_password';

SELECT format('CREATE DATABASE %I OWNER %I', name, name)
FROM unnest(ARRAY['account', 'transaction']) AS name
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name)
\gexec

-- Neither role gets into the other's database, nor into those that PostgreSQL brings.
REVOKE CONNECT, TEMPORARY ON DATABASE account, transaction, postgres, template1 FROM PUBLIC;
