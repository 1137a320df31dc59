-- name: lock_patience
-- How long one attempt waits for a lock of others; whoever else wants it waits as long behind us.
SET LOCAL lock_timeout = '1s';

-- name: act_as
-- Do everything in this transaction as the role $1, which is to own what is made.
SELECT set_config('role', $1::text, true);

-- name: intended_owner
-- For the next statement: who is to own the schema.
SELECT set_config('relay.owner', $1::text, true);

-- name: create_schema
-- Make the schema if it is not there. (With IF NOT EXISTS it would take a privilege on the database in any case.) Who
-- comes second waits for the first to commit, and is refused then.
DO $$
BEGIN
    IF to_regnamespace('outbox') IS NULL THEN
        EXECUTE format(
            'CREATE SCHEMA outbox AUTHORIZATION %I',
            coalesce(nullif(current_setting('relay.owner', true), ''), current_user)
        );
    END IF;
END
$$;

-- name: migration_lock
-- Held to the end of the transaction: one `relay migrate` at a time, each outbox for itself. To say what a schema is
-- for takes a lock that only its owner can hold; what was said of it stays.
DO $$
BEGIN
    EXECUTE format('COMMENT ON SCHEMA outbox IS %L', obj_description(to_regnamespace('outbox'), 'pg_namespace'));
END
$$;

-- name: schema_holders
-- Who holds a lock on the schema itself; without a schema, who has written something and not committed, which may be one.
-- Prepared transactions too, which have no session.
-- The columns are those of lock_holders.
SELECT a.pid, NULL::text AS gid, a.usename::text AS role, coalesce(a.application_name, '') AS application,
       extract(epoch FROM statement_timestamp() - a.xact_start)::float8 AS seconds, a.pid::text AS holder
FROM pg_stat_activity AS a
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
  AND CASE WHEN to_regnamespace('outbox') IS NULL THEN a.backend_xid IS NOT NULL ELSE EXISTS (
      SELECT FROM pg_locks AS l
      WHERE l.pid = a.pid AND l.granted
        AND l.locktype = 'object' AND l.classid = 'pg_namespace'::regclass AND l.objid = to_regnamespace('outbox')
  ) END
UNION ALL
SELECT NULL, p.gid, p.owner::text, '', extract(epoch FROM statement_timestamp() - p.prepared)::float8, p.gid
FROM pg_prepared_xacts AS p
WHERE p.database = current_database()
  AND (to_regnamespace('outbox') IS NULL OR EXISTS (
      SELECT FROM pg_locks AS t
      JOIN pg_locks AS l ON l.pid IS NULL AND l.virtualtransaction = t.virtualtransaction
      WHERE t.pid IS NULL AND t.transactionid = p.transaction
        AND l.locktype = 'object' AND l.classid = 'pg_namespace'::regclass AND l.objid = to_regnamespace('outbox')
  ))
ORDER BY seconds DESC NULLS LAST;

-- name: usable_name
-- Whether its name needs no quoting, and what server this is.
SELECT NOT EXISTS (SELECT FROM pg_get_keywords() AS k WHERE k.word = 'outbox' AND k.catcode <> 'U') AS usable_name,
       current_setting('server_version_num')::int AS server_version;

-- name: applied_migrations
-- What has been applied, in order. Through JSON, because the last column comes with migration 2.
SELECT m.version, m.name, m.checksum,
       coalesce((to_jsonb(m) ->> 'compatible_from')::int, m.version) AS compatible_from
FROM outbox.migration AS m
ORDER BY m.version;

-- name: record_migration
-- Record version $1, name $2, checksum $3 as applied; the schema then works with programs from version $4. Through
-- JSON, because the last column comes with migration 2.
INSERT INTO outbox.migration
SELECT (jsonb_populate_record(
    NULL::outbox.migration,
    jsonb_build_object('version', $1::int, 'name', $2::text, 'checksum', $3::text,
                       'applied_at', clock_timestamp(), 'compatible_from', $4::int)
)).*;

-- name: max_event_bytes
-- The limit on an event's size. Not by the function: this is read, too, where the outbox may be somebody else's.
SELECT substring(pg_get_constraintdef(c.oid) FROM '<= ([0-9]+)')::bigint
FROM pg_constraint AS c
WHERE c.conrelid = to_regclass('outbox.event') AND c.conname = 'event_size';

-- name: event_size_stand_in
-- Put a constraint in the place of the one that somebody has dropped: the next statement replaces it by one with a limit.
SET LOCAL lock_timeout = '50ms';
ALTER TABLE outbox.event ADD CONSTRAINT event_size CHECK (true) NOT VALID;

-- name: set_max_event_bytes
-- Change the limit on an event's size to $1 bytes; fails at once when the tables are busy.
SELECT outbox.set_max_event_bytes($1::bigint);

-- name: owned
-- The schema, and tables, views, sequences and functions in it with one of the names $1 or that of a partition: who owns
-- each, and whether that is meant (see relay/postgres/owners.py). The owner of the schema public is a role that stands for
-- the owner of the database.
-- Membership counts where it comes with the right to act as the role, and was granted by who could act as the member
-- anyhow: anybody can make others members of what is his own. A superuser passes for a member of every role.
WITH RECURSIVE place AS (
    SELECT n.oid, n.nspname, n.nspacl,
           CASE WHEN pg_get_userbyid(n.nspowner) = 'pg_database_owner'
                THEN (SELECT d.datdba FROM pg_database AS d WHERE d.datname = current_database())
                ELSE n.nspowner END AS owner
    FROM pg_namespace AS n
    WHERE n.nspname = 'outbox'
),
thing AS (
    SELECT 0 AS number, 'schema' AS kind, p.nspname::text AS name, p.owner FROM place AS p
    UNION ALL
    SELECT 1, CASE c.relkind WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' ELSE 'table' END, c.oid::regclass::text,
           c.relowner
    FROM place AS p JOIN pg_class AS c ON c.relnamespace = p.oid
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
      AND (c.relname = ANY ($1::text[]) OR c.relname ~ '^(event|receipt|delivery)_(default|[0-9]+)$')
    UNION ALL
    SELECT 2, 'function', f.oid::regprocedure::text, f.proowner
    FROM place AS p JOIN pg_proc AS f ON f.pronamespace = p.oid
    WHERE f.proname = ANY ($1::text[])
),
granted AS (
    -- Through JSON, because these columns come with PostgreSQL 16. Before, CREATEROLE was power over all but superusers.
    SELECT m.member, m.roleid
    FROM pg_auth_members AS m
    JOIN pg_roles AS member ON member.oid = m.member
    JOIN pg_roles AS grantor ON grantor.oid = m.grantor
    WHERE (coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, true)
           OR coalesce((to_jsonb(m) ->> 'set_option')::boolean, true))
      AND (m.grantor = m.member OR grantor.rolsuper
           OR (NOT member.rolsuper
               AND ((grantor.rolcreaterole AND current_setting('server_version_num')::int < 160000)
                    OR EXISTS (SELECT FROM pg_auth_members AS a
                               WHERE a.roleid = m.member AND a.member = m.grantor AND a.admin_option))))
),
me AS (
    SELECT r.oid, r.rolsuper FROM pg_roles AS r WHERE r.rolname IN (current_user, session_user)
),
acts_as AS (
    SELECT start.role AS who, start.role AS role
    FROM (SELECT oid AS role FROM me UNION SELECT owner FROM thing) AS start
    UNION
    SELECT a.who, g.roleid FROM acts_as AS a JOIN granted AS g ON g.member = a.role
),
-- What somebody owns runs with the rights of those who use it: of whom that is more than he has, of whom it is not.
power AS (
    SELECT r.oid,
           CASE WHEN r.rolsuper THEN 2
                WHEN EXISTS (SELECT FROM acts_as AS a JOIN pg_database AS d ON d.datdba = a.role
                             WHERE a.who = r.oid AND d.datname = current_database()) THEN 1
                ELSE 0 END AS rank
    FROM pg_roles AS r
)
SELECT t.kind, t.name, pg_get_userbyid(t.owner)::text AS owner,
       EXISTS (SELECT FROM acts_as AS a JOIN me ON me.oid = a.who WHERE a.role = t.owner) AS ours,
       our.rank > coalesce(its.rank, 0) AS below_us,
       coalesce(its.rank, 0) > 0 AND its.rank >= our.rank AS above_us,
       EXISTS (
           SELECT FROM acts_as AS a
           WHERE (a.who = t.owner AND a.role = p.owner) OR (a.who = p.owner AND a.role = t.owner)
       ) AS of_the_schemas,
       t.kind = 'schema' AND EXISTS (
           SELECT FROM aclexplode(p.nspacl) AS acl WHERE acl.grantee = 0 AND acl.privilege_type = 'CREATE'
       ) AS open
FROM thing AS t
CROSS JOIN place AS p
CROSS JOIN (SELECT max(power.rank) AS rank FROM me JOIN power ON power.oid = me.oid) AS our
LEFT JOIN power AS its ON its.oid = t.owner
ORDER BY t.number, t.name;

-- name: roles_of_others
-- Those of the roles $1 that are there, have no right on the schema yet, and that somebody else has in his hands: who can
-- log in as the role, or give it to others. (Superusers and we ourselves could anyhow.)
SELECT r.rolname::text AS role, r.rolcanlogin OR r.rolsuper AS logs_in, holder.names
FROM pg_roles AS r
CROSS JOIN LATERAL (
    SELECT string_agg(h.rolname::text, ', ' ORDER BY h.rolname) AS names
    FROM pg_auth_members AS m JOIN pg_roles AS h ON h.oid = m.member
    WHERE m.roleid = r.oid AND m.admin_option AND NOT h.rolsuper AND h.rolname NOT IN (current_user, session_user)
) AS holder
WHERE r.rolname = ANY ($1::text[]) AND (r.rolcanlogin OR r.rolsuper OR holder.names IS NOT NULL)
  AND NOT EXISTS (
      SELECT FROM pg_namespace AS n CROSS JOIN LATERAL aclexplode(n.nspacl) AS acl
      WHERE n.nspname = 'outbox' AND acl.grantee = r.oid AND acl.privilege_type = 'USAGE'
  )
ORDER BY r.rolname;

-- name: row_security_applies
-- Tables of which row level security hides rows from this role, or would, if the session did not refuse that.
SELECT c.oid::regclass::text AS name
FROM pg_class AS c
WHERE c.relnamespace = to_regnamespace('outbox') AND c.relkind IN ('r', 'p') AND row_security_active(c.oid)
ORDER BY c.relname;

-- name: current_role
-- Whose rights this session has.
SELECT current_user::text;

-- name: in_recovery
-- Whether this server is a standby or recovering from a crash.
SELECT pg_is_in_recovery();

-- name: sequence_state
-- What makes ids safe to scan by: the sequence's options, and how far it, the events, their receipts and the positions are. One
-- statement, so that every id it sees was taken before it reads the sequence.
SELECT s.seqcache AS cache, s.seqincrement AS increment, s.seqcycle AS cycle,
       coalesce(pg_sequence_last_value('outbox.event_id'::regclass), 0) AS reached,
       (SELECT max(l.position) FROM outbox.lane AS l) AS highest_position,
       greatest((SELECT max(e.id)
                 FROM outbox.lane AS l
                 CROSS JOIN LATERAL (
                     SELECT event.id FROM outbox.event AS event WHERE event.lane = l.lane ORDER BY event.id DESC LIMIT 1
                 ) AS e),
                (SELECT r.max_id FROM outbox.receipt AS r ORDER BY r.max_id DESC LIMIT 1), 0) AS highest_id
FROM pg_catalog.pg_sequence AS s
WHERE s.seqrelid = 'outbox.event_id'::regclass;
