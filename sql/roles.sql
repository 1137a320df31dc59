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

-- Default privileges may have given everybody more than that, and may have taken EXECUTE from everybody: what a role
-- needs is granted here by name, and nobody else writes.
REVOKE CREATE ON SCHEMA outbox FROM PUBLIC;
REVOKE INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER ON ALL TABLES IN SCHEMA outbox FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA outbox FROM PUBLIC;

GRANT USAGE ON SCHEMA outbox TO outbox_writer, outbox_relay, outbox_admin;

-- Writers put events in and see nothing. Not id: it must come from its default, in the transaction that inserts.
-- Not created_at: Kafka deletes records by their timestamps.
GRANT INSERT (event_id, topic, key, payload, headers, type) ON outbox.event TO outbox_writer;
-- USAGE is what the default of id needs, and it lets a writer take ids without inserting. There are enough for 290,000
-- years of a million a second; what is skipped makes segments emptier, and `relay status` shows how far ids are.
GRANT USAGE ON SEQUENCE outbox.event_id TO outbox_writer;
GRANT EXECUTE ON FUNCTION
    outbox.enqueue(text, text, text, jsonb, text), outbox.enqueue(text, text, jsonb, jsonb, text), outbox.wake_up(),
    outbox.trace_headers(), outbox.with_trace(jsonb), outbox.capture()
TO outbox_writer;
-- The same for events that are to come. A writer that knows the event_id, or the name that was given to the timer, may
-- cancel or reschedule the event.
GRANT INSERT (event_id, topic, key, payload, headers, type, deliver_at, delay, timer) ON outbox.scheduled
TO outbox_writer;
GRANT EXECUTE ON FUNCTION
    outbox.enqueue_at(timestamptz, text, text, text, jsonb, text, text),
    outbox.enqueue_at(timestamptz, text, text, jsonb, jsonb, text, text),
    outbox.enqueue_in(interval, text, text, text, jsonb, text, text),
    outbox.enqueue_in(interval, text, text, jsonb, jsonb, text, text),
    outbox.cancel_scheduled(uuid, text), outbox.reschedule(uuid, text, timestamptz, interval)
TO outbox_writer;

-- The relay reads events and writes what became of them. It can neither write nor change an event, nor what people
-- asked for. Scheduled events that are due it has moved by a function of the owner's.
GRANT SELECT ON ALL TABLES IN SCHEMA outbox TO outbox_relay, outbox_admin;
GRANT SELECT ON SEQUENCE outbox.event_id TO outbox_relay, outbox_admin;
GRANT INSERT ON outbox.receipt TO outbox_relay;
GRANT INSERT, DELETE ON outbox.replay_receipt TO outbox_relay;
GRANT INSERT, DELETE ON outbox.held TO outbox_relay;
GRANT INSERT, UPDATE, DELETE ON outbox.replica, outbox.tail TO outbox_relay;
GRANT INSERT, DELETE ON outbox.failure TO outbox_relay;
-- Until version 8, for failures until version 10, it was all columns.
REVOKE UPDATE ON outbox.lane, outbox.action, outbox.failure FROM outbox_relay;
GRANT UPDATE (state, attempts, next_attempt_at, error, detail, failed_at, policy, history) ON outbox.failure
TO outbox_relay;
GRANT UPDATE (owner, epoch, position, claimed_at) ON outbox.lane TO outbox_relay;
GRANT UPDATE (counts, progress, finished_at) ON outbox.action TO outbox_relay;
GRANT EXECUTE ON FUNCTION outbox.move_due(uuid, smallint[], bigint[], integer, bigint[]) TO outbox_relay;

-- People look at everything and mark failures for replay or discard; the owner of the lane acts on the mark. Who asked
-- and when is set by triggers.
REVOKE INSERT, UPDATE ON outbox.action FROM outbox_admin;
GRANT INSERT (kind, filter, reason, requested_by, finished_at, counts, progress) ON outbox.action TO outbox_admin;
GRANT UPDATE (finished_at, counts) ON outbox.action TO outbox_admin;
GRANT UPDATE (state, action, next_attempt_at) ON outbox.failure TO outbox_admin;
GRANT EXECUTE ON FUNCTION outbox.max_event_bytes(), outbox.wake_up(), outbox.cancel_scheduled(uuid, text)
TO outbox_admin;
-- They erase events by a function of the owner's, which records who asked.
GRANT EXECUTE ON FUNCTION
    outbox.erasable(bigint[], bytea, text),
    outbox.erase(bigint[], bytea, text, uuid[], boolean, boolean, jsonb, text, text)
TO outbox_admin;

-- People say who should own a lane, and which topics' events are held back for a time; the relays act on it. What was
-- asked of a topic cannot be changed: the next request is a row of its own.
GRANT INSERT, UPDATE ON outbox.lane_intent TO outbox_admin;
GRANT INSERT (topic, until, reason, requested_by) ON outbox.topic_intent TO outbox_admin;

-- Until version 12 people's role had these as well, the relay more of them, and UPDATE of held rows.
REVOKE EXECUTE ON FUNCTION
    outbox.add_segment(bigint, bigint), outbox.drop_segment(bigint), outbox.ids_needed(bigint, bigint),
    outbox.replay_needs(bigint, bigint), outbox.unsettled_event(bigint), outbox.who_asks(text)
FROM outbox_relay, outbox_admin;
REVOKE UPDATE ON outbox.held FROM outbox_relay;
-- The relay makes and retires segments, and forgets old requests, through functions of the owner's that check what they
-- do. drop_segment and unsettled_event are for programs before version 20.
GRANT EXECUTE ON FUNCTION
    outbox.add_segment(bigint, bigint), outbox.retire_segment(bigint, timestamptz, timestamptz, float8),
    outbox.replay_needs(bigint, bigint), outbox.forget_actions(float8, integer),
    outbox.drop_segment(bigint), outbox.unsettled_event(bigint)
TO outbox_relay;
-- The triggers that sign what people ask for, and what becomes of it, run as who does it.
GRANT EXECUTE ON FUNCTION outbox.owns_outbox() TO outbox_relay, outbox_admin;
GRANT EXECUTE ON FUNCTION outbox.who_asks(text) TO outbox_admin;
-- Both read receipts, through functions that take them apart.
GRANT EXECUTE ON FUNCTION
    outbox.places(bytea), outbox.receipted(bigint, bigint), outbox.receipt_of(bigint),
    outbox.receipts(bigint, bigint, timestamptz, timestamptz)
TO outbox_relay, outbox_admin;
