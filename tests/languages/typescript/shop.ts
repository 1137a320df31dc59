// What a service in TypeScript does with the outbox: node-postgres, which finds the server by PGHOST and its like.
import pg from "pg";

async function inTransaction(client: pg.ClientBase, work: () => Promise<void>): Promise<void> {
  await client.query("BEGIN");
  try {
    await work();
    await client.query("COMMIT");
  } catch (error) {
    await client.query("ROLLBACK");
    throw error;
  }
}

async function place(client: pg.ClientBase, orderId: number): Promise<void> {
  await inTransaction(client, async () => {
    // The change comes first: its row lock gives this order's events their order.
    await client.query("INSERT INTO orders VALUES ($1, 'placed')", [orderId]);
    await client.query("SELECT outbox.enqueue($1, $2, $3::jsonb, $4, $5)", [
      "orders",
      String(orderId),
      { order: orderId, note: "grün €😀" },
      { source: "shop" },
      "order.placed",
    ]);
  });
}

async function attach(client: pg.ClientBase, orderId: number, document: Buffer): Promise<void> {
  await inTransaction(client, async () => {
    await client.query("UPDATE orders SET state = 'documented' WHERE id = $1", [orderId]);
    await client.query("INSERT INTO outbox.event (topic, key, payload, type) VALUES ($1, $2, $3, $4)", [
      "orders",
      Buffer.from(String(orderId)),
      document,
      "order.documented",
    ]);
  });
}

async function remove(client: pg.ClientBase, orderId: number): Promise<void> {
  await inTransaction(client, async () => {
    await client.query("DELETE FROM orders WHERE id = $1", [orderId]);
    await client.query("SELECT outbox.enqueue($1, $2, NULL::text, type => $3)", [
      "orders",
      String(orderId),
      "order.removed",
    ]);
  });
}

class ChangedMind extends Error {}

async function pay(client: pg.ClientBase, topic: string, orderId: number): Promise<void> {
  await inTransaction(client, async () => {
    await client.query("UPDATE orders SET state = 'paid' WHERE id = $1", [orderId]);
    await client.query("SELECT outbox.enqueue($1, $2, 'paid')", [topic, String(orderId)]);
    throw new ChangedMind();
  });
}

async function failure(of: Promise<void>): Promise<unknown> {
  return of.then(
    () => undefined,
    (error: unknown) => error,
  );
}

const client = new pg.Client();
await client.connect();
try {
  await place(client, 42);
  if (!((await failure(pay(client, "orders", 42))) instanceof ChangedMind)) {
    throw new Error("not rolled back");
  }
  const refused = await failure(pay(client, "no topic", 42));
  if (!(refused instanceof pg.DatabaseError)) {
    throw new Error("not refused");
  }
  console.log("refused:", refused.constraint);
  await attach(client, 42, Buffer.from(Array.from({ length: 256 }, (_, number) => number)));
  await remove(client, 42);
} finally {
  await client.end();
}
