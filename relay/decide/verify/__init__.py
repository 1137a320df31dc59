"""What a look at a topic finds, judged against the outbox: pure, and with a bound on what it remembers.

ids     sets of ids, in bits
order   whether the first records of a key's events are in order
places  where receipts say that events are
findings  what is worth telling, counted, with examples
examine  a record against its event and receipt, and an event that was not found
"""
