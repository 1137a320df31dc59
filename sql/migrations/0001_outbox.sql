-- The outbox: everything writers, relay and people share. PostgreSQL 13 to 18.
--
-- Valid as it stands for a schema named outbox. `relay migrate` writes another name in its place (see
-- relay/postgres/sql.py for the exact spots), runs the file in one transaction and records it in outbox.migration.

DO $$
BEGIN
    -- CREATE SCHEMA IF NOT EXISTS asks for a privilege on the database even when the schema is there.
    IF to_regnamespace('outbox') IS NULL THEN
        CREATE SCHEMA outbox;
    END IF;
END
$$;

CREATE TABLE outbox.migration (
    version    integer     PRIMARY KEY CHECK (version > 0),
    name       text        NOT NULL,
    checksum   text        NOT NULL CHECK (checksum ~ '^[0-9a-f]{64}$'),
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Events and receipts -------------------------------------------------------------------------------------------

-- CACHE 1: a session that holds ids back would hand them out after a later transaction's, and the scan's floors
-- (DESIGN.md, section 4) would lie above them.
CREATE SEQUENCE outbox.event_id AS bigint INCREMENT BY 1 MINVALUE 1 START WITH 1 CACHE 1 NO CYCLE;

CREATE TABLE outbox.event (
    -- The CASE is load-bearing: the transaction has its xid before it takes an id, which the scan's floors rest on.
    id         bigint      NOT NULL DEFAULT (
        CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('outbox.event_id') END
    ),
    -- Not clock_timestamp(): a volatile default makes COPY insert row by row.
    created_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    event_id   uuid        NOT NULL DEFAULT gen_random_uuid(),
    -- Computed here, so that a writer in any language that can INSERT agrees on it.
    lane       smallint    NOT NULL GENERATED ALWAYS AS (
        (get_byte(sha256(coalesce(key, uuid_send(event_id))), 0) & 15)::smallint
    ) STORED,
    topic      text        NOT NULL,
    key        bytea,
    payload    bytea,
    headers    jsonb       NOT NULL DEFAULT '{}',
    type       text,
    PRIMARY KEY (lane, id),
    CONSTRAINT event_id_positive CHECK (id > 0),
    -- Kafka's rule. A bound in the expression, {1,249}, would cost each INSERT 30 us.
    CONSTRAINT event_topic CHECK (
        topic COLLATE "C" !~ '[^a-zA-Z0-9._-]' AND octet_length(topic) BETWEEN 1 AND 249
        AND topic NOT IN ('.', '..')
    ),
    -- strict: in lax mode the filter looks into arrays, and {"a": ["b"]} would pass.
    CONSTRAINT event_headers CHECK (
        jsonb_typeof(headers) = 'object'
        AND NOT jsonb_path_exists(headers, 'strict $.* ? (@.type() != "string")', '{}', true)
    ),
    -- What Kafka counts, nearly: below its default of 1 MiB by enough for the relay's own headers.
    -- outbox.set_max_event_bytes() changes the number.
    CONSTRAINT event_size CHECK (
        coalesce(octet_length(key), 0) + coalesce(octet_length(payload), 0)
        + octet_length(headers::text) + coalesce(octet_length(type), 0) <= 1000000
    )
) PARTITION BY RANGE (id);

-- A receipt: the event is in Kafka. Inserted, never updated; with its event it is what "marked delivered" means.
CREATE TABLE outbox.delivery (
    id              bigint      NOT NULL,
    kafka_offset    bigint      NOT NULL,
    delivered_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    kafka_partition integer     NOT NULL,
    lane            smallint    NOT NULL,
    PRIMARY KEY (lane, id),
    CONSTRAINT delivery_lane CHECK (lane BETWEEN 0 AND 15),
    CONSTRAINT delivery_partition CHECK (kafka_partition >= 0),
    -- -1: the broker said it had the batch already and did not say where.
    CONSTRAINT delivery_offset CHECK (kafka_offset >= -1)
) PARTITION BY RANGE (id);

-- A writer's INSERT never fails for want of a segment; what lands here is moved out by outbox.add_segment().
CREATE TABLE outbox.event_default PARTITION OF outbox.event DEFAULT;
CREATE TABLE outbox.delivery_default PARTITION OF outbox.delivery DEFAULT;

-- What did not simply go through --------------------------------------------------------------------------------

CREATE TABLE outbox.failure (
    lane            smallint    NOT NULL CHECK (lane BETWEEN 0 AND 15),
    id              bigint      NOT NULL CHECK (id > 0),
    topic           text        NOT NULL,
    key             bytea,
    state           text        NOT NULL CHECK (state IN ('retrying', 'failed', 'replaying', 'discarded')),
    attempts        integer     NOT NULL CHECK (attempts >= 0),
    next_attempt_at timestamptz,
    error           text        NOT NULL,
    detail          text        NOT NULL DEFAULT '',
    failed_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    policy          text        NOT NULL CHECK (policy IN ('block', 'skip', 'dead-letter')),
    -- The latest attempts, oldest first: [{"at": ..., "attempt": ..., "error": ...}, ...]
    history         jsonb       NOT NULL DEFAULT '[]' CHECK (jsonb_typeof(history) = 'array'),
    -- The replay or discard that a person last asked for.
    action          bigint,
    PRIMARY KEY (lane, id),
    CONSTRAINT failure_next_attempt CHECK ((state = 'retrying') = (next_attempt_at IS NOT NULL))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

-- What stands before the held events of a key.
CREATE INDEX failure_key ON outbox.failure (lane, topic, key);

CREATE TABLE outbox.held (
    lane  smallint NOT NULL CHECK (lane BETWEEN 0 AND 15),
    id    bigint   NOT NULL CHECK (id > 0),
    topic text     NOT NULL,
    key   bytea,
    PRIMARY KEY (lane, id)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);

-- What people asked for: request, progress and audit in one row.
CREATE TABLE outbox.action (
    id           bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    kind         text        NOT NULL CHECK (kind IN ('replay', 'discard', 'replay-delivered')),
    filter       jsonb       NOT NULL CHECK (jsonb_typeof(filter) = 'object'),
    reason       text        NOT NULL DEFAULT '',
    requested_by text        NOT NULL DEFAULT session_user,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at  timestamptz,
    counts       jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(counts) = 'object')
);

CREATE TABLE outbox.replay_receipt (
    action          bigint      NOT NULL REFERENCES outbox.action (id),
    lane            smallint    NOT NULL CHECK (lane BETWEEN 0 AND 15),
    id              bigint      NOT NULL CHECK (id > 0),
    kafka_partition integer     NOT NULL CHECK (kafka_partition >= 0),
    kafka_offset    bigint      NOT NULL CHECK (kafka_offset >= -1),
    delivered_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (action, lane, id)
);

-- Who owns what -------------------------------------------------------------------------------------------------

-- lease_expires_at is this server's clock. No index but the primary key and room on the page, so that a heartbeat
-- is a HOT update.
CREATE TABLE outbox.replica (
    id               uuid        PRIMARY KEY,
    name             text        NOT NULL CHECK (name <> ''),
    version          text        NOT NULL,
    started_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_expires_at timestamptz NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

-- A lane is free when owner is null, or names a replica that is gone or whose lease has run out.
-- epoch grows with every claim. Every event of the lane with id <= position has a receipt, a failure or a held row.
CREATE TABLE outbox.lane (
    lane       smallint    PRIMARY KEY CHECK (lane BETWEEN 0 AND 15),
    owner      uuid,
    epoch      bigint      NOT NULL DEFAULT 0 CHECK (epoch >= 0),
    position   bigint      NOT NULL DEFAULT 0 CHECK (position >= 0),
    claimed_at timestamptz,
    CONSTRAINT lane_claimed CHECK ((owner IS NULL) = (claimed_at IS NULL))
) WITH (fillfactor = 25, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

INSERT INTO outbox.lane (lane) SELECT generate_series(0, 15);

-- What people look at -------------------------------------------------------------------------------------------

-- Starts at the lanes' positions: everything below is settled, so this stays fast however much has been delivered.
-- OFFSET 0 keeps the planner from reading whole lanes first and comparing with the positions last.
CREATE VIEW outbox.pending AS
SELECT e.lane, e.id, e.event_id, e.topic, e.key, e.payload, e.headers, e.type, e.created_at
FROM outbox.lane AS l
CROSS JOIN LATERAL (
    SELECT event.* FROM outbox.event AS event WHERE event.lane = l.lane AND event.id > l.position OFFSET 0
) AS e
WHERE NOT EXISTS (SELECT FROM outbox.delivery AS d WHERE d.lane = e.lane AND d.id = e.id)
  AND NOT EXISTS (SELECT FROM outbox.failure AS f WHERE f.lane = e.lane AND f.id = e.id)
  AND NOT EXISTS (SELECT FROM outbox.held AS h WHERE h.lane = e.lane AND h.id = e.id);

CREATE VIEW outbox.delivered AS
SELECT e.lane, e.id, e.event_id, e.topic, e.key, e.payload, e.headers, e.type, e.created_at,
       d.kafka_partition, d.kafka_offset, d.delivered_at
FROM outbox.event AS e
JOIN outbox.delivery AS d ON d.lane = e.lane AND d.id = e.id;

-- The segments: ids lower_id <= id < upper_id are in event_<lower_id> and delivery_<lower_id>.
CREATE VIEW outbox.segment AS
SELECT c.relname::text AS name, bounds[1]::bigint AS lower_id, bounds[2]::bigint AS upper_id
FROM pg_catalog.pg_inherits AS i
JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid,
LATERAL regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \(''(\d+)''\) TO \(''(\d+)''\)') AS bounds
WHERE i.inhparent = 'outbox.event'::regclass
  AND bounds IS NOT NULL;

-- Enqueueing from SQL -------------------------------------------------------------------------------------------

-- Lock the aggregate (UPDATE it, or SELECT ... FOR UPDATE) before enqueueing: events of a key are published in the
-- order in which their transactions commit, and without the lock there is no such order to keep.
-- The event_id is made first, because RETURNING would ask writers for the privilege to read.
CREATE FUNCTION outbox.enqueue(topic text, key text, payload text, headers jsonb DEFAULT '{}', type text DEFAULT NULL)
RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    new_id CONSTANT uuid := gen_random_uuid();
BEGIN
    INSERT INTO outbox.event (event_id, topic, key, payload, headers, type)
    VALUES (new_id, enqueue.topic, convert_to(enqueue.key, 'UTF8'), convert_to(enqueue.payload, 'UTF8'),
            coalesce(enqueue.headers, '{}'), enqueue.type);
    RETURN new_id;
END
$$;

CREATE FUNCTION outbox.enqueue(topic text, key text, payload jsonb, headers jsonb DEFAULT '{}', type text DEFAULT NULL)
RETURNS uuid LANGUAGE sql AS $$
    SELECT outbox.enqueue(topic, key, payload::text, headers, type)
$$;

-- Optional, after the commit and in a transaction of its own: an idle relay looks at once instead of within its
-- idle interval. Inside the writer's transaction NOTIFY would take a lock that all writers share.
CREATE FUNCTION outbox.wake_up() RETURNS void LANGUAGE sql AS $$
    SELECT pg_notify('outbox', '')
$$;

-- Limits --------------------------------------------------------------------------------------------------------

CREATE FUNCTION outbox.max_event_bytes() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT substring(pg_get_constraintdef(c.oid) FROM '<= (\d+)')::bigint
    FROM pg_catalog.pg_constraint AS c
    WHERE c.conrelid = 'outbox.event'::regclass AND c.conname = 'event_size'
$$;

-- Only for the table's owner. NOT VALID: events that are there already stay, and no writer waits for a table scan.
CREATE FUNCTION outbox.set_max_event_bytes(max_bytes bigint) RETURNS void
LANGUAGE plpgsql
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
-- SECURITY DEFINER: attaching and dropping need the tables' owner, which the relay's role is not.
-- lock_timeout: whoever needs these tables waits no longer than that; the relay tries again later.
-- Both functions look at what is committed *after* they have their locks, which takes READ COMMITTED.

-- Makes the segment lower_id <= id < upper_id of event and delivery, with the rows of that range that landed in the
-- DEFAULT partitions, and returns its name; null if somebody else has made one there by now. A table of its own first,
-- then ATTACH: CREATE ... PARTITION OF would lock out every writer, ATTACH locks the DEFAULT partition only.
CREATE FUNCTION outbox.add_segment(lower_id bigint, upper_id bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
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
    PERFORM pg_advisory_xact_lock(hashtextextended('outbox.segment', 0));
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

-- Drops the segment that begins at lower_id if nothing in it can still be needed; says whether it did.
-- Discarded failures go with their events (outbox.action keeps who discarded them and why).
CREATE FUNCTION outbox.drop_segment(lower_id bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '50ms'
AS $$
DECLARE
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
            WHERE f.id >= drop_segment.lower_id AND f.id < upper_bound AND f.state <> 'discarded'
        )
        OR EXISTS (SELECT FROM outbox.held AS h WHERE h.id >= drop_segment.lower_id AND h.id < upper_bound)
    THEN
        RETURN false;
    END IF;
    EXECUTE format('DROP TABLE outbox.%I', 'event_' || drop_segment.lower_id);
    EXECUTE format('DROP TABLE outbox.%I', 'delivery_' || drop_segment.lower_id);
    DELETE FROM outbox.failure AS f WHERE f.id >= drop_segment.lower_id AND f.id < upper_bound;
    RETURN true;
END
$$;

REVOKE ALL ON FUNCTION outbox.set_max_event_bytes(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.add_segment(bigint, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION outbox.drop_segment(bigint) FROM PUBLIC;

SELECT outbox.add_segment(1, 5000001);
