-- name: status_session
-- For one transaction: the plans of a queue, whatever its statistics say (as on the relay's own connections), and an
-- end to statements that take too long, or that wait for a lock.
SET LOCAL enable_seqscan = off;
SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL enable_material = off;
SET LOCAL jit = off;
SET LOCAL statement_timeout = '5s';
SET LOCAL lock_timeout = '1s';

-- name: status_server
-- What this is and how far its ids are.
SELECT current_database() AS database,
       current_setting('server_version') AS server,
       pg_is_in_recovery() AS in_recovery,
       (SELECT max(version) FROM outbox.migration) AS version,
       CASE WHEN v.is_called THEN v.last_value ELSE 0 END AS newest_id
FROM outbox.event_id AS v;

-- name: status_stranded
-- Whether rows are in the DEFAULT partitions.
SELECT EXISTS (SELECT FROM outbox.event_default) OR EXISTS (SELECT FROM outbox.delivery_default) AS stranded;

-- name: status_blockers
-- Who locks tables of the outbox against readers, or waits for such a lock with all readers behind it; the oldest transaction first.
-- The first columns are those of lock_holders.
SELECT l.pid, p.gid, coalesce(a.usename, p.owner)::text AS role, coalesce(a.application_name, '') AS application,
       extract(epoch FROM statement_timestamp() - coalesce(a.xact_start, p.prepared))::float8 AS seconds,
       coalesce(p.gid, l.pid || ' ' || l.virtualtransaction) AS holder,
       extract(epoch FROM statement_timestamp() - a.query_start)::float8 AS statement_seconds,
       CASE WHEN NOT bool_or(l.granted) THEN pg_blocking_pids(l.pid) END AS waits_for,
       array_agg(DISTINCT c.relname::text ORDER BY c.relname::text) AS tables
FROM pg_locks AS l
JOIN pg_class AS c ON c.oid = l.relation
JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = 'outbox'
LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
LEFT JOIN (pg_locks AS t JOIN pg_prepared_xacts AS p ON p.transaction = t.transactionid)
    ON l.pid IS NULL AND t.pid IS NULL AND t.virtualtransaction = l.virtualtransaction
WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
  AND c.relkind IN ('r', 'p')
GROUP BY l.pid, p.gid, a.usename, p.owner, a.application_name, a.xact_start, p.prepared, a.query_start, l.virtualtransaction
ORDER BY seconds DESC NULLS LAST, holder;

-- name: status_oldest
-- The age of the first pending event of each lane that has one. (From infinity nothing can be subtracted.)
SELECT l.lane, extract(epoch FROM clock_timestamp() - least(greatest(oldest.created_at, '1970-01-01'), '9999-12-31'))::float8 AS seconds
FROM outbox.lane AS l
CROSS JOIN LATERAL (
    SELECT e.created_at
    FROM outbox.event AS e
    WHERE e.lane = l.lane AND e.id > l.position
      AND NOT EXISTS (SELECT FROM outbox.delivery AS d WHERE d.lane = e.lane AND d.id = e.id)
      AND NOT EXISTS (SELECT FROM outbox.failure AS f WHERE f.lane = e.lane AND f.id = e.id)
      AND NOT EXISTS (SELECT FROM outbox.held AS h WHERE h.lane = e.lane AND h.id = e.id)
    ORDER BY e.id
    LIMIT 1
) AS oldest;

-- name: status_pending
-- Pending events per lane, counted up to $1 in each.
SELECT l.lane, count(pending.id) AS events
FROM outbox.lane AS l
LEFT JOIN LATERAL (
    SELECT e.id
    FROM outbox.event AS e
    WHERE e.lane = l.lane AND e.id > l.position
      AND NOT EXISTS (SELECT FROM outbox.delivery AS d WHERE d.lane = e.lane AND d.id = e.id)
      AND NOT EXISTS (SELECT FROM outbox.failure AS f WHERE f.lane = e.lane AND f.id = e.id)
      AND NOT EXISTS (SELECT FROM outbox.held AS h WHERE h.lane = e.lane AND h.id = e.id)
    LIMIT $1::int
) AS pending ON true
GROUP BY l.lane
ORDER BY l.lane;

-- name: status_delivered
-- Receipts that are kept, counted up to $1; how many statistics make of them; the age of the newest.
SELECT (SELECT count(*) FROM (SELECT FROM outbox.delivery LIMIT $1::int) AS counted) AS events,
       (SELECT coalesce(sum(greatest(c.reltuples, s.n_live_tup, 0)), 0)::bigint
        FROM pg_catalog.pg_inherits AS i
        JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
        LEFT JOIN pg_catalog.pg_stat_user_tables AS s ON s.relid = c.oid
        WHERE i.inhparent = 'outbox.delivery'::regclass) AS estimate,
       (SELECT extract(epoch FROM clock_timestamp() - max(newest.delivered_at))::float8
        FROM outbox.lane AS l
        CROSS JOIN LATERAL (
            SELECT d.delivered_at FROM outbox.delivery AS d WHERE d.lane = l.lane ORDER BY d.id DESC LIMIT 1
        ) AS newest) AS last_seconds;

-- name: status_failures
-- Events that did not simply go through, by state.
SELECT state, count(*) AS events FROM outbox.failure GROUP BY state;

-- name: status_held
-- Events held behind a failure or for a paused topic, counted up to $1.
SELECT count(*) FROM (SELECT FROM outbox.held LIMIT $1::int) AS counted;

-- name: status_waiting
-- Topics for which events wait though no failure of their key is known, of the first $1 held ones; at most $2 topics.
SELECT h.topic, count(*) AS events
FROM (SELECT lane, topic, key FROM outbox.held LIMIT $1::int) AS h
WHERE NOT EXISTS (
    SELECT FROM outbox.failure AS f
    WHERE f.topic = h.topic AND sha256(f.key) = sha256(h.key) AND f.key = h.key AND f.state <> 'discarded'
)
GROUP BY h.topic
ORDER BY events DESC, h.topic
LIMIT $2::int;

-- name: status_segments
-- Segments and what they take on disk (null for one that was dropped just now), events and receipts together.
SELECT s.name, s.lower_id, s.upper_id,
       pg_total_relation_size(to_regclass(format('outbox.%I', s.name)))
       + pg_total_relation_size(to_regclass(format('outbox.%I', 'delivery_' || s.lower_id))) AS bytes
FROM outbox.segment AS s
ORDER BY s.lower_id;

-- name: status_put_off
-- Work that is not urgent and that replicas with a running lease put off, the longest overdue first.
SELECT r.name AS replica, c.chore,
       extract(epoch FROM clock_timestamp() - (c.state ->> 'since')::timestamptz)::float8 AS seconds,
       c.state ->> 'error' AS error
FROM outbox.replica AS r
CROSS JOIN LATERAL jsonb_each(r.put_off) AS c (chore, state)
WHERE r.lease_expires_at > clock_timestamp()
ORDER BY seconds DESC, r.name, c.chore;
