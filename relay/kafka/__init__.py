"""The Kafka adapter: aiokafka's producer behind the publish stage's ports."""
