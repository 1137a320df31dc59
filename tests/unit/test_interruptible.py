"""Commands that wait can be interrupted at any moment, without a traceback."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from typing import Never

import pytest

from relay.cli import interruptible


async def wait() -> Never:
    await asyncio.sleep(60)
    raise AssertionError


@pytest.mark.filterwarnings("error")
def test_ctrl_c_while_the_event_loop_is_being_made_waits_for_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    made = asyncio.new_event_loop

    def interrupted() -> asyncio.AbstractEventLoop:
        signal.raise_signal(signal.SIGINT)
        return made()

    monkeypatch.setattr(asyncio.events, "new_event_loop", interrupted)
    with pytest.raises(KeyboardInterrupt):
        interruptible.run(wait())


@pytest.mark.filterwarnings("error")
def test_ctrl_c_that_another_thread_gets_meanwhile_waits_for_the_loop_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A progress bar has a thread, and a signal that the main thread blocks goes there."""
    made = asyncio.new_event_loop
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()

    def interrupted() -> asyncio.AbstractEventLoop:
        assert other.ident is not None
        signal.pthread_kill(other.ident, signal.SIGINT)
        # Long enough for Python to hear of it, and if not, it does later.
        time.sleep(0.1)
        return made()

    monkeypatch.setattr(asyncio.events, "new_event_loop", interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            interruptible.run(wait())
    finally:
        over.set()
        other.join()


@pytest.mark.filterwarnings("error")
def test_ctrl_c_while_it_waits() -> None:
    async def interrupted() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
        await wait()

    with pytest.raises(KeyboardInterrupt):
        interruptible.run(interrupted())
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_results_and_errors_go_through() -> None:
    async def seven() -> int:
        return 7

    async def fails() -> int:
        raise LookupError

    assert interruptible.run(seven()) == 7
    with pytest.raises(LookupError):
        interruptible.run(fails())
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
