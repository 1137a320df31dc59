-- name: segment_state
-- How far the ids are, and below which id there are segments (null when there are none).
SELECT CASE WHEN v.is_called THEN v.last_value ELSE 0 END AS reached,
       (SELECT max(s.upper_id) FROM outbox.segment AS s) AS top
FROM outbox.event_id AS v;

-- name: stranded_segment
-- A segment to make for rows in the DEFAULT partitions that writers have moved on from: at most about $1 events, so
-- that whoever reads the DEFAULT partition waits for a fraction of a second only. No row when there are none.
WITH lowest AS (
    SELECT least((SELECT min(e.id)
                  FROM outbox.lane AS l
                  CROSS JOIN LATERAL (
                      SELECT e.id FROM outbox.event_default AS e WHERE e.lane = l.lane ORDER BY e.id LIMIT 1
                  ) AS e),
                 (SELECT r.max_id FROM outbox.receipt_default AS r ORDER BY r.max_id LIMIT 1)) AS id
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

-- name: due_segments
-- Segments that have had their time: wholly below every position, not to be read by a replay, and their last events and
-- all receipts older than $1 seconds. Oldest first. If the events are more than twice as old, a receipt may be younger:
-- single ones that are published late, one after the other, would keep their segment for ever.
-- The lanes are for the indexes, which begin with them: before version 18 PostgreSQL walks through all of one otherwise.
SELECT s.name, s.lower_id, s.upper_id, s.kept
FROM outbox.segment AS s
CROSS JOIN LATERAL (
    SELECT max(last.created_at) AS created_at
    FROM outbox.lane AS l
    CROSS JOIN LATERAL (
        SELECT e.created_at FROM outbox.event AS e
        WHERE e.lane = l.lane AND e.id >= s.lower_id AND e.id < s.upper_id
        ORDER BY e.id DESC LIMIT 1
    ) AS last
    -- One that says it was written later than now has no say: it would keep its segment until then.
    WHERE last.created_at <= clock_timestamp()
) AS newest
WHERE s.upper_id <= (SELECT min(l.position) FROM outbox.lane AS l)
  -- As outbox.replay_needs, which people's role may not call.
  AND NOT EXISTS (
      SELECT FROM outbox.action AS a
      WHERE a.finished_at IS NULL AND a.kind = 'replay-delivered'
        AND jsonb_path_exists(a.progress, '$.last_id ? (@ >= $id)', jsonb_build_object('id', s.lower_id))
        AND jsonb_path_exists(a.progress, '$.lanes.* ? (@ < $id)', jsonb_build_object('id', s.upper_id - 1))
  )
  AND (newest.created_at <= clock_timestamp() - make_interval(secs => $1::float8)) IS NOT FALSE
  -- A receipt of its events may be in the next segment. OFFSET 0: the first that is found will do.
  AND (newest.created_at <= clock_timestamp() - make_interval(secs => 2 * $1::float8)
       OR NOT EXISTS (
           SELECT FROM outbox.receipt AS r
           WHERE r.max_id >= s.lower_id AND r.max_id <= least(s.upper_id, 9223372036854644736) + 131071
             AND r.min_id < s.upper_id AND r.delivered_at > clock_timestamp() - make_interval(secs => $1::float8)
           OFFSET 0
       ))
  AND NOT EXISTS (
      SELECT
      FROM outbox.lane AS l
      CROSS JOIN LATERAL (
          SELECT d.delivered_at FROM outbox.former_delivery AS d
          WHERE d.lane = l.lane AND d.id >= s.lower_id AND d.id < s.upper_id
          ORDER BY d.id DESC LIMIT 1
      ) AS last
      WHERE last.delivered_at > clock_timestamp() - make_interval(secs => $1::float8)
  )
ORDER BY s.lower_id;

-- name: segment_needs
-- How many events with $1 <= id < $2 are needed, nearly: failures (but those discarded more than $6 seconds ago) and held rows, counted up to $3 each, and events that were delivered less than $5 seconds ago.
-- And how many rows statistics make of the partition with name $4, 0 if they say nothing.
SELECT (SELECT count(*)
        FROM (SELECT FROM outbox.failure AS f
              WHERE f.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}')
                AND f.id >= $1::bigint AND f.id < $2::bigint
                AND (f.state <> 'discarded'
                     OR coalesce((SELECT a.requested_at FROM outbox.action AS a WHERE a.id = f.action), f.failed_at)
                        > clock_timestamp() - make_interval(secs => $6::float8))
              LIMIT $3::bigint) AS failures)
       + (SELECT count(*)
          FROM (SELECT FROM outbox.held AS h
                WHERE h.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}')
                  AND h.id >= $1::bigint AND h.id < $2::bigint
                LIMIT $3::bigint) AS held)
       + (SELECT coalesce(sum(octet_length(r.ids) / 4), 0)
          FROM outbox.receipt AS r
          WHERE r.max_id >= $1::bigint AND r.max_id <= least($2::bigint, 9223372036854644736) + 131071
            AND r.min_id < $2::bigint AND r.delivered_at > clock_timestamp() - make_interval(secs => $5::float8))
       AS needed,
       coalesce((SELECT greatest(c.reltuples, 0)
                 FROM pg_class AS c
                 WHERE c.relnamespace = 'outbox'::regnamespace AND c.relname = $4::text), 0)::bigint AS events;

-- name: retire_segment
-- Drop the segment that begins at $1, or put a small one with what is needed in its place: not what was delivered more than $2 seconds ago or discarded more than $3 seconds ago. `kept` is null if it was not done.
SELECT r.kept, r.undecided
FROM outbox.retire_segment($1::bigint, clock_timestamp() - make_interval(secs => $2::float8),
                           clock_timestamp() - make_interval(secs => $3::float8), 0.5) AS r;

-- name: forget_actions
-- Drop up to $2 requests of people that were finished $1 seconds ago and that nothing refers to any more; how many.
SELECT outbox.forget_actions($1::float8, $2::int);

-- name: long_statement
-- For one transaction: to look through a segment takes as long as it takes. Replicas need not wait for each other; nor for a person who does the same.
SET LOCAL statement_timeout = '1h';
SET LOCAL application_name = 'outbox-relay housekeeping';

-- name: prune_counts
-- What is over, counted up to $3 each: receipts of replays that ended $1 seconds ago, and requests that were finished $2 seconds ago and that nothing refers to; and the replicas that are gone.
SELECT (SELECT count(*)
        FROM (SELECT FROM outbox.action AS a
              JOIN outbox.replay_receipt AS r ON r.action = a.id
              WHERE a.kind = 'replay-delivered' AND a.finished_at < clock_timestamp() - make_interval(secs => $1::float8)
              LIMIT $3::int) AS receipts) AS replay_receipts,
       (SELECT count(*)
        FROM (SELECT FROM outbox.action AS a
              WHERE a.finished_at < clock_timestamp() - make_interval(secs => greatest($2::float8, 86400))
                AND a.kind <> 'erase'
                AND a.id NOT IN (SELECT f.action FROM outbox.failure AS f WHERE f.action IS NOT NULL)
                AND NOT EXISTS (SELECT FROM outbox.replay_receipt AS r WHERE r.action = a.id)
              LIMIT $3::int) AS actions) AS actions,
       (SELECT count(*) FROM outbox.replica AS r
        WHERE r.lease_expires_at < clock_timestamp() - interval '1 hour') AS replicas;
