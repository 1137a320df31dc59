-- Who owns what, for people, and what people want of it.

-- name: status_replicas
-- Replicas with what is left of their leases (below zero: run out) and what they tell of themselves, the longest running first.
-- silent_seconds: since its last heartbeat, when that should have been followed by another; these come every third of a lease.
-- ended_seconds: since the end of its lease, if the others are finding out what it had published, and in how many partitions; waits_for: why they cannot.
SELECT id, name, version, draining AND NOT put_off ? 'publish events' AS draining, duplicates, leases_lost,
       extract(epoch FROM clock_timestamp() - started_at)::float8 AS running_seconds,
       extract(epoch FROM lease_expires_at - clock_timestamp())::float8 AS lease_seconds,
       CASE WHEN clock_timestamp() > renewed_at + (lease_expires_at - renewed_at) / 3 + interval '1 second'
            THEN extract(epoch FROM clock_timestamp() - renewed_at)::float8 END AS silent_seconds,
       CASE WHEN ended_at IS NOT NULL THEN extract(epoch FROM clock_timestamp() - lease_expires_at)::float8 END AS ended_seconds,
       (SELECT coalesce(sum(cardinality(t.offsets)), 0) FROM outbox.tail AS t
        WHERE t.process = replica.process AND replica.ended_at IS NOT NULL)::bigint AS partitions,
       CASE WHEN ended_at IS NOT NULL THEN put_off -> 'free lanes' ->> 'error' END AS waits_for
FROM outbox.replica
ORDER BY started_at, id;

-- name: status_lanes
-- Every lane and its owner, whether that one is giving it back, and what people want of it.
SELECT l.lane, l.owner, l.epoch, l.position,
       extract(epoch FROM clock_timestamp() - l.claimed_at)::float8 AS owned_seconds,
       coalesce(l.lane = ANY (r.releasing) OR r.draining AND NOT r.put_off ? 'publish events', false) AS handing_back,
       i.until > clock_timestamp() AND i.replica IS NULL AS parked,
       CASE WHEN i.until > clock_timestamp() THEN i.replica END AS moved_to,
       CASE WHEN i.until > clock_timestamp() THEN extract(epoch FROM i.until - clock_timestamp())::float8 END AS intent_seconds,
       CASE WHEN i.until > clock_timestamp() THEN i.requested_by END AS requested_by,
       CASE WHEN i.until > clock_timestamp() THEN i.reason END AS reason
FROM outbox.lane AS l
LEFT JOIN outbox.replica AS r ON r.id = l.owner
LEFT JOIN outbox.lane_intent AS i ON i.lane = l.lane
ORDER BY l.lane;

-- name: ask_lanes
-- Ask that replica $2 own the lanes $1 for $3 seconds; without one, that their owners give them back and nobody owns them for so long. For reason $4, by $5 on which machine.
-- Returns the epochs of which that is asked.
INSERT INTO outbox.lane_intent AS i (lane, epoch, replica, until, reason, requested_by)
SELECT l.lane, l.epoch, $2::uuid, clock_timestamp() + make_interval(secs => $3::float8), $4::text,
       session_user || ' (' || $5::text || ')'
FROM outbox.lane AS l
WHERE l.lane = ANY ($1::smallint[])
ORDER BY l.lane
ON CONFLICT (lane) DO UPDATE
SET epoch = excluded.epoch, replica = excluded.replica, until = excluded.until, reason = excluded.reason,
    requested_by = excluded.requested_by, requested_at = clock_timestamp()
RETURNING i.lane, i.epoch;

-- name: lanes_wake_up
-- Let the relays look at once: somebody came or goes, gave lanes back, or wants something of them.
-- Never with a statement that matters: a NOTIFY may fail for another's fault, as when the server's queue is full.
SELECT pg_notify('outbox', 'lanes');
