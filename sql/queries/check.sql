-- name: check_range
-- The ids that the relay is done with in some lane: the lowest of which all is there, and the highest position.
SELECT coalesce((SELECT min(s.lower_id) FROM outbox.segment AS s WHERE NOT s.kept), 1) AS oldest,
       (SELECT max(l.position) FROM outbox.lane AS l) AS highest;

-- name: check_kept
-- What is left of segments that were dropped: from above which id up to which one, lowest first; not those of more than $1 events.
SELECT s.lower_id - 1 AS above, s.upper_id - 1 AS up_to
FROM outbox.segment AS s
JOIN pg_class AS c ON c.relnamespace = 'outbox'::regnamespace AND c.relname = s.name
WHERE s.kept AND c.reltuples <= $1::int
ORDER BY s.lower_id;

-- name: check_slice
-- Events with $1 < id <= $2 that are below their lane's position and have no receipt, failure or held row, at most $3 per lane: there must be none.
-- In one snapshot, so that it does not matter what is settled meanwhile.
SELECT l.lane, found.id
FROM outbox.lane AS l
CROSS JOIN LATERAL (
    SELECT e.id
    FROM (SELECT event.lane, event.id
          FROM outbox.event AS event
          WHERE event.lane = l.lane AND event.id > $1::bigint AND event.id <= $2::bigint AND event.id <= l.position
            AND event.id NOT IN (SELECT r.id FROM outbox.receipted($1::bigint, $2::bigint) AS r (id))
          ORDER BY event.id
          OFFSET 0) AS e
    WHERE NOT EXISTS (SELECT FROM outbox.failure AS f WHERE f.lane = e.lane AND f.id = e.id)
      AND NOT EXISTS (SELECT FROM outbox.held AS h WHERE h.lane = e.lane AND h.id = e.id)
    LIMIT $3::int
) AS found
ORDER BY found.id;

-- name: check_again
-- Those of the events of lanes $1 with ids $2 for which that is still so.
SELECT e.lane, e.id
FROM unnest($1::smallint[], $2::bigint[]) AS r (lane, id)
JOIN outbox.event AS e ON e.lane = r.lane AND e.id = r.id
JOIN outbox.lane AS l ON l.lane = e.lane AND e.id <= l.position
WHERE NOT EXISTS (SELECT FROM outbox.receipt_of(e.id))
  AND NOT EXISTS (SELECT FROM outbox.failure AS f WHERE f.lane = e.lane AND f.id = e.id)
  AND NOT EXISTS (SELECT FROM outbox.held AS h WHERE h.lane = e.lane AND h.id = e.id)
ORDER BY e.id;
