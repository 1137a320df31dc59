"""The DSN as asyncpg takes it: libpq's parameters work, or are refused in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import asyncpg
import pytest
from asyncpg.connect_utils import _parse_connect_dsn_and_args

from relay.errors import PostgresLostError, SettingsError
from relay.postgres.dsn import prepared
from relay.postgres.errors import connecting

if TYPE_CHECKING:
    from pathlib import Path

BASE = "postgresql://user:geheim@host:5432/db"


@pytest.mark.parametrize(
    "dsn",
    [
        BASE,
        "postgresql:///db",
        "postgresql://user:geheim@/db?host=/run/postgresql&port=5433",
        "postgresql://user:geheim@[::1]:5432,other:5433/db?target_session_attrs=read-write",
        f"{BASE}?options=-c%20statement_timeout%3D5s",
        f"{BASE}?sslmode=require&sslnegotiation=direct",
    ],
)
def test_what_asyncpg_knows_means_the_same_to_it(dsn: str) -> None:
    assert parsed(prepared(dsn)) == parsed(dsn)


@pytest.mark.parametrize(
    "parameter",
    [
        "keepalives=1",
        "keepalives_idle=30",
        "keepalives_interval=10",
        "keepalives_count=3",
        "tcp_user_timeout=10000",
        "connect_timeout=5",
        "application_name=mine",
        "fallback_application_name=mine",
        "client_encoding=UTF8",
        "channel_binding=prefer",
        "gssencmode=disable",
        "load_balance_hosts=random",
        "sslsni=1",
        "replication=false",
    ],
)
def test_what_only_libpq_knows_and_makes_nothing_safer_is_accepted(parameter: str) -> None:
    assert parsed(prepared(f"{BASE}?{parameter}&sslmode=require")) == parsed(f"{BASE}?sslmode=require")


@pytest.mark.parametrize(
    "parameter",
    [
        "channel_binding=require",
        "gssencmode=require",
        "require_auth=scram-sha-256",
        "requirepeer=postgres",
        "requiressl=1",
    ],
)
def test_a_safety_that_the_client_cannot_give_is_refused_by_name(parameter: str) -> None:
    with pytest.raises(SettingsError) as raised:
        prepared(f"{BASE}?{parameter}")
    assert parameter.split("=")[0] in str(raised.value)
    assert "geheim" not in str(raised.value)


def test_ssl_true_and_the_system_s_authorities_have_words_of_asyncpg(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert parsed(prepared(f"{BASE}?ssl=true")) == parsed(f"{BASE}?sslmode=require")
    (tmp_path / "ca.pem").touch()
    known = type("Paths", (), {"cafile": str(tmp_path / "ca.pem")})
    monkeypatch.setattr("relay.postgres.dsn.ssl.get_default_verify_paths", lambda: known)
    assert prepared(f"{BASE}?sslrootcert=system") == (
        f"{BASE}?sslrootcert={quote(str(tmp_path / 'ca.pem'), safe='')}&sslmode=verify-full"
    )


def test_hostaddr_is_where_it_goes() -> None:
    assert prepared(f"{BASE}?hostaddr=10.0.0.7").startswith("postgresql://user:geheim@10.0.0.7:5432/db")
    assert prepared(f"{BASE}?hostaddr=::1").startswith("postgresql://user:geheim@[::1]:5432/db")
    with pytest.raises(SettingsError, match="hostaddr"):
        prepared(f"{BASE}?hostaddr=10.0.0.7&sslmode=verify-full")


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert", "sslkey", "sslcrl"])
def test_a_file_that_is_not_there_is_waited_for_and_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(PostgresLostError, match=f"{name} in RELAY_POSTGRES_DSN is .*/none.pem, .*: no such file"):
        prepared(f"{BASE}?{name}={tmp_path}/none.pem")


def test_a_query_that_is_none_is_not_quoted() -> None:
    with pytest.raises(SettingsError) as raised:
        prepared("postgresql://user@host/db?geheim")
    assert "geheim" not in str(raised.value)
    assert raised.value.__suppress_context__


@pytest.mark.parametrize("error", [ValueError("invalid literal: 'geheim'"), KeyError("geheim"), TypeError("geheim")])
def test_what_the_client_trips_over_is_not_quoted(error: Exception) -> None:
    with pytest.raises(SettingsError) as raised, connecting():
        raise error
    assert "geheim" not in str(raised.value)
    assert raised.value.__suppress_context__


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (asyncpg.UndefinedObjectError('unrecognized configuration parameter "colour"'), SettingsError, '"colour"'),
        (
            asyncpg.ObjectNotInPrerequisiteStateError('database "a" is not currently accepting connections'),
            PostgresLostError,
            "not currently accepting connections",
        ),
    ],
)
def test_what_the_server_says_about_the_dsn_is_one_line(error: Exception, kind: type, says: str) -> None:
    with pytest.raises(kind, match=says), connecting():
        raise error


def parsed(dsn: str) -> object:
    """What asyncpg makes of it."""
    nothing = dict.fromkeys(
        (
            *(
                "host",
                "port",
                "user",
                "password",
                "passfile",
                "database",
                "ssl",
                "service",
                "servicefile",
                "direct_tls",
            ),
            *("server_settings", "target_session_attrs", "krbsrvname", "gsslib"),
        )
    )
    addresses, parameters = _parse_connect_dsn_and_args(dsn=dsn, **nothing)
    return addresses, parameters._replace(ssl=type(parameters.ssl))
