-- Segments always go: what is still needed of one stays, in a small segment in its place.
-- Runs with programs from version 13.

-- A segment that is due is looked through once. If nothing in it is needed, it is dropped, as before. If some of it is, a
-- failed or held event, that is copied into a new partition, which takes the place of the old one in the same
-- transaction; small ones beside each other become one. So whoever reads outbox.event by lane and id, an older program
-- too, finds what was kept where it was.

-- As in 0006; `kept` says of a segment that it is what was left of one or more.
CREATE OR REPLACE VIEW outbox.segment AS
SELECT c.relname::text AS name, bounds[1]::bigint AS lower_id, bounds[2]::bigint AS upper_id,
       EXISTS (SELECT FROM pg_catalog.pg_constraint AS k WHERE k.conrelid = c.oid AND k.conname = 'kept') AS kept
FROM pg_catalog.pg_inherits AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid,
LATERAL regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM [(]''([0-9]+)''[)] TO [(]''([0-9]+)''[)]') AS bounds
WHERE i.inhparent = 'outbox.event'::regclass
  AND bounds IS NOT NULL;

-- The ids with above < id <= up_to that are needed by what is noted of them: failed, retrying or replaying, held, or
-- discarded after discarded_before. In any lane and no order; an id may come twice.
-- ROWS: with the true number, the planner would not put them into a hash table for `id NOT IN (...)`.
CREATE FUNCTION outbox.unresolved(above bigint, up_to bigint, discarded_before timestamptz) RETURNS SETOF bigint
LANGUAGE plpgsql STABLE ROWS 1000
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
BEGIN
    RETURN QUERY
    SELECT f.id
    FROM outbox.failure AS f
    WHERE f.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}') AND f.id > above AND f.id <= up_to
      AND (f.state <> 'discarded'
           -- When it was discarded is when that was asked for.
           OR coalesce((SELECT a.requested_at FROM outbox.action AS a WHERE a.id = f.action), f.failed_at)
              > discarded_before);
    RETURN QUERY
    SELECT h.id
    FROM outbox.held AS h
    WHERE h.lane = ANY ('{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}') AND h.id > above AND h.id <= up_to;
END
$$;

-- Copies from one partition of outbox.event, with the ids lower_id <= id < upper_id, into a new one what is needed: the
-- events that were not delivered before delivered_before, without those that were discarded before discarded_before; and
-- all that is unresolved. Ends early above most events.
--
-- undecided: an event that has neither a receipt nor a failure or held row. There must be none: the relay has passed it.
-- lowest_delivered, highest_delivered: of the events that have a receipt and a failure or held row as well.
--
-- Goes through the events by up to 50,000, whose receipts fit into a hash table. Ids may be far apart.
CREATE FUNCTION outbox.copy_kept(
    source text, lower_id bigint, upper_id bigint, target text, delivered_before timestamptz,
    discarded_before timestamptz, most bigint,
    OUT events bigint, OUT kept bigint, OUT undecided bigint, OUT lowest_delivered bigint, OUT highest_delivered bigint
)
RETURNS record LANGUAGE plpgsql
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
    every_lane CONSTANT smallint[] := '{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}';
    columns    CONSTANT text := (
        SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
        FROM pg_attribute AS a
        WHERE a.attrelid = 'outbox.event'::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    );
    above  bigint := lower_id - 1;
    up_to  bigint;
    number bigint;
BEGIN
    events := 0;
    kept := 0;
    WHILE above < upper_id - 1 LOOP
        EXECUTE format(
            'SELECT min(e.id) FROM outbox.lane AS l CROSS JOIN LATERAL'
            ' (SELECT e.id FROM outbox.%I AS e WHERE e.lane = l.lane AND e.id > $1 ORDER BY e.id OFFSET 3124 LIMIT 1) AS e',
            source
        ) INTO up_to USING above;
        up_to := coalesce(up_to, upper_id - 1);
        EXECUTE format(
            'SELECT count(*) FROM outbox.%I AS e WHERE e.lane = ANY ($3) AND e.id > $1 AND e.id <= $2', source
        ) INTO number USING above, up_to, every_lane;
        events := events + number;
        EXECUTE format(
            'INSERT INTO outbox.%1$I (%2$s)'
            ' SELECT %2$s FROM outbox.%3$I AS e'
            ' WHERE e.lane = ANY ($5) AND e.id > $1 AND e.id <= $2'
            '   AND (e.id IN (SELECT u.id FROM outbox.unresolved($1, $2, $4) AS u (id))'
            '        OR (e.id NOT IN (SELECT r.id FROM outbox.receipts($1, $2, ''-infinity'', $3) AS r)'
            '            AND NOT EXISTS (SELECT FROM outbox.failure AS f'
            '                            WHERE f.lane = e.lane AND f.id = e.id AND f.state = ''discarded'')))',
            target, columns, source
        ) USING above, up_to, delivered_before, discarded_before, every_lane;
        GET DIAGNOSTICS number = ROW_COUNT;
        kept := kept + number;
        IF number > 0 THEN
            EXECUTE format(
                'SELECT min(t.id) FILTER (WHERE NOT t.noted AND NOT t.delivered),'
                '       least($4, min(t.id) FILTER (WHERE t.noted AND t.delivered)),'
                '       greatest($5, max(t.id) FILTER (WHERE t.noted AND t.delivered))'
                ' FROM (SELECT t.id, t.id IN (SELECT u.id FROM outbox.unresolved($1, $2, ''-infinity'') AS u (id)) AS noted,'
                '              t.id IN (SELECT r.id FROM outbox.receipted($1, $2) AS r (id)) AS delivered'
                '       FROM outbox.%I AS t'
                '       WHERE t.lane = ANY ($3) AND t.id > $1 AND t.id <= $2 OFFSET 0) AS t',
                target
            ) INTO undecided, lowest_delivered, highest_delivered
            USING above, up_to, every_lane, lowest_delivered, highest_delivered;
        END IF;
        EXIT WHEN undecided IS NOT NULL OR kept > most;
        above := up_to;
    END LOOP;
END
$$;

-- Writes the receipts of one partition anew for those of their events that are still there when it goes: those in target
-- (null if there is none), and those below lower_id in other segments. The events in target that are delivered are so
-- since delivered_before, or by a transaction that was not over before the snapshot, or are between lowest and highest.
CREATE FUNCTION outbox.carry_receipts(
    source text, lower_id bigint, target text, target_receipts text, delivered_before timestamptz,
    snapshot pg_snapshot, lowest bigint, highest bigint
)
RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET enable_seqscan = on
SET enable_nestloop = on
SET enable_hashjoin = on
SET enable_mergejoin = off
SET max_parallel_workers_per_gather = 0
SET work_mem = '64MB'
AS $$
DECLARE
    columns CONSTANT text :=
        'max_id, min_id, base_offset, delivered_at, replica, xid, kafka_partition, late, ids';
BEGIN
    EXECUTE format(
        'WITH there AS ('
        '    SELECT e.id FROM outbox.event AS e'
        '    WHERE e.lane = ANY (''{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}'') AND e.id >= $1 - 131072 AND e.id < $1'
        '    %1$s'
        '), place AS ('
        '    SELECT r.max_id, r.replica, r.min_id, n.n,'
        '           (''x'' || encode(substring(r.ids FROM n.n * 4 + 1 FOR 4), ''hex''))::bit(32)::integer AS difference'
        '    FROM outbox.%2$I AS r'
        '    CROSS JOIN LATERAL generate_series(0, octet_length(r.ids) / 4 - 1) AS n (n)'
        '    WHERE octet_length(r.ids) %% 4 = 0'
        '      AND (r.delivered_at > $2 OR (r.min_id < $1 AND r.max_id - 131072 < $1)'
        '           OR NOT pg_visible_in_snapshot(r.xid, $5) OR (r.min_id <= $4 AND r.max_id >= $3))'
        '), carried AS MATERIALIZED ('
        '    SELECT p.max_id AS former, p.replica, max(t.id) AS max_id,'
        '           string_agg(int4send(CASE WHEN t.id IS NULL THEN -1 ELSE p.difference END), '''' ORDER BY p.n) AS ids'
        '    FROM place AS p'
        '    LEFT JOIN there AS t ON p.difference >= 0 AND t.id = p.min_id + p.difference'
        '    GROUP BY p.max_id, p.replica'
        '    HAVING max(t.id) IS NOT NULL'
        '), written AS MATERIALIZED ('
        '    SELECT c.max_id, r.min_id, r.base_offset, r.delivered_at, r.replica, r.xid, r.kafka_partition, r.late, c.ids'
        '    FROM carried AS c JOIN outbox.%2$I AS r ON r.max_id = c.former AND r.replica = c.replica'
        ')%3$s'
        ' INSERT INTO outbox.receipt (%4$s) SELECT %4$s FROM written WHERE max_id < $1'
        ' ON CONFLICT (max_id, replica) DO NOTHING',
        CASE WHEN target IS NULL THEN '' ELSE format('UNION ALL SELECT t.id FROM outbox.%I AS t', target) END,
        source,
        CASE WHEN target IS NULL THEN '' ELSE format(
            ', aside AS (INSERT INTO outbox.%I (%s) SELECT %2$s FROM written WHERE max_id >= $1'
            ' ON CONFLICT (max_id, replica) DO NOTHING)', target_receipts, columns
        ) END,
        columns
    ) USING lower_id, delivered_before, lowest, highest, snapshot;
END
$$;

-- Retires the segment that begins at lower_id: drops it, or puts a small one in its place with what is needed of it. How
-- much that is says copy_kept. It is not done if more than the part `most` of its events would be kept, if a lane's
-- position or a replay is not beyond it, or if somebody is using it: then kept is null.
--
-- kept: how many events there are in its place. undecided: an event of which nothing is noted, which keeps the segment.
--
-- Nobody waits while it is looked through and copied. Then those wait who write failures, and those who write receipts
-- of its events, for a moment; and at the end writers, for the few milliseconds in which the tables change places. Each
-- lock is asked for 20 ms at most, and all are given back before they are asked for again.
CREATE FUNCTION outbox.retire_segment(
    lower_id bigint, delivered_before timestamptz, discarded_before timestamptz, most float8,
    OUT kept bigint, OUT undecided bigint
)
RETURNS record LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
SET lock_timeout = '20ms'
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
#variable_conflict use_column
DECLARE
    every_lane CONSTANT smallint[] := '{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}';
    -- A DEFAULT partition is read as a whole, when the new segment is attached.
    most_bytes CONSTANT bigint := 4194304;
    small      CONSTANT bigint := 1048576;
    attempts   CONSTANT integer := 20;
    not_now    CONSTANT text := 'OBX01';
    own        CONSTANT bigint := retire_segment.lower_id;
    target     text := 'event_' || own || '_kept';
    receipts   text := 'receipt_' || own || '_kept';
    first      bigint := own;
    upper      bigint;
    sources    bigint[] := ARRAY[own];
    began      CONSTANT pg_snapshot := pg_current_snapshot();
    copied     record;
    more       record;
    below      record;
    source     bigint;
    definition record;
    missing    bigint;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'retire_segment needs READ COMMITTED' USING ERRCODE = '25001';
    END IF;
    LOCK TABLE outbox.migration IN SHARE UPDATE EXCLUSIVE MODE;
    SELECT s.upper_id INTO upper FROM outbox.segment AS s WHERE s.lower_id = own;
    -- While an old reader or writer holds its lock, asking for ours would only make the others wait.
    IF upper IS NULL OR upper > (SELECT min(l.position) FROM outbox.lane AS l) OR outbox.replay_needs(own, upper) OR EXISTS (
        SELECT FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
        WHERE l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
          AND l.relation IN ('outbox.event'::regclass, 'outbox.receipt'::regclass)
          AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
          AND (l.pid IS NULL OR a.xact_start < clock_timestamp() - interval '1 second')
    ) THEN
        RETURN;
    END IF;
    -- Nothing is written into the segment from here on.
    EXECUTE format('LOCK TABLE outbox.%I IN SHARE MODE', 'event_' || own);
    -- Without the CHECK constraints: a row may be older than one of them.
    EXECUTE format('CREATE TABLE outbox.%I (LIKE outbox.event INCLUDING ALL EXCLUDING CONSTRAINTS)', target);
    SELECT c.* INTO copied
    FROM outbox.copy_kept('event_' || own, own, upper, target, delivered_before, discarded_before,
                          (most * (upper - own))::bigint) AS c;
    undecided := copied.undecided;
    IF undecided IS NOT NULL OR copied.kept > most * copied.events THEN
        EXECUTE format('DROP TABLE outbox.%I', target);
        RETURN;
    END IF;

    IF copied.kept = 0 THEN
        EXECUTE format('DROP TABLE outbox.%I', target);
        target := NULL;
    ELSE
        -- Small ones below become part of it, so that there are never many.
        LOOP
            SELECT s.* INTO below FROM outbox.segment AS s WHERE s.upper_id <= first ORDER BY s.upper_id DESC LIMIT 1;
            EXIT WHEN NOT FOUND OR NOT below.kept OR outbox.replay_needs(below.lower_id, below.upper_id)
                OR pg_table_size(format('outbox.%I', 'event_' || below.lower_id)::regclass)
                   > greatest(small, pg_table_size(format('outbox.%I', target)::regclass));
            BEGIN
                EXECUTE format('LOCK TABLE outbox.%I IN SHARE MODE', 'event_' || below.lower_id);
                SELECT c.* INTO more
                FROM outbox.copy_kept('event_' || below.lower_id, below.lower_id, below.upper_id, target,
                                      delivered_before, discarded_before, 9223372036854775807) AS c;
                IF more.undecided IS NOT NULL THEN
                    RAISE EXCEPTION 'event % is undecided', more.undecided;
                END IF;
            EXCEPTION WHEN OTHERS THEN
                -- What is wrong with that one is told when its own turn comes.
                EXIT;
            END;
            copied.kept := copied.kept + more.kept;
            copied.lowest_delivered := least(copied.lowest_delivered, more.lowest_delivered);
            copied.highest_delivered := greatest(copied.highest_delivered, more.highest_delivered);
            first := below.lower_id;
            sources := sources || first;
        END LOOP;
        -- The range, by which the new segments need not be read when they are attached; and by which they are known.
        EXECUTE format('ALTER TABLE outbox.%I ADD CONSTRAINT kept CHECK (id >= %s AND id < %s)', target, first, upper);
        FOR definition IN
            SELECT c.conname AS name, pg_get_constraintdef(c.oid) AS text
            FROM pg_constraint AS c
            WHERE c.conrelid = 'outbox.event'::regclass AND c.contype = 'c'
        LOOP
            EXECUTE format('ALTER TABLE outbox.%I ADD CONSTRAINT %I %s', target, definition.name, definition.text);
        END LOOP;
        EXECUTE format('ANALYZE outbox.%I', target);
        EXECUTE format('CREATE TABLE outbox.%I (LIKE outbox.receipt INCLUDING ALL)', receipts);
        EXECUTE format(
            'ALTER TABLE outbox.%I ADD CONSTRAINT kept CHECK (max_id >= %s AND max_id < %s)', receipts, first, upper
        );
    END IF;

    FOR attempt IN 1..attempts LOOP
        BEGIN
            -- What becomes of its events is written by nobody else from here on.
            LOCK TABLE outbox.failure, outbox.held IN SHARE MODE;
            FOREACH source IN ARRAY sources LOOP
                EXECUTE format('LOCK TABLE outbox.%I IN SHARE MODE', 'receipt_' || source);
            END LOOP;
            -- Once more: what has been noted meanwhile of an event that was not needed before.
            FOREACH source IN ARRAY sources LOOP
                EXECUTE format(
                    'SELECT u.id FROM outbox.unresolved($1 - 1, $2 - 1, ''infinity'') AS u (id)'
                    ' WHERE %s EXISTS (SELECT FROM outbox.%I AS e WHERE e.lane = ANY ($3) AND e.id = u.id)'
                    ' LIMIT 1',
                    CASE WHEN target IS NULL THEN '' ELSE format(
                        'NOT EXISTS (SELECT FROM outbox.%I AS t WHERE t.lane = ANY ($3) AND t.id = u.id) AND', target
                    ) END,
                    'event_' || source
                ) INTO missing USING first, upper, every_lane;
                IF missing IS NOT NULL THEN
                    RAISE EXCEPTION USING ERRCODE = not_now;
                END IF;
            END LOOP;
            -- Discarded ones go with their events (outbox.action keeps who discarded them and why).
            EXECUTE format(
                'DELETE FROM outbox.failure AS f'
                ' WHERE f.lane = ANY ($3) AND f.id >= $1 AND f.id < $2 AND f.state = ''discarded''%s',
                CASE WHEN target IS NULL THEN '' ELSE format(
                    ' AND NOT EXISTS (SELECT FROM outbox.%I AS t WHERE t.lane = f.lane AND t.id = f.id)', target
                ) END
            ) USING first, upper, every_lane;
            IF target IS NOT NULL OR EXISTS (
                SELECT FROM outbox.event AS e WHERE e.lane = ANY (every_lane) AND e.id >= own - 131072 AND e.id < own
            ) THEN
                FOREACH source IN ARRAY sources LOOP
                    PERFORM outbox.carry_receipts(
                        'receipt_' || source, first, target, receipts, delivered_before, began,
                        copied.lowest_delivered, copied.highest_delivered
                    );
                END LOOP;
            END IF;
            FOREACH source IN ARRAY sources LOOP
                EXECUTE format('LOCK TABLE outbox.%I IN ACCESS EXCLUSIVE MODE', 'event_' || source);
                EXECUTE format('LOCK TABLE outbox.%I IN ACCESS EXCLUSIVE MODE', 'receipt_' || source);
            END LOOP;
            IF target IS NOT NULL THEN
                LOCK TABLE outbox.event_default, outbox.receipt_default IN ACCESS EXCLUSIVE MODE;
                IF pg_relation_size('outbox.event_default') + pg_relation_size('outbox.receipt_default') > most_bytes
                    OR EXISTS (
                        SELECT FROM outbox.event_default AS e
                        WHERE e.lane = ANY (every_lane) AND e.id >= first AND e.id < upper
                    )
                    OR EXISTS (SELECT FROM outbox.receipt_default AS r WHERE r.max_id >= first AND r.max_id < upper)
                THEN
                    RAISE EXCEPTION USING ERRCODE = not_now;
                END IF;
            END IF;
            LOCK TABLE ONLY outbox.event IN ACCESS EXCLUSIVE MODE;
            LOCK TABLE ONLY outbox.receipt IN ACCESS EXCLUSIVE MODE;
            IF upper > (SELECT min(l.position) FROM outbox.lane AS l) OR outbox.replay_needs(first, upper) THEN
                RAISE EXCEPTION USING ERRCODE = not_now;
            END IF;
            FOREACH source IN ARRAY sources LOOP
                EXECUTE format('DROP TABLE outbox.%I', 'event_' || source);
                EXECUTE format('DROP TABLE outbox.%I', 'receipt_' || source);
                IF EXISTS (
                    SELECT FROM pg_inherits AS i
                    WHERE i.inhrelid = to_regclass(format('outbox.%I', 'delivery_' || source))
                      AND i.inhparent = 'outbox.former_delivery'::regclass
                ) THEN
                    EXECUTE format('DROP TABLE outbox.%I', 'delivery_' || source);
                END IF;
            END LOOP;
            IF target IS NOT NULL THEN
                EXECUTE format('ALTER TABLE outbox.%I RENAME TO %I', target, 'event_' || first);
                EXECUTE format('ALTER TABLE outbox.%I RENAME TO %I', receipts, 'receipt_' || first);
                EXECUTE format(
                    'ALTER TABLE outbox.event ATTACH PARTITION outbox.%I FOR VALUES FROM (%s) TO (%s)',
                    'event_' || first, first, upper
                );
                EXECUTE format(
                    'ALTER TABLE outbox.receipt ATTACH PARTITION outbox.%I FOR VALUES FROM (%s) TO (%s)',
                    'receipt_' || first, first, upper
                );
            END IF;
            kept := copied.kept;
            RETURN;
        EXCEPTION
            WHEN lock_not_available THEN
                IF attempt = attempts THEN
                    RAISE;
                END IF;
                PERFORM pg_sleep(0.1);
            WHEN SQLSTATE 'OBX01' THEN
                -- With what has been written since the locks.
                EXIT;
        END;
    END LOOP;
    IF target IS NOT NULL THEN
        EXECUTE format('DROP TABLE outbox.%I', target);
        EXECUTE format('DROP TABLE outbox.%I', receipts);
    END IF;
END
$$;

-- For programs before version 20, which drop nothing but whole segments.
CREATE OR REPLACE FUNCTION outbox.drop_segment(lower_id bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
BEGIN
    RETURN coalesce((SELECT r.kept FROM outbox.retire_segment(lower_id, 'infinity', 'infinity', 0) AS r) = 0, false);
END
$$;

-- What people asked for is kept for a year, unless told otherwise ---------------------------------------------------

-- Forgets up to at_most actions that were finished some time ago and that nothing refers to any more; says how many. Not
-- those of the last day, whoever asks: they say who did what.
CREATE FUNCTION outbox.forget_actions(seconds float8, at_most integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
DECLARE
    forgotten integer;
BEGIN
    DELETE FROM outbox.action AS a
    WHERE a.id IN (
        SELECT old.id
        FROM outbox.action AS old
        WHERE old.finished_at < clock_timestamp() - make_interval(secs => greatest(seconds, 86400))
          -- An event says by which one it was erased.
          AND old.kind <> 'erase'
          AND old.id NOT IN (SELECT f.action FROM outbox.failure AS f WHERE f.action IS NOT NULL)
          AND NOT EXISTS (SELECT FROM outbox.replay_receipt AS r WHERE r.action = old.id)
        ORDER BY old.id
        LIMIT at_most
    );
    GET DIAGNOSTICS forgotten = ROW_COUNT;
    RETURN forgotten;
END
$$;

-- Rights --------------------------------------------------------------------------------------------------------

REVOKE ALL ON FUNCTION
    outbox.unresolved(bigint, bigint, timestamptz),
    outbox.copy_kept(text, bigint, bigint, text, timestamptz, timestamptz, bigint),
    outbox.carry_receipts(text, bigint, text, text, timestamptz, pg_snapshot, bigint, bigint),
    outbox.retire_segment(bigint, timestamptz, timestamptz, float8),
    outbox.forget_actions(float8, integer)
FROM PUBLIC;

-- As sql/roles.sql, for an outbox whose roles were made before.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT EXECUTE ON FUNCTION
            outbox.retire_segment(bigint, timestamptz, timestamptz, float8), outbox.forget_actions(float8, integer)
        TO outbox_relay;
    END IF;
END
$$;
