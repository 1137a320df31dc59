"""What is in Kafka, and changes to it."""
