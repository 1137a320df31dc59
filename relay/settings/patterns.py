"""Values that name topics, or headers, by shell-style patterns such as `orders.*`: lists, and pairs `pattern=value`."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import cast, get_args

from pydantic import AfterValidator

from relay.decide.failing import ERRORS, Policy, Rule
from relay.decide.topic_rates import Rate
from relay.names import TOPIC_CHARACTERS

LOWEST_EVENTS = 1.0
LOWEST_BYTES = 10_000.0
"""Events and bytes per second: with less, a large event would look like a replica in which nothing moves."""

_UNITS = {
    "B": 1,
    **{f"{prefix}B": 1_000**power for power, prefix in enumerate("KMG", 1)},
    **{f"{prefix}IB": 1_024**power for power, prefix in enumerate("KMG", 1)},
}


def split(patterns: str) -> tuple[str, ...]:
    """The patterns of a list."""
    return tuple(each.strip() for each in patterns.split(",") if each.strip())


def by_pattern(pairs: str) -> dict[str, str]:
    """The values of pairs, by pattern in their order."""
    return {pattern.strip(): value.strip() for pattern, _, value in (pair.partition("=") for pair in split(pairs))}


def topics(value: str) -> str:
    """Return the patterns unchanged; raise ValueError for one that can match no topic."""
    if value and not split(value):
        raise ValueError("has no pattern; write patterns like orders,billing.*")
    for pattern in split(value):
        if re.search(rf"[^*?\[\]!{TOPIC_CHARACTERS}]", pattern):
            raise ValueError(f"contains {pattern!r}, which no topic can match; write patterns like orders,billing.*")
    return value


def policies(value: str) -> str:
    """Return the pairs unchanged; raise ValueError if they are not `pattern=policy` or `pattern:error=policy`."""
    rules(value)
    return value


@lru_cache(maxsize=8)
def rules(value: str) -> list[Rule]:
    """Return the rules, in their order. Raises ValueError."""
    found = []
    for pair in split(value):
        which, separator, policy = (part.strip() for part in pair.partition("="))
        topic, colon, error = (part.strip() for part in which.partition(":"))
        if not topic or not separator or policy not in get_args(Policy) or (colon and not error):
            raise ValueError(
                f"contains {pair!r}; write pairs like audit.*=skip,orders=dead-letter (or =block), and "
                "orders:EventTooLarge=dead-letter for one error"
            )
        if colon and not any(fnmatchcase(name, error) for name in ERRORS):
            raise ValueError(f"contains {pair!r}, and no event fails for {error!r}; errors are {', '.join(ERRORS)}")
        topics(topic)
        found.append(Rule(topic, error if colon else None, cast("Policy", policy)))
    return found


def limits(value: str) -> str:
    """Return the pairs unchanged; raise ValueError if they are not `pattern=rate,...`."""
    rates(value)
    return value


def rates(value: str) -> list[tuple[str, Rate]]:
    """Return the pairs (pattern, rate), in their order. Raises ValueError."""
    found = []
    for pair in split(value):
        pattern, _, rate = (part.strip() for part in pair.partition("="))
        match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([kKMG]i?B|B)?/s", rate)
        if not pattern or not match:
            raise ValueError(
                f"contains {pair!r}; write pairs like orders=500/s,audit.*=2MB/s: events a second, or kB, MB, KiB, MiB"
            )
        topics(pattern)
        if match[2]:
            limit, lowest = Rate(bytes=float(match[1]) * _UNITS[match[2].upper()]), Rate(bytes=LOWEST_BYTES)
        else:
            limit, lowest = Rate(events=float(match[1])), Rate(events=LOWEST_EVENTS)
        if max(limit) < max(lowest):
            raise ValueError(f"contains {pair!r}; the lowest rate is {lowest}, `relay topics pause` stops a topic")
        found.append((pattern, limit))
    return found


def attributes(example: str) -> AfterValidator:
    """A check that a value is pairs of topics and of what an attribute of CloudEvents may be."""

    def check(value: str) -> str:
        for pair in split(value):
            pattern, _, attribute = (part.strip() for part in pair.partition("="))
            if not pattern or not attribute or re.search(r"[^!-~]|[<>{}|\\^`]", attribute):
                raise ValueError(f"contains {pair!r}; write pairs like {example}, and a comma in a value as %2C")
            topics(pattern)
        return value

    return AfterValidator(check)


def extensions(value: str) -> str:
    """Return the patterns unchanged; raise ValueError for one that no name of an extension can match."""
    for pattern in split(value):
        if re.search(r"[^*?a-z0-9]", re.sub(r"\[.+?\]", "", pattern)):
            raise ValueError(
                f"contains {pattern!r}; names of extensions have lower-case letters and digits alone: tenant,trace*"
            )
    return value
