-- outbox.capture() leaves out columns that are computed when they are read (PostgreSQL 18).
-- Runs with programs from version 13.

-- As in 0015, but for virtual columns. Each of them is null in every trigger, whatever the table shows for it; so the
-- payload said null. Now it does not name them, as logical replication does not. As the key such a column is refused: its
-- events had no key, and so no order.
--
-- Such a table's other columns are put together by a statement of their own. A row without a null needs no look for them.
CREATE OR REPLACE FUNCTION outbox.capture() RETURNS trigger LANGUAGE plpgsql
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
    stored  text;
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
    -- One condition inside the other: a look into the catalog costs a tenth of all, for each row.
    IF current_setting('server_version_num')::int >= 180000 AND strpos(coalesce(after, before)::text, ':null') > 0 THEN
        IF EXISTS (
            SELECT FROM pg_attribute AS a WHERE a.attrelid = TG_RELID AND a.attnum > 0 AND a.attgenerated = 'v'
        ) THEN
            SELECT string_agg(format('($1).%I', a.attname), ', ' ORDER BY a.attnum) FILTER (WHERE a.attgenerated <> 'v'),
                   min(a.attname::text) FILTER (WHERE a.attgenerated = 'v' AND a.attname = ANY (columns))
            INTO stored, missing
            FROM pg_attribute AS a
            WHERE a.attrelid = TG_RELID AND a.attnum > 0 AND NOT a.attisdropped;
            IF missing IS NOT NULL THEN
                RAISE EXCEPTION 'the trigger % on %.% takes the virtual column % for the key, and it has no value in a trigger',
                    TG_NAME, TG_TABLE_SCHEMA, TG_TABLE_NAME, missing
                USING ERRCODE = '39P01', HINT = 'take columns that are stored';
            END IF;
            stored := 'SELECT row_to_json(r) FROM (SELECT ' || stored || ') AS r';
            IF before IS NOT NULL THEN
                EXECUTE stored INTO before USING OLD;
            END IF;
            IF after IS NOT NULL THEN
                EXECUTE stored INTO after USING NEW;
            END IF;
        END IF;
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
