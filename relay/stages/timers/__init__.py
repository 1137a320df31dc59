"""Timers: events that are to come enter the outbox when they are due."""
