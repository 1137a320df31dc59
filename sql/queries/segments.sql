-- name: segment_state
-- How far the ids are, and below which id there are segments (null when there are none).
SELECT CASE WHEN v.is_called THEN v.last_value ELSE 0 END AS reached,
       (SELECT max(s.upper_id) FROM outbox.segment AS s) AS top
FROM outbox.event_id AS v;

-- name: stranded_segment
-- A segment to make for rows in the DEFAULT partitions that writers have moved on from: at most about $1 events, so
-- that whoever reads the DEFAULT partition waits for a fraction of a second only. No row when there are none.
WITH lowest AS (
    SELECT min(stranded.id) AS id
    FROM outbox.lane AS l
    CROSS JOIN LATERAL (
        (SELECT e.id FROM outbox.event_default AS e WHERE e.lane = l.lane ORDER BY e.id LIMIT 1)
        UNION ALL
        (SELECT d.id FROM outbox.delivery_default AS d WHERE d.lane = l.lane ORDER BY d.id LIMIT 1)
    ) AS stranded
),
gap AS (
    SELECT coalesce((SELECT max(s.upper_id) FROM outbox.segment AS s WHERE s.upper_id <= lowest.id), lowest.id) AS lower_id,
           (SELECT min(s.lower_id) FROM outbox.segment AS s WHERE s.lower_id > lowest.id) AS upper_id
    FROM lowest
)
SELECT gap.lower_id,
       coalesce((
           SELECT e.id FROM outbox.event_default AS e
           WHERE e.id >= gap.lower_id AND e.id < gap.upper_id
           ORDER BY e.id OFFSET $1::int LIMIT 1
       ), gap.upper_id) AS upper_id
FROM gap, outbox.event_id AS v
WHERE gap.upper_id <= v.last_value;

-- name: add_segment
-- Make the segment $1 <= id < $2; null if somebody else was faster.
SELECT outbox.add_segment($1::bigint, $2::bigint);

-- name: droppable_segments
-- Segments that nothing needs any more: wholly below every position, without failures (but discarded ones) and held
-- rows, not to be read by a replay, and their last events and receipts older than $1 seconds. Oldest first.
-- The lanes are for the indexes, which begin with them: before version 18 PostgreSQL walks through all of one otherwise.
SELECT s.name, s.lower_id
FROM outbox.segment AS s
WHERE s.upper_id <= (SELECT min(l.position) FROM outbox.lane AS l)
  AND NOT EXISTS (
      SELECT FROM outbox.failure AS f
      WHERE f.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}')
        AND f.id >= s.lower_id AND f.id < s.upper_id AND f.state <> 'discarded'
  )
  AND NOT EXISTS (
      SELECT FROM outbox.held AS h
      WHERE h.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}')
        AND h.id >= s.lower_id AND h.id < s.upper_id
  )
  AND NOT outbox.replay_needs(s.lower_id, s.upper_id)
  AND NOT EXISTS (
      SELECT
      FROM outbox.lane AS l
      CROSS JOIN LATERAL (
          -- One that says it was written later than now has no say: it would keep its segment until then.
          (SELECT CASE WHEN e.created_at <= clock_timestamp() THEN e.created_at END AS used_at FROM outbox.event AS e
           WHERE e.lane = l.lane AND e.id >= s.lower_id AND e.id < s.upper_id
           ORDER BY e.id DESC LIMIT 1)
          UNION ALL
          (SELECT d.delivered_at FROM outbox.delivery AS d
           WHERE d.lane = l.lane AND d.id >= s.lower_id AND d.id < s.upper_id
           ORDER BY d.id DESC LIMIT 1)
      ) AS last
      WHERE last.used_at > clock_timestamp() - make_interval(secs => $1::float8)
  )
ORDER BY s.lower_id;

-- name: drop_segment
-- Drop the segment that begins at $1 if nothing in it is needed; false if something is, or if somebody is using it.
SELECT outbox.drop_segment($1::bigint);

-- name: unsettled_event
-- An event of the segment that begins at $1 that has no receipt and that nobody discarded; null if there is none.
SELECT outbox.unsettled_event($1::bigint);

-- name: long_statement
-- For one transaction, on the connection of housekeeping: to look through a segment takes as long as it takes.
SET LOCAL statement_timeout = '1h';
