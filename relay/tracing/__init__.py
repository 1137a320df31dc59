"""Spans of OpenTelemetry. The only room that imports it; `relay run` imports this room where tracing is on."""
