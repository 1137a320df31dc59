"""The settings as text: what applies now, and the page on all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr

from relay.settings import Settings
from relay.settings.checks import LEASE_MARGIN, MASK, mask_dsn
from relay.settings.load import CONFIG_FILE, Variable, variables


@dataclass(frozen=True, slots=True)
class Row:
    """One setting as it applies. The value contains no secret; None means not set."""

    name: str
    value: str | int | float | bool | None
    source: str


def effective(settings: Settings, sources: dict[str, str]) -> list[Row]:
    """List the settings that apply, in the order of the groups."""
    return [
        Row(
            name,
            _shown(variable, getattr(getattr(settings, variable.group), variable.attribute)),
            sources[name],
        )
        for name, variable in variables(Settings).items()
    ]


def _shown(variable: Variable, value: Any) -> str | int | float | bool | None:
    if isinstance(value, SecretStr):
        return mask_dsn(value.get_secret_value()) if variable.attribute == "dsn" else MASK
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


_INTRODUCTION = f"""\
# Settings

Settings are environment variables, or a TOML file that `{CONFIG_FILE}` names: there, `[kafka]` with
`request_timeout = 8` is `RELAY_KAFKA_REQUEST_TIMEOUT`. A secret may also come from a file, named by the variable with
`_FILE` at its end. An unknown `RELAY_` variable is refused, with a suggestion.

`relay config` prints the settings that apply and where each comes from, without secrets. `relay config --reference`
prints this page.

Times are in seconds, sizes in bytes.
"""

_RELATIONS = f"""\
## Relations

These are checked at the start. The relay names all problems at once and ends with exit code 2.

* `RELAY_REPLICA_LEASE` must be longer than `RELAY_KAFKA_REQUEST_TIMEOUT` plus {LEASE_MARGIN:g} s. A request that is
  still on its way when the lease ends would be answered while another replica owns the lane.
* `RELAY_BUFFER_MAX_EVENTS` must hold at least one scan, `RELAY_SCAN_BATCH_EVENTS`.
* `RELAY_SCAN_BUSY_INTERVAL` must not be longer than `RELAY_SCAN_IDLE_INTERVAL`.
* The `SASL_` protocols need `RELAY_KAFKA_SASL_MECHANISM`, `RELAY_KAFKA_SASL_USERNAME` and `RELAY_KAFKA_SASL_PASSWORD`.
  These are refused with other protocols, where they would have no effect, and so are the settings `RELAY_KAFKA_SSL_*`
  without `SSL` or `SASL_SSL`. A key without `RELAY_KAFKA_SSL_CERTFILE` is refused as well.
* A `RELAY_KAFKA_COMPRESSION` other than `none` and `gzip` needs the extra `compression`."""


def reference() -> str:
    """Write the page on all settings, as deploy/SETTINGS.md has it."""
    lines = [_INTRODUCTION, "| Variable | Default | Meaning |", "|---|---|---|"]
    for name, variable in variables(Settings).items():
        meaning = [variable.field.description or ""]
        if choices := _choices(variable.field.annotation):
            meaning.append(f"One of {', '.join(f'`{choice}`' for choice in choices)}.")
        if variable.secret:
            meaning.append(f"Secret; `{name}_FILE` names a file to read it from.")
        lines.append(f"| `{name}` | {_default(variable)} | {' '.join(meaning)} |")
    lines.append(f"| `{CONFIG_FILE}` | | TOML file with settings as `[group]` tables; variables win over it. |")
    return "\n".join([*lines, "", _RELATIONS])


def _choices(annotation: Any) -> tuple[str, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((found for part in get_args(annotation) if (found := _choices(part))), ())


def _default(variable: Variable) -> str:
    extra = variable.field.json_schema_extra
    if isinstance(extra, dict) and "shown_default" in extra:
        return str(extra["shown_default"])
    if variable.required:
        return "**required**"
    default = variable.field.default
    if default is None or default == "":
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
