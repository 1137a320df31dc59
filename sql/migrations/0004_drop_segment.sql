-- Whether a segment can be dropped is looked up lane by lane.
-- Runs with programs from version 1.

-- As in 0001, but for the lanes: the indexes of failure and held begin with the lane. For a range of ids alone, servers
-- before version 18 walk through all of them, and here every writer waits meanwhile. No table scan either, whatever the
-- statistics say.
CREATE OR REPLACE FUNCTION outbox.drop_segment(lower_id bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '50ms'
SET enable_seqscan = 'off'
AS $$
DECLARE
    every_lane CONSTANT smallint[] := '{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}';
    upper_bound bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'drop_segment needs READ COMMITTED' USING ERRCODE = '25001';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('outbox.segment', 0));
    SELECT s.upper_id INTO upper_bound FROM outbox.segment AS s WHERE s.lower_id = drop_segment.lower_id;
    -- While an old reader or writer holds its lock, asking for ours would only make the others wait.
    IF upper_bound IS NULL OR EXISTS (
        SELECT FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
        WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND l.relation IN ('outbox.event'::regclass, 'outbox.delivery'::regclass)
          AND l.granted AND a.pid <> pg_backend_pid()
          AND a.xact_start < clock_timestamp() - interval '1 second'
    ) THEN
        RETURN false;
    END IF;
    LOCK TABLE ONLY outbox.event IN ACCESS EXCLUSIVE MODE;
    LOCK TABLE ONLY outbox.delivery IN ACCESS EXCLUSIVE MODE;
    -- Only now: what was true before the locks may have been a straggler's last chance.
    IF upper_bound > (SELECT min(l.position) FROM outbox.lane AS l)
        OR EXISTS (
            SELECT FROM outbox.failure AS f
            WHERE f.lane = ANY (every_lane) AND f.id >= drop_segment.lower_id AND f.id < upper_bound
              AND f.state <> 'discarded'
        )
        OR EXISTS (
            SELECT FROM outbox.held AS h
            WHERE h.lane = ANY (every_lane) AND h.id >= drop_segment.lower_id AND h.id < upper_bound
        )
        OR outbox.replay_needs(drop_segment.lower_id, upper_bound)
    THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE outbox.%I', 'event_' || drop_segment.lower_id);
    EXECUTE format('DROP TABLE outbox.%I', 'delivery_' || drop_segment.lower_id);
    DELETE FROM outbox.failure AS f
    WHERE f.lane = ANY (every_lane) AND f.id >= drop_segment.lower_id AND f.id < upper_bound;
    RETURN true;
END
$$;
