-- Events that two registrations have published. Each has a receipt of each; the lane's owner finds and counts them.

-- name: delivered_twice
-- Receipts that registrations other than $1 wrote after it had claimed lanes, and what shows which of their events have a receipt for another place in Kafka, too.
-- Claims are numbered: snapshots $2, and the newest ids $3 when they were made, above which nobody else had taken any; lanes $4.
-- Late receipts, with highest ids above $5 and up to $6; others above $7 and up to $8, for claims that were made lately: of statements that were under way. In order after the one with highest id $9 of registration $10, and without those with the highest ids $11 of registrations $12.
-- A part of them: the first $13, with $14 places and, between their highest ids, $15 ids; one at least. Each table is read once, over the ids that they span.
-- A row for each lane: its position, the ids of its events between the lowest and the highest that they name, eight bytes each, and whether there are more of them; then a row for each receipt that may name such an id, and the claims that did not see it, of those that are looked at.
WITH claim AS MATERIALIZED (
    SELECT c.number::int AS number, c.snapshot::pg_snapshot AS snapshot, c.newest
    FROM unnest($2::text[], $3::bigint[]) WITH ORDINALITY AS c (snapshot, newest, number)
),
candidate AS MATERIALIZED (
    SELECT f.max_id, f.min_id, f.replica,
           sum(f.places) OVER (ORDER BY f.max_id, f.replica ROWS UNBOUNDED PRECEDING) - f.places AS places_before,
           f.max_id - min(f.max_id) OVER () AS ids_before
    FROM (SELECT r.max_id, r.min_id, r.replica, r.places
          FROM ((SELECT r.max_id, r.min_id, r.replica, r.xid, octet_length(r.ids) / 4 AS places
                 FROM outbox.receipt AS r
                 WHERE r.late AND r.max_id > $5::bigint AND r.max_id <= $6::bigint)
                UNION ALL
                (SELECT r.max_id, r.min_id, r.replica, r.xid, octet_length(r.ids) / 4
                 FROM outbox.receipt AS r
                 WHERE NOT r.late AND r.max_id > $7::bigint AND r.max_id <= $8::bigint)) AS r
          WHERE r.replica <> $1::uuid AND NOT (r.max_id = $9::bigint AND r.replica <= $10::uuid)
            AND EXISTS (SELECT FROM claim AS c
                        WHERE r.min_id <= c.newest AND NOT pg_visible_in_snapshot(r.xid, c.snapshot))
            -- NOT IN: a hash table, where NOT EXISTS would compare each with each.
            AND (r.max_id, r.replica) NOT IN (SELECT k.max_id, k.replica
                                              FROM unnest($11::bigint[], $12::uuid[]) AS k (max_id, replica))
          ORDER BY r.max_id, r.replica
          LIMIT $13::int) AS f
),
found AS MATERIALIZED (
    SELECT c.max_id, c.min_id, c.replica
    FROM candidate AS c
    WHERE c.places_before < $14::int AND c.ids_before < $15::bigint
),
span AS MATERIALIZED (
    SELECT min(f.min_id) AS lowest, max(f.max_id) AS highest FROM found AS f
)
SELECT l.lane, l.position, NULL::bigint AS max_id, NULL::bigint AS min_id, NULL::uuid AS replica, NULL::boolean AS late,
       NULL::bigint AS xid, NULL::int AS kafka_partition, NULL::bigint AS base_offset,
       (SELECT string_agg(int8send(e.id), '')
        FROM outbox.event AS e
        WHERE e.lane = l.lane AND e.id >= (SELECT s.lowest FROM span AS s) AND e.id <= (SELECT s.highest FROM span AS s)
       ) AS ids,
       NULL::int[] AS unseen,
       (SELECT count(*) FROM candidate) = $13::int
       OR (SELECT count(*) FROM candidate) > (SELECT count(*) FROM found) AS more
FROM unnest($4::smallint[]) AS claimed (lane)
JOIN outbox.lane AS l ON l.lane = claimed.lane
UNION ALL
SELECT NULL, NULL, r.max_id, r.min_id, r.replica, r.late, r.xid::text::bigint, r.kafka_partition, r.base_offset, r.ids,
       CASE WHEN (r.max_id, r.replica) IN (SELECT f.max_id, f.replica FROM found AS f)
            THEN (SELECT array_agg(c.number) FROM claim AS c WHERE NOT pg_visible_in_snapshot(r.xid, c.snapshot))
            ELSE '{}' END,
       NULL
FROM outbox.receipt AS r
WHERE r.max_id >= (SELECT s.lowest FROM span AS s)
  AND r.max_id <= (SELECT least(s.highest, 9223372036854644736) + 131071 FROM span AS s)
  AND r.min_id <= (SELECT s.highest FROM span AS s);
