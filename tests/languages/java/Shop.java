import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.SQLException;
import java.util.Properties;
import org.postgresql.util.PSQLException;

/** What a service in Java does with the outbox: JDBC, with the driver org.postgresql:postgresql. */
public class Shop {
    static void place(Connection connection, long orderId) throws SQLException {
        connection.setAutoCommit(false);
        try (PreparedStatement change = connection.prepareStatement("INSERT INTO orders VALUES (?, 'placed')");
                PreparedStatement event =
                        connection.prepareStatement("SELECT outbox.enqueue(?, ?, ?::jsonb, ?::jsonb, ?)")) {
            // The change comes first: its row lock gives this order's events their order.
            change.setLong(1, orderId);
            change.executeUpdate();
            event.setString(1, "orders");
            event.setString(2, String.valueOf(orderId));
            event.setString(3, "{\"order\": " + orderId + ", \"note\": \"grün €😀\"}");
            event.setString(4, "{\"source\": \"shop\"}");
            event.setString(5, "order.placed");
            event.execute();
            connection.commit();
        } catch (SQLException error) {
            connection.rollback();
            throw error;
        }
    }

    static void attach(Connection connection, long orderId, byte[] document) throws SQLException {
        connection.setAutoCommit(false);
        try (PreparedStatement change =
                        connection.prepareStatement("UPDATE orders SET state = 'documented' WHERE id = ?");
                PreparedStatement event =
                        connection.prepareStatement(
                                "INSERT INTO outbox.event (topic, key, payload, type) VALUES (?, ?, ?, ?)")) {
            change.setLong(1, orderId);
            change.executeUpdate();
            event.setString(1, "orders");
            event.setBytes(2, String.valueOf(orderId).getBytes(java.nio.charset.StandardCharsets.UTF_8));
            event.setBytes(3, document);
            event.setString(4, "order.documented");
            event.executeUpdate();
            connection.commit();
        } catch (SQLException error) {
            connection.rollback();
            throw error;
        }
    }

    static void remove(Connection connection, long orderId) throws SQLException {
        connection.setAutoCommit(false);
        try (PreparedStatement change = connection.prepareStatement("DELETE FROM orders WHERE id = ?");
                PreparedStatement event =
                        connection.prepareStatement("SELECT outbox.enqueue(?, ?, NULL::text, type => ?)")) {
            change.setLong(1, orderId);
            change.executeUpdate();
            event.setString(1, "orders");
            event.setString(2, String.valueOf(orderId));
            event.setString(3, "order.removed");
            event.execute();
            connection.commit();
        } catch (SQLException error) {
            connection.rollback();
            throw error;
        }
    }

    static void pay(Connection connection, String topic, long orderId) throws SQLException {
        connection.setAutoCommit(false);
        try (PreparedStatement change = connection.prepareStatement("UPDATE orders SET state = 'paid' WHERE id = ?");
                PreparedStatement event = connection.prepareStatement("SELECT outbox.enqueue(?, ?, 'paid')")) {
            change.setLong(1, orderId);
            change.executeUpdate();
            event.setString(1, topic);
            event.setString(2, String.valueOf(orderId));
            event.execute();
        }
    }

    public static void main(String[] arguments) throws SQLException {
        String url = "jdbc:postgresql://" + env("PGHOST") + ":" + env("PGPORT") + "/" + env("PGDATABASE");
        Properties login = new Properties();
        login.setProperty("user", env("PGUSER"));
        if (env("PGPASSWORD") != null) {
            login.setProperty("password", env("PGPASSWORD"));
        }
        byte[] document = new byte[256];
        for (int number = 0; number < document.length; number++) {
            document[number] = (byte) number;
        }
        try (Connection connection = DriverManager.getConnection(url, login)) {
            place(connection, 42);
            pay(connection, "orders", 42);
            connection.rollback();
            try {
                pay(connection, "no topic", 42);
                throw new IllegalStateException("not refused");
            } catch (PSQLException refused) {
                System.out.println("refused: " + refused.getServerErrorMessage().getConstraint());
                connection.rollback();
            }
            attach(connection, 42, document);
            remove(connection, 42);
        }
    }

    private static String env(String name) {
        return System.getenv(name);
    }
}
