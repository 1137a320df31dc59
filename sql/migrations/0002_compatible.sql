-- Which older programs may go on working with the schema: what a rolling upgrade rests on.
-- Runs with programs from version 1.
--
-- A migration says so in a line like the one above. N is the lowest number whose programs (those that know the
-- migrations up to N) can work on the schema as it is afterwards. Without that line: only those that know it.

ALTER TABLE outbox.migration ADD COLUMN compatible_from integer;
UPDATE outbox.migration SET compatible_from = version;
ALTER TABLE outbox.migration
    ALTER COLUMN compatible_from SET NOT NULL,
    ADD CONSTRAINT migration_compatible_from CHECK (compatible_from BETWEEN 1 AND version);
