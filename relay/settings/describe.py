"""The settings as text: what applies now, and the reference of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr

from relay.settings import Settings
from relay.settings.checks import MASK, mask_dsn
from relay.settings.load import CONFIG_FILE, Variable, variables


@dataclass(frozen=True, slots=True)
class Row:
    """One setting that applies. The value has no secret in it; None means not set."""

    name: str
    value: str | int | float | bool | None
    source: str


def effective(settings: Settings, sources: dict[str, str]) -> list[Row]:
    """List what applies, in the order of the groups."""
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


def reference() -> str:
    """Write the Markdown table of all settings, as the README has it."""
    lines = ["Times are in seconds, sizes in bytes.", "", "| Variable | Default | Meaning |", "|---|---|---|"]
    for name, variable in variables(Settings).items():
        meaning = [variable.field.description or ""]
        if choices := _choices(variable.field.annotation):
            meaning.append(f"One of {', '.join(f'`{choice}`' for choice in choices)}.")
        if variable.secret:
            meaning.append(f"Secret; `{name}_FILE` names a file to read it from.")
        lines.append(f"| `{name}` | {_default(variable)} | {' '.join(meaning)} |")
    lines.append(f"| `{CONFIG_FILE}` | | A TOML file with settings as `[group]` tables; variables win over it. |")
    return "\n".join(lines)


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
