"""What tests are made of: servers, relays, outboxes, models."""
