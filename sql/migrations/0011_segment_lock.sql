-- Segments are made and dropped whatever a role prepares that it may not run.
-- Runs with programs from version 1.

-- As in 0006 and 0009, but for the lock that lets one at a time make or drop segments. Whoever may name outbox.migration
-- gets ROW EXCLUSIVE on it by preparing an UPDATE that it may not run, for as long as its transaction lasts; the former
-- lock waited for that. This one is the owner's alone, too.

CREATE OR REPLACE FUNCTION outbox.add_segment(lower_id bigint, upper_id bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET lock_timeout = '20ms'
AS $$
DECLARE
    parent  text;
    segment text;
    columns text;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'add_segment needs READ COMMITTED' USING ERRCODE = '25001';
    END IF;
    IF lower_id IS NULL OR upper_id IS NULL OR lower_id < 1 OR upper_id <= lower_id THEN
        RAISE EXCEPTION 'a segment needs 1 <= lower_id < upper_id' USING ERRCODE = '22023';
    END IF;
    LOCK TABLE outbox.migration IN SHARE UPDATE EXCLUSIVE MODE;
    IF EXISTS (
        SELECT FROM outbox.segment AS s
        WHERE s.lower_id < add_segment.upper_id AND s.upper_id > add_segment.lower_id
    ) THEN
        RETURN NULL;
    END IF;
    FOREACH parent IN ARRAY ARRAY['event', 'delivery'] LOOP
        EXECUTE format(
            'CREATE TABLE outbox.%I (LIKE outbox.%I INCLUDING ALL)', parent || '_' || lower_id, parent
        );
    END LOOP;
    LOCK TABLE outbox.event_default IN ACCESS EXCLUSIVE MODE;
    LOCK TABLE outbox.delivery_default IN ACCESS EXCLUSIVE MODE;
    FOREACH parent IN ARRAY ARRAY['event', 'delivery'] LOOP
        segment := parent || '_' || lower_id;
        SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO columns
        FROM pg_attribute AS a
        WHERE a.attrelid = format('outbox.%I', parent)::regclass
          AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';
        EXECUTE format(
            'WITH moved AS (DELETE FROM outbox.%1$I WHERE id >= $1 AND id < $2 RETURNING %2$s)'
            ' INSERT INTO outbox.%3$I (%2$s) SELECT %2$s FROM moved',
            parent || '_default', columns, segment
        ) USING lower_id, upper_id;
        EXECUTE format(
            'ALTER TABLE outbox.%I ATTACH PARTITION outbox.%I FOR VALUES FROM (%s) TO (%s)',
            parent, segment, lower_id, upper_id
        );
    END LOOP;
    RETURN 'event_' || lower_id;
END
$$;

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
    LOCK TABLE outbox.migration IN SHARE UPDATE EXCLUSIVE MODE;
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
