-- Writers without the library say which trace their events are part of: by settings of their session or transaction.
-- Runs with programs from version 1.

-- SET LOCAL outbox.traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
-- and outbox.tracestate and outbox.baggage beside it. They become headers of what outbox.enqueue() writes, and of each
-- event whose INSERT leaves the column headers out.
--
-- Not by a trigger: where there is a BEFORE INSERT trigger, COPY inserts row by row, whether the trigger has anything to
-- do or not. Nor does the default call a function: it runs with the rights of the writer, who would need EXECUTE.

-- The first lock keeps writers out for an instant. While others use the table, give up soon: `relay migrate` tries again.
SET LOCAL lock_timeout = '50ms';

-- A traceparent as in W3C Trace Context, version 00, and what else fits the limits of that standard and of W3C Baggage.
-- What is malformed is left out, because the writer's transaction must not fail for it. LIKE knows where the hyphens
-- are, and costs less than a regular expression with bounds.
CREATE FUNCTION outbox.trace_headers() RETURNS jsonb LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        -- Not null, or all the others would be looked at, too.
        WHEN coalesce(current_setting('outbox.traceparent', true), '')
                LIKE '__-________________________________-________________-__'
            AND octet_length(replace(current_setting('outbox.traceparent', true), '-', '')) = 52
            AND current_setting('outbox.traceparent', true) COLLATE "C" !~ '[^0-9a-f-]'
            AND current_setting('outbox.traceparent', true) NOT LIKE 'ff%'
            AND current_setting('outbox.traceparent', true) NOT LIKE '__-00000000000000000000000000000000-%'
            AND current_setting('outbox.traceparent', true) NOT LIKE '%-0000000000000000-__'
        THEN jsonb_strip_nulls(jsonb_build_object(
            'traceparent', current_setting('outbox.traceparent', true),
            'tracestate', CASE
                WHEN octet_length(current_setting('outbox.tracestate', true)) BETWEEN 1 AND 512
                    AND current_setting('outbox.tracestate', true) COLLATE "C" !~ '[^ -~]'
                THEN current_setting('outbox.tracestate', true)
            END,
            'baggage', CASE
                WHEN octet_length(current_setting('outbox.baggage', true)) BETWEEN 1 AND 8192
                    AND current_setting('outbox.baggage', true) COLLATE "C" !~ '[^ -~]'
                THEN current_setting('outbox.baggage', true)
            END
        ))
        ELSE '{}'::jsonb
    END
$$;

-- The expression itself, in place of a call.
DO $$
BEGIN
    EXECUTE 'ALTER TABLE outbox.event ALTER COLUMN headers SET DEFAULT ('
        || (SELECT regexp_replace(prosrc, '^\s*SELECT', '') FROM pg_proc WHERE oid = 'outbox.trace_headers()'::regprocedure)
        || ')';
END
$$;

-- An event's headers with those of the trace, for an INSERT that has some of its own. Those stay as they are if one of
-- them is of a trace, or if all together would be more than the outbox takes.
CREATE FUNCTION outbox.with_trace(headers jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    traced jsonb;
BEGIN
    IF jsonb_typeof(headers) IS DISTINCT FROM 'object' OR headers ?| ARRAY['traceparent', 'tracestate', 'baggage'] THEN
        RETURN headers;
    END IF;
    traced := outbox.trace_headers() || headers;
    IF octet_length(traced::text) > 32768
        OR jsonb_array_length(jsonb_path_query_array(traced, 'strict $.*', '{}', true)) > 256 THEN
        RETURN headers;
    END IF;
    RETURN traced;
END
$$;

CREATE OR REPLACE FUNCTION outbox.enqueue(
    topic text, key text, payload text, headers jsonb DEFAULT '{}', type text DEFAULT NULL
)
RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    new_id CONSTANT pg_catalog.uuid := pg_catalog.gen_random_uuid();
    traced pg_catalog.jsonb := coalesce(enqueue.headers, '{}');
BEGIN
    IF pg_catalog.current_setting('outbox.traceparent', true) OPERATOR(pg_catalog.<>) '' THEN
        traced := outbox.with_trace(traced);
    END IF;
    INSERT INTO outbox.event (event_id, topic, key, payload, headers, type)
    VALUES (new_id, enqueue.topic, pg_catalog.convert_to(enqueue.key, 'UTF8'),
            pg_catalog.convert_to(enqueue.payload, 'UTF8'), traced, enqueue.type);
    RETURN new_id;
END
$$;

-- Default privileges may have taken EXECUTE from everybody; whoever may enqueue needs it, by whatever role.
GRANT EXECUTE ON FUNCTION outbox.trace_headers(), outbox.with_trace(jsonb) TO PUBLIC;
