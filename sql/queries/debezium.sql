-- Taking over from Debezium: the rows that an application inserts into its own outbox table become events.

-- name: debezium_table
-- What the table $1 is, and its columns: `columns` is {"name": "type", ...}, with the type below each domain. A column that
-- is computed when it is read has none: triggers see null. A name without a schema is one of public, as an application's
-- usually is. No row if there is no such table.
WITH RECURSIVE place AS (
    SELECT to_regclass(CASE cardinality(parse_ident($1::text)) WHEN 1 THEN 'public.' ELSE '' END || $1::text) AS oid
),
base AS (
    SELECT a.attname, a.attnum, a.atttypid AS type, a.attgenerated = 'v' AS virtual
    FROM place AS p JOIN pg_attribute AS a ON a.attrelid = p.oid
    WHERE a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT b.attname, b.attnum, t.typbasetype, b.virtual
    FROM base AS b JOIN pg_type AS t ON t.oid = b.type
    WHERE t.typtype = 'd'
)
SELECT c.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS name, c.oid::regclass::text AS quoted,
       c.relkind::text AS kind, c.relpersistence::text AS persistence,
       (SELECT i.inhparent::regclass::text FROM pg_inherits AS i WHERE i.inhrelid = c.oid LIMIT 1) AS parent,
       c.relkind = 'r' AND c.relhassubclass AS has_children,
       pg_get_userbyid(c.relowner)::text AS owner,
       current_user::text AS role,
       has_table_privilege(c.oid, 'TRIGGER') AS may_trigger,
       EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = c.oid AND t.tgname = 'outbox_from_debezium') AS adopted,
       (SELECT json_object_agg(
            b.attname,
            CASE WHEN b.virtual THEN 'virtual generated column'
                 WHEN t.typtype = 'e' THEN 'enum'
                 WHEN t.typcategory = 'S' THEN 'text'
                 WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN t.typname::text
                 ELSE format_type(t.oid, NULL) END
            ORDER BY b.attnum
        )
        FROM base AS b JOIN pg_type AS t ON t.oid = b.type
        WHERE t.typtype <> 'd')::text AS columns
FROM place AS p
JOIN pg_class AS c ON c.oid = p.oid
JOIN pg_namespace AS n ON n.oid = c.relnamespace;

-- name: debezium_replicas
-- The replicas that would publish new events at once.
SELECT r.name FROM outbox.replica AS r WHERE r.lease_expires_at > clock_timestamp() ORDER BY r.name;

-- name: debezium_writers
-- Who may insert into the table with the oid $1, by its own right or as the owner, and not into the outbox: their names,
-- quoted. Null stands for everybody.
SELECT CASE WHEN w.role <> 0 THEN quote_ident(pg_get_userbyid(w.role)) END AS role
FROM (
    SELECT acl.grantee AS role
    FROM pg_class AS c
    CROSS JOIN LATERAL aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) AS acl
    WHERE c.oid = $1::bigint::oid AND acl.privilege_type = 'INSERT'
    UNION
    SELECT acl.grantee
    FROM pg_attribute AS a CROSS JOIN LATERAL aclexplode(a.attacl) AS acl
    WHERE a.attrelid = $1::bigint::oid AND acl.privilege_type = 'INSERT'
) AS w
WHERE w.role = 0 OR NOT (
    has_schema_privilege(w.role, 'outbox', 'USAGE')
    AND has_sequence_privilege(w.role, 'outbox.event_id', 'USAGE')
    AND has_function_privilege(w.role, 'outbox.with_trace(jsonb)', 'EXECUTE')
    AND has_function_privilege(w.role, 'outbox.trace_headers()', 'EXECUTE')
    AND (SELECT bool_and(has_column_privilege(w.role, 'outbox.event'::regclass, wanted, 'INSERT'))
         FROM unnest('{event_id,topic,key,payload,headers,type}'::text[]) AS wanted)
)
ORDER BY 1 NULLS FIRST;

-- name: debezium_adopt
-- The script that lets the rows of a table become events; words in <> stand for what Python puts there. The function
-- runs with the rights of whoever inserts, so that nobody gains any by it. CREATE TRIGGER waits for those who are
-- writing, and lets nobody write meanwhile: an insert is either committed before, or becomes an event. Dropped first, not
-- replaced: the function would go on belonging to whoever had made it.
DROP TRIGGER IF EXISTS outbox_from_debezium ON <table>;
DROP FUNCTION IF EXISTS outbox.<function>();
CREATE FUNCTION outbox.<function>() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS <tag>
BEGIN
    INSERT INTO outbox.event (event_id, topic, key, payload, headers, type)
    VALUES (
        <event_id>,
        <topic>,
        <key>,
        <payload>,
        outbox.with_trace(<headers>),
        <type>
    );
    RETURN NULL;
END
<tag>;
CREATE TRIGGER outbox_from_debezium AFTER INSERT ON <table>
FOR EACH ROW EXECUTE FUNCTION outbox.<function>();

-- name: debezium_grant
-- The right to enqueue for <role>, which inserts into the table.
GRANT USAGE ON SCHEMA outbox TO <role>;
GRANT INSERT (event_id, topic, key, payload, headers, type) ON outbox.event TO <role>;
GRANT USAGE ON SEQUENCE outbox.event_id TO <role>;
GRANT EXECUTE ON FUNCTION outbox.trace_headers(), outbox.with_trace(jsonb) TO <role>;

-- name: wal_position
-- Up to where the write-ahead log is written: everything that has committed lies before it.
SELECT pg_current_wal_insert_lsn()::text;
