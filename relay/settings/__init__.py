"""The settings: one frozen object, read and checked once, with all problems reported together.

settings = Settings.load()          # from os.environ
postgres = load_postgres()          # the group that the admin commands need; problems of the others do not matter
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from relay.errors import SettingsError
from relay.settings import checks
from relay.settings import load as loading
from relay.settings.checks import LEASE_MARGIN, MASK, mask_dsn
from relay.settings.groups import (
    BufferSettings,
    FailureSettings,
    Group,
    HealthSettings,
    HttpSettings,
    KafkaSettings,
    LogSettings,
    PostgresSettings,
    PublishSettings,
    ReplicaSettings,
    ScanSettings,
    SegmentSettings,
    SettleSettings,
    StopSettings,
    TopicSettings,
    relation_problems,
)
from relay.settings.load import OldName
from relay.settings.secret import FileSecret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_Group = TypeVar("_Group", bound=Group)

__all__ = [
    "LEASE_MARGIN",
    "MASK",
    "BufferSettings",
    "FailureSettings",
    "HealthSettings",
    "HttpSettings",
    "KafkaSettings",
    "LogSettings",
    "OldName",
    "PostgresSettings",
    "PublishSettings",
    "ReplicaSettings",
    "ScanSettings",
    "SegmentSettings",
    "Settings",
    "SettleSettings",
    "StopSettings",
    "TopicSettings",
    "load_postgres",
    "load_with_sources",
    "mask_dsn",
]


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
    buffer: BufferSettings = Field(default_factory=BufferSettings)
    settle: SettleSettings = Field(default_factory=SettleSettings)
    publish: PublishSettings = Field(default_factory=PublishSettings)
    failure: FailureSettings = Field(default_factory=FailureSettings)
    topic: TopicSettings = Field(default_factory=TopicSettings)
    stop: StopSettings = Field(default_factory=StopSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    health: HealthSettings = Field(default_factory=HealthSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    segment: SegmentSettings = Field(default_factory=SegmentSettings)

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
        problems = relation_problems(self.kafka, self.replica, self.scan, self.buffer)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @classmethod
    def load(
        cls, env: Mapping[str, str] | None = None, on_old_name: Callable[[OldName], object] | None = None
    ) -> Settings:
        """Read and check all settings; raise SettingsError that lists every problem, without secrets.

        `on_old_name` hears of each setting that was given by a name of the release before.
        """
        settings, _ = load_with_sources(env, on_old_name)
        return settings


def load_with_sources(
    env: Mapping[str, str] | None = None, on_old_name: Callable[[OldName], object] | None = None
) -> tuple[Settings, dict[str, str]]:
    """Read and check all settings, as `Settings.load`; also return where each came from, by the name of its variable.

    A source is "environment", "default", or "file" and the file's path.
    """
    known = loading.variables(Settings)
    found = loading.find(known, os.environ if env is None else env)
    if on_old_name is not None:
        for each in found.old_names:
            on_old_name(each)
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
    groups = {group: _with_files(getattr(settings, group), group, known, found) for group in ("postgres", "kafka")}
    settings = settings.model_copy(update=groups)
    return settings, {name: sources.get(name, "default") for name in known}


def load_postgres(env: Mapping[str, str] | None = None) -> PostgresSettings:
    """Read and check the postgres group only, so that admin commands work while other settings are wrong.

    Raises SettingsError for problems of that group, including unknown names that were probably meant for it.
    """
    known = loading.variables(Settings)
    found = loading.find(known, os.environ if env is None else env, prefix="RELAY_POSTGRES_")
    problems = loading.unknown_problems(found.unknown) + found.problems
    try:
        settings = PostgresSettings.model_validate(_nested(found)["postgres"])
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            detail["loc"] = ("postgres", *detail["loc"])
            problems += loading.problems_of(detail, known, found)
        raise _error(problems) from None
    if problems:
        raise _error(problems)
    return _with_files(settings, "postgres", known, found)


def _with_files(settings: _Group, group: str, known: Mapping[str, loading.Variable], found: loading.Found) -> _Group:
    """Return the group with its secrets from files as FileSecret, which reads the file whenever it is needed."""
    secrets = {
        known[name].attribute: FileSecret(name, given.file, checks.dsn if known[name].attribute == "dsn" else None)
        for name, given in found.values.items()
        if given.file and known[name].group == group
    }
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
