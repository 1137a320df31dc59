"""Asks Kafka what a producer had published: fences it, and reads what it left at the end of its partitions.

aiokafka's producers and consumers are not used for it. A producer asks for a missing coordinator for ever, and a
consumer reads every record, at a quarter of the speed. So requests go to the brokers as they are, through the client
that both stand on.
"""
