"""Which records are CloudEvents, and what they say; that the official SDK reads them is tested on a real Kafka."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from relay.decide.cloud_events import LONGEST_SUBJECT, CloudEvents
from relay.decide.limits import TopicLimits
from relay.errors import SettingsError
from relay.event import EventTuple, with_origin
from relay.settings import Settings
from relay.stages.publish.limits import BATCH_OVERHEAD, Limits
from tests.support.events import event
from tests.unit.test_settings import ENOUGH

RULES = CloudEvents(sources={"orders": "/shop", "billing.*": "/bills"}, content_types={"*": "application/json"})
CREATED = 1_700_000_000_123


def headers(written: EventTuple, rules: CloudEvents = RULES) -> dict[str, str]:
    """The headers of its CloudEvent."""
    made = rules.of(written.topic)
    assert made is not None
    given = [(name, value.encode()) for name, value in json.loads(written.headers or "{}").items()]
    return {name: value.decode() for name, value in made.headers(written, given)}


def order(**changed: object) -> EventTuple:
    """An event of the topic orders."""
    written = event(7, key=b"42", payload=b"{}")._replace(type="order.paid", created_ms=CREATED)
    return written._replace(**changed)  # type: ignore[arg-type]


def test_the_attributes_are_the_events_own() -> None:
    assert headers(order()) == {
        "ce_specversion": "1.0",
        "ce_id": str(order().event_id),
        "ce_source": "/shop",
        "ce_type": "order.paid",
        "ce_subject": "42",
        "ce_time": "2023-11-14T22:13:20.123Z",
        "content-type": "application/json",
    }


@pytest.mark.parametrize(
    ("topic", "source"),
    [
        ("orders", "/shop"),
        ("billing.eu", "/bills"),
        ("other", None),
        ("orders.dead-letter", "/shop"),
        ("billing.eu.dead-letter", "/bills"),
        ("other.dead-letter", None),
        (".dead-letter", None),
    ],
)
def test_a_topic_has_the_source_of_the_first_pattern_and_its_dead_letters_have_the_same(
    topic: str, source: str | None
) -> None:
    made = RULES.of(topic)
    found = None if made is None else dict(made.headers(order(), []))["ce_source"].decode()
    assert found == source


def test_a_pattern_for_dead_letters_wins_over_that_of_their_topic() -> None:
    rules = CloudEvents(sources={"*.dead-letter": "/failed", "*": "/shop"})
    assert headers(order(topic="orders.dead-letter"), rules)["ce_source"] == "/failed"


@pytest.mark.parametrize("kind", [None, "", "line\nbreak", "\x7f"])
def test_an_event_without_a_type_has_that_of_its_topic(kind: str | None) -> None:
    assert headers(order(type=kind))["ce_type"] == "orders"
    assert headers(order(type=kind, topic="orders.dead-letter"))["ce_type"] == "orders"
    rules = CloudEvents(sources={"*": "/"}, types={"orders": "com.example.order"})
    assert headers(order(type=kind), rules)["ce_type"] == "com.example.order"
    assert headers(order(), rules)["ce_type"] == "order.paid"


@pytest.mark.parametrize("key", [None, b"", b"\xff", b"a\nb", "\ufffe".encode(), b"k" * (LONGEST_SUBJECT + 1)])
def test_a_key_that_cannot_be_a_subject_is_none(key: bytes | None) -> None:
    assert "ce_subject" not in headers(order(key=key))


def test_a_key_may_be_any_text() -> None:
    assert headers(order(key="grün 😀".encode()))["ce_subject"] == "grün 😀"
    assert len(headers(order(key=b"k" * LONGEST_SUBJECT))["ce_subject"]) == LONGEST_SUBJECT


def test_headers_with_the_name_of_an_attribute_are_extensions_as_well() -> None:
    written = {
        "traceparent": "00-ab",
        "tenant7": "ü",
        "dataschema": "https://example.com/7",
        # Names that no attribute can have, and values that none can have.
        "tenant-id": "a",
        "Tenant": "a",
        "": "a",
        "e_r": "a",
        "empty": "",
        "line": "a\nb",
        # What the relay itself says.
        "id": "a",
        "source": "a",
        "type": "a",
        "subject": "a",
        "time": "a",
        "specversion": "a",
        "data": "a",
        "datacontenttype": "a",
    }
    made = headers(order(headers=json.dumps(written)))
    extensions = {name: value for name, value in made.items() if name not in headers(order())}
    assert extensions == {
        "ce_traceparent": "00-ab",
        "ce_tenant7": "ü",
        "ce_dataschema": "https://example.com/7",
    }
    assert {name: made[name] for name in headers(order())} == headers(order())


def test_only_the_wanted_headers_are_extensions() -> None:
    rules = CloudEvents(sources={"*": "/"}, extensions=("trace*",))
    made = headers(order(headers='{"traceparent": "00-ab", "tenant": "a"}'), rules)
    assert made["ce_traceparent"] == "00-ab"
    assert "ce_tenant" not in made


def test_the_content_type_is_the_writers_if_he_names_it_and_a_tombstone_has_none() -> None:
    assert "content-type" not in headers(order(headers='{"content-type": "application/avro"}'))
    assert "content-type" not in headers(order(headers='{"Content-Type": "application/avro"}'))
    assert "content-type" not in headers(order(payload=None))
    assert "content-type" not in headers(order(), CloudEvents(sources={"*": "/"}))
    assert headers(order(payload=b""))["content-type"] == "application/json"


class Nobody:
    """An origin that is never asked."""

    exempt = False


def test_a_replay_has_the_time_of_the_first_delivery() -> None:
    again = with_origin(order(created_ms=CREATED + 86_400_000), Nobody())  # type: ignore[arg-type]
    again.written_ms = CREATED
    assert headers(again) == headers(order())


@pytest.mark.parametrize("ms", [0, 1, 999, 1_000, 253_402_300_799_999])
def test_the_time_is_exact_to_the_millisecond(ms: int) -> None:
    found = datetime.fromisoformat(headers(order(created_ms=ms))["ce_time"])
    assert round(found.timestamp() * 1_000) == ms


LARGEST = [
    order(key=None, type=None, headers=None),
    order(key=b"k" * LONGEST_SUBJECT, type="t" * 500),
    order(key=b"k" * 2_000, headers=json.dumps({f"h{n}": "" for n in range(256)})),
    order(headers=json.dumps({f"h{n}": "v" for n in range(256)})),
    order(headers=json.dumps({"ü": "😀" * 900, "a": "😀" * 900}, ensure_ascii=False)),
]


@pytest.mark.parametrize("written", LARGEST)
def test_what_a_cloud_event_adds_is_never_more_than_was_counted(written: EventTuple) -> None:
    made = RULES.of(written.topic)
    assert made is not None
    # Of each header of a record, Kafka writes the lengths of the name and of the value as well.
    added = sum(len(name.encode()) + len(value.encode()) + 6 for name, value in headers(written).items())
    assert added <= made.added_bytes(written)


def test_an_event_that_is_too_large_only_as_a_cloud_event_is_not_sent() -> None:
    limits = Limits("orders")
    limits.take(TopicLimits(max_bytes=order().size + BATCH_OVERHEAD + 100), 0.0)
    assert not limits.seem_exceeded_by(order())
    made = RULES.of("orders")
    assert made is not None
    limits.added_bytes = made.added_bytes
    assert limits.seem_exceeded_by(order())
    assert "the event has 10 bytes, up to 2" in str(limits.too_large(order()))
    assert "more as a CloudEvent, and topic orders takes 366" in str(limits.too_large(order()))


def test_the_settings_say_all_of_that() -> None:
    found = Settings.load(
        {
            **ENOUGH,
            "RELAY_CLOUDEVENTS_SOURCES": "orders = /shop , billing.*=https://example.com/?a=b%2C",
            "RELAY_CLOUDEVENTS_TYPES": "orders=com.example.order",
            "RELAY_CLOUDEVENTS_CONTENT_TYPES": "audit.*=text/plain;charset=utf-8",
            "RELAY_CLOUDEVENTS_EXTENSIONS": "tenant, trace*",
            "RELAY_FAILURE_DEAD_LETTER_SUFFIX": ".failed",
        }
    ).cloud_events()
    assert found == CloudEvents(
        sources={"orders": "/shop", "billing.*": "https://example.com/?a=b%2C"},
        types={"orders": "com.example.order"},
        content_types={"audit.*": "text/plain;charset=utf-8"},
        extensions=("tenant", "trace*"),
        dead_letter_suffix=".failed",
    )
    assert Settings.load(ENOUGH).cloud_events().of("orders") is None


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("SOURCES", "/shop", "contains '/shop'; write pairs like orders=/shop/orders"),
        ("SOURCES", "orders=", "contains 'orders='; write pairs"),
        ("SOURCES", "=/shop", "contains '=/shop'; write pairs"),
        ("SOURCES", "orders=a,b", "contains 'b'; write pairs like .* and a comma in a value as %2C"),
        ("SOURCES", "orders=a b", "contains 'orders=a b'; write pairs"),
        ("SOURCES", "orders={topic}", "contains 'orders={topic}'; write pairs"),
        ("SOURCES", "or ders=/shop", "contains 'or ders', which no topic can match"),
        ("TYPES", "orders=ä", "contains 'orders=ä'; write pairs"),
        ("CONTENT_TYPES", "text/plain", r"contains 'text/plain'; write pairs like audit"),
        ("EXTENSIONS", "[a-z]*,tenant-id", "contains 'tenant-id'; names of extensions have lower-case letters"),
        ("TYPES", "orders=a", "have no effect without RELAY_CLOUDEVENTS_SOURCES"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name: str, value: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        Settings.load({**ENOUGH, f"RELAY_CLOUDEVENTS_{name}": value})
