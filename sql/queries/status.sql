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
SELECT EXISTS (SELECT FROM outbox.event_default) OR EXISTS (SELECT FROM outbox.receipt_default) AS stranded;

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

-- name: status_reach
-- Between which ids events may be pending: from before the first one above its lane's position to the newest.
SELECT coalesce(min(first.id) - 1, pg_sequence_last_value('outbox.event_id'::regclass), 0) AS above,
       coalesce(pg_sequence_last_value('outbox.event_id'::regclass), 0) AS up_to
FROM outbox.lane AS l
CROSS JOIN LATERAL (
    SELECT e.id FROM outbox.event AS e WHERE e.lane = l.lane AND e.id > l.position ORDER BY e.id LIMIT 1
) AS first;

-- name: status_pending
-- Of the lanes that have any, the pending events with $1 < id <= $2, and the age of the first. (From infinity nothing can be subtracted.)
-- And a row without a lane: `next` is before the first id above $2 that there is; null if there is none. Ids may be far apart.
SELECT pending.lane, count(*) AS events,
       extract(epoch FROM clock_timestamp()
                          - least(greatest((array_agg(pending.created_at ORDER BY pending.id))[1], '1970-01-01'), '9999-12-31')
              )::float8 AS seconds,
       NULL::bigint AS next
FROM outbox.lane AS l
CROSS JOIN LATERAL (
    SELECT event.lane, event.id, event.created_at
    FROM outbox.event AS event
    WHERE event.lane = l.lane AND event.id > l.position AND event.id > $1::bigint AND event.id <= $2::bigint
      AND event.id NOT IN (SELECT r.id FROM outbox.receipted($1::bigint, $2::bigint) AS r (id))
    OFFSET 0
) AS pending
WHERE NOT EXISTS (SELECT FROM outbox.failure AS f WHERE f.lane = pending.lane AND f.id = pending.id)
  AND NOT EXISTS (SELECT FROM outbox.held AS h WHERE h.lane = pending.lane AND h.id = pending.id)
GROUP BY pending.lane
UNION ALL
SELECT NULL, NULL, NULL, min(first.id) - 1
FROM outbox.lane AS l
CROSS JOIN LATERAL (
    SELECT e.id FROM outbox.event AS e
    WHERE e.lane = l.lane AND e.id > l.position AND e.id > $2::bigint ORDER BY e.id LIMIT 1
) AS first;

-- name: status_delivered
-- Delivered events that are kept, counted up to $1; how many statistics make of them; the age of the newest receipt.
-- An event with two receipts counts once, as far as that can be told without reading all of them.
WITH counted AS MATERIALIZED (
    SELECT r.min_id, r.ids FROM outbox.receipt AS r LIMIT $1::int / 8
),
named AS (
    SELECT c.min_id + p.difference AS id FROM counted AS c CROSS JOIN LATERAL outbox.places(c.ids) AS p LIMIT $1::int
)
SELECT (SELECT count(DISTINCT n.id) FROM named AS n)
       + (SELECT count(*) FROM (SELECT FROM outbox.former_delivery LIMIT $1::int) AS former) AS events,
       (SELECT count(*) = $1::int FROM named) OR (SELECT count(*) = $1::int / 8 FROM counted) AS cut_off,
       (SELECT coalesce(sum(greatest(c.reltuples, s.n_live_tup, 0)
                            * CASE WHEN i.inhparent = 'outbox.receipt'::regclass
                                   THEN (SELECT coalesce(avg(octet_length(counted.ids) / 4), 1) FROM counted) ELSE 1 END),
                        0)::bigint
        FROM pg_catalog.pg_inherits AS i
        JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
        LEFT JOIN pg_catalog.pg_stat_user_tables AS s ON s.relid = c.oid
        WHERE i.inhparent IN ('outbox.receipt'::regclass, 'outbox.former_delivery'::regclass)) AS estimate,
       (SELECT extract(epoch FROM clock_timestamp() - max(newest.delivered_at))::float8
        FROM (SELECT r.delivered_at FROM outbox.receipt AS r ORDER BY r.max_id DESC LIMIT 100) AS newest) AS last_seconds;

-- name: status_failures
-- Events that did not simply go through, by state.
SELECT state, count(*) AS events FROM outbox.failure GROUP BY state;

-- name: status_held
-- Events held behind a failure or for a paused topic, counted up to $1.
SELECT count(*) FROM (SELECT FROM outbox.held LIMIT $1::int) AS counted;

-- name: status_scheduled
-- Events that are to come, counted up to $1, and the seconds until the first is due (below zero: it is).
SELECT (SELECT count(*) FROM (SELECT FROM outbox.scheduled LIMIT $1::int) AS counted) AS events,
       (SELECT extract(epoch FROM min(first.deliver_at) - clock_timestamp())::float8
        FROM outbox.lane AS l
        CROSS JOIN LATERAL (
            SELECT s.deliver_at FROM outbox.scheduled AS s WHERE s.lane = l.lane ORDER BY s.deliver_at, s.id LIMIT 1
        ) AS first) AS due_seconds;

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
SELECT s.name, s.lower_id, s.upper_id, s.kept,
       pg_total_relation_size(to_regclass(format('outbox.%I', s.name)))
       + pg_total_relation_size(to_regclass(format('outbox.%I', 'receipt_' || s.lower_id)))
       + coalesce(pg_total_relation_size(to_regclass(format('outbox.%I', 'delivery_' || s.lower_id))), 0) AS bytes
FROM outbox.segment AS s
ORDER BY s.lower_id;

-- name: status_needed
-- Of each segment: what of its events is needed, by state, counted up to $1 each; the age of the newest event; the lanes
-- whose position is not beyond it, and the replays that have yet to read it.
SELECT s.lower_id,
       (SELECT coalesce(jsonb_object_agg(n.state, n.events), '{}')
        FROM (SELECT f.state, count(*) AS events
              FROM (SELECT f.state FROM outbox.failure AS f
                    WHERE f.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}')
                      AND f.id >= s.lower_id AND f.id < s.upper_id
                    LIMIT $1::int) AS f
              GROUP BY f.state
              UNION ALL
              SELECT 'held', count(*)
              FROM (SELECT FROM outbox.held AS h
                    WHERE h.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}')
                      AND h.id >= s.lower_id AND h.id < s.upper_id
                    LIMIT $1::int) AS h
              HAVING count(*) > 0) AS n)::text AS needed,
       (SELECT extract(epoch FROM clock_timestamp() - max(least(greatest(e.created_at, '1970-01-01'), '9999-12-31')))::float8
        FROM outbox.lane AS l
        CROSS JOIN LATERAL (
            SELECT e.created_at FROM outbox.event AS e
            WHERE e.lane = l.lane AND e.id >= s.lower_id AND e.id < s.upper_id
            ORDER BY e.id DESC LIMIT 1
        ) AS e) AS age_seconds,
       ARRAY(SELECT l.lane FROM outbox.lane AS l WHERE l.position < s.upper_id ORDER BY l.lane) AS lanes_behind,
       ARRAY(SELECT a.id FROM outbox.action AS a
             WHERE a.finished_at IS NULL AND a.kind = 'replay-delivered'
               AND jsonb_path_exists(a.progress, '$.last_id ? (@ >= $id)', jsonb_build_object('id', s.lower_id))
               AND jsonb_path_exists(a.progress, '$.lanes.* ? (@ < $id)', jsonb_build_object('id', s.upper_id - 1))
             ORDER BY a.id) AS replays
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
