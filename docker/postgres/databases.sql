-- One role and one database per service, and a role for Prometheus' exporter; `make up` runs it every time, so a new password takes effect with it.
\set ON_ERROR_STOP on
-- Statements with passwords are not for the log, however slow they are and even if they fail.
SET log_min_error_statement = panic;
SET log_min_duration_statement = -1;
SET log_statement = none;
\set account_password `cat /run/secrets/account_password`
\set transaction_password `cat /run/secrets/transaction_password`
\set monitor_password `cat /run/secrets/monitor_password`

SELECT format('CREATE ROLE %I LOGIN', name)
FROM unnest(ARRAY['account', 'transaction', 'monitor']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

ALTER ROLE account PASSWORD :'account_password';
ALTER ROLE transaction PASSWORD :'transaction_password';
ALTER ROLE monitor PASSWORD :'monitor_password' CONNECTION LIMIT 5;

SELECT format('CREATE DATABASE %I OWNER %I', name, name)
FROM unnest(ARRAY['account', 'transaction']) AS name
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name)
\gexec

-- Neither role gets into the other's database, nor into those that PostgreSQL brings.
REVOKE CONNECT, TEMPORARY ON DATABASE account, transaction, postgres, template1 FROM PUBLIC;

-- Statistics only: pg_monitor reads no table of a service.
GRANT pg_monitor TO monitor;
GRANT CONNECT ON DATABASE postgres TO monitor;
