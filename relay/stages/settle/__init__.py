"""Settle: record what became of events."""
