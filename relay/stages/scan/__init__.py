"""Scan: read the next pending events of the owned lanes, the long way round where it must be."""
