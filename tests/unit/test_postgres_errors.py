"""The table from PostgreSQL's errors to ours: whether to wait, what to say, and no secrets."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest
from asyncpg import exceptions as pg

from relay.errors import (
    PostgresLostError,
    RelayError,
    SchemaError,
    SettingsError,
    StatementFailedError,
    StatementGivenUpError,
)
from relay.postgres.errors import PostgresRefusedError, PrivilegeError, running, translate, translated


@pytest.mark.parametrize(
    ("foreign", "kind", "says"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('::1', 5432)"), PostgresLostError, "refused"),
        (ConnectionResetError(), PostgresLostError, "ConnectionResetError"),
        (TimeoutError(), PostgresLostError, "did not answer in time"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), PostgresLostError, "name or service"),
        (OSError("Multiple exceptions: [Errno 111] a, [Errno 111] b"), PostgresLostError, "Multiple exceptions"),
        (ssl.SSLError(1, "certificate verify failed"), PostgresLostError, "sslrootcert"),
        (pg.ConnectionDoesNotExistError("connection was closed in the middle of operation"), PostgresLostError, "lost"),
        (pg.InterfaceError("connection is closed"), PostgresLostError, "lost"),
        (pg.InterfaceError("cannot call fetch(): the underlying connection is closed"), PostgresLostError, "lost"),
        (pg.InternalClientError("cannot switch to state 12"), PostgresLostError, "lost: the server ended it"),
        (pg.AdminShutdownError("terminating connection"), PostgresLostError, "lost"),
        (pg.CrashShutdownError("terminating connection"), PostgresLostError, "lost"),
        (pg.IdleInTransactionSessionTimeoutError("idle"), PostgresLostError, "lost"),
        (
            pg.QueryCanceledError("canceling statement due to statement timeout"),
            StatementGivenUpError,
            "statement timeout",
        ),
        (pg.DeadlockDetectedError("deadlock detected"), StatementGivenUpError, "deadlock"),
        (pg.CannotConnectNowError("the database system is starting up"), PostgresLostError, "starting up"),
        (pg.TooManyConnectionsError("sorry, too many clients already"), PostgresLostError, "too many clients"),
        (pg.DiskFullError("could not extend file"), StatementGivenUpError, "lacks memory or disk"),
        (pg.ReadOnlySQLTransactionError("cannot execute INSERT"), PostgresLostError, "primary"),
        (pg.TargetServerAttributeNotMatched("None of the hosts match"), PostgresLostError, "primary"),
        (pg.InvalidPasswordError('password authentication failed for user "a"'), PostgresRefusedError, "check user"),
        (pg.InvalidAuthorizationSpecificationError('role "a" is not there'), PostgresRefusedError, "check the user"),
        (pg.InvalidCatalogNameError('database "a" does not exist'), PostgresRefusedError, "check the database"),
        (
            pg.InvalidSQLStatementNameError('prepared statement "a" does not exist'),
            SettingsError,
            "pool_mode = session",
        ),
        (pg.DuplicatePreparedStatementError('prepared statement "a" is there'), SettingsError, "pool_mode = session"),
        (pg.InsufficientPrivilegeError("permission denied for table event"), PrivilegeError, "--roles"),
        (pg.InsufficientPrivilegeError("permission denied for database shop"), PrivilegeError, "GRANT CREATE ON"),
        (pg.UndefinedTableError('relation "outbox.lane" does not exist'), SchemaError, "run `relay migrate`"),
        (pg.UndefinedColumnError('column "a" does not exist'), SchemaError, "run `relay migrate`"),
        (pg.UndefinedFunctionError("function a() does not exist"), SchemaError, "run `relay migrate`"),
        (pg.InvalidSchemaNameError('schema "a" does not exist'), SchemaError, "run `relay migrate`"),
        (pg.ClientConfigurationError("invalid DSN: geheim"), SettingsError, "RELAY_POSTGRES_DSN cannot be read"),
    ],
)
def test_each_error_of_the_driver_has_a_kind_and_says_what_to_do(
    foreign: Exception, kind: type[RelayError], says: str
) -> None:
    with pytest.raises(RelayError) as raised, translated():
        raise foreign
    assert type(raised.value) is kind
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "geheim" not in str(raised.value)


@pytest.mark.parametrize(
    "foreign",
    [
        pg.InterfaceError("cannot perform operation: another operation is in progress"),
        pg.UniqueViolationError("duplicate key"),
        pg.LockNotAvailableError("canceling statement due to lock timeout"),
        ValueError("a mistake of ours"),
    ],
)
def test_everything_else_is_raised_as_it_is(foreign: Exception) -> None:
    assert translate(foreign) is None
    with pytest.raises(type(foreign)) as raised, translated():
        raise foreign
    assert raised.value is foreign


def test_a_statement_of_the_flow_that_fails_for_any_other_reason_is_named_and_its_row_is_not_quoted() -> None:
    foreign = pg.CheckViolationError("new row violates\na check")
    setattr(foreign, "detail", "Failing row contains (geheim).")  # noqa: B010 the library gives it so
    with pytest.raises(StatementFailedError) as raised, running("settle"):
        raise foreign
    assert str(raised.value) == "the statement settle failed: new row violates a check (SQLSTATE 23514)"
    assert raised.value.statement == "settle"
    assert raised.value.__cause__ is foreign
    with pytest.raises(StatementFailedError, match="the statement scan failed: ValueError: a mistake"), running("scan"):
        raise ValueError("a mistake")
    with pytest.raises(PrivilegeError) as known, running("scan"):
        raise pg.InsufficientPrivilegeError("permission denied for table event")
    assert known.value.statement == "scan"


def test_our_own_errors_pass() -> None:
    ours = SchemaError("seen before")
    assert translate(ours) is ours
    with pytest.raises(SchemaError) as raised, translated():
        raise ours
    assert raised.value is ours


def test_the_cause_is_kept_unless_it_may_quote_the_dsn() -> None:
    cause = TimeoutError()
    with pytest.raises(PostgresLostError) as raised, translated():
        raise cause
    assert raised.value.__cause__ is cause
    with pytest.raises(SettingsError) as hidden, translated():
        raise pg.ClientConfigurationError("invalid DSN: postgresql://user:geheim@host")
    assert hidden.value.__cause__ is None
    assert hidden.value.__suppress_context__
