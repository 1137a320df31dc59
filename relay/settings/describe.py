"""The settings as text: what applies now, and the page on all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr

from relay.settings import Settings
from relay.settings.checks import LEASE_MARGIN, MASK, mask_dsn
from relay.settings.command import TIMEOUT
from relay.settings.load import CONFIG_FILE, Variable, variables
from relay.settings.secret import KEPT, CommandSecret


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
    if isinstance(value, CommandSecret):
        return MASK
    if isinstance(value, SecretStr):
        return mask_dsn(value.get_secret_value()) if variable.attribute == "dsn" else MASK
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


_INTRODUCTION = f"""\
# Settings

Settings are environment variables, or a TOML file that `{CONFIG_FILE}` names: there, `[kafka]` with
`request_timeout = 8` is `RELAY_KAFKA_REQUEST_TIMEOUT`. An unknown `RELAY_` variable is refused, with a suggestion.

A secret is the text of its variable, or comes from a file that the variable with `_FILE` at its end names, or from a
command that the variable with `_COMMAND` at its end is. Files and commands are read again whenever the relay connects,
so that secrets can be rotated. A command is split into words as a shell would, but no shell runs it. It has
{TIMEOUT:g} s to print the secret, which is used for {KEPT:g} s. If the command fails, the error shows the last line
that the command wrote to standard error.

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
  `OAUTHBEARER` needs `RELAY_KAFKA_OAUTH_PROVIDER` instead of user name and password. The provider `oidc` needs a token
  endpoint, a client id and a client secret; `token` needs a token; `aws-msk-iam` needs the extra `aws` and a region.
* A setting that would have no effect is refused: those of a login without a `SASL_` protocol or with another mechanism
  or provider, `RELAY_KAFKA_SSL_*` without `SSL` or `SASL_SSL`, and a key without `RELAY_KAFKA_SSL_CERTFILE`.
* `RELAY_POSTGRES_PASSWORD` is refused beside a DSN that has a password.
* A `RELAY_KAFKA_COMPRESSION` other than `none` and `gzip` needs the extra `compression`.

`relay run` and `relay config` warn of what is not safe: a file with a secret that every user of the machine may read, a
DSN without `sslmode`, and unencrypted connections, unless they stay on this machine."""


def reference() -> str:
    """Write the page on all settings, as deploy/SETTINGS.md has it."""
    lines = [_INTRODUCTION, "| Variable | Default | Meaning |", "|---|---|---|"]
    for name, variable in variables(Settings).items():
        meaning = [variable.field.description or ""]
        if choices := _choices(variable.field.annotation):
            meaning.append(f"One of {', '.join(f'`{choice}`' for choice in choices)}.")
        if variable.secret:
            meaning.append(f"Secret; also `{name}_FILE` or `{name}_COMMAND`.")
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
    return f"`{default:.12g}`" if isinstance(default, float) else f"`{default}`"
