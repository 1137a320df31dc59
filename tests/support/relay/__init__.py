"""Relays, as processes or in this one."""
