-- Segments are made and dropped beside what others do: prepared transactions and readers.
-- Runs with programs from version 1.

-- As in 0006, but for these: prepared transactions, which have no session, hold locks like old sessions; the segment's
-- own tables are locked first, so that writers wait for nobody who reads those; and nobody waits for more than 20 ms.
CREATE OR REPLACE FUNCTION outbox.drop_segment(lower_id bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET lock_timeout = '20ms'
SET enable_seqscan = off
AS $$
DECLARE
    every_lane CONSTANT smallint[] := '{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}';
    upper_bound bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'drop_segment needs READ COMMITTED' USING ERRCODE = '25001';
    END IF;
    LOCK TABLE outbox.migration IN SHARE ROW EXCLUSIVE MODE;
    SELECT s.upper_id INTO upper_bound FROM outbox.segment AS s WHERE s.lower_id = drop_segment.lower_id;
    -- While an old reader or writer holds its lock, asking for ours would only make the others wait.
    IF upper_bound IS NULL OR outbox.ids_needed(drop_segment.lower_id, upper_bound) OR EXISTS (
        SELECT FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
        WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND l.relation IN ('outbox.event'::regclass, 'outbox.delivery'::regclass)
          AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
          AND (l.pid IS NULL OR a.xact_start < clock_timestamp() - interval '1 second')
    ) THEN
        RETURN false;
    END IF;
    -- Nothing is written into the segment from here on. Other segments, and with them all writers, wait for nothing
    -- while this one is looked through.
    EXECUTE format('LOCK TABLE outbox.%I IN SHARE MODE', 'event_' || drop_segment.lower_id);
    IF outbox.unsettled_event(drop_segment.lower_id) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('LOCK TABLE outbox.%I IN ACCESS EXCLUSIVE MODE', 'event_' || drop_segment.lower_id);
    EXECUTE format('LOCK TABLE outbox.%I IN ACCESS EXCLUSIVE MODE', 'delivery_' || drop_segment.lower_id);
    LOCK TABLE ONLY outbox.event IN ACCESS EXCLUSIVE MODE;
    LOCK TABLE ONLY outbox.delivery IN ACCESS EXCLUSIVE MODE;
    -- Once more: what was true before the locks may have been a straggler's last chance.
    IF outbox.ids_needed(drop_segment.lower_id, upper_bound) THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE outbox.%I', 'event_' || drop_segment.lower_id);
    EXECUTE format('DROP TABLE outbox.%I', 'delivery_' || drop_segment.lower_id);
    DELETE FROM outbox.failure AS f
    WHERE f.lane = ANY (every_lane) AND f.id >= drop_segment.lower_id AND f.id < upper_bound;
    RETURN true;
END
$$;

ALTER FUNCTION outbox.add_segment(bigint, bigint) SET lock_timeout = '20ms';
