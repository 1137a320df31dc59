-- name: scan
-- What several lanes have above their starts, in one snapshot: a head row (snapshot, sequence, xids taken so far); for
-- each lane with any, a row with the ids of its sweep part; then the fresh events of each lane in id order.
-- Nothing asks what is settled: the relay knows what it took, and what was settled when it took a lane over.
-- age() of the first of all xids is how many were taken since, modulo 2^32: the only way to know the next one without taking it.
-- $1 lanes, $2 taken_to, $3 known from, $4 fresh rows, $5 fresh bytes, $6 number of the bound: one element per lane;
-- $7 floors of the bounds; $8 number of the bound, $9 xid, $10 floor: one element per running transaction of a bound;
-- created_ms is within what dates can be: a row from before 0007 may say infinity, on which one row the scan must not end.
-- $11 an id below everything that may be read: implied by the rest, but only a parameter prunes segments before the plan is set up.
WITH bound AS MATERIALIZED (
    SELECT b.number::int AS number,
           least(b.floor,
                 (SELECT min(r.floor)
                  FROM unnest($8::int[], $9::text[], $10::bigint[]) AS r (number, xid, floor)
                  WHERE r.number = b.number AND pg_visible_in_snapshot(r.xid::xid8, pg_current_snapshot()))) AS start
    FROM unnest($7::bigint[]) WITH ORDINALITY AS b (floor, number)
),
wanted AS MATERIALIZED (
    SELECT l.lane, l.taken_to, l.fresh_events, l.fresh_bytes, bound.start
    FROM unnest($1::smallint[], $2::bigint[], $3::bigint[], $4::int[], $5::bigint[], $6::int[])
             AS l (lane, taken_to, known_from, fresh_events, fresh_bytes, bound)
    JOIN bound ON bound.number = l.bound
    WHERE bound.start >= l.known_from
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
SELECT wanted.lane, 0, NULL, swept.ids, NULL, NULL, NULL, NULL, 0, 0
FROM wanted CROSS JOIN LATERAL (
    SELECT string_agg(event.id::text, ',') AS ids
    FROM outbox.event AS event
    WHERE event.lane = wanted.lane AND event.id > wanted.start AND event.id <= wanted.taken_to
      AND event.id > $11::bigint
    HAVING count(*) > 0
) AS swept
UNION ALL
SELECT fresh.lane, fresh.id, fresh.event_id, fresh.topic, fresh.key, fresh.payload,
       nullif(fresh.headers, '{}')::text, fresh.type,
       least(greatest(date_part('epoch', fresh.created_at) * 1000, 0), 253402300799999)::bigint, fresh.size
FROM wanted CROSS JOIN LATERAL (
    SELECT e.*, sum(e.size) OVER (ORDER BY e.id ROWS UNBOUNDED PRECEDING) - e.size AS bytes_before
    FROM (SELECT event.*,
                 octet_length(coalesce(event.payload, '')) + octet_length(coalesce(event.key, ''))
                 + pg_column_size(event.headers) AS size
          FROM outbox.event AS event
          WHERE event.lane = wanted.lane AND event.id > wanted.taken_to AND event.id > $11::bigint
          ORDER BY event.id
          LIMIT wanted.fresh_events) AS e
) AS fresh
WHERE fresh.bytes_before < wanted.fresh_bytes;

-- name: look
-- What lanes $1 have above id $2, when that is little: a head row as of `scan`, then events in any order, $3 at most.
-- A third of what `scan` costs for a few events: one index scan, where `scan` sets up two for each lane and segment.
-- A payload of more than $4 bytes is left out. It is NULL, too, for a tombstone; the size tells the two apart.
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
(SELECT event.lane, event.id, event.event_id, event.topic, event.key,
        CASE WHEN octet_length(event.payload) <= $4::int THEN event.payload END,
        nullif(event.headers, '{}')::text, event.type,
        least(greatest(date_part('epoch', event.created_at) * 1000, 0), 253402300799999)::bigint,
        octet_length(coalesce(event.payload, '')) + octet_length(coalesce(event.key, ''))
        + pg_column_size(event.headers)
 FROM outbox.event AS event
 WHERE event.lane = ANY ($1::smallint[]) AND event.id > $2::bigint
 LIMIT $3::int);

-- name: events_by_id
-- Events by lane ($1) and id ($2), in their order; each lane's end after about as many bytes as $3 says for all of its ids. $4, $5 the lowest and the highest id: they prune segments.
SELECT found.lane, found.id, found.event_id, found.topic, found.key, found.payload,
       nullif(found.headers, '{}')::text AS headers, found.type,
       least(greatest(date_part('epoch', found.created_at) * 1000, 0), 253402300799999)::bigint AS created_ms, found.size
FROM (SELECT e.*, w.bytes,
             sum(e.size) OVER (PARTITION BY e.lane ORDER BY e.id ROWS UNBOUNDED PRECEDING) - e.size AS bytes_before
      FROM unnest($1::smallint[], $2::bigint[], $3::bigint[]) AS w (lane, id, bytes)
      CROSS JOIN LATERAL (
          SELECT event.*,
                 octet_length(coalesce(event.payload, '')) + octet_length(coalesce(event.key, ''))
                 + pg_column_size(event.headers) AS size
          FROM outbox.event AS event
          WHERE event.lane = w.lane AND event.id = w.id AND event.id >= $4::bigint AND event.id <= $5::bigint) AS e
     ) AS found
WHERE found.bytes_before < found.bytes
ORDER BY found.lane, found.id;

-- name: snapshot
-- Which transactions have ended: while this stays the same, nothing can have become visible.
SELECT pg_current_snapshot()::text;

-- name: sweep_ids
-- What a step of a long sweep goes by, in one snapshot: what the relay takes for settled, and what it takes for new, must not be of two.
-- The snapshot, sequence and xids of a scan's head row; and of lane $1 with $2 < id <= $3: the ids of all visible events, eight bytes each; those with a failure, a held row or a former receipt, alike; and the receipts that may name some of them, of any lane: the lowest and the highest id, the number of bytes, and the places of each.
-- The relay takes the receipts apart, once for all lanes: to PostgreSQL that is 0.5 us an id, and for each lane anew.
SELECT coalesce(pg_sequence_last_value('outbox.event_id'::regclass), 0) AS sequence_value,
       pg_current_snapshot()::text AS snapshot,
       age('3'::xid) AS xids,
       (SELECT string_agg(int8send(event.id), '')
        FROM outbox.event AS event
        WHERE event.lane = $1::smallint AND event.id > $2::bigint AND event.id <= $3::bigint) AS ids,
       (SELECT string_agg(int8send(recorded.id), '')
        FROM (SELECT f.id FROM outbox.failure AS f
              WHERE f.lane = $1::smallint AND f.id > $2::bigint AND f.id <= $3::bigint
              UNION ALL
              SELECT h.id FROM outbox.held AS h
              WHERE h.lane = $1::smallint AND h.id > $2::bigint AND h.id <= $3::bigint
              UNION ALL
              SELECT d.id FROM outbox.former_delivery AS d
              WHERE d.lane = $1::smallint AND d.id > $2::bigint AND d.id <= $3::bigint) AS recorded) AS recorded,
       (SELECT string_agg(int8send(r.min_id) || int8send(r.max_id) || int4send(octet_length(r.ids)) || r.ids, '')
        FROM outbox.receipt AS r
        WHERE r.max_id > $2::bigint AND r.max_id <= least($3::bigint, 9223372036854644736) + 131071
          AND r.min_id <= $3::bigint) AS receipts;

-- name: range_ids
-- What a step of a long sweep goes by where the relay knows what is settled: the first four of `sweep_ids`.
SELECT coalesce(pg_sequence_last_value('outbox.event_id'::regclass), 0) AS sequence_value,
       pg_current_snapshot()::text AS snapshot,
       age('3'::xid) AS xids,
       (SELECT string_agg(int8send(event.id), '')
        FROM outbox.event AS event
        WHERE event.lane = $1::smallint AND event.id > $2::bigint AND event.id <= $3::bigint) AS ids;

-- name: gap_ids
-- What a step of a long sweep goes by where the relay knows all ids but a few: the snapshot, sequence and xids of a scan's head row, and which of the ids $2 are those of visible events of lane $1, eight bytes each.
-- $3 and $4 are the lowest and the highest of them: they prune segments. Each id is looked up by itself: PostgreSQL before 17 would rather read all of the lane between them, for `id = ANY ($2)`.
SELECT coalesce(pg_sequence_last_value('outbox.event_id'::regclass), 0) AS sequence_value,
       pg_current_snapshot()::text AS snapshot,
       age('3'::xid) AS xids,
       (SELECT string_agg(int8send(found.id), '')
        FROM unnest($2::bigint[]) AS gap (id)
        CROSS JOIN LATERAL (
            SELECT event.id
            FROM outbox.event AS event
            WHERE event.lane = $1::smallint AND event.id = gap.id AND event.id >= $3::bigint AND event.id <= $4::bigint
            OFFSET 0) AS found) AS ids;

-- name: events_without_content
-- Of the events of lanes $1 with ids $2, what it is never impossible to read: not payload, headers, type and time.
SELECT event.lane, event.id, event.event_id, event.topic, event.key
FROM unnest($1::smallint[], $2::bigint[]) AS r (lane, id)
JOIN outbox.event AS event ON event.lane = r.lane AND event.id = r.id
ORDER BY event.lane, event.id;

-- name: highest_settled
-- For the take-over of lanes $1: the highest id with a receipt in any lane, or with a failure or held row of each, the snapshot this was read in, and the newest id.
SELECT l.lane,
       greatest((SELECT max(r.max_id) FROM outbox.receipt AS r),
                (SELECT max(d.id) FROM outbox.former_delivery AS d WHERE d.lane = l.lane),
                (SELECT max(f.id) FROM outbox.failure AS f WHERE f.lane = l.lane),
                (SELECT max(h.id) FROM outbox.held AS h WHERE h.lane = l.lane), 0) AS id,
       pg_current_snapshot()::text AS snapshot,
       coalesce(pg_sequence_last_value('outbox.event_id'::regclass), 0) AS newest
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
