-- Roles and what they may do. Can be run again at any time; run it as a role that may create roles and owns the
-- outbox (`relay migrate --roles` does). Give the roles to the users that log in: GRANT outbox_writer TO my_service;

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['outbox_writer', 'outbox_relay', 'outbox_admin'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        END IF;
    END LOOP;
END
$$;

GRANT USAGE ON SCHEMA outbox TO outbox_writer, outbox_relay, outbox_admin;

-- Writers put events in and see nothing. Not id: it must come from its default, in the transaction that inserts.
-- Not created_at: Kafka deletes records by their timestamps.
GRANT INSERT (event_id, topic, key, payload, headers, type) ON outbox.event TO outbox_writer;
GRANT USAGE ON SEQUENCE outbox.event_id TO outbox_writer;

-- The relay reads events and writes what became of them. It can neither write nor change an event.
GRANT SELECT ON ALL TABLES IN SCHEMA outbox TO outbox_relay, outbox_admin;
GRANT SELECT ON SEQUENCE outbox.event_id TO outbox_relay, outbox_admin;
GRANT INSERT ON outbox.delivery TO outbox_relay;
GRANT INSERT, DELETE ON outbox.replay_receipt TO outbox_relay;
GRANT INSERT, UPDATE, DELETE ON outbox.failure, outbox.held, outbox.replica TO outbox_relay;
GRANT UPDATE ON outbox.lane, outbox.action TO outbox_relay;
GRANT EXECUTE ON FUNCTION outbox.add_segment(bigint, bigint) TO outbox_relay, outbox_admin;
GRANT EXECUTE ON FUNCTION outbox.drop_segment(bigint) TO outbox_relay, outbox_admin;

-- People look at everything and mark failures for replay or discard; the owner of the lane acts on the mark.
GRANT INSERT, UPDATE ON outbox.action TO outbox_admin;
GRANT UPDATE (state, action, next_attempt_at) ON outbox.failure TO outbox_admin;

-- People say who should own a lane; the relays act on it.
GRANT INSERT, UPDATE ON outbox.lane_intent TO outbox_admin;
