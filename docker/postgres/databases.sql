-- Roles and databases; run by each `make up`, which also applies changed passwords. Each service has a database, an
-- owner role for migrations, and a role that owns nothing (its permissions are in the service's grants.py). Prometheus'
-- exporter has its own role.
\set ON_ERROR_STOP on
-- Keep statements with passwords out of the log, also if they are slow or fail.
SET log_min_error_statement = panic;
SET log_min_duration_statement = -1;
SET log_statement = none;
\set account_password `cat /run/secrets/account_password`
\set account_owner_password `cat /run/secrets/account_owner_password`
\set transaction_password `cat /run/secrets/transaction_password`
\set transaction_owner_password `cat /run/secrets/transaction_owner_password`
\set monitor_password `cat /run/secrets/monitor_password`
-- No notices about existing objects.
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

-- Roles can only connect to the database of their own service.
REVOKE CONNECT, TEMPORARY ON DATABASE account, transaction, postgres, template1 FROM PUBLIC;
GRANT CONNECT ON DATABASE account TO account, account_owner;
GRANT CONNECT ON DATABASE transaction TO transaction, transaction_owner;

-- pg_monitor can read statistics, but no tables of the services.
GRANT pg_monitor TO monitor;
GRANT CONNECT ON DATABASE postgres TO monitor;

-- In earlier releases the services owned their databases. Transfer ownership to the owner roles; running replicas keep
-- their permissions until the following migrations restrict them.
\connect account
\set service account
\ir hand_over.sql
\connect transaction
\set service transaction
\ir hand_over.sql
