"""What people ask of an outbox: previews, marks, replays, lanes, and what its state means.

Nothing here knows a terminal: the command line is a face of this package, and others can be.

connection   opens an outbox
failures     lists failures; previews and marks replays and discards of them; follows a replay
events       everything about one event
actions      what people asked for, in words
refusals     why an event can be neither replayed nor discarded
selections   which failures are meant
replays      previews, records, follows and cancels replays of delivered events
lanes        moves and releases lanes
verification, late_events  compare a topic with the outbox
verification_sample, verification_metrics  a quick look, and what it found for Prometheus
erasures     erases payloads and headers
exports      events as lines; ahead reads the next part meanwhile
findings     what a person should look at first
times, counts  how lengths of time, moments and numbers are written and read
"""
