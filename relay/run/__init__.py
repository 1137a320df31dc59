"""`relay run`: the process, its tenures, and what it shows of itself over HTTP."""
