-- A receipt per record batch instead of one per event.
-- Runs with programs from version 13.

-- The first locks keep writers out. While others use the tables, give up soon: `relay migrate` tries again.
SET LOCAL lock_timeout = '50ms';

-- An older replica could not record what Kafka acknowledged to it, and the next one would publish those events again.
LOCK TABLE outbox.replica IN SHARE ROW EXCLUSIVE MODE;
DO $$
DECLARE
    running text;
BEGIN
    SELECT pg_catalog.string_agg(r.name, ', ' ORDER BY r.name) INTO running
    FROM outbox.replica AS r
    WHERE r.lease_expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp();
    IF running IS NOT NULL THEN
        RAISE EXCEPTION 'replicas of an older program are running and cannot go on beside this migration: %', running USING
            ERRCODE = '55006',
            HINT = 'stop them (they finish what is under way), run `relay migrate` again, and start the new program';
    END IF;
END
$$;

-- Receipts of events that were delivered before. They are read as long as their events are kept, and go with them.
ALTER TABLE outbox.delivery RENAME TO former_delivery;

-- Receipts ------------------------------------------------------------------------------------------------------

-- One row: Kafka acknowledged these events, in this order, as a contiguous run of a record batch. Inserted, never updated.
-- The topic is the events'. A receipt names ids of its own segment or of earlier ones, never of later ones.
CREATE TABLE outbox.receipt (
    max_id          bigint      NOT NULL,
    min_id          bigint      NOT NULL,
    -- Of the first place. -1: the broker said it had the batch already and did not say where.
    base_offset     bigint      NOT NULL,
    delivered_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The registration under which the events were published.
    replica         uuid        NOT NULL,
    -- The transaction that wrote this.
    xid             xid8        NOT NULL DEFAULT pg_current_xact_id(),
    kafka_partition integer     NOT NULL,
    -- Written when that registration did not own all of its lanes any more: another one may have published the events.
    late            boolean     NOT NULL DEFAULT false,
    -- Of each place an int4: the event's id less min_id. -1: an id that was left out.
    ids             bytea       NOT NULL,
    PRIMARY KEY (max_id, replica),
    -- What is settled between two ids is found by a range of max_id, which rests on this.
    CONSTRAINT receipt_span CHECK (min_id > 0 AND min_id <= max_id AND max_id - min_id < 131072),
    CONSTRAINT receipt_partition CHECK (kafka_partition >= 0),
    CONSTRAINT receipt_offset CHECK (base_offset >= -1),
    CONSTRAINT receipt_ids CHECK (octet_length(ids) > 0 AND octet_length(ids) % 4 = 0)
) PARTITION BY RANGE (max_id);

ALTER TABLE outbox.receipt ALTER COLUMN ids SET STORAGE EXTERNAL;

CREATE INDEX receipt_late ON outbox.receipt (max_id) WHERE late;

CREATE TABLE outbox.receipt_default PARTITION OF outbox.receipt DEFAULT;

DO $$
DECLARE
    segment record;
BEGIN
    FOR segment IN SELECT s.lower_id, s.upper_id FROM outbox.segment AS s LOOP
        EXECUTE pg_catalog.format(
            'CREATE TABLE outbox.%I PARTITION OF outbox.receipt FOR VALUES FROM (%s) TO (%s)',
            'receipt_' OPERATOR(pg_catalog.||) segment.lower_id, segment.lower_id, segment.upper_id
        );
    END LOOP;
END
$$;

-- Reading receipts ----------------------------------------------------------------------------------------------
--
-- All that asks what was delivered goes through these, which read the former receipts, too.

-- The places of a receipt's ids that were not left out: number from 0, and what is to be added to min_id. What somebody has
-- cut names no event: its places may be anything.
-- Qualified instead of with a search path, so that it becomes part of the statement that calls it.
CREATE FUNCTION outbox.places(ids bytea) RETURNS TABLE (place integer, difference integer)
LANGUAGE sql IMMUTABLE
AS $$
    SELECT n,
           (pg_catalog.get_byte(ids, n OPERATOR(pg_catalog.*) 4 OPERATOR(pg_catalog.+) 1) OPERATOR(pg_catalog.<<) 16)
           OPERATOR(pg_catalog.|)
           (pg_catalog.get_byte(ids, n OPERATOR(pg_catalog.*) 4 OPERATOR(pg_catalog.+) 2) OPERATOR(pg_catalog.<<) 8)
           OPERATOR(pg_catalog.|)
           pg_catalog.get_byte(ids, n OPERATOR(pg_catalog.*) 4 OPERATOR(pg_catalog.+) 3)
    FROM pg_catalog.generate_series(
        0,
        CASE WHEN pg_catalog.octet_length(ids) OPERATOR(pg_catalog.%) 4 OPERATOR(pg_catalog.=) 0
             THEN pg_catalog.octet_length(ids) OPERATOR(pg_catalog./) 4 ELSE 0 END OPERATOR(pg_catalog.-) 1
    ) AS n
    WHERE pg_catalog.get_byte(ids, n OPERATOR(pg_catalog.*) 4) OPERATOR(pg_catalog.=) 0
$$;

-- The ids with above < id <= up_to that have a receipt, in any lane and no order; one that has two may come twice.
-- ROWS: with the true number, the planner would not put them into a hash table for `id NOT IN (...)`.
CREATE FUNCTION outbox.receipted(above bigint, up_to bigint) RETURNS SETOF bigint
LANGUAGE plpgsql STABLE ROWS 1000
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
BEGIN
    RETURN QUERY
    SELECT named.id
    FROM (SELECT r.min_id + p.difference AS id
          FROM outbox.receipt AS r
          CROSS JOIN LATERAL outbox.places(r.ids) AS p
          WHERE r.max_id > above AND r.max_id <= least(up_to, 9223372036854644736) + 131071 AND r.min_id <= up_to
          -- Otherwise each comparison below reads the bytes anew.
          OFFSET 0) AS named
    WHERE named.id > above AND named.id <= up_to;
    RETURN QUERY
    SELECT d.id
    FROM outbox.former_delivery AS d
    WHERE d.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}') AND d.id > above AND d.id <= up_to;
END
$$;

-- The receipts of the ids with above < id <= up_to that were written from since to until: where each event is in Kafka.
-- One that has two may come twice.
CREATE FUNCTION outbox.receipts(above bigint, up_to bigint, since timestamptz, until timestamptz)
RETURNS TABLE (id bigint, kafka_partition integer, kafka_offset bigint, delivered_at timestamptz)
LANGUAGE plpgsql STABLE ROWS 1000
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
BEGIN
    RETURN QUERY
    SELECT r.min_id + p.difference, r.kafka_partition,
           CASE WHEN r.base_offset < 0 THEN -1 ELSE r.base_offset + p.place END, r.delivered_at
    FROM outbox.receipt AS r
    CROSS JOIN LATERAL outbox.places(r.ids) AS p
    WHERE r.max_id > above AND r.max_id <= least(up_to, 9223372036854644736) + 131071 AND r.min_id <= up_to
      AND r.delivered_at >= since AND r.delivered_at <= until
      AND r.min_id + p.difference > above AND r.min_id + p.difference <= up_to;
    RETURN QUERY
    SELECT d.id, d.kafka_partition, d.kafka_offset, d.delivered_at
    FROM outbox.former_delivery AS d
    WHERE d.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}') AND d.id > above AND d.id <= up_to
      AND d.delivered_at >= since AND d.delivered_at <= until;
END
$$;

-- Where the event with this id is in Kafka; no row if it has no receipt.
-- position() is quick and may find the bytes across two places; places() is certain.
CREATE FUNCTION outbox.receipt_of(event_id bigint)
RETURNS TABLE (kafka_partition integer, kafka_offset bigint, delivered_at timestamptz)
LANGUAGE plpgsql STABLE ROWS 1
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
BEGIN
    RETURN QUERY
    SELECT r.kafka_partition, CASE WHEN r.base_offset < 0 THEN -1 ELSE r.base_offset + p.place END, r.delivered_at
    FROM outbox.receipt AS r
    CROSS JOIN LATERAL outbox.places(r.ids) AS p
    WHERE r.max_id >= event_id AND r.max_id <= least(event_id, 9223372036854644736) + 131071 AND r.min_id <= event_id
      AND position(int4send((event_id - r.min_id)::integer) IN r.ids) > 0
      AND r.min_id + p.difference = event_id
    LIMIT 1;
    IF NOT FOUND THEN
        RETURN QUERY
        SELECT d.kafka_partition, d.kafka_offset, d.delivered_at
        FROM outbox.former_delivery AS d
        WHERE d.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}') AND d.id = event_id;
    END IF;
END
$$;

-- What people look at. Quick for one event and for some; to count what was delivered, add up outbox.receipt.

-- Starts at the lanes' positions, as before: everything below is settled.
CREATE OR REPLACE VIEW outbox.pending AS
SELECT e.lane, e.id, e.event_id, e.topic, e.key, e.payload, e.headers, e.type, e.created_at
FROM outbox.lane AS l
CROSS JOIN LATERAL (
    SELECT event.* FROM outbox.event AS event WHERE event.lane = l.lane AND event.id > l.position OFFSET 0
) AS e
WHERE NOT EXISTS (
      SELECT
      FROM outbox.receipt AS r
      CROSS JOIN LATERAL outbox.places(r.ids) AS p
      WHERE r.max_id >= e.id AND r.max_id <= least(e.id, 9223372036854644736) + 131071 AND r.min_id <= e.id
        AND position(int4send((e.id - r.min_id)::integer) IN r.ids) > 0
        AND r.min_id + p.difference = e.id
      OFFSET 0
  )
  AND NOT EXISTS (SELECT FROM outbox.former_delivery AS d WHERE d.lane = e.lane AND d.id = e.id)
  AND NOT EXISTS (SELECT FROM outbox.failure AS f WHERE f.lane = e.lane AND f.id = e.id)
  AND NOT EXISTS (SELECT FROM outbox.held AS h WHERE h.lane = e.lane AND h.id = e.id);

-- One row for each event, though it may have been delivered twice.
CREATE OR REPLACE VIEW outbox.delivered AS
SELECT e.lane, e.id, e.event_id, e.topic, e.key, e.payload, e.headers, e.type, e.created_at,
       d.kafka_partition, d.kafka_offset, d.delivered_at
FROM outbox.event AS e
CROSS JOIN LATERAL (
    (SELECT r.kafka_partition, CASE WHEN r.base_offset < 0 THEN -1 ELSE r.base_offset + p.place END AS kafka_offset,
            r.delivered_at
     FROM outbox.receipt AS r
     CROSS JOIN LATERAL outbox.places(r.ids) AS p
     WHERE r.max_id >= e.id AND r.max_id <= least(e.id, 9223372036854644736) + 131071 AND r.min_id <= e.id
       AND position(int4send((e.id - r.min_id)::integer) IN r.ids) > 0
       AND r.min_id + p.difference = e.id
     LIMIT 1)
    UNION ALL
    (SELECT f.kafka_partition, f.kafka_offset, f.delivered_at
     FROM outbox.former_delivery AS f
     WHERE f.lane = e.lane AND f.id = e.id)
    LIMIT 1
) AS d;

-- Segments ------------------------------------------------------------------------------------------------------

-- As in 0011, with receipts.
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
    FOREACH parent IN ARRAY ARRAY['event', 'receipt'] LOOP
        EXECUTE format(
            'CREATE TABLE outbox.%I (LIKE outbox.%I INCLUDING ALL)', parent || '_' || lower_id, parent
        );
    END LOOP;
    LOCK TABLE outbox.event_default IN ACCESS EXCLUSIVE MODE;
    LOCK TABLE outbox.receipt_default IN ACCESS EXCLUSIVE MODE;
    FOREACH parent IN ARRAY ARRAY['event', 'receipt'] LOOP
        segment := parent || '_' || lower_id;
        SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO columns
        FROM pg_attribute AS a
        WHERE a.attrelid = format('outbox.%I', parent)::regclass
          AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';
        EXECUTE format(
            'WITH moved AS (DELETE FROM outbox.%1$I WHERE %4$I >= $1 AND %4$I < $2 RETURNING %2$s)'
            ' INSERT INTO outbox.%3$I (%2$s) SELECT %2$s FROM moved',
            parent || '_default', columns, segment, CASE parent WHEN 'receipt' THEN 'max_id' ELSE 'id' END
        ) USING lower_id, upper_id;
        EXECUTE format(
            'ALTER TABLE outbox.%I ATTACH PARTITION outbox.%I FOR VALUES FROM (%s) TO (%s)',
            parent, segment, lower_id, upper_id
        );
    END LOOP;
    RETURN 'event_' || lower_id;
END
$$;

-- As in 0006, with receipts: the events are gone through by 50,000 ids, whose receipts fit into a hash table.
CREATE OR REPLACE FUNCTION outbox.unsettled_event(lower_id bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET max_parallel_workers_per_gather = 0
SET work_mem = '64MB'
AS $$
DECLARE
    first     bigint;
    above     bigint := lower_id - 1;
    unsettled bigint;
BEGIN
    LOOP
        -- Ids may be far apart.
        EXECUTE format(
            'SELECT min(e.id) FROM outbox.lane AS l CROSS JOIN LATERAL'
            ' (SELECT e.id FROM outbox.%I AS e WHERE e.lane = l.lane AND e.id > $1 ORDER BY e.id LIMIT 1) AS e',
            'event_' || lower_id
        ) INTO first USING above;
        EXIT WHEN first IS NULL;
        above := least(first, 9223372036854725807) + 49999;
        EXECUTE format(
            'SELECT e.id'
            ' FROM (SELECT e.lane, e.id FROM outbox.%I AS e'
            '       WHERE e.lane = ANY (''{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}'') AND e.id >= $1 AND e.id <= $2'
            '         AND e.id NOT IN (SELECT r.id FROM outbox.receipted($1 - 1, $2) AS r (id)) OFFSET 0) AS e'
            ' WHERE NOT EXISTS (SELECT FROM outbox.failure AS f'
            '                   WHERE f.lane = e.lane AND f.id = e.id AND f.state = ''discarded'')'
            ' LIMIT 1',
            'event_' || lower_id
        ) INTO unsettled USING first, above;
        EXIT WHEN unsettled IS NOT NULL;
    END LOOP;
    RETURN unsettled;
END
$$;

-- As in 0011, with receipts. A receipt may name events of earlier segments, which are there still if one of those is kept
-- for a failure: it is written anew for those events, without the others.
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
    former CONSTANT regclass := to_regclass(format('outbox.%I', 'delivery_' || lower_id));
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
          AND l.relation IN ('outbox.event'::regclass, 'outbox.receipt'::regclass)
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
    EXECUTE format('LOCK TABLE outbox.%I IN ACCESS EXCLUSIVE MODE', 'receipt_' || drop_segment.lower_id);
    IF EXISTS (
        SELECT FROM outbox.event AS e WHERE e.lane = ANY (every_lane) AND e.id < drop_segment.lower_id
    ) THEN
        EXECUTE format(
            'INSERT INTO outbox.receipt'
            ' (max_id, min_id, base_offset, delivered_at, replica, xid, kafka_partition, late, ids)'
            ' SELECT kept.max_id, r.min_id, r.base_offset, r.delivered_at, r.replica, r.xid, r.kafka_partition, r.late,'
            '        kept.ids'
            ' FROM outbox.%I AS r'
            ' CROSS JOIN LATERAL ('
            '     SELECT max(r.min_id + p.difference) AS max_id,'
            '            string_agg(coalesce(int4send(p.difference), int4send(-1)), '''' ORDER BY n.n) AS ids'
            '     FROM generate_series(0, octet_length(r.ids) / 4 - 1) AS n (n)'
            '     LEFT JOIN outbox.places(r.ids) AS p ON p.place = n.n AND r.min_id + p.difference < $1'
            ' ) AS kept'
            ' WHERE r.min_id < $1 AND kept.max_id IS NOT NULL'
            ' ON CONFLICT (max_id, replica) DO NOTHING',
            'receipt_' || drop_segment.lower_id
        ) USING drop_segment.lower_id;
    END IF;
    LOCK TABLE ONLY outbox.event IN ACCESS EXCLUSIVE MODE;
    LOCK TABLE ONLY outbox.receipt IN ACCESS EXCLUSIVE MODE;
    -- Once more: what was true before the locks may have been a straggler's last chance.
    IF outbox.ids_needed(drop_segment.lower_id, upper_bound) THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE outbox.%I', 'event_' || drop_segment.lower_id);
    EXECUTE format('DROP TABLE outbox.%I', 'receipt_' || drop_segment.lower_id);
    IF EXISTS (
        SELECT FROM pg_inherits AS i WHERE i.inhrelid = former AND i.inhparent = 'outbox.former_delivery'::regclass
    ) THEN
        EXECUTE format('DROP TABLE outbox.%I', 'delivery_' || drop_segment.lower_id);
    END IF;
    DELETE FROM outbox.failure AS f
    WHERE f.lane = ANY (every_lane) AND f.id >= drop_segment.lower_id AND f.id < upper_bound;
    RETURN true;
END
$$;

-- As sql/roles.sql, for an outbox whose roles were made before.
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['outbox_relay', 'outbox_admin'] LOOP
        IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role) THEN
            EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA outbox TO %I', role);
            EXECUTE format(
                'GRANT EXECUTE ON FUNCTION outbox.places(bytea), outbox.receipted(bigint, bigint),'
                ' outbox.receipts(bigint, bigint, timestamptz, timestamptz), outbox.receipt_of(bigint) TO %I',
                role
            );
        END IF;
    END LOOP;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT INSERT ON outbox.receipt TO outbox_relay;
        REVOKE INSERT ON outbox.former_delivery FROM outbox_relay;
    END IF;
END
$$;
