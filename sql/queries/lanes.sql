-- name: register
-- Enter replica $1 (name $2, version $3) with a lease of $4 seconds, in place of the one it was before, $5.
-- $6: why it cannot publish yet, if it cannot. To programs that know nothing of that it is one that takes nothing more.
WITH former AS (DELETE FROM outbox.replica WHERE id = $5::uuid),
registered AS (
    INSERT INTO outbox.replica (id, name, version, started_at, lease_expires_at, draining, put_off)
    VALUES ($1::uuid, $2::text, $3::text, clock_timestamp(), clock_timestamp() + make_interval(secs => $4::float8),
            $6::text IS NOT NULL,
            CASE WHEN $6::text IS NULL THEN '{}'::jsonb
                 ELSE jsonb_build_object('publish events', jsonb_build_object('since', clock_timestamp(), 'error', $6::text))
            END)
    RETURNING id
)
SELECT pg_current_xact_id()::text AS xid FROM registered;

-- name: renew
-- Extend the lease of replica $1 to $2 seconds from now, and show lanes $3 being given back, $4 duplicates, $5 lost leases, and of topics what is in $6; no row when it has run out.
UPDATE outbox.replica
SET lease_expires_at = clock_timestamp() + make_interval(secs => $2::float8), renewed_at = clock_timestamp(),
    releasing = $3::smallint[], duplicates = $4::bigint, leases_lost = $5::bigint, topics = $6::text::jsonb
WHERE id = $1::uuid AND lease_expires_at > clock_timestamp() AND ended_at IS NULL
RETURNING pg_current_xact_id()::text AS xid,
          EXISTS (SELECT FROM outbox.action AS a WHERE a.finished_at IS NULL AND a.kind = 'replay-delivered') AS open_replays;

-- name: live_replicas
-- Replicas whose lease is running, in the order in which they get one lane more.
SELECT id,
       extract(epoch FROM lease_expires_at - clock_timestamp())::float8 AS lease_seconds,
       extract(epoch FROM lease_expires_at)::float8 AS lease_ends,
       draining AND NOT put_off ? 'publish events' AS draining,
       put_off ? 'publish events' AS waiting
FROM outbox.replica
WHERE lease_expires_at > clock_timestamp()
ORDER BY started_at, id;

-- name: lanes
-- Every lane with its owner and epoch, whether it is free, and what people want of it. Free: without an owner, or of one
-- that is not on the list, or of one whose lease is over and that notes nothing of what it publishes.
SELECT l.lane, l.epoch, l.owner,
       NOT EXISTS (
           SELECT FROM outbox.replica AS r
           WHERE r.id = l.owner AND (r.lease_expires_at > clock_timestamp() OR r.process IS NOT NULL)
       ) AS free,
       coalesce(i.replica IS NULL AND i.epoch = l.epoch, false) AS asked,
       coalesce(i.replica IS NULL AND i.until > clock_timestamp(), false) AS parked,
       CASE WHEN i.until > clock_timestamp() AND EXISTS (
           SELECT FROM outbox.replica AS r
           WHERE r.id = i.replica AND r.lease_expires_at > clock_timestamp()
             AND (NOT r.draining OR r.put_off ? 'publish events')
       ) THEN i.replica END AS reserved_for,
       CASE WHEN i.until > clock_timestamp() THEN extract(epoch FROM i.until - clock_timestamp())::float8 END AS intent_seconds
FROM outbox.lane AS l
LEFT JOIN outbox.lane_intent AS i ON i.lane = l.lane
ORDER BY l.lane;

-- name: claim
-- Claim for replica $1, if its lease runs, those of the lanes $2 that are still at the epochs $3 at which they were seen to be free.
-- Not one that somebody parked meanwhile. One that was moved elsewhere meanwhile is given back at the next look.
WITH free AS (
    SELECT l.lane
    FROM outbox.lane AS l
    JOIN unnest($2::smallint[], $3::bigint[]) AS seen (lane, epoch) ON seen.lane = l.lane AND seen.epoch = l.epoch
    WHERE EXISTS (SELECT FROM outbox.replica AS r WHERE r.id = $1::uuid AND r.lease_expires_at > clock_timestamp())
      AND NOT EXISTS (SELECT FROM outbox.lane_intent AS i
                      WHERE i.lane = l.lane AND i.replica IS NULL AND i.until > clock_timestamp())
    ORDER BY l.lane
    FOR UPDATE OF l SKIP LOCKED
)
UPDATE outbox.lane AS l
SET owner = $1::uuid, epoch = l.epoch + 1, claimed_at = clock_timestamp()
FROM free
WHERE l.lane = free.lane
RETURNING l.lane, l.epoch, l.position;

-- name: advance_positions
-- Raise the positions of lanes $2 at epochs $3 to $4, as far as replica $1 still owns them.
UPDATE outbox.lane AS l
SET position = n.position
FROM unnest($2::smallint[], $3::bigint[], $4::bigint[]) AS n (lane, epoch, position)
WHERE l.lane = n.lane AND l.epoch = n.epoch AND l.owner = $1::uuid AND l.position < n.position;

-- name: release
-- Give back lanes $2 at epochs $3 with their positions $4, as far as replica $1 still owns them.
UPDATE outbox.lane AS l
SET owner = NULL, claimed_at = NULL, position = greatest(l.position, n.position)
FROM unnest($2::smallint[], $3::bigint[], $4::bigint[]) AS n (lane, epoch, position)
WHERE l.lane = n.lane AND l.epoch = n.epoch AND l.owner = $1::uuid;

-- name: drain
-- Replica $1 takes nothing more: its lanes are for the others, one by one as it gives them back.
UPDATE outbox.replica
SET draining = true, put_off = put_off - 'publish events'
WHERE id = $1::uuid AND (NOT draining OR put_off ? 'publish events');

-- name: take_part
-- Replica $1 can publish by now: it has its share of the lanes.
UPDATE outbox.replica
SET draining = false, put_off = put_off - 'publish events'
WHERE id = $1::uuid AND put_off ? 'publish events';

-- name: unregister
-- Take replica $1 off the list, with what it noted; its lanes are free from now on.
WITH gone AS (DELETE FROM outbox.replica WHERE id = $1::uuid RETURNING process)
DELETE FROM outbox.tail AS t USING gone WHERE t.process = gone.process;

-- name: forget_replicas
-- Drop replicas whose lease ran out more than an hour ago; but not one that still has to be asked for in Kafka. And what
-- was noted by those that are not on the list: programs that know nothing of notes have dropped them.
WITH gone AS (
    DELETE FROM outbox.replica AS r
    WHERE r.lease_expires_at < clock_timestamp() - interval '1 hour'
      AND (r.process IS NULL OR NOT EXISTS (SELECT FROM outbox.lane AS l WHERE l.owner = r.id))
    RETURNING r.process
)
DELETE FROM outbox.tail AS t
WHERE t.process IN (SELECT gone.process FROM gone)
   OR NOT EXISTS (SELECT FROM outbox.replica AS r WHERE r.process = t.process);

-- name: show_put_off
-- Let people see that replica $1 has put off the chores $2 for $3 seconds, because of the errors $4. That it cannot publish yet is not a chore.
UPDATE outbox.replica
SET put_off = coalesce((SELECT jsonb_object_agg(c.chore, jsonb_build_object(
                                   'since', clock_timestamp() - make_interval(secs => c.seconds), 'error', c.error))
                        FROM unnest($2::text[], $3::float8[], $4::text[]) AS c (chore, seconds, error)), '{}')
              || CASE WHEN put_off ? 'publish events' THEN jsonb_build_object('publish events', put_off -> 'publish events')
                      ELSE '{}' END
WHERE id = $1::uuid;
