-- Give all that the role of a service (:service) owns in its database to the role SERVICE_owner; included by databases.sql.
\set owner :service _owner
SELECT EXISTS (
    SELECT FROM pg_class WHERE relowner = :'service'::regrole AND relnamespace = 'public'::regnamespace
    UNION ALL SELECT FROM pg_database WHERE datname = current_database() AND datdba = :'service'::regrole
) AS owns \gset
\if :owns
BEGIN;
-- Where this and a service wait for each other, it is the service that is told first: it tries again by itself.
SET LOCAL deadlock_timeout = '10s';
REASSIGN OWNED BY :"service" TO :"owner";
-- What an owner was granted goes to the new one as well.
GRANT CONNECT ON DATABASE :"service" TO :"service";
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO :"service";
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO :"service";
COMMIT;
\endif
