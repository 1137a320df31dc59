"""Events for topics that the relay may write to and a writer must not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.kafka.consumer import read_topic
from tests.support.promises import check_everything
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.acceptance.conftest import Place
    from tests.conftest import MakeTopic

INTERNAL = "__consumer_offsets"


async def test_an_event_for_a_topic_that_is_not_allowed_fails_alone_and_goes_there_once_it_is_allowed(
    here: Place, make_topic: MakeTopic
) -> None:
    other = make_topic(1)
    async with here.relay(topic_allow=here.topic, failure_policy="dead-letter") as relay:
        async with here.connection.transaction():
            for topic in (other, here.topic, INTERNAL):
                await here.connection.execute(
                    "INSERT INTO outbox.event (topic, key, payload)"
                    " SELECT $1, 'k', convert_to(i::text, 'UTF8') FROM generate_series(1, 50) AS i",
                    topic,
                )
        await here.receipts_reach(50)

        async def failed() -> bool:
            return bool(await here.connection.fetchval("SELECT count(*) = 100 FROM outbox.failure"))

        await until("the others have failed", failed)
        lines = {line["topic"]: line["error"] for line in relay.happened("event.failed")}
        allowed = "RELAY_TOPIC_ALLOW does not list it; add it and replay, or discard"
        assert lines[other] == f"no event may go to topic {other}: {allowed}"
        assert relay.happened("topic.troubled") == []
        await relay.stop()
    assert await read_topic(here.bootstrap_servers, other) == []

    await here.connection.execute("UPDATE outbox.failure SET state = 'replaying'")
    async with here.relay(topic_allow="*", failure_policy="skip") as relay:
        await here.receipts_reach(100)

        async def failed_again() -> bool:
            rows = await here.connection.fetch("SELECT topic, state FROM outbox.failure")
            return len(rows) == 50 and all(tuple(row) == (INTERNAL, "failed") for row in rows)

        await until("those for the topic of Kafka itself have failed again", failed_again)
        assert all(line["topic"] == INTERNAL for line in relay.happened("event.failed"))
        await relay.stop()
    await here.connection.execute("DELETE FROM outbox.failure; DELETE FROM outbox.held")
    for each in (here.topic, other):
        assert await check_everything(here.connection, here.bootstrap_servers, each) == []
