"""Claim: which lanes this replica owns, and for how long."""
