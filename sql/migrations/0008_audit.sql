-- Who asked for what, and when, is what the server knows, and no role that it is about can change it.
-- Runs with programs from version 1.

-- Triggers, so that older programs, which write who themselves, go on working. The outbox's owner is left alone: it
-- restores from dumps, and could drop the triggers.

-- Who asks, with the machine that the program told in brackets behind it.
CREATE FUNCTION outbox.who_asks(told text) RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN starts_with(told, session_user || ' (') THEN told ELSE session_user::text END
$$;

CREATE FUNCTION outbox.owns_outbox() RETURNS boolean LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT pg_has_role(current_user, c.relowner, 'USAGE') FROM pg_class AS c WHERE c.oid = 'outbox.action'::regclass
$$;

CREATE FUNCTION outbox.sign() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT outbox.owns_outbox() THEN
        NEW.requested_by := outbox.who_asks(NEW.requested_by);
        NEW.requested_at := clock_timestamp();
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER sign BEFORE INSERT ON outbox.action FOR EACH ROW EXECUTE FUNCTION outbox.sign();
CREATE TRIGGER sign BEFORE INSERT OR UPDATE ON outbox.lane_intent FOR EACH ROW EXECUTE FUNCTION outbox.sign();

-- Who cancelled stands beside the counts, and stays once it stands there.
CREATE FUNCTION outbox.sign_cancelled() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT outbox.owns_outbox() THEN
        NEW.counts := NEW.counts || jsonb_build_object(
            'cancelled_by',
            coalesce(OLD.counts -> 'cancelled_by', to_jsonb(outbox.who_asks(NEW.counts ->> 'cancelled_by')))
        );
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER sign_cancelled BEFORE UPDATE OF counts ON outbox.action FOR EACH ROW
WHEN (NEW.counts -> 'cancelled_by' IS DISTINCT FROM OLD.counts -> 'cancelled_by')
EXECUTE FUNCTION outbox.sign_cancelled();

-- A failure is given to an action only by who asked for that, in the transaction that records it: nobody can discard an
-- event in the name of somebody else.
CREATE FUNCTION outbox.check_decision() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF outbox.owns_outbox() OR EXISTS (
        SELECT FROM outbox.action AS a
        WHERE a.id = NEW.action AND a.requested_at >= transaction_timestamp()
          AND (a.requested_by = session_user OR starts_with(a.requested_by, session_user || ' ('))
          AND a.kind = CASE NEW.state WHEN 'discarded' THEN 'discard' ELSE 'replay' END
    ) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'a failure is replayed or discarded in the transaction that records the action' USING
        ERRCODE = '42501', HINT = 'Use `relay failed replay` or `relay failed discard`.';
END
$$;

CREATE TRIGGER check_new_decision BEFORE INSERT ON outbox.failure FOR EACH ROW
WHEN (NEW.action IS NOT NULL OR NEW.state IN ('replaying', 'discarded'))
EXECUTE FUNCTION outbox.check_decision();

CREATE TRIGGER check_decision BEFORE UPDATE OF state, action ON outbox.failure FOR EACH ROW
WHEN (
    NEW.action IS DISTINCT FROM OLD.action
    OR (NEW.state IN ('replaying', 'discarded') AND NEW.state <> OLD.state)
)
EXECUTE FUNCTION outbox.check_decision();

-- As sql/roles.sql, for an outbox whose roles were made before.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_writer') THEN
        GRANT EXECUTE ON FUNCTION
            outbox.enqueue(text, text, text, jsonb, text), outbox.enqueue(text, text, jsonb, jsonb, text),
            outbox.wake_up()
        TO outbox_writer;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_relay') THEN
        REVOKE UPDATE ON outbox.lane, outbox.action FROM outbox_relay;
        GRANT UPDATE (owner, epoch, position, claimed_at) ON outbox.lane TO outbox_relay;
        GRANT UPDATE (counts, progress, finished_at) ON outbox.action TO outbox_relay;
        GRANT EXECUTE ON FUNCTION
            outbox.replay_needs(bigint, bigint), outbox.who_asks(text), outbox.owns_outbox()
        TO outbox_relay;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_admin') THEN
        REVOKE INSERT, UPDATE ON outbox.action FROM outbox_admin;
        GRANT INSERT (kind, filter, reason, requested_by, finished_at, counts, progress) ON outbox.action
            TO outbox_admin;
        GRANT UPDATE (finished_at, counts) ON outbox.action TO outbox_admin;
        GRANT EXECUTE ON FUNCTION
            outbox.replay_needs(bigint, bigint), outbox.max_event_bytes(), outbox.wake_up(),
            outbox.who_asks(text), outbox.owns_outbox()
        TO outbox_admin;
    END IF;
END
$$;

-- The first segment of a new outbox: by the function of 0006, which nobody else can hold up.
DO $$
BEGIN
    IF NOT (SELECT is_called FROM outbox.event_id) AND NOT EXISTS (SELECT FROM outbox.segment) THEN
        PERFORM outbox.add_segment(1, 5000001);
    END IF;
END
$$;
