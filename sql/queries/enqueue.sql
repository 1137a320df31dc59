-- name: enqueue
-- Insert one event. Headers go in as text: the caller's connection may have a codec of its own for jsonb.
INSERT INTO outbox.event (event_id, topic, key, payload, headers, type)
VALUES ($1::uuid, $2::text, $3::bytea, $4::bytea, $5::text::jsonb, $6::text);
