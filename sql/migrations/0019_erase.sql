-- Erase: the payload and headers of an event go, its receipt, its failure and who asked for it stay.
-- Runs with programs from version 13.

-- The first lock keeps writers out for an instant. While others use the table, give up soon: `relay migrate` tries again.
SET LOCAL lock_timeout = '50ms';

-- The action by which the event was erased. In the event's own row: it goes with its segment, and whoever reads the event
-- again, to publish it once more, sees it.
ALTER TABLE outbox.event ADD COLUMN erased_by bigint;

ALTER TABLE outbox.action
    DROP CONSTRAINT action_kind_check,
    ADD CONSTRAINT action_kind_check CHECK (kind IN ('replay', 'discard', 'replay-delivered', 'cancel', 'erase'));

-- Whether a replay of delivered events that is under way has yet to publish the event, or may have.
CREATE FUNCTION outbox.being_replayed(topic text, lane smallint, id bigint) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM outbox.action AS a
        WHERE a.finished_at IS NULL AND a.kind = 'replay-delivered'
          AND a.filter ->> 'topic' = being_replayed.topic
          AND jsonb_path_exists(a.progress, '$.last_id ? (@ >= $id)', jsonb_build_object('id', being_replayed.id))
          AND NOT jsonb_path_exists(
              a.progress, format('$.lanes."%s" ? (@ >= $id)', being_replayed.lane)::jsonpath,
              jsonb_build_object('id', being_replayed.id)
          )
    )
$$;

-- The events with these ids, or of this key, and topic (null: any), each with what erasing it would meet: erased, replaying
-- (a failed event, or one that was delivered), failed, retrying, discarded, held, delivered, pending.
CREATE FUNCTION outbox.erasable(ids bigint[], of_key bytea, of_topic text)
RETURNS TABLE (lane smallint, id bigint, topic text, key bytea, state text, segment regclass)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 100
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
    SELECT e.lane, e.id, e.topic, e.key,
           CASE WHEN e.erased_by IS NOT NULL THEN 'erased'
                WHEN f.state IS NOT NULL THEN f.state
                WHEN h.id IS NOT NULL THEN 'held'
                -- Up to the position, all is settled.
                WHEN e.id > l.position AND NOT EXISTS (SELECT FROM outbox.receipt_of(e.id)) THEN 'pending'
                WHEN outbox.being_replayed(e.topic, e.lane, e.id) THEN 'replaying'
                ELSE 'delivered' END,
           e.tableoid::regclass
    FROM outbox.event AS e
    JOIN outbox.lane AS l ON l.lane = e.lane
    LEFT JOIN outbox.failure AS f ON f.lane = e.lane AND f.id = e.id
    LEFT JOIN outbox.held AS h ON h.lane = e.lane AND h.id = e.id
    WHERE e.lane = ANY (
              -- As the column is computed.
              CASE WHEN of_key IS NULL THEN '{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}'::smallint[]
                   ELSE ARRAY[(get_byte(sha256(of_key), 0) & 15)::smallint] END
          )
      AND (erasable.ids IS NULL OR e.id = ANY (erasable.ids))
      AND (of_key IS NULL OR e.key = of_key)
      AND (of_topic IS NULL OR e.topic = of_topic)
      AND (erasable.ids IS NOT NULL OR of_key IS NOT NULL)
$$;

-- Erases these events, and cancels the scheduled ones of the key and topic, or with these event_ids. All or nothing, in the
-- transaction that records who asked for it; `told` is the machine, in brackets behind the user.
--
-- Events that are not delivered and not discarded are refused unless `force`. They are discarded then; with `tombstone`,
-- those that no relay has seen fail are published, without a payload, when their turn comes. Nobody may have them in hand
-- meanwhile: the locks keep their lanes from being claimed, and one whose owner is alive is refused.
CREATE FUNCTION outbox.erase(
    ids bigint[], of_key bytea, of_topic text, scheduled_ids uuid[], force boolean, tombstone boolean,
    recorded jsonb, reason text, told text
)
RETURNS TABLE (action bigint, events bigint, discarded bigint, cancelled bigint, segments text[])
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET enable_seqscan = off
SET lock_timeout = '10s'
AS $$
DECLARE
    refused     record;
    ours        bigint[];
    undelivered bigint[];
    lanes       smallint[];
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'erase needs READ COMMITTED' USING ERRCODE = '25001';
    END IF;
    IF force THEN
        PERFORM FROM outbox.lane AS l
        WHERE l.lane IN (SELECT e.lane FROM outbox.erasable(ids, of_key, of_topic) AS e
                         WHERE e.state IN ('pending', 'held', 'retrying', 'failed'))
        ORDER BY l.lane
        FOR NO KEY UPDATE;
    END IF;
    -- The statement after the locks sees what was committed before them.
    SELECT e.id, e.state, r.name, e.lane INTO refused
    FROM outbox.erasable(ids, of_key, of_topic) AS e
    JOIN outbox.lane AS l ON l.lane = e.lane
    LEFT JOIN outbox.replica AS r ON r.id = l.owner AND r.lease_expires_at > clock_timestamp()
    WHERE e.state = 'replaying'
       OR (NOT force AND e.state IN ('pending', 'held', 'retrying', 'failed'))
       OR (e.state IN ('pending', 'held', 'retrying') AND r.id IS NOT NULL)
    ORDER BY e.id
    LIMIT 1;
    IF refused.id IS NOT NULL THEN
        RAISE EXCEPTION 'event % is %', refused.id, refused.state
                        || CASE WHEN force AND refused.state <> 'replaying'
                                THEN format(', and replica %s, which owns lane %s, may have it in hand', refused.name, refused.lane)
                                ELSE '' END
            USING ERRCODE = '55006';
    END IF;
    SELECT array_agg(e.id),
           array_agg(e.id) FILTER (WHERE e.state IN ('held', 'retrying', 'failed') OR (e.state = 'pending' AND NOT tombstone)),
           array_agg(DISTINCT e.lane), array_agg(DISTINCT e.segment::text)
    INTO ours, undelivered, lanes, segments
    FROM outbox.erasable(ids, of_key, of_topic) AS e
    WHERE e.state <> 'erased';
    INSERT INTO outbox.action (kind, filter, reason, requested_by, finished_at)
    VALUES ('erase', recorded, reason, outbox.who_asks(session_user || ' (' || told || ')'), clock_timestamp())
    RETURNING id INTO action;
    cancelled := 0;
    IF scheduled_ids IS NOT NULL OR of_key IS NOT NULL THEN
        DELETE FROM outbox.scheduled AS s
        WHERE (s.event_id = ANY (scheduled_ids) OR s.key = of_key) AND (of_topic IS NULL OR s.topic = of_topic);
        GET DIAGNOSTICS cancelled = ROW_COUNT;
        IF cancelled > 0 AND NOT force THEN
            RAISE EXCEPTION '% scheduled events are still to come', cancelled USING ERRCODE = '55006';
        END IF;
    END IF;
    DELETE FROM outbox.held AS h
    WHERE h.lane = ANY (lanes) AND h.id = ANY (undelivered);
    INSERT INTO outbox.failure AS f (lane, id, topic, key, state, attempts, error, policy, action)
    SELECT e.lane, e.id, e.topic, e.key, 'discarded', 0, 'Erased', 'block', erase.action
    FROM outbox.event AS e
    WHERE e.lane = ANY (lanes) AND e.id = ANY (undelivered)
    ON CONFLICT (lane, id) DO UPDATE SET state = 'discarded', next_attempt_at = NULL, action = excluded.action;
    -- What a server said of an event may quote it.
    UPDATE outbox.failure AS f SET detail = '', history = '[]'
    WHERE f.lane = ANY (lanes) AND f.id = ANY (ours);
    UPDATE outbox.event AS e
    SET payload = NULL, headers = '{}', erased_by = erase.action,
        -- A row from before 0007 may have a date that is not taken any more.
        created_at = least(greatest(e.created_at, '1970-01-01 00:00:00+00'), '9999-12-31 00:00:00+00')
    WHERE e.lane = ANY (lanes) AND e.id = ANY (ours) AND e.erased_by IS NULL;
    GET DIAGNOSTICS events = ROW_COUNT;
    discarded := coalesce(cardinality(undelivered), 0);
    UPDATE outbox.action AS a
    SET counts = jsonb_build_object('events', events, 'discarded', discarded, 'cancelled', cancelled)
    WHERE a.id = erase.action;
    segments := coalesce(segments, '{}');
    RETURN NEXT;
END
$$;

REVOKE ALL ON FUNCTION
    outbox.being_replayed(text, smallint, bigint), outbox.erasable(bigint[], bytea, text),
    outbox.erase(bigint[], bytea, text, uuid[], boolean, boolean, jsonb, text, text)
FROM PUBLIC;

-- As sql/roles.sql, for an outbox whose roles were made before.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_admin') THEN
        GRANT EXECUTE ON FUNCTION
            outbox.erasable(bigint[], bytea, text),
            outbox.erase(bigint[], bytea, text, uuid[], boolean, boolean, jsonb, text, text)
        TO outbox_admin;
    END IF;
END
$$;
