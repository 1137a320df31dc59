-- name: scan
-- The next pending events of several lanes in one snapshot: one head row (snapshot, sequence, xids taken so far), then sweep and fresh events of each lane in id order.
-- age() of the first of all xids is how many were taken since, modulo 2^32: the only way to know the next one without taking it.
-- $1 lanes, $2 taken_to, $3 sweep rows, $4 sweep bytes, $5 fresh rows, $6 fresh bytes, $7 number of the bound: one element per lane;
-- $8 floors of the bounds; $9 number of the bound, $10 xid, $11 floor: one element per running transaction of a bound; $12 longest sweep in ids;
-- created_ms is within what dates can be: a row from before 0007 may say infinity, on which one row the scan must not end.
-- $13 an id below everything that may be read: implied by the rest, but only a parameter prunes segments before the plan is set up.
WITH bound AS MATERIALIZED (
    SELECT b.number::int AS number,
           least(b.floor,
                 (SELECT min(r.floor)
                  FROM unnest($9::int[], $10::text[], $11::bigint[]) AS r (number, xid, floor)
                  WHERE r.number = b.number AND pg_visible_in_snapshot(r.xid::xid8, pg_current_snapshot()))) AS start
    FROM unnest($8::bigint[]) WITH ORDINALITY AS b (floor, number)
),
wanted AS MATERIALIZED (
    SELECT l.*, bound.start
    FROM unnest($1::smallint[], $2::bigint[], $3::int[], $4::bigint[], $5::int[], $6::bigint[], $7::int[])
             AS l (lane, taken_to, sweep_events, sweep_bytes, fresh_events, fresh_bytes, bound)
    JOIN bound ON bound.number = l.bound
    WHERE l.taken_to - bound.start <= $12::bigint
)
SELECT 0::smallint AS lane,
       coalesce(pg_sequence_last_value('outbox.event_id'::regclass), 0) AS id,
       NULL::uuid AS event_id,
       pg_current_snapshot()::text AS topic,
       NULL::bytea AS key,
       NULL::bytea AS payload,
       NULL::text AS headers,
       NULL::text AS type,
       0::bigint AS created_ms,
       age('3'::xid) AS size
UNION ALL
SELECT found.lane, found.id, found.event_id, found.topic, found.key, found.payload,
       nullif(found.headers, '{}')::text, found.type,
       least(greatest(date_part('epoch', found.created_at) * 1000, 0), 253402300799999)::bigint, found.size
FROM wanted CROSS JOIN LATERAL (
    (SELECT swept.*
     FROM (SELECT e.*, sum(e.size) OVER (ORDER BY e.id ROWS UNBOUNDED PRECEDING) - e.size AS bytes_before
           FROM (SELECT event.*,
                        octet_length(coalesce(event.payload, '')) + octet_length(coalesce(event.key, ''))
                        + pg_column_size(event.headers) AS size
                 FROM outbox.event AS event
                 WHERE event.lane = wanted.lane AND event.id > wanted.start AND event.id <= wanted.taken_to
                   AND event.id > $13::bigint
                   AND NOT EXISTS (SELECT FROM outbox.delivery AS d
                                   WHERE d.lane = event.lane AND d.id = event.id AND d.id > $13::bigint)
                   AND NOT EXISTS (SELECT FROM outbox.failure AS f WHERE f.lane = event.lane AND f.id = event.id)
                   AND NOT EXISTS (SELECT FROM outbox.held AS h WHERE h.lane = event.lane AND h.id = event.id)
                 ORDER BY event.id
                 LIMIT wanted.sweep_events) AS e) AS swept
     WHERE swept.bytes_before < wanted.sweep_bytes)
    UNION ALL
    (SELECT fresh.*
     FROM (SELECT e.*, sum(e.size) OVER (ORDER BY e.id ROWS UNBOUNDED PRECEDING) - e.size AS bytes_before
           FROM (SELECT event.*,
                        octet_length(coalesce(event.payload, '')) + octet_length(coalesce(event.key, ''))
                        + pg_column_size(event.headers) AS size
                 FROM outbox.event AS event
                 WHERE event.lane = wanted.lane AND event.id > wanted.taken_to AND event.id > $13::bigint
                 ORDER BY event.id
                 LIMIT wanted.fresh_events) AS e) AS fresh
     WHERE fresh.bytes_before < wanted.fresh_bytes)
) AS found;

-- name: snapshot
-- Which transactions have ended: while this stays the same, nothing can have become visible.
SELECT pg_current_snapshot()::text;

-- name: sweep_step
-- One step of a long sweep: a head row as of a scan, then the unsettled events of lane $1 with $2 < id <= $3, at most $4 rows and about $5 bytes.
-- Nearly all of the events have a receipt: all tables are read once, by ranges of their keys, and merged (sweep_settings). A look for the receipt of each event takes three times as long.
-- OFFSET 0: up to PostgreSQL 15, only a query of its own knows that rows of one lane come in the order of ids.
SELECT 0::smallint AS lane,
       coalesce(pg_sequence_last_value('outbox.event_id'::regclass), 0) AS id,
       NULL::uuid AS event_id,
       pg_current_snapshot()::text AS topic,
       NULL::bytea AS key,
       NULL::bytea AS payload,
       NULL::text AS headers,
       NULL::text AS type,
       0::bigint AS created_ms,
       age('3'::xid) AS size
UNION ALL
(SELECT swept.lane, swept.id, swept.event_id, swept.topic, swept.key, swept.payload,
        nullif(swept.headers, '{}')::text, swept.type,
        least(greatest(date_part('epoch', swept.created_at) * 1000, 0), 253402300799999)::bigint, swept.size
 FROM (SELECT e.*, sum(e.size) OVER (ORDER BY e.id ROWS UNBOUNDED PRECEDING) - e.size AS bytes_before
       FROM (SELECT event.*,
                    octet_length(coalesce(event.payload, '')) + octet_length(coalesce(event.key, ''))
                    + pg_column_size(event.headers) AS size
             FROM outbox.event AS event
             WHERE event.lane = $1::smallint AND event.id > $2::bigint AND event.id <= $3::bigint
               AND NOT EXISTS (SELECT
                               FROM (SELECT d.id
                                     FROM outbox.delivery AS d
                                     WHERE d.lane = $1::smallint AND d.id > $2::bigint AND d.id <= $3::bigint
                                     ORDER BY d.id OFFSET 0) AS d
                               WHERE d.id = event.id)
               AND NOT EXISTS (SELECT
                               FROM (SELECT f.id
                                     FROM outbox.failure AS f
                                     WHERE f.lane = $1::smallint AND f.id > $2::bigint AND f.id <= $3::bigint
                                     ORDER BY f.id OFFSET 0) AS f
                               WHERE f.id = event.id)
               AND NOT EXISTS (SELECT
                               FROM (SELECT h.id
                                     FROM outbox.held AS h
                                     WHERE h.lane = $1::smallint AND h.id > $2::bigint AND h.id <= $3::bigint
                                     ORDER BY h.id OFFSET 0) AS h
                               WHERE h.id = event.id)
             ORDER BY event.id
             LIMIT $4::int) AS e) AS swept
 WHERE swept.bytes_before < $5::bigint);

-- name: pending_ids
-- The first $4 unsettled events of lane $1 with $2 < id <= $3, without what it may be impossible to read of them: payload, headers, type and time.
SELECT event.lane, event.id, event.event_id, event.topic, event.key
FROM outbox.event AS event
WHERE event.lane = $1::smallint AND event.id > $2::bigint AND event.id <= $3::bigint
  AND NOT EXISTS (SELECT
                  FROM (SELECT d.id
                        FROM outbox.delivery AS d
                        WHERE d.lane = $1::smallint AND d.id > $2::bigint AND d.id <= $3::bigint
                        ORDER BY d.id OFFSET 0) AS d
                  WHERE d.id = event.id)
  AND NOT EXISTS (SELECT
                  FROM (SELECT f.id
                        FROM outbox.failure AS f
                        WHERE f.lane = $1::smallint AND f.id > $2::bigint AND f.id <= $3::bigint
                        ORDER BY f.id OFFSET 0) AS f
                  WHERE f.id = event.id)
  AND NOT EXISTS (SELECT
                  FROM (SELECT h.id
                        FROM outbox.held AS h
                        WHERE h.lane = $1::smallint AND h.id > $2::bigint AND h.id <= $3::bigint
                        ORDER BY h.id OFFSET 0) AS h
                  WHERE h.id = event.id)
ORDER BY event.id
LIMIT $4::int;

-- name: highest_settled
-- For the take-over of lanes $1: the highest id with a receipt, failure or held row of each, and the snapshot this was read in.
SELECT l.lane,
       greatest((SELECT max(d.id) FROM outbox.delivery AS d WHERE d.lane = l.lane),
                (SELECT max(f.id) FROM outbox.failure AS f WHERE f.lane = l.lane),
                (SELECT max(h.id) FROM outbox.held AS h WHERE h.lane = l.lane), 0) AS id,
       pg_current_snapshot()::text AS snapshot
FROM unnest($1::smallint[]) AS l (lane);

-- name: sequence_value
-- The last id that was taken; 0 when none was. Here and above not `last_value` of the sequence itself: about every 32 ids
-- nextval puts a value up to 32 ahead there for the moment it writes WAL, and only this function waits for the lock under
-- which it does so. A rung with such a value would be a floor above ids that are still to come.
SELECT coalesce(pg_sequence_last_value('outbox.event_id'::regclass), 0);

-- name: quiet_transactions
-- Those of the xids $1 that are running and hold no lock on the id sequence: they have not taken an event id so far.
SELECT t.transactionid::text
FROM pg_locks AS t
WHERE t.locktype = 'transactionid' AND t.mode = 'ExclusiveLock' AND t.granted
  AND t.transactionid::text = ANY ($1::text[])
  AND NOT EXISTS (SELECT
                  FROM pg_locks AS s
                  WHERE s.virtualtransaction = t.virtualtransaction AND s.locktype = 'relation'
                    AND s.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                    AND s.relation = 'outbox.event_id'::regclass);
