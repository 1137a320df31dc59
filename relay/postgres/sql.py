"""Finds the SQL text: migrations, named queries and the roles script, all of it in the `sql` folder.

The text is valid as it stands for a schema named `outbox`; for another schema the name is written in its
place, at the spots `_SCHEMA_NAME` matches and nowhere else. A schema's name is restricted so that it never
needs quoting.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from relay.errors import SettingsError
from relay.names import is_schema

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

DEFAULT_SCHEMA = "outbox"

# `outbox.event`, `SCHEMA outbox`, `'outbox'` and the roles `outbox_writer`, `outbox_relay`, `outbox_admin`.
_SCHEMA_NAME = re.compile(
    r"\boutbox(?=\.)|(?<=SCHEMA )outbox\b|(?<=')outbox(?=')|\boutbox(?=_(?:writer|relay|admin)\b)"
)
_QUERY_NAME = re.compile(r"^-- name: ([a-z0-9_]+)[ \t]*$", re.MULTILINE)
_MIGRATION_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_COMPATIBLE_FROM = re.compile(r"^-- Runs with programs from version (\d+)\.$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema. `checksum` is of the text as shipped, whatever the schema's name."""

    version: int
    name: str
    sql: str
    checksum: str

    @property
    def compatible_from(self) -> int:
        """The lowest version whose programs can work on the schema after this step; its own if it names none."""
        found = _COMPATIBLE_FROM.search(self.sql)
        return int(found[1]) if found else self.version


def check_schema_name(schema: str) -> str:
    """Return `schema` if it can be used without quoting; raise SettingsError otherwise."""
    if not is_schema(schema):
        raise SettingsError(
            f"{schema!r} is not a valid schema name; RELAY_POSTGRES_SCHEMA takes 1 to 63 lower-case letters, "
            "digits and underscores, beginning with a letter or an underscore, and not with pg_"
        )
    return schema


@cache
def migrations(schema: str = DEFAULT_SCHEMA) -> tuple[Migration, ...]:
    """All migrations this program knows, in order, written for `schema`."""
    found = []
    for file in _folder("migrations").iterdir():
        if match := _MIGRATION_FILE.fullmatch(file.name):
            text = _read(file)
            checksum = hashlib.sha256(text.encode()).hexdigest()
            found.append(Migration(int(match[1]), match[2], _written_for(schema, _harmless(text)), checksum))
    return tuple(sorted(found, key=lambda migration: migration.version))


@cache
def query(name: str, schema: str = DEFAULT_SCHEMA) -> str:
    """The statement called `name` in `sql/queries`, written for `schema`.

    Raises KeyError for a name that is not there: names are constants of the program.
    """
    return _written_for(schema, _queries()[name])


@cache
def roles(schema: str = DEFAULT_SCHEMA) -> str:
    """The script that makes the roles and their privileges, written for `schema`."""
    return _written_for(schema, _read(_root() / "roles.sql"))


@cache
def _queries() -> dict[str, str]:
    found: dict[str, str] = {}
    for file in _folder("queries").iterdir():
        if not file.name.endswith(".sql"):
            continue
        # Text before the first name is the file's own comment.
        _, *parts = _QUERY_NAME.split(_read(file))
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            if name in found:
                raise ValueError(f"sql/queries/{file.name}: there are two queries called {name}")
            found[name] = text.strip()
    return found


def _written_for(schema: str, text: str) -> str:
    if check_schema_name(schema) == DEFAULT_SCHEMA:
        return text
    return _SCHEMA_NAME.sub(schema, text)


def _harmless(text: str) -> str:
    """A migration without the statement that anybody could hold up.

    0001 makes the first segment under an advisory lock, which takes no privilege. 0008 does that instead.
    """
    return text.replace("\nSELECT outbox.add_segment(1, 5000001);\n", "\n")


def _folder(name: str) -> Traversable:
    return _root() / name


@cache
def _root() -> Traversable:
    """The `sql` folder: inside the package in a wheel, beside it in a checkout or an editable install."""
    packaged = files("relay") / "_sql"
    if packaged.is_dir():
        return packaged
    return Path(__file__).resolve().parents[2] / "sql"


def _read(file: Traversable) -> str:
    # A checkout on Windows may have other line ends; the checksum is of the lines.
    return file.read_text(encoding="utf-8").replace("\r\n", "\n")
