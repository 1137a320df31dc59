"""How the relay tells what happens: stages emit happenings by name, rendered as log lines and metrics.

Three kinds of readers hear of a happening, and its emitter knows none of them:

* people, by a log line, and monitoring, by metrics: what is written stands in the table HAPPENINGS;
* listeners, by `telemetry.listen("kafka.lost", callback)`, or for all happenings of a prefix by
  `telemetry.listen("kafka.", callback)`. Readiness is one (relay/run/health.py), the totals that a replica shows of
  itself another (relay/stages/claim/totals.py). Spans of traces hang on the same hook.

A listener hears each emission, also one that repeats a state and writes no line. It is called inside `emit`, in the
order of `listen`, before anything is written: it must be quick, must not block, and must not raise. A happening that
nobody listens to costs nothing for it: listeners are found with the happening, in one look-up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias, assert_never

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics

from relay.telemetry.flapping import Flapping
from relay.telemetry.happenings import HAPPENINGS, LEVELS, Happening, Level, Update
from relay.telemetry.metrics import METRICS, Metric
from relay.telemetry.series import MOST_SERIES, OTHERS, Series

__all__ = [
    "HAPPENINGS",
    "METRICS",
    "MOST_SERIES",
    "OTHERS",
    "Happening",
    "Listener",
    "Logger",
    "Metric",
    "Telemetry",
    "Told",
    "Update",
]

_ERRORS_PER_STATE = 8
"""Maximum number of different errors of one outage that are logged; further ones are not logged."""


class Logger(Protocol):
    """The logger that telemetry needs; structlog's bound loggers fit."""

    def log(self, level: int, event: str, /, **fields: object) -> object:
        """Write one line."""


class Told(NamedTuple):
    """One emission, as a listener hears of it."""

    happening: str
    """The happening's name in the table HAPPENINGS."""
    at: float
    """The time of the emission: monotonic seconds, by the telemetry's clock."""
    fields: Mapping[str, object]


Listener: TypeAlias = Callable[[Told], None]


@dataclass(slots=True)
class _Plan:
    """The work to do when a happening is emitted."""

    happening: Happening
    fields: frozenset[str]
    updates: list[Callable[[Mapping[str, object]], None]]
    listeners: list[Listener] = field(default_factory=list)


class Telemetry:
    """Renders happenings. Each instance has its own metrics registry; without a logger nothing is logged."""

    def __init__(self, logger: Logger | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        # A second series for each counter and histogram, which no dashboard asks for. Holds for the whole process.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        ProcessCollector(registry=self.registry)
        self._logger = logger
        self._metrics = {name: _register(name, metric, self.registry) for name, metric in METRICS.items()}
        self._series = Series(
            (METRICS[name].labels, metric)
            for name, metric in self._metrics.items()
            if isinstance(metric, (Counter, Gauge)) and METRICS[name].labels
        )
        self._plans = {name: self._plan(happening) for name, happening in HAPPENINGS.items()}
        self._gauged: dict[str, set[str]] = {}
        self._states: dict[str, str] = {}
        self._errors: dict[str, set[str]] = {}
        self._clock = clock
        self._flapping: dict[str, Flapping] = {}
        self._last_lines: dict[str, tuple[Level, str, dict[str, object]]] = {}

    def emit(self, name: str, /, **fields: object) -> None:
        """Tell that `name` happened; raise if it or its fields are not those of the table HAPPENINGS.

        Called per batch or per change, never per event.
        """
        plan = self._plans.get(name)
        if plan is None:
            raise LookupError(f"{name!r} is not in the table of happenings")
        happening = plan.happening
        if fields.keys() != plan.fields:
            raise TypeError(f"{name} has the fields {happening.fields}, not {tuple(fields)}")
        if plan.listeners:
            told = Told(name, self._clock(), fields)
            for listener in plan.listeners:
                listener(told)
        changed = worth_a_line = True
        if happening.state is not None:
            of, state = happening.state
            if "error" not in fields and self._states.get(of) == state:
                # Emitted with each batch: there is nothing to write, and it must cost nothing.
                return
            changed, worth_a_line = self._turn(of, state, error=fields.get("error"))
        if changed:
            for update in plan.updates:
                update(fields)
        if self._logger is not None and happening.level is not None:
            self._log(name, happening, happening.level if worth_a_line else "debug", fields, is_change=changed)

    def listen(self, name: str, listener: Listener) -> None:
        """Have `listener` hear each emission of the happening `name`, or of all whose names begin with it: "kafka."."""
        is_prefix = name.endswith(".")
        plans = [plan for each, plan in self._plans.items() if each == name or (is_prefix and each.startswith(name))]
        if not plans:
            raise LookupError(f"{name!r} is neither in the table of happenings nor a prefix of names in it")
        for plan in plans:
            plan.listeners.append(listener)

    def tell_what_lasts(self) -> None:
        """Log the states that were unsteady and now hold. To be called about once a second."""
        for of, flapping in self._flapping.items():
            if flapping.unsteady and flapping.holds(self._clock()) and self._logger is not None:
                level, text, shown = self._last_lines[of]
                self._logger.log(LEVELS[level], text, **shown)

    def _log(
        self, name: str, happening: Happening, level: Level, fields: Mapping[str, object], *, is_change: bool
    ) -> None:
        if happening.warn_if is not None and fields[happening.warn_if]:
            level = "warning"
        shown = {key: str(v) if isinstance(v, BaseException) else v for key, v in fields.items()}
        if happening.state is not None and is_change:
            level = self._steady(happening.state[0], level, happening.text, {"happening": name, **shown})
        if self._logger is not None:
            self._logger.log(LEVELS[level], happening.text, happening=name, **shown)

    def _steady(self, of: str, level: Level, text: str, shown: dict[str, object]) -> Level:
        """Note a change and its line; return the level at which to log the line."""
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
            raise TypeError(f"{name} is not a gauge")
        metric.set(value)

    def gauges(self, name: str, label: str, values: Mapping[str, float]) -> None:
        """Set the gauge `name` for each of these values of its only label, and to 0 for those that it had before."""
        metric = self._metrics[name]
        if not isinstance(metric, Gauge):
            raise TypeError(f"{name} is not a gauge")
        shown: dict[str, float] = dict.fromkeys(self._gauged.setdefault(name, set()), 0.0)
        for value, number in values.items():
            (series,) = self._series.of((label,), (value,))
            shown[series] = shown.get(series, 0.0) + number
        for series, number in shown.items():
            metric.labels(series).set(number)
        self._gauged[name].update(shown)

    def expect(self, label: str, value: str) -> None:
        """Have the counters and gauges by this label show this value, at 0, before there is anything to tell."""
        self._series.of((label,), (value,))

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of `relay_<name>` with these labels, None if it has none; for tests and summaries."""
        return self.registry.get_sample_value(f"relay_{name}", labels)

    def _turn(self, of: str, state: str, *, error: object) -> tuple[bool, bool]:
        """Note the state of a thing; return whether the state changed, and whether the emission is worth a line."""
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

    def _plan(self, happening: Happening) -> _Plan:
        return _Plan(happening, frozenset(happening.fields), [self._planned(update) for update in happening.updates])

    def _planned(self, update: Update) -> Callable[[Mapping[str, object]], None]:
        """Return what carries out an update. It runs with each batch, so all that can be looked up before is."""
        metric = self._metrics[update.metric]
        by, names = update.by, update.labels
        if not names:
            change = _changer(metric)
            if isinstance(by, str):
                return lambda fields: change(_number(fields[by]))
            return lambda _: change(by)
        known: dict[tuple[object, ...], Callable[[float], None]] = {}

        def apply(fields: Mapping[str, object]) -> None:
            labels = tuple([fields[name] for name in names])
            change = known.get(labels)
            if change is None:
                shown = self._series.of(names, labels)
                change = _changer(metric.labels(*shown))
                if OTHERS not in shown:
                    known[labels] = change
            change(_number(fields[by]) if isinstance(by, str) else by)

        return apply


def _register(name: str, metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    match metric.kind:
        case "counter":
            return Counter(f"relay_{name}", metric.help, metric.labels, registry=registry)
        case "gauge":
            return Gauge(f"relay_{name}", metric.help, metric.labels, registry=registry)
        case "histogram":
            return Histogram(f"relay_{name}", metric.help, metric.labels, registry=registry, buckets=metric.buckets)


def _changer(metric: Counter | Gauge | Histogram) -> Callable[[float], None]:
    """Return the method that changes a metric of this kind."""
    match metric:
        case Counter():
            return metric.inc
        case Gauge():
            return metric.set
        case Histogram():
            return metric.observe
        case _ as never:
            assert_never(never)


def _number(value: object) -> float:
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, Sized):
        return len(value)
    raise TypeError(f"{value!r} is neither a number nor has a length")
