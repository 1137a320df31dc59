-- What a replica notes of itself, so that the others can ask Kafka what it had published when it ends without a word.
-- Runs with programs from version 13.

ALTER TABLE outbox.replica
    -- The process: the same through its registrations. Null: it notes nothing, and its lanes are free with its lease.
    -- Otherwise they are free when the row is gone.
    ADD COLUMN process   uuid,
    -- Its producers, by transactional id, with their producer ids: {"outbox-5e0c...-1": 4711}.
    ADD COLUMN producers jsonb NOT NULL DEFAULT '{}',
    -- It may begin nothing more: replica ended_by is asking Kafka for what it had published, and was at work then.
    ADD COLUMN ended_at  timestamptz,
    ADD COLUMN ended_by  uuid,
    ADD CONSTRAINT replica_producers CHECK (jsonb_typeof(producers) = 'object');

-- A topic that a process may publish to; written before its first batch. Of each partition an offset: every record of the
-- process below it has its receipt. Raised once a second.
CREATE TABLE outbox.tail (
    process uuid     NOT NULL,
    topic   text     NOT NULL CHECK (topic <> ''),
    offsets bigint[] NOT NULL CHECK (cardinality(offsets) > 0),
    PRIMARY KEY (process, topic)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- As sql/roles.sql, for an outbox whose roles were made before.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON outbox.tail TO outbox_relay;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_admin') THEN
        GRANT SELECT ON outbox.tail TO outbox_admin;
    END IF;
END
$$;
