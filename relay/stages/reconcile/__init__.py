"""Reconcile: what a replica that ended without handing over had published is found in Kafka, not published again."""
