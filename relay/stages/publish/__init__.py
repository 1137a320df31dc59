"""Publish: queues per topic and partition, and the producers that empty them."""
