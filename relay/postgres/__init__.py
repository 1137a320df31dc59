"""The adapter to PostgreSQL: the only place that knows asyncpg and the text of statements."""
