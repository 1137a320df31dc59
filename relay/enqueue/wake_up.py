"""Wake-ups after commits: an idle relay looks for events at once, and not at the end of its pause.

wake_up.use(lambda: psycopg.connect(DSN))     # once, when the service starts

enqueue(session, "orders", key=..., payload=..., wake_up=True)    # clients that tell of commits

with wake_up.after(connection.transaction()):    # all clients
    enqueue(connection, "orders", key=..., payload=...)

A thread of its own calls `outbox.wake_up()`, on a connection of its own: never inside the caller's transaction, where
it would make writers wait for each other, and without an error or a pause for the caller. A wake-up is a hint that may
get lost, and nothing depends on it.
"""

from __future__ import annotations

import os
from _contextvars import ContextVar  # contextvars' own, without what else the module imports.

from relay.errors import EnqueueError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from typing import Any, TypeVar, overload

    from relay.enqueue.dispatch import Adapter
    from relay.enqueue.waker import Waker

    Entered = TypeVar("Entered")
else:

    def overload(function):
        return function


INTERVAL = 0.005
"""Seconds between two wake-ups of a process, however many transactions commit meanwhile."""

_waker: Waker | None = None
_always = False
_registered = False
_block: ContextVar[_Block | None] = ContextVar("relay.enqueue.wake_up", default=None)


def use(connect: Callable[[], Any], *, always: bool = False, interval: float = INTERVAL) -> None:
    """Have wake-ups sent on a connection that `connect` opens: of any client; a coroutine function is awaited.

    It is called in a thread of the library, again whenever the connection is lost. A pool's or an engine's connection
    of an asynchronous client belongs to its event loop: open another one. With `always`, every event wakes the relay up
    where the client tells of commits. At most one wake-up is sent in `interval` seconds.
    """
    global _waker, _always
    from relay.enqueue.waker import Waker

    if not callable(connect):
        raise EnqueueError(
            "connect must be a function that opens a connection, as in wake_up.use(lambda: psycopg.connect(DSN))"
        )
    if _waker is not None:
        _waker.stop()
    else:
        _register_at_fork()
    _waker, _always = Waker(connect, interval), always


def _register_at_fork() -> None:
    global _registered
    if not _registered and hasattr(os, "register_at_fork"):
        _registered = True
        os.register_at_fork(after_in_child=lambda: _waker.start_anew() if _waker is not None else None)


def stop() -> None:
    """Send no more wake-ups, and close the connection."""
    global _waker, _always
    if _waker is not None:
        _waker.stop()
    _waker, _always = None, False


@overload
def after(block: AbstractContextManager[Entered]) -> AbstractContextManager[Entered]: ...
@overload
def after(block: AbstractAsyncContextManager[Entered]) -> AbstractAsyncContextManager[Entered]: ...
def after(block: Any) -> Any:
    """The same block of a transaction, after whose commit the relay is woken up if an event was enqueued in it.

    `block` is what follows `with` or `async with`. Around a savepoint, it is the transaction's own block that counts.
    """
    return _Block(block)


def with_wake_up(
    adapter: Adapter, writing: Callable[..., Any], connection: object, subject: object, schema: str, wake_up: bool
) -> Any:
    """Write by the adapter's function, and have the relay woken up after the commit if that is wanted."""
    waker = _waker
    if not wake_up and waker is None:
        return writing(connection, subject, schema)
    note = _note(waker, adapter, connection, schema, wake_up)
    written = writing(connection, subject, schema)
    if note is None:
        return written
    if hasattr(written, "__await__"):
        waiting: Any = _after_writing(written, note)
        waiting.__qualname__ = written.__qualname__
        return waiting
    note()
    return written


async def _after_writing(written: Coroutine[Any, Any, Any], note: Callable[[], None]) -> Any:
    result = await written
    note()
    return result


def _note(
    waker: Waker | None, adapter: Adapter, connection: Any, schema: str, wake_up: bool
) -> Callable[[], None] | None:
    """What is to be called once the event is written; None if no wake-up is wanted. Raises EnqueueError."""
    if waker is None:
        raise EnqueueError(
            "wake_up=True needs a connection for wake-ups; call relay.enqueue.wake_up.use(connect) when the service "
            "starts"
        )
    wake = waker.of(schema)
    block = _open_block()
    if block is not None:
        return lambda: block.note(adapter, connection, wake)
    if not wake_up and not _always:
        return None
    on_commit = adapter.on_commit(connection) if adapter.on_commit is not None else None
    if on_commit is not None:
        found = on_commit
        return lambda: found(wake)
    if not wake_up:
        return None
    raise EnqueueError(
        "this client tells nobody of a commit; put relay.enqueue.wake_up.after(...) around the block of the "
        f"transaction, in place of wake_up=True: `{adapter.after}`"
    )


def _open_block() -> _Block | None:
    """The block around the caller; none if it has ended, as for a task that was begun in it and goes on."""
    block = _block.get()
    while block is not None and not block.is_open:
        block = block.outer
    return block


class _Block:
    """A block of a transaction, and the connections on which events were enqueued in it."""

    def __init__(self, block: Any) -> None:
        self._inner = block
        self.outer: _Block | None = None
        self.is_open = False
        self._noted: list[tuple[Adapter, Any, Callable[[], None]]] = []

    def note(self, adapter: Adapter, connection: Any, wake: Callable[[], None]) -> None:
        noted = (adapter, connection, wake)
        if not self._noted or self._noted[-1] != noted:
            self._noted.append(noted)

    def _enter(self) -> None:
        self.outer = _open_block()
        self.is_open = True
        _block.set(self)

    def _leave(self, *, failed: bool) -> None:
        # Not by a token: a generator's end may run in another context.
        _block.set(self.outer)
        self.is_open = False
        noted, self._noted = self._noted, []
        for adapter, connection, wake in noted if not failed else ():
            if not adapter.in_transaction(connection):
                wake()
            elif self.outer is not None:
                self.outer.note(adapter, connection, wake)

    def __enter__(self) -> Any:
        entered = self._inner.__enter__()
        self._enter()
        return entered

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> Any:
        failed = True
        try:
            swallowed = self._inner.__exit__(kind, error, traceback)
            failed = kind is not None
        finally:
            self._leave(failed=failed)
        return swallowed

    async def __aenter__(self) -> Any:
        entered = await self._inner.__aenter__()
        self._enter()
        return entered

    async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> Any:
        failed = True
        try:
            swallowed = await self._inner.__aexit__(kind, error, traceback)
            failed = kind is not None
        finally:
            self._leave(failed=failed)
        return swallowed
