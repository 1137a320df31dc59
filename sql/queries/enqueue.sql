-- name: enqueue
-- Insert one event. Headers go in as text: the caller's connection may have a codec of its own for jsonb.
-- It runs under the caller's search path, which may put anything in the place of what is not qualified.
INSERT INTO outbox.event (event_id, topic, key, payload, headers, type)
VALUES ($1::pg_catalog.uuid, $2::pg_catalog.text, $3::pg_catalog.bytea, $4::pg_catalog.bytea,
        $5::pg_catalog.text::pg_catalog.jsonb, $6::pg_catalog.text);
