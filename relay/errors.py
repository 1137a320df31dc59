"""The relay's own errors. Each says what happened and what to do; `exit_code` is what the CLI ends with."""

from __future__ import annotations

# No pathlib and no traceback here: services that enqueue import this module.
_PACKAGE = __file__.removesuffix("errors.py")


class RelayError(Exception):
    """Base of every error this package raises on purpose.

    `str(error)` is one readable sentence without secrets, fit for a log line or the last line of a command.
    """

    exit_code: int = 1
    statement: str = ""
    """The name in `sql/queries` of the statement that failed, if a statement failed."""


class SettingsError(RelayError):
    """The settings are missing, unknown or contradict each other."""

    exit_code = 2


class UnreachableError(RelayError):
    """A server could not be reached, or refused the connection."""

    exit_code = 3


class PostgresLostError(UnreachableError):
    """PostgreSQL cannot be reached, the connection broke, or the server is not a primary; waiting may help."""


class StatementGivenUpError(PostgresLostError):
    """The server cancelled a statement, which wrote nothing: by a timeout, for a person, or to end a deadlock.

    The connection still works. A caller that depends on what the statement would have done has to start over.
    """


class StatementFailedError(RelayError):
    """A statement failed for a reason that no table knows; `__cause__` is PostgreSQL's or the client's error."""

    about_data: bool = False
    """Whether the error can only be about a value in one of the rows, so that other rows may be fine."""


def connection_lost(error: BaseException) -> bool:
    """Return whether the connection is gone, and not only a statement."""
    return isinstance(error, PostgresLostError) and not isinstance(error, StatementGivenUpError)


class HeldUpError(RelayError):
    """A change needs locks that others hold; nothing was changed, and it may be tried again."""

    def __init__(self, message: str, cause: str) -> None:
        """`cause` is the same text as long as the same transactions hold the locks."""
        super().__init__(message)
        self.cause = cause


class RefusedError(RelayError):
    """What a person asked for cannot be done; nothing was changed."""


class BusyError(RelayError):
    """The server, or locks of others, did not let us through in time; nothing was changed."""


class InvalidRequestError(RelayError):
    """What a person asked for contradicts itself."""

    exit_code = 2


class SchemaError(RelayError):
    """The outbox schema is missing, older or newer than this program, or was changed by hand."""

    exit_code = 1


class EnqueueError(RelayError, ValueError):
    """An event cannot be enqueued as asked; nothing was written."""

    exit_code = 2


class NotInTransactionError(EnqueueError):
    """Enqueue was called outside a transaction, or inside one that has already failed."""


def describe(error: BaseException) -> str:
    """Return the error as one line. An error that is a bug of ours includes its place in the code."""
    if isinstance(error, RelayError):
        return str(error)
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{f': {text}' if text else ''}{_where(error)}"


def _where(error: BaseException) -> str:
    """The innermost line of ours that the error went through."""
    found, entry = "", error.__traceback__
    while entry is not None:
        file = entry.tb_frame.f_code.co_filename
        if file.startswith(_PACKAGE):
            found = f" (at relay/{file.removeprefix(_PACKAGE)}:{entry.tb_lineno})"
        entry = entry.tb_next
    return found
