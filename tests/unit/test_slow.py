"""The debug mode of the event loop: a step that takes too long is named, with where it was."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

from relay.run import slow
from relay.run.slow import slow_steps_told
from relay.telemetry import Telemetry
from tests.support.waiting import until

if TYPE_CHECKING:
    from types import FrameType

    import pytest


class Lines:
    """What was logged."""

    def __init__(self) -> None:
        self.of: dict[str, list[dict[str, object]]] = {}

    def log(self, _: int, __: str, /, **fields: object) -> None:
        self.of.setdefault(str(fields["happening"]), []).append(fields)


def test_a_step_that_takes_too_long_is_told_with_the_stack_and_the_task(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looked, lines = threading.Event(), Lines()
    look = slow._stack

    def look_and_say_so(frame: FrameType) -> str:
        where = look(frame)
        looked.set()
        return where

    monkeypatch.setattr(slow, "_stack", look_and_say_so)

    def blocks_the_loop() -> None:
        assert looked.wait(30)

    async def steps() -> None:
        blocks_the_loop()

    async def main() -> None:
        with slow_steps_told(Telemetry(lines), 0.05):
            await asyncio.create_task(steps(), name="a slow one")

            async def told() -> bool:
                return "loop.slow" in lines.of

            await until("it is told", told)

    with caplog.at_level(logging.WARNING, "asyncio"), asyncio.Runner(debug=True) as runner:
        runner.run(main())
    assert [line["slow_callback"] for line in lines.of["loop.debug"]] == [0.05]
    where = str(lines.of["loop.slow"][0]["where"])
    assert "test_slow.py" in where
    assert " blocks_the_loop > " in where
    assert any("Executing" in text and "a slow one" in text for text in caplog.messages)
