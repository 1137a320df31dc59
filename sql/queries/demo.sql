-- The order service of `relay demo`: a domain table as any service has one, outside the schema of the outbox.

-- name: demo_create_orders
-- version counts the changes of an order: what the checking consumer goes by. Room on the pages for HOT updates.
CREATE TABLE public.orders (
    id      bigint PRIMARY KEY,
    version bigint NOT NULL DEFAULT 0,
    cents   bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- name: demo_place_orders
-- $1 orders without anything in them.
INSERT INTO public.orders (id) SELECT generate_series(1, $1::bigint);

-- name: demo_change_order
-- Changes an order and locks it, so that what is enqueued next has its place in the order's history.
UPDATE public.orders SET version = version + 1, cents = cents + $2::bigint WHERE id = $1 RETURNING version, cents;

-- name: demo_change_orders
-- Changes several orders and locks them in the order of their ids, so that two such statements never wait for each
-- other.
WITH locked AS (SELECT o.id FROM public.orders AS o WHERE o.id = ANY($1::bigint[]) ORDER BY o.id FOR UPDATE)
UPDATE public.orders AS o SET version = o.version + 1, cents = o.cents + $2::bigint
FROM locked WHERE o.id = locked.id
RETURNING o.id, o.version, o.cents;

-- name: demo_report
-- What a long report does to everybody else: an xid and a snapshot that stay.
SELECT pg_current_xact_id()::text AS xid, sum(o.cents) AS cents FROM public.orders AS o;

-- name: demo_order_versions
-- How many changes of each order were committed.
SELECT id, version FROM public.orders;
