-- What people ask of topics: that their events are held back for a time. And what replicas tell of topics that take none.
-- Runs with programs from version 13.

-- Each request is a row of its own, and the latest of a topic counts, so that who asked for what can be read later. Until
-- then the relays hold the topic's events back; a request for a time that is over ends an earlier one.
CREATE TABLE outbox.topic_intent (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic        text        NOT NULL,
    until        timestamptz NOT NULL,
    reason       text        NOT NULL DEFAULT '',
    requested_by text        NOT NULL DEFAULT session_user,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT topic_intent_topic CHECK (
        topic COLLATE "C" !~ '[^a-zA-Z0-9._-]' AND octet_length(topic) BETWEEN 1 AND 249
        AND topic NOT IN ('.', '..')
    ),
    -- From infinity nothing can be subtracted.
    CONSTRAINT topic_intent_until CHECK (until >= '1970-01-01 00:00:00+00' AND until < '10000-01-01 00:00:00+00')
);
-- Replicas look several times a minute: for what is under way, and not through all that was ever asked.
CREATE INDEX topic_intent_until ON outbox.topic_intent (until);
CREATE INDEX topic_intent_topic ON outbox.topic_intent (topic, id);

CREATE TRIGGER sign BEFORE INSERT OR UPDATE ON outbox.topic_intent FOR EACH ROW EXECUTE FUNCTION outbox.sign();

-- For people: what a replica tells of topics with its last heartbeat, as {"orders": {"trouble": "no leader"}}.
ALTER TABLE outbox.replica ADD COLUMN topics jsonb NOT NULL DEFAULT '{}';

-- As sql/roles.sql, for an outbox whose roles were made before.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT SELECT ON outbox.topic_intent TO outbox_relay;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_admin') THEN
        GRANT SELECT, INSERT (topic, until, reason, requested_by) ON outbox.topic_intent TO outbox_admin;
    END IF;
END
$$;
