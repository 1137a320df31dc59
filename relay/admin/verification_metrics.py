"""What a comparison found, as metrics in a file: for the textfile collector of Prometheus' node exporter.

The command is no service that could be scraped, and no replica may speak for it. A file has the time of the last
comparison, so that one that does not run any more is noticed.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from relay.decide.verify.findings import KINDS, NOTES
from relay.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from relay.admin.verification import Verified

_HELP = {
    "relay_verify_records": "Records that the last comparison looked at.",
    "relay_verify_findings": "What the last comparison found that is not as it should be, by kind.",
    "relay_verify_notes": "What the last comparison counted besides, by kind.",
    "relay_verify_seconds": "Seconds that the last comparison took.",
    "relay_verify_last_run_timestamp_seconds": "When the last comparison ended, in seconds since 1970.",
}


def metrics_of(verified: Sequence[Verified], now: float) -> str:
    """Write metrics in Prometheus' text format."""
    samples: dict[str, list[str]] = {name: [] for name in _HELP}
    for each in verified:
        topic = f'topic="{each.topic}"'
        samples["relay_verify_records"].append(f"{{{topic}}} {each.records}")
        for kind in KINDS:
            samples["relay_verify_findings"].append(f'{{{topic},kind="{kind}"}} {each.found.counts[kind]}')
        for note in NOTES:
            samples["relay_verify_notes"].append(f'{{{topic},kind="{note}"}} {each.found.counts[note]}')
        samples["relay_verify_seconds"].append(f"{{{topic}}} {each.seconds:.3f}")
        samples["relay_verify_last_run_timestamp_seconds"].append(f"{{{topic}}} {now:.3f}")
    lines = []
    for name, help_ in _HELP.items():
        lines += [f"# HELP {name} {help_}", f"# TYPE {name} gauge", *(f"{name}{sample}" for sample in samples[name])]
    return "\n".join(lines) + "\n"


def write_metrics(path: Path, verified: Sequence[Verified]) -> None:
    """Put the metrics in place of the file, as a whole. Raises RefusedError if it cannot be written."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(metrics_of(verified, time.time()))
            # The collector runs as another user.
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RefusedError(f"the metrics cannot be written to {path}: {error.strerror}; correct --metrics") from error
