"""`relay demo`: an order service, the relay and a checking consumer on real servers, watched live.

Four processes as in real life: the order service (`orders`), the relay (`relay run`, as users start it), the consumer
(`consumer`), and the one that starts them, watches (`run`), checks what arrived (`check`) and shows it (`display`).
"""
