"""Housekeeping: what is not urgent. Segments, what is over, and a look for events that were passed."""
