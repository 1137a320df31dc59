-- Timers: events that enter the outbox when they are due.
-- Runs with programs from version 13.

-- The first lock lets writers wait for an instant. While others use the table, give up soon: `relay migrate` tries again.
SET LOCAL lock_timeout = '50ms';

-- An event that is to come: a table of its own, so that outbox.event has no column, index or cost for it. The columns and
-- the limits are those of outbox.event, whatever these are in this database (set_max_event_bytes below keeps them so):
-- what is taken here can be moved there. created_at is when it was written here; once moved, the event has a new one.
CREATE TABLE outbox.scheduled (LIKE outbox.event INCLUDING CONSTRAINTS INCLUDING GENERATED);

ALTER TABLE outbox.scheduled
    -- The order among those that are due at the same moment.
    ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY,
    ALTER COLUMN created_at SET DEFAULT statement_timestamp(),
    ALTER COLUMN event_id SET DEFAULT gen_random_uuid(),
    ADD COLUMN deliver_at timestamptz NOT NULL,
    -- In place of deliver_at, counted by the server's clock when the row is written; a trigger sets deliver_at. Always null
    -- afterwards. A column, because COPY takes no expressions.
    ADD COLUMN delay interval,
    -- A name by which the writer can cancel or reschedule the event.
    ADD COLUMN timer text,
    ADD CONSTRAINT scheduled_pkey PRIMARY KEY (event_id),
    -- From infinity nothing can be subtracted. The upper bound, which moves with the clock, is the trigger's.
    ADD CONSTRAINT scheduled_deliver_at CHECK (deliver_at >= '1970-01-01 00:00:00+00'),
    ADD CONSTRAINT scheduled_delay CHECK (delay IS NULL),
    ADD CONSTRAINT scheduled_timer_length CHECK (octet_length(timer) BETWEEN 1 AND 200),
    SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- The trace of a writer's session, as in 0012: the same expression as there.
DO $$
BEGIN
    EXECUTE 'ALTER TABLE outbox.scheduled ALTER COLUMN headers SET DEFAULT ('
        || (SELECT pg_get_expr(d.adbin, d.adrelid)
            FROM pg_attrdef AS d JOIN pg_attribute AS a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
            WHERE d.adrelid = 'outbox.event'::regclass AND a.attname = 'headers')
        || ')';
END
$$;

-- In which a lane's events are moved.
CREATE UNIQUE INDEX scheduled_due ON outbox.scheduled (lane, deliver_at, id);
CREATE UNIQUE INDEX scheduled_timer ON outbox.scheduled (timer) WHERE timer IS NOT NULL;

-- Qualified instead of SET search_path, which would cost each row more than the rest of the function.
CREATE FUNCTION outbox.set_deliver_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.delay IS NOT NULL THEN
        IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' AND NEW.deliver_at IS NOT NULL THEN
            RAISE EXCEPTION 'a scheduled event has deliver_at or delay, not both' USING ERRCODE = '22023';
        END IF;
        NEW.deliver_at := pg_catalog.statement_timestamp() OPERATOR(pg_catalog.+) NEW.delay;
        NEW.delay := NULL;
    ELSIF NEW.deliver_at IS NULL THEN
        RAISE EXCEPTION 'a scheduled event needs deliver_at or delay' USING ERRCODE = '22023';
    END IF;
    IF NEW.deliver_at OPERATOR(pg_catalog.>)
       (pg_catalog.statement_timestamp() OPERATOR(pg_catalog.+) '100 years'::pg_catalog.interval) THEN
        RAISE EXCEPTION 'a scheduled event can be due in 100 years at most, and not at %', NEW.deliver_at USING
            ERRCODE = '22008';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER set_deliver_at BEFORE INSERT OR UPDATE OF deliver_at, delay ON outbox.scheduled FOR EACH ROW
EXECUTE FUNCTION outbox.set_deliver_at();

-- For writers ---------------------------------------------------------------------------------------------------

-- As outbox.enqueue(), for an event that enters the outbox at a time, or after a delay.
CREATE FUNCTION outbox.enqueue_at(
    deliver_at timestamptz, topic text, key text, payload text,
    headers jsonb DEFAULT '{}', type text DEFAULT NULL, timer text DEFAULT NULL
)
RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    new_id CONSTANT pg_catalog.uuid := pg_catalog.gen_random_uuid();
    traced pg_catalog.jsonb := coalesce(enqueue_at.headers, '{}');
BEGIN
    IF pg_catalog.current_setting('outbox.traceparent', true) OPERATOR(pg_catalog.<>) '' THEN
        traced := outbox.with_trace(traced);
    END IF;
    INSERT INTO outbox.scheduled (event_id, topic, key, payload, headers, type, deliver_at, timer)
    VALUES (new_id, enqueue_at.topic, pg_catalog.convert_to(enqueue_at.key, 'UTF8'),
            pg_catalog.convert_to(enqueue_at.payload, 'UTF8'), traced, enqueue_at.type,
            enqueue_at.deliver_at, enqueue_at.timer);
    RETURN new_id;
END
$$;

CREATE FUNCTION outbox.enqueue_at(
    deliver_at timestamptz, topic text, key text, payload jsonb,
    headers jsonb DEFAULT '{}', type text DEFAULT NULL, timer text DEFAULT NULL
)
RETURNS uuid LANGUAGE sql AS $$
    SELECT outbox.enqueue_at(deliver_at, topic, key, payload::pg_catalog.text, headers, type, timer)
$$;

CREATE FUNCTION outbox.enqueue_in(
    delay interval, topic text, key text, payload text,
    headers jsonb DEFAULT '{}', type text DEFAULT NULL, timer text DEFAULT NULL
)
RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    new_id CONSTANT pg_catalog.uuid := pg_catalog.gen_random_uuid();
    traced pg_catalog.jsonb := coalesce(enqueue_in.headers, '{}');
BEGIN
    IF pg_catalog.current_setting('outbox.traceparent', true) OPERATOR(pg_catalog.<>) '' THEN
        traced := outbox.with_trace(traced);
    END IF;
    INSERT INTO outbox.scheduled (event_id, topic, key, payload, headers, type, delay, timer)
    VALUES (new_id, enqueue_in.topic, pg_catalog.convert_to(enqueue_in.key, 'UTF8'),
            pg_catalog.convert_to(enqueue_in.payload, 'UTF8'), traced, enqueue_in.type,
            enqueue_in.delay, enqueue_in.timer);
    RETURN new_id;
END
$$;

CREATE FUNCTION outbox.enqueue_in(
    delay interval, topic text, key text, payload jsonb,
    headers jsonb DEFAULT '{}', type text DEFAULT NULL, timer text DEFAULT NULL
)
RETURNS uuid LANGUAGE sql AS $$
    SELECT outbox.enqueue_in(delay, topic, key, payload::pg_catalog.text, headers, type, timer)
$$;

-- Both say whether the event was still to come: false means that it has entered the outbox, or never was. They wait for a
-- relay that is moving it. SECURITY DEFINER: a writer may not read, and so cannot say which row it means.
CREATE FUNCTION outbox.cancel_scheduled(event_id uuid DEFAULT NULL, timer text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
BEGIN
    IF num_nonnulls(cancel_scheduled.event_id, cancel_scheduled.timer) <> 1 THEN
        RAISE EXCEPTION 'name the scheduled event by its event_id or by its timer' USING ERRCODE = '22023';
    END IF;
    IF cancel_scheduled.event_id IS NOT NULL THEN
        DELETE FROM outbox.scheduled AS s WHERE s.event_id = cancel_scheduled.event_id;
    ELSE
        DELETE FROM outbox.scheduled AS s WHERE s.timer = cancel_scheduled.timer;
    END IF;
    RETURN FOUND;
END
$$;

CREATE FUNCTION outbox.reschedule(
    event_id uuid DEFAULT NULL, timer text DEFAULT NULL, deliver_at timestamptz DEFAULT NULL, delay interval DEFAULT NULL
)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
BEGIN
    IF num_nonnulls(reschedule.event_id, reschedule.timer) <> 1 THEN
        RAISE EXCEPTION 'name the scheduled event by its event_id or by its timer' USING ERRCODE = '22023';
    END IF;
    IF num_nonnulls(reschedule.deliver_at, reschedule.delay) <> 1 THEN
        RAISE EXCEPTION 'a scheduled event has deliver_at or delay, and not both' USING ERRCODE = '22023';
    END IF;
    IF reschedule.event_id IS NOT NULL THEN
        UPDATE outbox.scheduled AS s
        SET deliver_at = coalesce(reschedule.deliver_at, s.deliver_at), delay = reschedule.delay
        WHERE s.event_id = reschedule.event_id;
    ELSE
        UPDATE outbox.scheduled AS s
        SET deliver_at = coalesce(reschedule.deliver_at, s.deliver_at), delay = reschedule.delay
        WHERE s.timer = reschedule.timer;
    END IF;
    RETURN FOUND;
END
$$;

-- For the relay -------------------------------------------------------------------------------------------------

-- Moves what is due into outbox.event: of the lanes that the replica owns at these epochs, about at_most events, in the
-- order in which they are due. The relay's role may write no event of its own; this is the way it has one written.
--
-- One call is one transaction, and it is a writer as any other: it has its xid before it takes ids. The locks on the lanes
-- let nobody claim them until it is over, so that no two move events of a lane at once, and a replica that lost a lane
-- moves nothing. The time is the server's; that of the call, so that all of it means the same moment.
--
-- put_off: ids of events that outbox.event does not take, for a constraint of somebody else's. waiting: how many that are
-- due were left out, since somebody has them locked, they are put off, or an earlier one of their key is. next_seconds:
-- until the first of these lanes' events is due that is not put off; null if there is none.
CREATE FUNCTION outbox.move_due(replica uuid, lanes smallint[], epochs bigint[], at_most integer, put_off bigint[])
RETURNS TABLE (moved integer, waiting integer, next_seconds float8)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = on
-- Whoever waits for a lock here keeps the lanes, and so the replica's heartbeat, waiting.
SET lock_timeout = '500ms'
AS $$
DECLARE
    most_bytes CONSTANT bigint := 4194304;
    looked_at  CONSTANT timestamptz := statement_timestamp();
    due_lanes  smallint[];
    taken      tid[];
    number     bigint;
BEGIN
    moved := 0;
    waiting := 0;
    due_lanes := ARRAY(
        SELECT l.lane
        FROM unnest(lanes) AS l (lane)
        WHERE EXISTS (
            SELECT FROM outbox.scheduled AS s
            WHERE s.lane = l.lane AND s.deliver_at <= looked_at AND s.id <> ALL (put_off)
        )
    );
    IF cardinality(due_lanes) > 0 THEN
        due_lanes := ARRAY(
            SELECT l.lane
            FROM outbox.lane AS l
            JOIN unnest(lanes, epochs) AS claimed (lane, epoch) ON claimed.lane = l.lane AND claimed.epoch = l.epoch
            WHERE l.owner = replica AND l.lane = ANY (due_lanes)
            ORDER BY l.lane
            FOR NO KEY UPDATE OF l
        );
    END IF;
    IF cardinality(due_lanes) > 0 THEN
        -- The first of each lane that nobody has locked; of these, as much as is not too large for one transaction.
        SELECT array_agg(s.place), count(*)
        INTO taken, number
        FROM (
            SELECT s.place, sum(s.size) OVER (PARTITION BY s.lane ORDER BY s.deliver_at, s.id) - s.size AS bytes_before
            FROM unnest(due_lanes) AS l (lane)
            CROSS JOIN LATERAL (
                SELECT s.ctid AS place, s.lane, s.deliver_at, s.id,
                       coalesce(octet_length(s.payload), 0) + coalesce(octet_length(s.key), 0)
                       + pg_column_size(s.headers) AS size
                FROM outbox.scheduled AS s
                WHERE s.lane = l.lane AND s.deliver_at <= looked_at AND s.id <> ALL (put_off)
                ORDER BY s.deliver_at, s.id
                LIMIT greatest(1, at_most / cardinality(due_lanes))
                FOR UPDATE SKIP LOCKED
            ) AS s
        ) AS s
        WHERE s.bytes_before < most_bytes / cardinality(due_lanes);
    END IF;
    IF number > 0 THEN
        -- What comes before the last of these in its lane, and is not among them: somebody is cancelling it, or it was
        -- committed just now. Later events of its key wait, since it may go first in the end.
        WITH ours AS MATERIALIZED (
            SELECT s.ctid AS place, s.lane, s.deliver_at, s.id, s.key FROM outbox.scheduled AS s WHERE s.ctid = ANY (taken)
        ),
        last AS MATERIALIZED (
            SELECT DISTINCT ON (o.lane) o.lane, o.deliver_at, o.id FROM ours AS o ORDER BY o.lane, o.deliver_at DESC, o.id DESC
        ),
        passed AS MATERIALIZED (
            SELECT s.lane, s.deliver_at, s.id, s.key
            FROM last
            CROSS JOIN LATERAL (
                SELECT s.lane, s.deliver_at, s.id, s.key
                FROM outbox.scheduled AS s
                WHERE s.lane = last.lane AND (s.deliver_at, s.id) < (last.deliver_at, last.id)
            ) AS s
            WHERE NOT EXISTS (SELECT FROM ours AS o WHERE o.id = s.id)
        )
        SELECT array_agg(o.place) FILTER (WHERE p.lane IS NULL), count(p.lane) + (SELECT count(*) FROM passed)
        INTO taken, waiting
        FROM ours AS o
        LEFT JOIN LATERAL (
            SELECT p.lane
            FROM passed AS p
            WHERE p.lane = o.lane AND p.key = o.key AND (p.deliver_at, p.id) < (o.deliver_at, o.id)
            LIMIT 1
        ) AS p ON true;
        WITH gone AS (
            DELETE FROM outbox.scheduled AS s
            WHERE s.ctid = ANY (taken)
            RETURNING s.deliver_at, s.id, s.event_id, s.topic, s.key, s.payload, s.headers, s.type
        )
        INSERT INTO outbox.event (event_id, topic, key, payload, headers, type)
        SELECT g.event_id, g.topic, g.key, g.payload, g.headers, g.type FROM gone AS g ORDER BY g.deliver_at, g.id;
        GET DIAGNOSTICS moved = ROW_COUNT;
    END IF;
    next_seconds := (
        SELECT min(date_part('epoch', first.deliver_at - clock_timestamp()))
        FROM unnest(lanes) AS l (lane)
        CROSS JOIN LATERAL (
            SELECT s.deliver_at
            FROM outbox.scheduled AS s
            WHERE s.lane = l.lane AND s.id <> ALL (put_off)
            ORDER BY s.deliver_at, s.id
            LIMIT 1
        ) AS first
    );
    RETURN NEXT;
END
$$;

-- Limits --------------------------------------------------------------------------------------------------------

-- As in 0006, for scheduled events as well: one that is larger than a new limit could not be moved.
CREATE OR REPLACE FUNCTION outbox.set_max_event_bytes(max_bytes bigint) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '50ms'
AS $$
DECLARE
    size   CONSTANT text := 'coalesce(octet_length(key), 0) + coalesce(octet_length(payload), 0)'
                            ' + octet_length(headers::text) + coalesce(octet_length(type), 0)';
    larger bigint;
    target text;
BEGIN
    IF max_bytes IS NULL OR max_bytes <= 0 THEN
        RAISE EXCEPTION 'the event size limit must be a positive number of bytes' USING ERRCODE = '22023';
    END IF;
    LOCK TABLE outbox.scheduled IN SHARE ROW EXCLUSIVE MODE;
    IF max_bytes < outbox.max_event_bytes() THEN
        EXECUTE format('SELECT count(*) FROM outbox.scheduled WHERE %s > %s', size, max_bytes) INTO larger;
        IF larger > 0 THEN
            RAISE EXCEPTION 'scheduled events are larger than % bytes: % of them', max_bytes, larger USING
                ERRCODE = '55000', HINT = 'Wait until they are due, or cancel them: relay scheduled list.';
        END IF;
    END IF;
    -- NOT VALID: events that are there already stay, and no writer waits for a table scan.
    FOREACH target IN ARRAY ARRAY['event', 'scheduled'] LOOP
        EXECUTE format('ALTER TABLE outbox.%I DROP CONSTRAINT event_size', target);
        EXECUTE format(
            'ALTER TABLE outbox.%I ADD CONSTRAINT event_size CHECK (%s <= %s) NOT VALID', target, size, max_bytes
        );
    END LOOP;
END
$$;

-- Rights --------------------------------------------------------------------------------------------------------

REVOKE ALL ON FUNCTION
    outbox.cancel_scheduled(uuid, text), outbox.reschedule(uuid, text, timestamptz, interval),
    outbox.move_due(uuid, smallint[], bigint[], integer, bigint[])
FROM PUBLIC;

-- People cancel, and that is recorded like a discard.
ALTER TABLE outbox.action
    DROP CONSTRAINT action_kind_check,
    ADD CONSTRAINT action_kind_check CHECK (kind IN ('replay', 'discard', 'replay-delivered', 'cancel'));

-- As sql/roles.sql, for an outbox whose roles were made before.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_writer') THEN
        GRANT INSERT (event_id, topic, key, payload, headers, type, deliver_at, delay, timer) ON outbox.scheduled
            TO outbox_writer;
        GRANT EXECUTE ON FUNCTION
            outbox.enqueue_at(timestamptz, text, text, text, jsonb, text, text),
            outbox.enqueue_at(timestamptz, text, text, jsonb, jsonb, text, text),
            outbox.enqueue_in(interval, text, text, text, jsonb, text, text),
            outbox.enqueue_in(interval, text, text, jsonb, jsonb, text, text),
            outbox.cancel_scheduled(uuid, text), outbox.reschedule(uuid, text, timestamptz, interval)
        TO outbox_writer;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT SELECT ON outbox.scheduled TO outbox_relay;
        GRANT EXECUTE ON FUNCTION outbox.move_due(uuid, smallint[], bigint[], integer, bigint[]) TO outbox_relay;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_admin') THEN
        GRANT SELECT ON outbox.scheduled TO outbox_admin;
        GRANT EXECUTE ON FUNCTION outbox.cancel_scheduled(uuid, text) TO outbox_admin;
    END IF;
END
$$;
