-- A trigger for any table: its rows are events, as they are after each change.
-- Runs with programs from version 13.

-- Arguments: the topic, then the columns of the key. The payload is the row as JSON, and null once the row is gone.
--
-- It runs with the rights of whoever makes the change, so that nobody gains any by it. What a value looks like does not
-- depend on the session: bytes are hexadecimal, times are of UTC. As json, not as jsonb: a column of JSON text is not
-- looked into, which could fail.
CREATE FUNCTION outbox.capture() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET bytea_output = 'hex'
SET extra_float_digits = 1
SET intervalstyle = 'iso_8601'
SET timezone = 'UTC'
AS $$
DECLARE
    columns CONSTANT text[] := TG_ARGV[1:];
    before  json;
    after   json;
    image   json;
    parts   json;
    keys    text[] := '{NULL,NULL}';
    missing text;
BEGIN
    IF TG_WHEN <> 'AFTER' OR TG_LEVEL <> 'ROW' OR coalesce(cardinality(columns), 0) < 1 THEN
        RAISE EXCEPTION 'the trigger % on %.% is not one that outbox.capture() can work for',
            TG_NAME, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = '39P01', HINT = 'CREATE TRIGGER ... AFTER INSERT OR UPDATE OR DELETE ON ... '
            'FOR EACH ROW EXECUTE FUNCTION outbox.capture(topic, column of the key, ...)';
    END IF;
    IF TG_OP <> 'INSERT' THEN
        before := row_to_json(OLD);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        after := row_to_json(NEW);
    END IF;
    FOR number IN 1 .. 2 LOOP
        image := CASE number WHEN 1 THEN before ELSE after END;
        CONTINUE WHEN image IS NULL;
        IF strpos(image::text, E'\\u0000') = 0 THEN
            -- A column that is null is there, as a null of JSON.
            SELECT c INTO missing FROM unnest(columns) AS c WHERE image -> c IS NULL LIMIT 1;
            IF missing IS NOT NULL THEN
                RAISE EXCEPTION 'the table %.% has no column %, which the trigger % takes for the key',
                    TG_TABLE_SCHEMA, TG_TABLE_NAME, missing, TG_NAME
                USING ERRCODE = '42703';
            END IF;
            SELECT json_agg(image -> c ORDER BY place) INTO parts
            FROM unnest(columns) WITH ORDINALITY AS of_key (c, place);
        ELSE
            -- JSON in which PostgreSQL finds nothing. Slower, and rare.
            EXECUTE (
                SELECT 'SELECT json_build_array(' || string_agg(format('($1).%I', c), ', ' ORDER BY place) || ')'
                FROM unnest(columns) WITH ORDINALITY AS of_key (c, place)
            ) INTO parts USING CASE number WHEN 1 THEN OLD ELSE NEW END;
        END IF;
        keys[number] := CASE cardinality(columns) WHEN 1 THEN parts ->> 0 ELSE parts::text END;
    END LOOP;
    -- For whoever reads the old key, a row that has another one is gone.
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND keys[1] IS DISTINCT FROM keys[2]) THEN
        PERFORM outbox.enqueue(TG_ARGV[0], keys[1], NULL::text, '{}', 'delete');
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM outbox.enqueue(
            TG_ARGV[0], keys[2], after::text, '{}',
            CASE WHEN TG_OP = 'INSERT' OR keys[1] IS DISTINCT FROM keys[2] THEN 'insert' ELSE 'update' END
        );
    END IF;
    RETURN NULL;
END
$$;

-- Only who may enqueue may make such a trigger. As sql/roles.sql, for an outbox whose roles were made before.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_writer') THEN
        GRANT EXECUTE ON FUNCTION outbox.capture() TO outbox_writer;
    END IF;
END
$$;
