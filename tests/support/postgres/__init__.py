"""Databases with an outbox, and those who write to it."""
