-- Topics: what people ask of them, and what there is for each.

-- name: paused_topics
-- Topics whose events people want held back now: the latest request of each topic counts. A reason is cut, as each replica keeps it.
-- By the time of the statement, which an index can be asked for.
SELECT i.topic, extract(epoch FROM i.until - statement_timestamp())::float8 AS seconds,
       extract(epoch FROM i.until)::float8 AS until, left(i.reason, 500) AS reason, i.requested_by
FROM outbox.topic_intent AS i
WHERE i.until > statement_timestamp()
  AND NOT EXISTS (SELECT FROM outbox.topic_intent AS later WHERE later.topic = i.topic AND later.id > i.id)
ORDER BY i.topic;

-- name: ask_topics
-- Ask that the events of topics $1 be held back for $2 seconds; for none, that an earlier request end. For reason $3, by $4 on which machine.
INSERT INTO outbox.topic_intent (topic, until, reason, requested_by)
SELECT asked.topic, clock_timestamp() + make_interval(secs => $2::float8), $3::text, session_user || ' (' || $4::text || ')'
FROM unnest($1::text[]) AS asked (topic)
ORDER BY asked.topic;

-- name: topics_pending
-- Of the topics that have any, the pending events with $1 < id <= $2, and the age of the first. (From infinity nothing can be subtracted.)
-- And a row without a topic: `next` is before the first id above $2 that there is; null if there is none. As status_pending, which says it by lane.
SELECT pending.topic, count(*) AS events,
       extract(epoch FROM clock_timestamp()
                          - least(greatest((array_agg(pending.created_at ORDER BY pending.id))[1], '1970-01-01'), '9999-12-31')
              )::float8 AS seconds,
       NULL::bigint AS next
FROM outbox.lane AS l
CROSS JOIN LATERAL (
    SELECT event.lane, event.id, event.created_at, event.topic
    FROM outbox.event AS event
    WHERE event.lane = l.lane AND event.id > l.position AND event.id > $1::bigint AND event.id <= $2::bigint
      AND event.id NOT IN (SELECT r.id FROM outbox.receipted($1::bigint, $2::bigint) AS r (id))
    OFFSET 0
) AS pending
WHERE NOT EXISTS (SELECT FROM outbox.failure AS f WHERE f.lane = pending.lane AND f.id = pending.id)
  AND NOT EXISTS (SELECT FROM outbox.held AS h WHERE h.lane = pending.lane AND h.id = pending.id)
GROUP BY pending.topic
UNION ALL
SELECT NULL, NULL, NULL, min(first.id) - 1
FROM outbox.lane AS l
CROSS JOIN LATERAL (
    SELECT e.id FROM outbox.event AS e
    WHERE e.lane = l.lane AND e.id > l.position AND e.id > $2::bigint ORDER BY e.id LIMIT 1
) AS first;

-- name: topics_held
-- By topic, of the first $1 held events: all of them, and those that no failure of their key explains.
SELECT h.topic, count(*) AS events,
       count(*) FILTER (WHERE NOT EXISTS (
           SELECT FROM outbox.failure AS f
           WHERE f.topic = h.topic AND sha256(f.key) = sha256(h.key) AND f.key = h.key AND f.state <> 'discarded'
       )) AS waiting
FROM (SELECT lane, topic, key FROM outbox.held LIMIT $1::int) AS h
GROUP BY h.topic;

-- name: topics_failed
-- By topic, events that failed and wait for a person, of the first $1.
SELECT f.topic, count(*) AS events
FROM (SELECT topic FROM outbox.failure WHERE state = 'failed' LIMIT $1::int) AS f
GROUP BY f.topic;

-- name: topics_written
-- By topic, events of the last $2 seconds among the newest $1 ids; with the seconds that these go back, $2 at most.
WITH newest AS MATERIALIZED (
    SELECT e.topic, e.created_at
    FROM outbox.event AS e
    CROSS JOIN (SELECT coalesce(pg_sequence_last_value('outbox.event_id'::regclass), 0) AS id) AS last
    WHERE e.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}') AND e.id > last.id - $1::bigint
)
SELECT n.topic, count(*) AS events,
       CASE WHEN (SELECT count(*) FROM newest) < $1::bigint / 2
                 OR (SELECT bool_or(o.created_at <= clock_timestamp() - make_interval(secs => $2::float8)) FROM newest AS o)
            THEN $2::float8
            ELSE (SELECT extract(epoch FROM clock_timestamp() - min(o.created_at))::float8 FROM newest AS o) END AS seconds
FROM newest AS n
WHERE n.created_at > clock_timestamp() - make_interval(secs => $2::float8) AND n.created_at <= clock_timestamp()
GROUP BY n.topic;

-- name: topics_delivered
-- By topic, events of receipts of the last $2 seconds among the $1 receipts with the highest ids; with the seconds that these go back, $2 at most.
WITH newest AS MATERIALIZED (
    SELECT r.min_id, r.ids, r.delivered_at FROM outbox.receipt AS r ORDER BY r.max_id DESC LIMIT $1::int
)
SELECT e.topic, sum(octet_length(n.ids) / 4)::bigint AS events,
       CASE WHEN (SELECT count(*) FROM newest) < $1::int
                 OR (SELECT bool_or(o.delivered_at <= clock_timestamp() - make_interval(secs => $2::float8)) FROM newest AS o)
            THEN $2::float8
            ELSE (SELECT extract(epoch FROM clock_timestamp() - min(o.delivered_at))::float8 FROM newest AS o) END AS seconds
FROM newest AS n
-- A record batch is of one topic.
CROSS JOIN LATERAL (SELECT of.difference FROM outbox.places(n.ids) AS of LIMIT 1) AS p
JOIN outbox.event AS e
    ON e.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}') AND e.id = n.min_id + p.difference
WHERE n.delivered_at > clock_timestamp() - make_interval(secs => $2::float8)
GROUP BY e.topic;

-- name: told_topics
-- What live replicas told of topics with their last heartbeat: why the topic takes no events, if it does not, and its limit, if it would go faster.
SELECT t.topic, min(t.told ->> 'trouble') AS trouble, min(t.told ->> 'limit') AS rate_limit
FROM outbox.replica AS r
CROSS JOIN LATERAL jsonb_each(r.topics) AS t (topic, told)
WHERE r.lease_expires_at > clock_timestamp()
GROUP BY t.topic
ORDER BY t.topic;
