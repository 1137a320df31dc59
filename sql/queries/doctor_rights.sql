-- What `relay doctor` asks about privileges, and about what a role or a database is set to. Only of PostgreSQL's catalogs.

-- name: doctor_login
-- Who we are: whether as the outbox's owner or as a superuser, who need no grant, and whether we may use the schema.
SELECT current_user::text AS role, r.rolsuper OR pg_has_role(n.nspowner, 'USAGE') AS unbound,
       has_schema_privilege(n.oid, 'USAGE') AS usable
FROM pg_namespace AS n
JOIN pg_roles AS r ON r.rolname = current_user
WHERE n.nspname = 'outbox';

-- name: doctor_roles
-- Which of the roles $1 there are, and whether we have the rights of each.
SELECT r.rolname::text AS role, pg_has_role(r.oid, 'USAGE') AS ours
FROM pg_roles AS r
WHERE r.rolname = ANY ($1::text[]);

-- name: doctor_ungranted
-- Of what is granted (kinds $2, privileges $3, objects $4, columns $5 or an empty text) to role $1, the numbers from 1
-- on of what it has not, with the object's name: all tables are several.
SELECT g.number::int AS number, g.object
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[]) WITH ORDINALITY AS g (kind, privilege, object, column_name, number)
WHERE NOT CASE g.kind
    WHEN 'SCHEMA' THEN has_schema_privilege($1::text, g.object, g.privilege)
    WHEN 'SEQUENCE' THEN has_sequence_privilege($1::text, g.object, g.privilege)
    WHEN 'FUNCTION' THEN has_function_privilege($1::text, g.object, g.privilege)
    WHEN 'COLUMN' THEN has_column_privilege($1::text, g.object, g.column_name, g.privilege)
    WHEN 'TABLE' THEN has_table_privilege($1::text, g.object, g.privilege)
    ELSE true
END
UNION ALL
SELECT g.number::int, format('outbox.%I', c.relname)
FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS g (kind, privilege, number)
JOIN pg_class AS c ON g.kind = 'ALL TABLES' AND c.relnamespace = to_regnamespace('outbox')
    AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
WHERE NOT has_table_privilege($1::text, c.oid, g.privilege)
ORDER BY number, object;

-- name: doctor_set
-- What the settings $1 are set to for this database, for our role and for roles that may write events, and by whom.
-- Where there is no outbox, nobody may write events.
SELECT d.datname::text AS database, r.rolname::text AS role, split_part(c.item, '=', 1) AS name,
       substr(c.item, strpos(c.item, '=') + 1) AS value,
       s.setrole = 0 OR r.rolname = session_user AS ours,
       s.setrole = 0 OR coalesce(has_any_column_privilege(s.setrole, e.oid, 'INSERT'), false) AS writers
FROM pg_db_role_setting AS s
CROSS JOIN LATERAL unnest(s.setconfig) AS c (item)
CROSS JOIN to_regclass('outbox.event') AS e (oid)
LEFT JOIN pg_database AS d ON d.oid = s.setdatabase
LEFT JOIN pg_roles AS r ON r.oid = s.setrole
WHERE (s.setdatabase = 0 OR d.datname = current_database())
  AND (s.setrole = 0 OR r.rolname = session_user OR has_any_column_privilege(s.setrole, e.oid, 'INSERT'))
  AND lower(split_part(c.item, '=', 1)) = ANY ($1::text[])
ORDER BY name, database NULLS LAST, role NULLS FIRST;

-- name: doctor_server_set
-- What the settings $1 are set to in the server's own configuration.
SELECT s.name, CASE WHEN s.unit = 'ms' THEN s.reset_val || 'ms' ELSE s.reset_val END AS value
FROM pg_settings AS s
WHERE s.name = ANY ($1::text[]) AND s.reset_val IS DISTINCT FROM s.boot_val
ORDER BY s.name;

-- name: doctor_limits
-- Connections: those that roles without special rights may have, how many are in use, and the limits of our role and of this database (-1: none).
SELECT current_setting('max_connections')::int
       - current_setting('superuser_reserved_connections')::int
       - coalesce(current_setting('reserved_connections', true)::int, 0) AS usable,
       (SELECT count(*) FROM pg_stat_activity AS a WHERE a.backend_type = 'client backend') AS in_use,
       r.rolname::text AS role, CASE WHEN r.rolsuper THEN -1 ELSE r.rolconnlimit END AS role_limit,
       d.datname::text AS database, CASE WHEN r.rolsuper THEN -1 ELSE d.datconnlimit END AS database_limit,
       extract(epoch FROM CASE WHEN isfinite(r.rolvaliduntil) THEN r.rolvaliduntil END - clock_timestamp())::float8 AS valid_seconds
FROM pg_roles AS r
JOIN pg_database AS d ON d.datname = current_database()
WHERE r.rolname = session_user;
