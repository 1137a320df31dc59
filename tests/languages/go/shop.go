// What a service in Go does with the outbox: github.com/jackc/pgx, which finds the server by PGHOST and its like.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func place(ctx context.Context, connection *pgx.Conn, orderID int64) error {
	return pgx.BeginFunc(ctx, connection, func(tx pgx.Tx) error {
		// The change comes first: its row lock gives this order's events their order.
		if _, err := tx.Exec(ctx, "INSERT INTO orders VALUES ($1, 'placed')", orderID); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "SELECT outbox.enqueue($1, $2, $3::jsonb, $4, $5)",
			"orders", strconv.FormatInt(orderID, 10),
			map[string]any{"order": orderID, "note": "grün €😀"},
			map[string]string{"source": "shop"}, "order.placed")
		return err
	})
}

func attach(ctx context.Context, connection *pgx.Conn, orderID int64, document []byte) error {
	return pgx.BeginFunc(ctx, connection, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE orders SET state = 'documented' WHERE id = $1", orderID); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO outbox.event (topic, key, payload, type) VALUES ($1, $2, $3, $4)",
			"orders", []byte(strconv.FormatInt(orderID, 10)), document, "order.documented")
		return err
	})
}

func remove(ctx context.Context, connection *pgx.Conn, orderID int64) error {
	return pgx.BeginFunc(ctx, connection, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "DELETE FROM orders WHERE id = $1", orderID); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "SELECT outbox.enqueue($1, $2, NULL::text, type => $3)",
			"orders", strconv.FormatInt(orderID, 10), "order.removed")
		return err
	})
}

var errChangedMind = errors.New("the customer has changed their mind")

func payAndThinkBetter(ctx context.Context, connection *pgx.Conn, orderID int64) error {
	return pgx.BeginFunc(ctx, connection, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE orders SET state = 'paid' WHERE id = $1", orderID); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "SELECT outbox.enqueue($1, $2, 'paid')", "orders", strconv.FormatInt(orderID, 10)); err != nil {
			return err
		}
		return errChangedMind
	})
}

func payOnNoTopic(ctx context.Context, connection *pgx.Conn, orderID int64) error {
	return pgx.BeginFunc(ctx, connection, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "UPDATE orders SET state = 'paid' WHERE id = $1", orderID); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "SELECT outbox.enqueue('no topic', $1, 'paid')", strconv.FormatInt(orderID, 10))
		return err
	})
}

func main() {
	ctx := context.Background()
	connection, err := pgx.Connect(ctx, "")
	check(err)
	defer connection.Close(ctx)

	document := make([]byte, 256)
	for number := range document {
		document[number] = byte(number)
	}
	check(place(ctx, connection, 42))
	if err := payAndThinkBetter(ctx, connection, 42); !errors.Is(err, errChangedMind) {
		log.Fatalf("not rolled back: %v", err)
	}
	var refused *pgconn.PgError
	if err := payOnNoTopic(ctx, connection, 42); !errors.As(err, &refused) {
		log.Fatalf("not refused: %v", err)
	}
	fmt.Println("refused:", refused.ConstraintName)
	check(attach(ctx, connection, 42, document))
	check(remove(ctx, connection, 42))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
