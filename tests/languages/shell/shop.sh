#!/usr/bin/env bash
# What a script does with the outbox: psql, which finds the server by PGHOST and its like.
set -euo pipefail

place() {
    psql --quiet --no-psqlrc -v ON_ERROR_STOP=1 -v order="$1" <<'SQL'
BEGIN;
-- The change comes first: its row lock gives this order's events their order.
INSERT INTO orders VALUES (:order, 'placed');
SELECT outbox.enqueue('orders', :'order', jsonb_build_object('order', :order, 'note', 'grün €😀'),
                      '{"source": "shop"}', 'order.placed') \g /dev/null
COMMIT;
SQL
}

attach() {
    psql --quiet --no-psqlrc -v ON_ERROR_STOP=1 -v order="$1" -v document="$(od -An -v -tx1 "$2" | tr -d ' \n')" <<'SQL'
BEGIN;
UPDATE orders SET state = 'documented' WHERE id = :order;
INSERT INTO outbox.event (topic, key, payload, type)
VALUES ('orders', convert_to(:'order', 'UTF8'), decode(:'document', 'hex'), 'order.documented');
COMMIT;
SQL
}

remove() {
    psql --quiet --no-psqlrc -v ON_ERROR_STOP=1 -v order="$1" <<'SQL'
BEGIN;
DELETE FROM orders WHERE id = :order;
SELECT outbox.enqueue('orders', :'order', NULL::text, type => 'order.removed') \g /dev/null
COMMIT;
SQL
}

pay() {
    psql --quiet --no-psqlrc -v ON_ERROR_STOP=1 -v order="$1" -v topic="$2" <<'SQL'
\set VERBOSITY verbose
BEGIN;
UPDATE orders SET state = 'paid' WHERE id = :order;
SELECT outbox.enqueue(:'topic', :'order', 'paid') \g /dev/null
ROLLBACK;
SQL
}

document=$(mktemp)
trap 'rm -f "$document"' EXIT
for number in {0..255}; do
    printf "\\x$(printf %02x "$number")"
done > "$document"

place 42
pay 42 'orders'
if refusal=$(pay 42 'no topic' 2>&1); then
    echo "not refused" >&2
    exit 1
fi
echo "refused: $(sed -n 's/^CONSTRAINT NAME:  //p' <<< "$refusal")"
attach 42 "$document"
remove 42
