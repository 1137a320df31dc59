-- What `relay doctor` asks of the server and of the outbox. Nothing here needs more than the roles of the outbox have.

-- name: doctor_server
-- Version, encryption and clock, as this session sees them.
SELECT current_setting('server_version') AS version,
       coalesce((SELECT s.ssl FROM pg_stat_ssl AS s WHERE s.pid = pg_backend_pid()), false) AS encrypted,
       inet_server_addr() IS NOT NULL AND NOT inet_server_addr() <<= ANY (ARRAY['127.0.0.0/8', '::1/128']::inet[]) AS far,
       extract(epoch FROM clock_timestamp())::float8 AS clock,
       current_setting('autovacuum')::boolean AND current_setting('track_counts')::boolean AS autovacuum,
       pg_has_role('pg_read_all_stats', 'USAGE') AS sees_others,
       current_user::text AS role;

-- name: doctor_transactions
-- Transactions of others in this database that are older than $1 seconds, or than $2 if they took event ids, which holds
-- the scan's floor; at most $3, those first, then the oldest. When a transaction began, and what a session runs, is shown
-- to those who may see it. A transaction that took an id has a lock on the sequence, until it ends. There may be no outbox.
WITH taker AS MATERIALIZED (
    SELECT l.pid, l.virtualtransaction
    FROM pg_locks AS l
    WHERE l.locktype = 'relation' AND l.relation = to_regclass('outbox.event_id')
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT a.pid, NULL AS gid, a.usename::text AS role, coalesce(a.application_name, '') AS application, a.state,
       extract(epoch FROM clock_timestamp() - a.xact_start)::float8 AS seconds, left(a.query, 200) AS query, t.took AS took_ids
FROM pg_stat_activity AS a
CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM taker WHERE taker.pid = a.pid) AS took) AS t
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
  AND a.application_name NOT LIKE 'outbox-relay%'
  AND a.xact_start < clock_timestamp() - make_interval(secs => CASE WHEN t.took THEN $2::float8 ELSE $1::float8 END)
UNION ALL
SELECT NULL, p.gid, p.owner::text, '', 'prepared', extract(epoch FROM clock_timestamp() - p.prepared)::float8, '', t.took
FROM pg_prepared_xacts AS p
CROSS JOIN LATERAL (
    SELECT EXISTS (
        SELECT FROM taker JOIN pg_locks AS x ON x.virtualtransaction = taker.virtualtransaction
        WHERE taker.pid IS NULL AND x.pid IS NULL AND x.transactionid = p.transaction
    ) AS took
) AS t
WHERE p.database = current_database()
  AND p.prepared < clock_timestamp() - make_interval(secs => CASE WHEN t.took THEN $2::float8 ELSE $1::float8 END)
ORDER BY took_ids DESC, seconds DESC
LIMIT $3::int;

-- name: doctor_replicas
-- How many replicas are alive.
SELECT count(*) AS replicas FROM outbox.replica AS p WHERE p.lease_expires_at > clock_timestamp();

-- name: doctor_not_vacuumed
-- Tables of the outbox for which somebody switched autovacuum off.
SELECT c.relname::text AS name
FROM pg_class AS c
WHERE c.relnamespace = 'outbox'::regnamespace AND c.relkind = 'r'
  AND EXISTS (
      SELECT FROM unnest(c.reloptions) AS o WHERE o ~ '^autovacuum_enabled=(false|off|no|0)$'
  )
ORDER BY name;

-- name: doctor_topics
-- Topics of the newest events, $1 of each lane, and of held and failed ones; at most $2.
SELECT t.topic
FROM (
    SELECT e.topic
    FROM outbox.lane AS l
    CROSS JOIN LATERAL (
        SELECT n.topic FROM outbox.event AS n WHERE n.lane = l.lane ORDER BY n.id DESC LIMIT $1::int
    ) AS e
    UNION
    SELECT f.topic FROM (SELECT topic FROM outbox.failure LIMIT 1000) AS f
    UNION
    SELECT h.topic FROM (SELECT topic FROM outbox.held LIMIT 1000) AS h
) AS t
ORDER BY t.topic
LIMIT $2::int;

-- name: doctor_starved
-- Tables of the outbox with more than $2 dead rows, and many more than autovacuum leaves, that were not vacuumed for $1
-- seconds. Ten times what autovacuum begins at by default: where it merely takes turns, it has not that much left.
SELECT s.relname::text AS name, s.n_dead_tup AS dead,
       extract(epoch FROM clock_timestamp() - v.vacuumed)::float8 AS seconds
FROM pg_stat_user_tables AS s
JOIN pg_class AS c ON c.oid = s.relid
CROSS JOIN LATERAL (SELECT coalesce(greatest(s.last_vacuum, s.last_autovacuum), pg_postmaster_start_time()) AS vacuumed) AS v
WHERE s.schemaname = 'outbox'
  AND v.vacuumed < clock_timestamp() - make_interval(secs => $1::float8)
  AND s.n_dead_tup > greatest($2::bigint, 10 * (current_setting('autovacuum_vacuum_threshold')::float8
      + current_setting('autovacuum_vacuum_scale_factor')::float8 * greatest(c.reltuples, 0)))
ORDER BY s.n_dead_tup DESC;

-- name: doctor_oldest
-- For topics of pending, held and failed events, the seconds since the oldest was written; of the first $1 events that
-- wait in each lane.
SELECT e.topic,
       extract(epoch FROM clock_timestamp() - least(greatest(min(e.created_at), '1970-01-01'), '9999-12-31'))::float8 AS seconds
FROM outbox.lane AS l
CROSS JOIN LATERAL (
    (SELECT p.topic, p.created_at FROM outbox.pending AS p WHERE p.lane = l.lane ORDER BY p.id LIMIT $1::int)
    UNION ALL
    (SELECT w.topic, w.created_at
     FROM (SELECT h.id FROM outbox.held AS h WHERE h.lane = l.lane ORDER BY h.id LIMIT $1::int) AS n
     JOIN outbox.event AS w ON w.lane = l.lane AND w.id = n.id)
    UNION ALL
    (SELECT w.topic, w.created_at
     FROM (SELECT f.id FROM outbox.failure AS f WHERE f.lane = l.lane AND f.state <> 'discarded' ORDER BY f.id LIMIT $1::int) AS n
     JOIN outbox.event AS w ON w.lane = l.lane AND w.id = n.id)
) AS e
GROUP BY e.topic;
