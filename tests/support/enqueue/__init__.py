"""The clients of PostgreSQL that the library for writers knows, in one form for its contract."""
