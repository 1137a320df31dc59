"""How the relay tells what happens: stages emit happenings by name, rendered as log lines and metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Sized
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from relay.telemetry.flapping import Flapping
from relay.telemetry.happenings import HAPPENINGS, LEVELS, Happening, Level, Update
from relay.telemetry.metrics import METRICS, Metric
from relay.text import plain

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["HAPPENINGS", "METRICS", "Happening", "Logger", "Metric", "Telemetry", "Update"]

_ERRORS_PER_STATE = 8
"""So many different errors of one outage are logged; what comes then is silent, however it varies."""

MOST_SERIES = 1_000
"""Series of a metric with labels, for as long as the process lives: whoever writes events names topics."""

OTHERS = "(others)"
"""The label of what comes then."""


class Logger(Protocol):
    """What telemetry needs of a logger; structlog's bound loggers are such."""

    def log(self, level: int, event: str, /, **fields: object) -> object:
        """Write one line."""


class Telemetry:
    """Renders happenings. Each instance has its own metrics registry; without a logger nothing is logged."""

    def __init__(self, logger: Logger | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._logger = logger
        self._metrics = {name: _register(name, metric, self.registry) for name, metric in METRICS.items()}
        self._plans = {name: self._plan(happening) for name, happening in HAPPENINGS.items()}
        self._states: dict[str, str] = {}
        self._errors: dict[str, set[str]] = {}
        self._clock = clock
        self._flapping: dict[str, Flapping] = {}
        self._last_lines: dict[str, tuple[Level, str, dict[str, object]]] = {}

    def emit(self, name: str, /, **fields: object) -> None:
        """Tell that `name` happened; raise if it or its fields are not those of the table HAPPENINGS.

        Called per batch or per change, never per event.
        """
        happening = HAPPENINGS.get(name)
        if happening is None:
            raise LookupError(f"{name!r} is not in the table of happenings")
        if fields.keys() != set(happening.fields):
            raise TypeError(f"{name} has the fields {happening.fields}, not {tuple(fields)}")
        changed = worth_a_line = True
        if happening.state is not None:
            changed, worth_a_line = self._turn(*happening.state, error=fields.get("error"))
        if changed:
            for update in self._plans[name]:
                update(fields)
        if self._logger is not None and happening.level is not None:
            level: Level = happening.level if worth_a_line else "debug"
            if happening.warn_if is not None and fields[happening.warn_if]:
                level = "warning"
            shown = {key: str(v) if isinstance(v, BaseException) else v for key, v in fields.items()}
            if happening.state is not None and changed:
                level = self._steady(happening.state[0], level, happening.text, {"happening": name, **shown})
            self._logger.log(LEVELS[level], happening.text, happening=name, **shown)

    def tell_what_lasts(self) -> None:
        """Log the states that were unsteady and hold now. To be called about once a second."""
        for of, flapping in self._flapping.items():
            if flapping.unsteady and flapping.holds(self._clock()) and self._logger is not None:
                level, text, shown = self._last_lines[of]
                self._logger.log(LEVELS[level], text, **shown)

    def _steady(self, of: str, level: Level, text: str, shown: dict[str, object]) -> Level:
        """Note a change and its line; returns the level to tell it at."""
        flapping = self._flapping.setdefault(of, Flapping())
        was_unsteady = flapping.unsteady
        self._last_lines[of] = (level, text, shown)
        if flapping.changed(self._clock()):
            self.emit("state.unsteady", what=of)
        return "debug" if was_unsteady or flapping.unsteady else level

    def gauge(self, name: str, value: float) -> None:
        """Set the gauge `name` of the table METRICS (without the prefix)."""
        metric = self._metrics[name]
        if not isinstance(metric, Gauge):
            raise TypeError(f"{name} is no gauge")
        metric.set(value)

    def value(self, name: str, **labels: str) -> float | None:
        """Return what the registry says for `relay_<name>`; for tests and summaries."""
        return self.registry.get_sample_value(f"relay_{name}", labels)

    def _turn(self, of: str, state: str, *, error: object) -> tuple[bool, bool]:
        """Note how something is now; return whether that is a change, and whether it is worth a line."""
        changed = self._states.get(of) != state
        self._states[of] = state
        errors = self._errors.setdefault(of, set())
        if changed:
            errors.clear()
        text = str(error)
        new_error = error is not None and text not in errors and len(errors) < _ERRORS_PER_STATE
        if new_error:
            errors.add(text)
        return changed, changed or new_error

    def _plan(self, happening: Happening) -> list[Callable[[Mapping[str, object]], None]]:
        return [self._planned(update) for update in happening.updates]

    def _planned(self, update: Update) -> Callable[[Mapping[str, object]], None]:
        metric = self._metrics[update.metric]
        by = update.by
        seen: set[tuple[str, ...]] = set()

        def bounded(labels: tuple[str, ...]) -> tuple[str, ...]:
            if labels not in seen:
                if len(seen) >= MOST_SERIES:
                    return (OTHERS,) * len(labels)
                seen.add(labels)
            return labels

        def apply(fields: Mapping[str, object]) -> None:
            amount = _number(fields[by]) if isinstance(by, str) else by
            labelled = metric
            if update.labels:
                labelled = metric.labels(*bounded(tuple(plain(fields[label]) for label in update.labels)))
            match labelled:
                case Counter():
                    labelled.inc(amount)
                case Gauge():
                    labelled.set(amount)
                case Histogram():
                    labelled.observe(amount)

        return apply


def _register(name: str, metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    match metric.kind:
        case "counter":
            return Counter(f"relay_{name}", metric.help, metric.labels, registry=registry)
        case "gauge":
            return Gauge(f"relay_{name}", metric.help, metric.labels, registry=registry)
        case "histogram":
            return Histogram(f"relay_{name}", metric.help, metric.labels, registry=registry, buckets=metric.buckets)


def _number(value: object) -> float:
    if isinstance(value, int | float):
        return value
    if isinstance(value, Sized):
        return len(value)
    raise TypeError(f"{value!r} is no number and has no length")
