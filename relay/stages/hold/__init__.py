"""Hold: what may not be published yet, and when it may be."""
