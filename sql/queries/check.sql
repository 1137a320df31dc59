-- name: check_range
-- The ids that the relay is done with in some lane: the lowest that is kept, and the highest position.
SELECT coalesce((SELECT min(s.lower_id) FROM outbox.segment AS s), 1) AS oldest,
       (SELECT max(l.position) FROM outbox.lane AS l) AS highest;

-- name: check_slice
-- Events with $1 < id <= $2 that are below their lane's position and have no receipt, failure or held row, at most $3 per lane: there must be none.
-- In one snapshot, so that it does not matter what is settled meanwhile.
SELECT l.lane, found.id
FROM outbox.lane AS l
CROSS JOIN LATERAL (
    SELECT e.id
    FROM outbox.event AS e
    WHERE e.lane = l.lane AND e.id > $1::bigint AND e.id <= $2::bigint AND e.id <= l.position
      AND NOT EXISTS (SELECT FROM outbox.delivery AS d
                      WHERE d.lane = e.lane AND d.id = e.id AND d.id > $1::bigint AND d.id <= $2::bigint)
      AND NOT EXISTS (SELECT FROM outbox.failure AS f WHERE f.lane = e.lane AND f.id = e.id)
      AND NOT EXISTS (SELECT FROM outbox.held AS h WHERE h.lane = e.lane AND h.id = e.id)
    ORDER BY e.id
    LIMIT $3::int
) AS found
ORDER BY found.id;

-- name: check_again
-- Those of the events of lanes $1 with ids $2 for which that is still so.
SELECT e.lane, e.id
FROM unnest($1::smallint[], $2::bigint[]) AS r (lane, id)
JOIN outbox.event AS e ON e.lane = r.lane AND e.id = r.id
JOIN outbox.lane AS l ON l.lane = e.lane AND e.id <= l.position
WHERE NOT EXISTS (SELECT FROM outbox.delivery AS d WHERE d.lane = e.lane AND d.id = e.id)
  AND NOT EXISTS (SELECT FROM outbox.failure AS f WHERE f.lane = e.lane AND f.id = e.id)
  AND NOT EXISTS (SELECT FROM outbox.held AS h WHERE h.lane = e.lane AND h.id = e.id)
ORDER BY e.id;
