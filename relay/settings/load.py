"""From variables and files to one checked object: resolves names, reads secrets, and reports all problems together.

Precedence: a variable or, for a secret, the file that `RELAY_<GROUP>_<FIELD>_FILE` names or the command that
`RELAY_<GROUP>_<FIELD>_COMMAND` is; then the TOML file that `RELAY_CONFIG_FILE` names; then the default. An empty
variable counts as not set.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from relay.settings.command import Command
from relay.settings.secret import open_to_all, read_secret, unfit

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

PREFIX = "RELAY_"
CONFIG_FILE = "RELAY_CONFIG_FILE"

RENAMED = {"RELAY_HEALTH_MAX_LAG": "RELAY_HEALTH_MAX_STALL"}
"""Names of the release before that this one still takes, each with the name that replaced it."""

# What Kubernetes injects for a Service named relay or relay-<something>; and what the tests read.
_FOREIGN_NAME = re.compile(
    r"RELAY_(TEST_\w+|(\w+_)?SERVICE_(HOST|PORT(_\w+)?)|PORT(_\w+)?|\w+_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)
# A Service named relay-http makes Kubernetes set RELAY_HTTP_PORT to this; no setting of ours looks like it.
_FOREIGN_VALUE = re.compile(r"(tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class Variable:
    """One setting, as users know it."""

    name: str
    group: str
    attribute: str
    field: FieldInfo = field(repr=False)

    @property
    def secret(self) -> bool:
        """Return whether the value must never be shown."""
        return "SecretStr" in str(self.field.annotation)

    @property
    def required(self) -> bool:
        """Return whether the setting has no default."""
        return self.field.is_required()


@dataclass(frozen=True, slots=True)
class Given:
    """The text of a value, and where it was found."""

    text: str = field(repr=False)
    source: str
    file: str = ""
    """The file that a secret was read from."""
    command: Command | None = None
    """The command that prints the secret; `text` only stands for it."""


@dataclass(frozen=True, slots=True)
class OldName:
    """A setting that was given by a name of the release before."""

    old: str
    new: str
    place: str
    """Where, as messages have it: " in relay.toml"; empty for a variable."""

    def __str__(self) -> str:
        """The warning."""
        return (
            f"{self.old}{self.place} is the old name of {self.new} and will be refused by the next release; "
            "use the new name"
        )


@dataclass(slots=True)
class Found:
    """The values that variables and files give, before they are checked, and the problems with them."""

    values: dict[str, Given] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unknown: dict[str, str | None] = field(default_factory=dict)
    """Names that are not settings, each with the setting that was probably meant."""
    refused: set[str] = field(default_factory=set)
    """Settings of which a problem has been noted already."""
    old_names: list[OldName] = field(default_factory=list)
    unsafe: list[str] = field(default_factory=list)
    """What is not safe about the files that were read."""

    def refuse(self, name: str, problem: str) -> None:
        """Note a problem with the setting `name`."""
        self.refused.add(name)
        self.problems.append(problem)

    def note_open(self, name: str, file: str) -> None:
        """Note a file with a secret, which the variable `name` names, if every user may read it."""
        if unsafe := open_to_all(name, file):
            self.unsafe.append(unsafe)


def variables(settings: type[BaseModel]) -> dict[str, Variable]:
    """List the settings by the names of their variables, in the order they are declared."""
    found = {}
    for group, group_field in settings.model_fields.items():
        model = group_field.annotation
        assert isinstance(model, type)  # noqa: S101 each group is a model
        assert issubclass(model, BaseModel)  # noqa: S101
        for attribute, info in model.model_fields.items():
            key = info.alias or attribute
            name = f"{PREFIX}{group}_{key}".upper()
            found[name] = Variable(name=name, group=group, attribute=attribute, field=info)
    return found


def find(known: Mapping[str, Variable], env: Mapping[str, str], prefix: str = PREFIX) -> Found:
    """Collect the values that `env`, and the files it names, give to the `known` settings that begin with `prefix`.

    A name that is not a setting is noted if it, or the setting that was probably meant, begins with the prefix.
    """
    found = Found()
    wanted = {name: variable for name, variable in known.items() if name.startswith(prefix)}
    secrets = [name for name, variable in known.items() if variable.secret]
    possible = [*known, *(f"{name}_{way}" for name in secrets for way in ("FILE", "COMMAND")), CONFIG_FILE]
    given = {
        name: value
        for name, value in env.items()
        if name.upper().startswith(PREFIX)
        and not _FOREIGN_NAME.fullmatch(name)
        and not (name.endswith("_PORT") and _FOREIGN_VALUE.match(value))
    }
    config_file = given.pop(CONFIG_FILE, "")
    layers = [(given, "environment", "")]
    if config_file:
        layers.insert(0, (_read_toml(Path(config_file), found), f"file {config_file}", f" in {config_file}"))
    for layer, source, place in layers:
        _rename(found, layer, place, prefix)
        for name in sorted(layer.keys() - set(possible)):
            meant = next(iter(difflib.get_close_matches(name.upper(), possible, n=1, cutoff=0.7)), None)
            if name.upper().startswith(prefix) or (meant or "").startswith((prefix, CONFIG_FILE)):
                found.unknown[name + place] = meant
        _take(found, wanted, layer, source, place)
    if any(wanted[name].secret and given.source == f"file {config_file}" for name, given in found.values.items()):
        found.note_open(CONFIG_FILE, config_file)
    return found


def _rename(found: Found, layer: dict[str, str], place: str, prefix: str) -> None:
    """Give what one source has under an old name its new name. Refuse two names with different values."""
    for old, new in RENAMED.items():
        text = layer.pop(old, "")
        if not text or not new.startswith(prefix):
            continue
        found.old_names.append(OldName(old, new, place))
        if _differ(text, layer.get(new) or text):
            found.refuse(new, f"{new} is {layer[new]!r} and its old name {old}{place} is {text!r}; remove {old}")
        layer[new] = layer.get(new) or text


def _differ(one: str, other: str) -> bool:
    try:
        return float(one) != float(other)
    except ValueError:
        return one != other


def _take(found: Found, wanted: Mapping[str, Variable], given: Mapping[str, str], source: str, place: str) -> None:
    """Take the `given` values of one source; they win over those that were found before."""
    for name, variable in wanted.items():
        ways = [name, f"{name}_FILE", f"{name}_COMMAND"] if variable.secret else [name]
        used = [way for way in ways if given.get(way)]
        if len(used) > 1:
            both = "both" if len(used) == 2 else "all"
            found.refuse(name, f"{' and '.join(used)} are {both} set{place}; keep one of them")
        elif used and (problem := unfit(given[used[0]])):
            found.refuse(name, f"{used[0]}{place} {problem}")
        elif used == [name]:
            found.values[name] = Given(given[name], source)
        elif used and used[0].endswith("_FILE"):
            _take_file(found, name, given[used[0]])
        elif used:
            _take_command(found, name, given[used[0]], source)


def _take_file(found: Found, name: str, file: str) -> None:
    try:
        secret = read_secret(file)
    except (OSError, UnicodeDecodeError) as error:
        found.refuse(
            name,
            f"{name}_FILE names {file}, which cannot be read ({_reason(error)}); correct the path or the file",
        )
    except ValueError as error:
        found.refuse(name, f"{name}_FILE names {file}, which {error}")
    else:
        found.values[name] = Given(secret, f"file {file}", file)
        found.note_open(f"{name}_FILE", file)


def _take_command(found: Found, name: str, line: str, source: str) -> None:
    """Take a command without running it: commands that need another setting must not wait for it."""
    try:
        command = Command(line)
    except ValueError as error:
        found.refuse(name, f"{name}_COMMAND {error}")
    else:
        stands_for_it = "postgresql://" if name.endswith("_DSN") else "(from a command)"
        where = "command" if source == "environment" else f"command in {source}"
        found.values[name] = Given(stands_for_it, where, command=command)


def _read_toml(path: Path, found: Found) -> dict[str, str]:
    """Read `[group]` tables as if each key were a variable."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        found.problems.append(
            f"{CONFIG_FILE} names {path}, which cannot be read ({_reason(error)}); correct the path or the file"
        )
        return {}
    except tomllib.TOMLDecodeError as error:
        # The parser's message has a position and at most a key of the file, so no secret.
        found.problems.append(f"{CONFIG_FILE} names {path}, which is not TOML: {error}; correct the file")
        return {}
    return dict(_flatten(tables))


def _flatten(tables: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for group, table in tables.items():
        if not isinstance(table, Mapping):
            yield f"{PREFIX}{group}".upper(), _text(table)
            continue
        for key, value in table.items():
            yield f"{PREFIX}{group}_{key}".upper(), _text(value)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else "it is not UTF-8 text"


def unknown_problems(unknown: Mapping[str, str | None]) -> list[str]:
    """Return a problem for each name that is not a setting."""
    return [
        f"{name} is not a setting; did you mean {meant}?"
        if meant
        else f"{name} is not a setting; remove it, or list all settings with: relay config --reference"
        for name, meant in unknown.items()
    ]


def problems_of(error: ErrorDetails, known: Mapping[str, Variable], found: Found) -> list[str]:
    """Return what pydantic found, in our words and without the value of a secret."""
    location = "_".join(str(part) for part in error["loc"][:2])
    variable = known.get(f"{PREFIX}{location}".upper())
    cause = error.get("ctx", {}).get("error")
    if variable is None:
        return str(cause or error["msg"]).splitlines()
    if variable.name in found.refused:
        return []
    if error["type"] == "missing":
        example = f" to {variable.field.examples[0]}" if variable.field.examples else ""
        file = f", or {variable.name}_FILE to a file that holds it" if variable.secret else ""
        return [f"{variable.name} is not set; set it{example}{file}"]
    given = found.values.get(variable.name)
    source = f" (from {given.source})" if given and given.source.startswith("file ") else ""
    if cause is not None:
        return [f"{variable.name}{source} {cause}"]
    shown = f" is {given.text!r}{source} but" if given and not variable.secret else source
    message = error["msg"]
    return [f"{variable.name}{shown} {message[0].lower()}{message[1:]}".replace(" input should", " should")]
