"""A replica killed or paused at each of its steps repeats, loses and reorders nothing; and each mistake is noticed."""

from __future__ import annotations

import pytest

from tests.support.models.reconcile_model import MUTANTS, fates, play
from tests.support.models.simulated_postgres import Violation


async def test_whenever_the_owner_ends_and_its_bytes_arrive_nothing_is_repeated_lost_or_reordered() -> None:
    played = [fate for fate in fates() if await play(None, fate)]
    assert len(played) > 1_000
    assert max(fate.stopped_at for fate in played) < 59, "the whole life was tried"


@pytest.mark.parametrize("mutant", MUTANTS)
async def test_a_mistake_is_noticed(mutant: str) -> None:
    with pytest.raises(Violation):
        await _play_all(mutant)


async def _play_all(mutant: str) -> None:
    for fate in fates():
        await play(mutant, fate)
