-- What a replica puts off is shown to people.
-- Runs with programs from version 1.

-- Work that is not urgent and does not work out, such as dropping segments:
-- {"drop segments": {"since": ..., "error": ...}, ...}. Written when it changes.
ALTER TABLE outbox.replica
    ADD COLUMN put_off jsonb NOT NULL DEFAULT '{}',
    ADD CONSTRAINT replica_put_off CHECK (jsonb_typeof(put_off) = 'object');
