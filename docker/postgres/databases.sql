-- Roles and databases; `make up` runs it every time, so a new password takes effect with it. Each service has a database,
-- a role that owns it and migrates, and a role of its own that owns nothing (what it may do is in its app/grants.py). And
-- there is a role for Prometheus' exporter.
\set ON_ERROR_STOP on
-- Statements with passwords are not for the log, however slow they are and even if they fail.
SET log_min_error_statement = panic;
SET log_min_duration_statement = -1;
SET log_statement = none;
\set account_password `cat /run/secrets/account_password`
\set account_owner_password `cat /run/secrets/account_owner_password`
\set transaction_password `cat /run/secrets/transaction_password`
\set transaction_owner_password `cat /run/secrets/transaction_owner_password`
\set monitor_password `cat /run/secrets/monitor_password`
-- Nothing to be told about what is there already.
SET client_min_messages = warning;

SELECT format('CREATE ROLE %I LOGIN', name)
FROM unnest(ARRAY['account', 'account_owner', 'transaction', 'transaction_owner', 'monitor']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

ALTER ROLE account PASSWORD :'account_password';
ALTER ROLE account_owner PASSWORD :'account_owner_password' CONNECTION LIMIT 5;
ALTER ROLE transaction PASSWORD :'transaction_password';
ALTER ROLE transaction_owner PASSWORD :'transaction_owner_password' CONNECTION LIMIT 5;
ALTER ROLE monitor PASSWORD :'monitor_password' CONNECTION LIMIT 5;

SELECT format('CREATE DATABASE %I OWNER %I', name, name || '_owner')
FROM unnest(ARRAY['account', 'transaction']) AS name
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name)
\gexec

-- No role gets into the other service's database, nor into those that PostgreSQL brings.
REVOKE CONNECT, TEMPORARY ON DATABASE account, transaction, postgres, template1 FROM PUBLIC;
GRANT CONNECT ON DATABASE account TO account, account_owner;
GRANT CONNECT ON DATABASE transaction TO transaction, transaction_owner;

-- Statistics only: pg_monitor reads no table of a service.
GRANT pg_monitor TO monitor;
GRANT CONNECT ON DATABASE postgres TO monitor;

-- Services once owned their databases. What they own goes to the owners; until the migrations that follow narrow it,
-- replicas that run keep the rights they need.
\connect account
\set service account
\ir hand_over.sql
\connect transaction
\set service transaction
\ir hand_over.sql
