"""Producers of which nothing but the identity matters: what a partition and a flight know of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from relay.stages.publish.ports import Producer


def producer(name: str) -> Producer:
    """A producer that can do nothing, which an assertion shows by its name."""
    return cast("Producer", name)


MAIN = producer("main")
SIDE = producer("side")
