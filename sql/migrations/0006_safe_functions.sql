-- What our functions call is PostgreSQL's own, whoever calls them; a segment with an unsettled event is not dropped.
-- Runs with programs from version 1.

-- A schema that its search path names before pg_catalog, as one that is named like the user or an open public, could
-- otherwise put its own functions, operators and types in their place. Functions for writers are qualified: SET would
-- cost them more than the rest of the function. All others set the path.

-- Without backslashes, which mean something else where standard_conforming_strings is off.
CREATE OR REPLACE VIEW outbox.segment AS
SELECT c.relname::text AS name, bounds[1]::bigint AS lower_id, bounds[2]::bigint AS upper_id
FROM pg_catalog.pg_inherits AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid,
LATERAL regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM [(]''([0-9]+)''[)] TO [(]''([0-9]+)''[)]') AS bounds
WHERE i.inhparent = 'outbox.event'::regclass
  AND bounds IS NOT NULL;

CREATE OR REPLACE FUNCTION outbox.enqueue(
    topic text, key text, payload text, headers jsonb DEFAULT '{}', type text DEFAULT NULL
)
RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    new_id CONSTANT pg_catalog.uuid := pg_catalog.gen_random_uuid();
BEGIN
    INSERT INTO outbox.event (event_id, topic, key, payload, headers, type)
    VALUES (new_id, enqueue.topic, pg_catalog.convert_to(enqueue.key, 'UTF8'),
            pg_catalog.convert_to(enqueue.payload, 'UTF8'), coalesce(enqueue.headers, '{}'), enqueue.type);
    RETURN new_id;
END
$$;

CREATE OR REPLACE FUNCTION outbox.enqueue(
    topic text, key text, payload jsonb, headers jsonb DEFAULT '{}', type text DEFAULT NULL
)
RETURNS uuid LANGUAGE sql AS $$
    SELECT outbox.enqueue(topic, key, payload::pg_catalog.text, headers, type)
$$;

CREATE OR REPLACE FUNCTION outbox.wake_up() RETURNS void LANGUAGE sql AS $$
    SELECT pg_catalog.pg_notify('outbox', '')
$$;

CREATE OR REPLACE FUNCTION outbox.max_event_bytes() RETURNS bigint LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT substring(pg_get_constraintdef(c.oid) FROM '<= ([0-9]+)')::bigint
    FROM pg_constraint AS c
    WHERE c.conrelid = 'outbox.event'::regclass AND c.conname = 'event_size'
$$;

-- Only for the table's owner. NOT VALID: events that are there already stay, and no writer waits for a table scan.
CREATE OR REPLACE FUNCTION outbox.set_max_event_bytes(max_bytes bigint) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '50ms'
AS $$
BEGIN
    IF max_bytes IS NULL OR max_bytes <= 0 THEN
        RAISE EXCEPTION 'the event size limit must be a positive number of bytes' USING ERRCODE = '22023';
    END IF;
    ALTER TABLE outbox.event DROP CONSTRAINT event_size;
    EXECUTE format(
        'ALTER TABLE outbox.event ADD CONSTRAINT event_size CHECK ('
        'coalesce(octet_length(key), 0) + coalesce(octet_length(payload), 0)'
        ' + octet_length(headers::text) + coalesce(octet_length(type), 0) <= %s) NOT VALID',
        max_bytes
    );
END
$$;

-- Segments ------------------------------------------------------------------------------------------------------
--
-- One at a time: the lock on outbox.migration is one that only the owner of the outbox can take. (An advisory lock
-- could be held by anybody.) Reading the list of migrations goes on beside it.

CREATE OR REPLACE FUNCTION outbox.add_segment(lower_id bigint, upper_id bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET lock_timeout = '50ms'
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
    LOCK TABLE outbox.migration IN SHARE ROW EXCLUSIVE MODE;
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

-- Whether something may still be needed of the ids lower_id <= id < upper_id, by what the relay and people have noted.
-- The lanes are for the indexes, which begin with them; and no table scan, whatever the statistics say.
CREATE FUNCTION outbox.ids_needed(lower_id bigint, upper_id bigint) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET enable_seqscan = off
AS $$
    SELECT upper_id > (SELECT min(l.position) FROM outbox.lane AS l)
        OR EXISTS (
            SELECT FROM outbox.failure AS f
            WHERE f.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}')
              AND f.id >= lower_id AND f.id < upper_id AND f.state <> 'discarded'
        )
        OR EXISTS (
            SELECT FROM outbox.held AS h
            WHERE h.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}')
              AND h.id >= lower_id AND h.id < upper_id
        )
        OR outbox.replay_needs(lower_id, upper_id)
$$;

-- An event of the segment that begins at lower_id that has neither a receipt nor been discarded; null if there is none.
-- Both tables are read once in the order of their keys, which needs no memory, whatever the statistics say.
CREATE FUNCTION outbox.unsettled_event(lower_id bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_nestloop = off
SET enable_mergejoin = on
SET enable_material = off
SET max_parallel_workers_per_gather = 0
AS $$
DECLARE
    unsettled bigint;
BEGIN
    EXECUTE format(
        'SELECT e.id'
        ' FROM (SELECT e.lane, e.id FROM outbox.%I AS e'
        '       WHERE NOT EXISTS (SELECT FROM outbox.%I AS d WHERE d.lane = e.lane AND d.id = e.id) OFFSET 0) AS e'
        ' WHERE NOT EXISTS (SELECT FROM outbox.failure AS f'
        '                   WHERE f.lane = e.lane AND f.id = e.id AND f.state = ''discarded'' OFFSET 0)'
        ' LIMIT 1',
        'event_' || lower_id, 'delivery_' || lower_id
    ) INTO unsettled;
    RETURN unsettled;
END
$$;

-- Drops the segment that begins at lower_id if nothing in it can still be needed; says whether it did.
-- Discarded failures go with their events (outbox.action keeps who discarded them and why).
--
-- What the relay has noted is not taken for granted: an event that was passed over would be lost without a trace.
CREATE OR REPLACE FUNCTION outbox.drop_segment(lower_id bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET lock_timeout = '50ms'
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
        SELECT FROM pg_locks AS l JOIN pg_stat_activity AS a ON a.pid = l.pid
        WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND l.relation IN ('outbox.event'::regclass, 'outbox.delivery'::regclass)
          AND l.granted AND a.pid <> pg_backend_pid()
          AND a.xact_start < clock_timestamp() - interval '1 second'
    ) THEN
        RETURN false;
    END IF;
    -- Nothing is written into the segment from here on. Other segments, and with them all writers, wait for nothing
    -- while this one is looked through.
    EXECUTE format('LOCK TABLE outbox.%I IN SHARE MODE', 'event_' || drop_segment.lower_id);
    IF outbox.unsettled_event(drop_segment.lower_id) IS NOT NULL THEN
        RETURN false;
    END IF;
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

REVOKE ALL ON FUNCTION outbox.unsettled_event(bigint) FROM PUBLIC;

-- As sql/roles.sql, for an outbox whose roles were made before. By name: EXECUTE may have been revoked from PUBLIC.
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['outbox_relay', 'outbox_admin'] LOOP
        IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role) THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION outbox.ids_needed(bigint, bigint) TO %I', role);
            EXECUTE format('GRANT EXECUTE ON FUNCTION outbox.unsettled_event(bigint) TO %I', role);
        END IF;
    END LOOP;
END
$$;
