-- Transfer ownership from the role of a service (:service) to the role SERVICE_owner; included by databases.sql.
\set owner :service _owner
SELECT EXISTS (
    SELECT FROM pg_class WHERE relowner = :'service'::regrole AND relnamespace = 'public'::regnamespace
    UNION ALL SELECT FROM pg_database WHERE datname = current_database() AND datdba = :'service'::regrole
) AS owns \gset
\if :owns
BEGIN;
-- In a deadlock with a service, the service is cancelled first, because it retries.
SET LOCAL deadlock_timeout = '10s';
REASSIGN OWNED BY :"service" TO :"owner";
-- REASSIGN OWNED transfers the permissions of the old owner as well, so grant them again.
GRANT CONNECT ON DATABASE :"service" TO :"service";
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO :"service";
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO :"service";
COMMIT;
\endif
