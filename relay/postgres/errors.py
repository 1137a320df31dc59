"""Turns what asyncpg and the operating system raise into the relay's own errors: one table, first match wins.

No message contains the DSN or a part of it that may be secret. What is not in the table is raised as it is.
"""

from __future__ import annotations

import os
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING

from asyncpg import exceptions as pg

from relay.errors import (
    PostgresLostError,
    RelayError,
    SchemaError,
    SettingsError,
    StatementFailedError,
    StatementGivenUpError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class PostgresRefusedError(UnreachableError):
    """PostgreSQL is there and does not let us in: wrong password, user or database. Waiting does not help."""


class PrivilegeError(RelayError):
    """The role that connected may not do what was asked of it."""


def translate(error: BaseException) -> RelayError | None:
    """The relay's error for a foreign one, None if it is not in the table; a relay error as it is."""
    if isinstance(error, RelayError):
        return error
    for kinds, ours in _TABLE:
        if isinstance(error, kinds):
            return ours(error)
    return None


@contextmanager
def translated() -> Iterator[None]:
    """Raise the relay's errors instead of foreign ones; works around `await` as well."""
    try:
        yield
    except RelayError:
        raise
    except pg.ClientConfigurationError as error:
        # Its text may quote the DSN, and so would a chained traceback.
        raise _bad_dsn(error) from None
    except Exception as error:
        ours = translate(error)
        if ours is None:
            raise
        raise ours from error


@contextmanager
def connecting() -> Iterator[None]:
    """Translate errors around a connection's start, where some are about the DSN and not about a statement."""
    try:
        with translated():
            yield
    except PostgresLostError as error:
        if isinstance(error.__cause__, pg.ConnectionDoesNotExistError):
            # TLS 1.3 has no other way to refuse a certificate: the handshake is over on our side by then.
            raise PostgresLostError(
                "PostgreSQL ended the connection before it was established; if this goes on, PostgreSQL refuses the "
                "client certificate: check sslcert and sslkey in RELAY_POSTGRES_DSN"
            ) from error.__cause__
        raise
    except RelayError:
        raise
    except pg.ObjectNotInPrerequisiteStateError as error:
        raise _not_ready(error) from error
    except (pg.UndefinedObjectError, pg.CantChangeRuntimeParamError, pg.InvalidParameterValueError) as error:
        raise SettingsError(
            f"PostgreSQL refuses a parameter of RELAY_POSTGRES_DSN: {_text(error)}; correct it or leave it out"
        ) from error
    except (ValueError, TypeError, LookupError, AttributeError):
        # Of the client's own reading; its text may quote a password.
        raise _bad_dsn(ValueError()) from None


@contextmanager
def running(statement: str) -> Iterator[None]:
    """Translate errors around a statement of the flow: every error becomes ours, and names the statement."""
    try:
        with translated():
            yield
    except RelayError as error:
        error.statement = error.statement or statement
        raise
    except Exception as error:
        failed = StatementFailedError(f"the statement {statement} failed: {_without_data(error)}")
        failed.statement = statement
        failed.about_data = getattr(error, "sqlstate", None) in _ABOUT_DATA or isinstance(error, UnicodeError)
        raise failed from error


_ABOUT_DATA = {
    pg.CharacterNotInRepertoireError.sqlstate,
    pg.UntranslatableCharacterError.sqlstate,
    pg.NumericValueOutOfRangeError.sqlstate,
    pg.DatetimeFieldOverflowError.sqlstate,
    pg.StringDataRightTruncationError.sqlstate,
    pg.NotNullViolationError.sqlstate,
    pg.CheckViolationError.sqlstate,
    pg.ProgramLimitExceededError.sqlstate,
}


def _without_data(error: Exception) -> str:
    """PostgreSQL's message and its code. Not its details, which quote rows."""
    if not isinstance(error, pg.PostgresError):
        return f"{type(error).__name__}: {_text(error)}"
    text = " ".join(str(error.args[0]).split()) if error.args else type(error).__name__
    return f"{text} (SQLSTATE {getattr(error, 'sqlstate', '?')})"


def _lost(error: BaseException) -> RelayError:
    return PostgresLostError(f"the connection to PostgreSQL was lost: {_text(error)}")


def _ended(_: BaseException) -> RelayError:
    return PostgresLostError("the connection to PostgreSQL was lost: the server ended it")


def _unreachable(error: BaseException) -> RelayError:
    if "rejected SSL upgrade" in str(error):
        return PostgresLostError(
            "no secure connection to PostgreSQL: the server has TLS switched off; switch it on, or lower sslmode in "
            "RELAY_POSTGRES_DSN"
        )
    return PostgresLostError(
        f"PostgreSQL cannot be reached: {_text(error)}; check that it runs, and RELAY_POSTGRES_DSN"
    )


def _tls(error: BaseException) -> RelayError:
    text = _text(error)
    advice = next((advice for part, advice in _TLS_ADVICE if part in text.lower()), "check sslmode and sslrootcert")
    return PostgresLostError(f"no secure connection to PostgreSQL: {text}; {advice} in RELAY_POSTGRES_DSN")


_TLS_ADVICE = (
    ("expired", "renew the server's certificate; no setting helps"),
    ("not yet valid", "check this machine's clock and the server's certificate; no setting helps"),
    ("hostname mismatch", "name the host as the certificate does"),
    ("ip address mismatch", "name the host as the certificate does"),
    ("self-signed", "name the authority that issued the server's certificate in sslrootcert"),
    ("self signed", "name the authority that issued the server's certificate in sslrootcert"),
    ("local issuer", "name the authority that issued the server's certificate in sslrootcert"),
    ("alert_unknown_ca", "the server does not know the client certificate's authority: check sslcert"),
    ("alert_certificate", "the server does not take the client certificate: check sslcert and sslkey"),
    ("alert_certificate_required", "the server asks for a client certificate: set sslcert and sslkey"),
    ("key_values_mismatch", "the key does not belong to the certificate: check sslcert and sslkey"),
    ("no_certificate_or_crl_found", "the file is not a certificate: check sslrootcert"),
    ("pem", "the file is not a certificate or key: check sslrootcert, sslcert and sslkey"),
)
"""What to do, by a part of what OpenSSL says, in small letters."""

_REFUSED_ADVICE = (
    (
        "no pg_hba.conf entry",
        "add an entry there, or connect as its entries ask: check user, database and sslmode",
    ),
    ("pg_hba.conf rejects", "the server's entry for it says reject: check user, database and sslmode"),
    ("valid client certificate", "the server asks for a client certificate: set sslcert and sslkey"),
    ("certificate authentication failed", "the client certificate belongs to another user: check user and sslcert"),
    ("password authentication failed", "check user and password"),
    ("role ", "check the user"),
    ("database ", "check the database"),
)
"""What to do, by a part of what PostgreSQL says."""


def _given_up(error: BaseException) -> RelayError:
    return StatementGivenUpError(
        f"PostgreSQL gave up a statement: {_text(error)}; find the session that holds its locks"
    )


def _no_resources(error: BaseException) -> RelayError:
    return StatementGivenUpError(
        f"PostgreSQL lacks memory or disk for a statement: {_text(error)}; see PostgreSQL's log"
    )


def _not_ready(error: BaseException) -> RelayError:
    return PostgresLostError(f"PostgreSQL does not take connections now: {_text(error)}")


def _no_primary(error: BaseException) -> RelayError:
    return PostgresLostError(
        f"PostgreSQL does not take writes: {_text(error)}; RELAY_POSTGRES_DSN must lead to the primary"
    )


def _refused(error: BaseException) -> RelayError:
    text = _text(error)
    advice = next((advice for part, advice in _REFUSED_ADVICE if part in text), "check user, password and database")
    or_there = ", or RELAY_POSTGRES_PASSWORD" if "password" in advice else ""
    return PostgresRefusedError(f"PostgreSQL refused the connection: {text}; {advice} in RELAY_POSTGRES_DSN{or_there}")


def _bad_dsn(_: BaseException) -> RelayError:
    return SettingsError("RELAY_POSTGRES_DSN cannot be read; write it as postgresql://user:password@host:5432/database")


def shared_sessions(_: BaseException | None = None) -> RelayError:
    """Somebody else's statements run in our session, or ours in theirs."""
    return SettingsError(
        "RELAY_POSTGRES_DSN leads through a pooler that gives each transaction a different session (PgBouncer's "
        "pool_mode = transaction); name PostgreSQL itself, or a pool with pool_mode = session"
    )


def _privilege(error: BaseException) -> RelayError:
    if "permission denied for database" in (text := _text(error)):
        # Only who makes the outbox asks for it, and the roles of the outbox do not have it.
        return PrivilegeError(
            f"PostgreSQL: {text}; let the role create schemas (GRANT CREATE ON DATABASE), or connect as one that may"
        )
    return PrivilegeError(
        f"PostgreSQL: {text}; connect as the outbox's owner, or with the rights `relay migrate --roles` grants"
    )


def _schema(error: BaseException) -> RelayError:
    return SchemaError(f"the outbox is missing or of another version ({_text(error)}); run `relay migrate`")


def _closed(error: BaseException) -> RelayError | None:
    """A closed connection and a caller's mistake are the same class; only the text tells them apart."""
    text = str(error)
    return _lost(error) if "is closed" in text or "was closed" in text or "is closing" in text else None


def _text(error: BaseException) -> str:
    """One line. A timeout has no text of its own; a system error's number tells a reader nothing."""
    if isinstance(error, TimeoutError) and not isinstance(error, pg.PostgresError):
        return "it did not answer in time"
    if isinstance(error, ssl.SSLError):
        return str(getattr(error, "verify_message", None) or getattr(error, "reason", None) or error)
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        # asyncio writes its own text over the system's ("Connect call failed"); names' errors are negative.
        return (os.strerror(error.errno) if error.errno > 0 else error.strerror).lower()
    text = " ".join(str(error).split())
    return text or type(error).__name__


_TABLE: tuple[tuple[tuple[type[BaseException], ...], Callable[[BaseException], RelayError | None]], ...] = (
    ((pg.ClientConfigurationError,), _bad_dsn),
    ((pg.InterfaceError,), _closed),
    ((pg.TargetServerAttributeNotMatched, pg.ReadOnlySQLTransactionError), _no_primary),
    # What a call gets in the moment between the server's last words on a connection and its end.
    ((pg.InternalClientError,), _ended),
    (
        (
            pg.PostgresConnectionError,
            pg.AdminShutdownError,
            pg.CrashShutdownError,
            pg.IdleSessionTimeoutError,
            pg.IdleInTransactionSessionTimeoutError,
        ),
        _lost,
    ),
    # By statement_timeout, by a person, or to end a deadlock: nothing was written, and it may work the next time.
    ((pg.QueryCanceledError, pg.TransactionRollbackError), _given_up),
    # Starting, stopping, in recovery, out of connections: it may pass.
    ((pg.CannotConnectNowError, pg.TooManyConnectionsError), _not_ready),
    # Out of memory, disk, or what the server's settings allow: so may that, and the connection works.
    ((pg.InsufficientResourcesError,), _no_resources),
    (
        (
            pg.InvalidAuthorizationSpecificationError,
            pg.InvalidCatalogNameError,
            pg.DatabaseDroppedError,
        ),
        _refused,
    ),
    # A prepared statement that is not there, or is there already.
    ((pg.InvalidSQLStatementNameError, pg.DuplicatePreparedStatementError), shared_sessions),
    ((pg.InsufficientPrivilegeError,), _privilege),
    (
        (
            pg.UndefinedTableError,
            pg.UndefinedColumnError,
            pg.UndefinedFunctionError,
            pg.InvalidSchemaNameError,
        ),
        _schema,
    ),
    ((ssl.SSLError,), _tls),
    ((OSError,), _unreachable),
)
