"""The relay in a database in which somebody has put functions of his own in the place of PostgreSQL's."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from relay.postgres.admin.migrate import make_roles
from tests.integration.test_hostile_schemas import FUNCTIONS, OPERATORS
from tests.support.postgres.attacker import attacker_of, forget, shadow_all, shadow_for
from tests.support.postgres.writers import fill

if TYPE_CHECKING:
    from tests.acceptance.conftest import Place


async def test_the_relay_runs_nothing_of_others(here: Place) -> None:
    """As a role of its own, whose name a schema bears, and with every setting that a database may have."""
    observer = here.connection
    await observer.execute("SET search_path = pg_catalog")
    await make_roles(observer)
    await observer.execute("CREATE ROLE hunted LOGIN PASSWORD 'x' IN ROLE outbox_relay")
    attacker = await attacker_of(observer, here.dsn)
    await shadow_for(attacker, "hunted")
    await shadow_all(attacker, FUNCTIONS, OPERATORS)
    name = await observer.fetchval("SELECT quote_ident(current_database())")
    parts = urlsplit(here.dsn)
    here.dsn = parts._replace(netloc=f"hunted:x@{parts.hostname}:{parts.port}").geturl()
    try:
        for path in ("""hostile, "$user", public, pg_catalog""", """"$user", public"""):
            await observer.execute(f"ALTER DATABASE {name} SET search_path = {path}")
            before = await here.receipts()
            async with here.relay(segment_check_interval=1, segment_ids=10) as relay:
                await fill(observer, here.topic, 100)
                await here.receipts_reach(before + 100)
                await relay.stop()
                assert not relay.happened("housekeeping.put_off"), relay
            assert not await attacker.gained(observer)
    finally:
        await forget(observer, attacker)
        await observer.execute("DROP ROLE hunted")
