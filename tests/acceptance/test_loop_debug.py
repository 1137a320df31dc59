"""The debug mode of the event loop: the relay works in it, and its steps are not too long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.postgres.writers import fill

if TYPE_CHECKING:
    from tests.acceptance.conftest import Place


async def test_in_the_debug_mode_the_relay_relays_and_says_that_it_is_on(here: Place) -> None:
    async with here.relay(loop_debug="true", loop_slow_callback=5) as relay:
        await relay.ready()
        assert (await relay.logged("loop.debug"))["level"] == "warning"
        await fill(here.connection, here.topic, 500)
        await here.settled()
        assert relay.happened("loop.slow") == []
        await relay.stop()
    await here.check_everything()
