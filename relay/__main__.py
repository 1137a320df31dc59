"""The program `relay`, also as `python -m relay`.

It imports almost nothing, so that `relay run` hears a signal as soon as possible: as process 1 of a container, a signal
that nobody handles is ignored, and whoever stops the container waits for nothing until it is killed. On a fifth of a
core, importing the commands takes some 0.2 s, and what `relay run` needs 2 s.
"""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["run"]:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
    try:
        from relay.cli import main as program
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "relay":
            raise
        sys.stderr.write(
            f"relay: the package {error.name} is not installed; the library alone (pip install --no-deps) has no "
            "commands: `pip install outbox-relay` adds what they need\n"
        )
        raise SystemExit(2) from None

    program(prog_name="relay")


def _end(*_: object) -> None:
    """End well: until the service listens to signals itself, nothing is held yet."""
    raise SystemExit(0)


if __name__ == "__main__":
    main()
