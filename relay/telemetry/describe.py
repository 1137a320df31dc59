"""The tables of happenings and metrics as Markdown, for the documentation."""

from __future__ import annotations

from relay.telemetry.happenings import HAPPENINGS
from relay.telemetry.metrics import METRICS


def happenings_reference() -> str:
    """Write the Markdown table of what is logged."""
    lines = ["| Happening | Level | Message | Fields |", "|---|---|---|---|"]
    for name, happening in HAPPENINGS.items():
        if happening.level is not None:
            fields = ", ".join(f"`{field}`" for field in happening.fields)
            lines.append(f"| `{name}` | {happening.level} | {happening.text} | {fields} |")
    return "\n".join(lines)


def metrics_reference() -> str:
    """Write the Markdown table of the metrics at `/metrics`."""
    lines = ["| Metric | Kind | Labels | Meaning |", "|---|---|---|---|"]
    for name, metric in METRICS.items():
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `relay_{name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines)
