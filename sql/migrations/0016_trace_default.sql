-- An INSERT that leaves headers out costs what it did before 0012, and has no headers, as before.
-- Runs with programs from version 1.

-- A default is part of each INSERT's plan. That of 0012 took PostgreSQL up to half as much again for an INSERT that is
-- planned by itself, and a short one that has the traceparent alone a sixth. Whoever inserts rows himself writes
-- outbox.with_trace('{}') instead; outbox.enqueue() does so, as before.

-- For an instant, this keeps writers out. While others use the table, give up soon: `relay migrate` tries again.
SET LOCAL lock_timeout = '50ms';

ALTER TABLE outbox.event ALTER COLUMN headers SET DEFAULT '{}';
