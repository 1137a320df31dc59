-- What was decided, by whom and when, cannot be moved, written beforehand or undone; headers are bounded in every form.
-- Runs with programs from version 1.

-- The first lock keeps writers out for an instant. While others use the table, give up soon: `relay migrate` tries again.
SET LOCAL lock_timeout = '50ms';

-- As in 0007, but for the size: what comes compressed, from a table of the writer's, took little room and passed.
-- NOT VALID: rows that are there stay, and no writer waits until all are checked.
ALTER TABLE outbox.event
    DROP CONSTRAINT event_headers,
    ADD CONSTRAINT event_headers CHECK (
        headers = '{}'::jsonb OR (
            jsonb_typeof(headers) = 'object'
            -- strict: in lax mode the filter looks into arrays, and {"a": ["b"]} would pass.
            AND NOT jsonb_path_exists(headers, 'strict $.* ? (@.type() != "string")', '{}', true)
            AND (strpos(headers::text, '"outbox-') = 0
                 OR NOT jsonb_path_exists(headers, 'strict $.keyvalue() ? (@.key starts with "outbox-")', '{}', true))
            -- Fewer bytes than 2,000 have no 256 headers.
            AND (octet_length(headers::text) < 2000
                 OR (octet_length(headers::text) <= 32768
                     AND jsonb_array_length(jsonb_path_query_array(headers, 'strict $.*', '{}', true)) <= 256))
        )
    ) NOT VALID;

-- From infinity nothing can be subtracted: the relays could not look who owns what any more.
UPDATE outbox.lane_intent SET until = clock_timestamp() WHERE NOT (until >= '1970-01-01' AND until < '10000-01-01');
ALTER TABLE outbox.lane_intent
    ADD CONSTRAINT lane_intent_until CHECK (until >= '1970-01-01 00:00:00+00' AND until < '10000-01-01 00:00:00+00');

-- Nobody writes of a request that it was cancelled, or when it ended, before that happened.
CREATE OR REPLACE FUNCTION outbox.sign() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT outbox.owns_outbox() THEN
        NEW.requested_by := outbox.who_asks(NEW.requested_by);
        NEW.requested_at := clock_timestamp();
        IF TG_TABLE_NAME = 'action' THEN
            NEW.counts := NEW.counts - 'cancelled' - 'cancelled_by';
            NEW.finished_at := CASE WHEN NEW.finished_at IS NOT NULL THEN NEW.requested_at END;
        END IF;
    END IF;
    RETURN NEW;
END
$$;

-- A request ends once, and when that was is what the clock says.
CREATE FUNCTION outbox.sign_finished() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT outbox.owns_outbox() THEN
        NEW.finished_at := coalesce(OLD.finished_at, clock_timestamp());
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER sign_finished BEFORE UPDATE OF finished_at ON outbox.action FOR EACH ROW
WHEN (NEW.finished_at IS DISTINCT FROM OLD.finished_at)
EXECUTE FUNCTION outbox.sign_finished();

-- What became of an event is the relay's to say. People decide, which is recorded; a retry that nobody asked for, or one
-- that never comes, would not be.
CREATE FUNCTION outbox.check_outcome() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF has_column_privilege(current_user, TG_RELID, 'attempts', 'UPDATE') THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'only the relay says what became of a failure' USING
        ERRCODE = '42501', HINT = 'Use `relay failed replay` or `relay failed discard`.';
END
$$;

CREATE TRIGGER check_outcome BEFORE UPDATE OF state, next_attempt_at ON outbox.failure FOR EACH ROW
WHEN (
    NEW.state NOT IN ('replaying', 'discarded')
    AND (NEW.state <> OLD.state OR NEW.next_attempt_at IS DISTINCT FROM OLD.next_attempt_at)
)
EXECUTE FUNCTION outbox.check_outcome();

-- As sql/roles.sql, for an outbox whose roles were made before: not the columns that say which event it is, nor who decided
-- about it. A decision about one event could be given to another.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_relay') THEN
        REVOKE UPDATE ON outbox.failure FROM outbox_relay;
        GRANT UPDATE (state, attempts, next_attempt_at, error, detail, failed_at, policy, history) ON outbox.failure
            TO outbox_relay;
    END IF;
END
$$;
