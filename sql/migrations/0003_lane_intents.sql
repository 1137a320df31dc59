-- What people want of lanes, and what a replica tells about itself.
-- Runs with programs from version 1.

-- draining: it takes nothing more, and the others share its lanes among them. The rest is for people, written with the
-- heartbeat: when that was, lanes that are being given back and are not settled yet, and what the process has counted.
ALTER TABLE outbox.replica
    ADD COLUMN draining    boolean     NOT NULL DEFAULT false,
    ADD COLUMN renewed_at  timestamptz,
    ADD COLUMN releasing   smallint[]  NOT NULL DEFAULT '{}',
    ADD COLUMN duplicates  bigint      NOT NULL DEFAULT 0,
    ADD COLUMN leases_lost bigint      NOT NULL DEFAULT 0;

-- What a person last asked for a lane; the relays act on it. With a replica: it is to own the lane until then, as long
-- as it is alive. Without: whoever owned the lane at this epoch gives it back, and nobody claims it until then.
CREATE TABLE outbox.lane_intent (
    lane         smallint    PRIMARY KEY CHECK (lane BETWEEN 0 AND 15),
    epoch        bigint      NOT NULL,
    replica      uuid,
    until        timestamptz NOT NULL,
    reason       text        NOT NULL DEFAULT '',
    requested_by text        NOT NULL DEFAULT session_user,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- As sql/roles.sql, for an outbox whose roles were made before.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_relay') THEN
        GRANT SELECT ON outbox.lane_intent TO outbox_relay;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'outbox_admin') THEN
        GRANT SELECT, INSERT, UPDATE ON outbox.lane_intent TO outbox_admin;
    END IF;
END
$$;
