"""What people asked for, as they read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay.postgres.admin.rows import Action


def progress(action: Action) -> str:
    """Write the progress of an action."""
    if action.kind in ("discard", "cancel", "erase"):
        return "done"
    if action.kind != "replay":
        state = "finished" if action.finished else "in progress"
        return ", ".join([state, *(f"{name} {value}" for name, value in action.counts.items())])
    parts = [f"{action.done:,} delivered"]
    if action.failed:
        parts.append(f"{action.failed:,} failed again")
    if action.to_go:
        parts.append(f"{action.to_go:,} to go")
    return ", ".join(parts)


def ending(action: Action) -> str:
    """Write how a replay of failures stands when nobody waits for it any longer."""
    if action.to_go:
        return (
            f"{action.done:,} delivered, {action.to_go:,} to go, and no replica is alive any more: the replay "
            "continues when a relay runs; see `relay failed actions`"
        )
    if action.failed:
        return f"{action.done:,} delivered, {action.failed:,} failed again; see `relay failed list`"
    return "delivered" if action.events == 1 else f"all {action.events:,} delivered"


def report(action: Action) -> dict[str, object]:
    """Return an action for machines."""
    return {**action._asdict(), "events": action.events, "done": action.done, "finished": action.finished}
