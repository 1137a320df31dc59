"""Which names Kafka takes for a topic, and which we take for a schema: each rule once."""

from __future__ import annotations

import re

LONGEST_TOPIC = 249
"""Maximum number of characters of a topic's name, by Kafka's rule."""

TOPIC_CHARACTERS = "a-zA-Z0-9._-"
"""The characters of a topic's name, as they stand in a class of a regular expression; put others before them."""

_TOPIC = re.compile(rf"[{TOPIC_CHARACTERS}]{{1,{LONGEST_TOPIC}}}")
_TOPIC_PATTERN = re.compile(rf"[*{TOPIC_CHARACTERS}]{{1,{LONGEST_TOPIC}}}")
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def is_topic(name: str) -> bool:
    """Whether Kafka takes it for a topic's name. The schema has this rule, too, for writers without our library."""
    return _TOPIC.fullmatch(name) is not None and name not in (".", "..")


def is_topic_pattern(text: str) -> bool:
    """Whether it is a topic's name in which `*` may stand for any characters."""
    return _TOPIC_PATTERN.fullmatch(text) is not None


def is_schema(name: str) -> bool:
    """Whether it names a schema that never needs quoting, and that PostgreSQL does not keep for itself."""
    return _SCHEMA.fullmatch(name) is not None and not name.startswith("pg_")
