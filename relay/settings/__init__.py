"""The settings: one frozen object, read and checked once, with all problems reported together.

settings = Settings.load()          # from os.environ
postgres = load_postgres()          # the group that the admin commands need; problems of the others do not matter
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from relay.errors import SettingsError
from relay.settings import checks, safety
from relay.settings import load as loading
from relay.settings.checks import LEASE_MARGIN, MASK, mask_dsn
from relay.settings.flow import (
    BufferSettings,
    CloudEventsSettings,
    FailureSettings,
    PublishSettings,
    ReplicaSettings,
    ScanSettings,
    SettleSettings,
    TimersSettings,
    TopicSettings,
)
from relay.settings.group import Group
from relay.settings.load import OldName
from relay.settings.relations import relation_problems
from relay.settings.secret import CommandSecret, FileSecret
from relay.settings.servers import KafkaSettings, PostgresSettings
from relay.settings.service import (
    HealthSettings,
    HttpSettings,
    LogSettings,
    LoopSettings,
    SegmentSettings,
    StopSettings,
    SurveySettings,
    TraceSettings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import SecretStr

    from relay.decide.cloud_events import CloudEvents

_Group = TypeVar("_Group", bound=Group)

__all__ = [
    "LEASE_MARGIN",
    "MASK",
    "BufferSettings",
    "CloudEventsSettings",
    "FailureSettings",
    "HealthSettings",
    "HttpSettings",
    "KafkaSettings",
    "LogSettings",
    "LoopSettings",
    "OldName",
    "PostgresSettings",
    "PublishSettings",
    "ReplicaSettings",
    "ScanSettings",
    "SegmentSettings",
    "Settings",
    "SettleSettings",
    "StopSettings",
    "SurveySettings",
    "TimersSettings",
    "TopicSettings",
    "TraceSettings",
    "Unsafe",
    "Warned",
    "load_postgres",
    "load_segment",
    "load_with_sources",
    "mask_dsn",
]


@dataclass(frozen=True, slots=True)
class Unsafe:
    """A setting that permits more than most operators want; `str` is the warning."""

    warning: str

    def __str__(self) -> str:
        """The warning."""
        return self.warning


Warned = OldName | Unsafe


class Settings(BaseSettings):
    """All settings of one replica. Made by `load`, or from groups in tests; the constructor reads no variable."""

    model_config = SettingsConfigDict(
        env_prefix=loading.PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    postgres: PostgresSettings
    kafka: KafkaSettings
    replica: ReplicaSettings = Field(default_factory=ReplicaSettings)
    scan: ScanSettings = Field(default_factory=ScanSettings)
    timers: TimersSettings = Field(default_factory=TimersSettings)
    buffer: BufferSettings = Field(default_factory=BufferSettings)
    settle: SettleSettings = Field(default_factory=SettleSettings)
    publish: PublishSettings = Field(default_factory=PublishSettings)
    failure: FailureSettings = Field(default_factory=FailureSettings)
    topic: TopicSettings = Field(default_factory=TopicSettings)
    cloudevents: CloudEventsSettings = Field(default_factory=CloudEventsSettings)
    stop: StopSettings = Field(default_factory=StopSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    health: HealthSettings = Field(default_factory=HealthSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    loop: LoopSettings = Field(default_factory=LoopSettings)
    trace: TraceSettings = Field(default_factory=TraceSettings)
    segment: SegmentSettings = Field(default_factory=SegmentSettings)
    survey: SurveySettings = Field(default_factory=SurveySettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 names given by pydantic-settings
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take arguments only: `load` resolves names and files first, to know where each value came from."""
        return (init_settings,)

    @model_validator(mode="after")
    def _relations_hold(self) -> Self:
        problems = relation_problems(self.kafka, self.replica, self.scan, self.buffer, self.cloudevents, self.trace)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def cloud_events(self) -> CloudEvents:
        """Which topics' records are CloudEvents, and what they say."""
        return self.cloudevents.rules(self.failure.dead_letter_suffix)

    def transactional_id_prefix(self) -> str:
        """What the transactional ids of this relay's producers begin with."""
        return self.kafka.transactional_id_prefix or f"{self.postgres.schema_name}-"

    @classmethod
    def load(
        cls, env: Mapping[str, str] | None = None, on_warning: Callable[[Warned], object] | None = None
    ) -> Settings:
        """Read and check all settings; raise SettingsError that lists every problem, without secrets.

        `on_warning` hears of each setting that was given by a name of the release before, or that is not safe.
        """
        settings, _ = load_with_sources(env, on_warning)
        return settings


def load_with_sources(
    env: Mapping[str, str] | None = None, on_warning: Callable[[Warned], object] | None = None
) -> tuple[Settings, dict[str, str]]:
    """Read and check all settings, as `Settings.load`; also return where each came from, by the name of its variable.

    A source is "environment", "default", "command", or "file" and the file's path.
    """
    known = loading.variables(Settings)
    found = loading.find(known, os.environ if env is None else env)
    if on_warning is not None:
        for each in found.old_names:
            on_warning(each)
    problems = loading.unknown_problems(found.unknown) + found.problems
    try:
        settings = Settings.model_validate(_nested(found))
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            problems += loading.problems_of(detail, known, found)
        raise _error(problems) from None
    if problems:
        raise _error(problems)
    sources = {name: given.source for name, given in found.values.items()}
    groups = {group: _with_secrets(getattr(settings, group), group, known, found) for group in ("postgres", "kafka")}
    settings = settings.model_copy(update=groups)
    if on_warning is not None:
        for text in (*found.unsafe, *safety.unsafe(settings.postgres, settings.kafka)):
            on_warning(Unsafe(text))
    return settings, {name: sources.get(name, "default") for name in known}


def load_postgres(env: Mapping[str, str] | None = None) -> PostgresSettings:
    """Read and check the postgres group only, so that admin commands work while other settings are wrong.

    Raises SettingsError for problems of that group, including unknown names that were probably meant for it.
    """
    return _load_group(PostgresSettings, "postgres", env)


def load_segment(env: Mapping[str, str] | None = None) -> SegmentSettings:
    """Read and check the segment group only, as `load_postgres` does."""
    return _load_group(SegmentSettings, "segment", env)


def _load_group(
    model: type[_Group], group: Literal["postgres", "segment"], env: Mapping[str, str] | None = None
) -> _Group:
    known = loading.variables(Settings)
    found = loading.find(known, os.environ if env is None else env, prefix=f"RELAY_{group.upper()}_")
    problems = loading.unknown_problems(found.unknown) + found.problems
    try:
        settings = model.model_validate(_nested(found)[group])
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            detail["loc"] = (group, *detail["loc"])
            problems += loading.problems_of(detail, known, found)
        raise _error(problems) from None
    if problems:
        raise _error(problems)
    return _with_secrets(settings, group, known, found)


def _with_secrets(settings: _Group, group: str, known: Mapping[str, loading.Variable], found: loading.Found) -> _Group:
    """Return the group with secrets that are read, from their files and commands, whenever they are needed."""
    secrets: dict[str, SecretStr] = {}
    for name, given in found.values.items():
        if known[name].group != group:
            continue
        attribute = known[name].attribute
        check = checks.dsn if attribute == "dsn" else None
        if given.file:
            secrets[attribute] = FileSecret(name, given.file, check)
        elif given.command is not None:
            secrets[attribute] = CommandSecret(name, given.command, check)
    return settings.model_copy(update=secrets)


def _nested(found: loading.Found) -> dict[str, Any]:
    """Let pydantic-settings turn names into groups, from what was found and not from `os.environ`."""
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): given.text for name, given in found.values.items()}
    nested = source()
    return {group: nested.get(group, {}) for group in Settings.model_fields}


def _error(problems: list[str]) -> SettingsError:
    if len(problems) == 1:
        return SettingsError(problems[0])
    return SettingsError("\n  ".join([f"{len(problems)} problems with the settings:", *problems]))
