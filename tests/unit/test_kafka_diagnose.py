"""Causes of failed connections that a real broker does not show at will; the others have their test on one."""

from __future__ import annotations

import asyncio
import errno
import ssl
from pathlib import Path
from typing import Any

import aiokafka.errors as kafka
import pytest

from relay.kafka.diagnose import ClosedUnaskedError, cause, summary
from relay.kafka.frames import MOST_BYTES, NotKafkaError
from relay.kafka.options import FileError
from relay.settings import KafkaSettings

ADDRESS = ("broker-1", 9092)


def settings(**given: Any) -> KafkaSettings:
    return KafkaSettings.model_construct(
        **{**KafkaSettings(bootstrap_servers="broker-1:9092").model_dump(), **given},
    )


def alert(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] (_ssl.c:1000)")
    error.reason = reason
    return error


TLS = settings(security_protocol="SSL")
CERTIFICATE = settings(security_protocol="SSL", ssl_certfile=Path("/tls/client.pem"))


@pytest.mark.parametrize(
    ("error", "given", "said"),
    [
        (TimeoutError(), settings(), "no answer within 8 s"),
        (
            OSError(errno.EHOSTUNREACH, "No route to host"),
            settings(),
            "there is no route to this address (No route to host)",
        ),
        (OSError(errno.EMFILE, "Too many open files"), settings(), "no file descriptors left"),
        (alert("SSLV3_ALERT_HANDSHAKE_FAILURE"), TLS, "the broker asks for a client certificate and none is set"),
        (alert("TLSV13_ALERT_CERTIFICATE_REQUIRED"), TLS, "the broker asks for a client certificate"),
        (alert("SSLV3_ALERT_CERTIFICATE_EXPIRED"), CERTIFICATE, "/tls/client.pem: it has expired; renew it"),
        (alert("TLSV1_ALERT_UNKNOWN_CA"), CERTIFICATE, "refuses the client certificate /tls/client.pem (unknown ca)"),
        (alert("TLSV1_ALERT_PROTOCOL_VERSION"), TLS, "any version of TLS that this machine's OpenSSL offers"),
        (alert("TLSV1_ALERT_INTERNAL_ERROR"), CERTIFICATE, "ended the TLS handshake (internal error)"),
        (alert("WRONG_VERSION_NUMBER"), TLS, "does not speak TLS"),
        (alert("SOMETHING_ELSE"), TLS, "TLS failed: SOMETHING_ELSE"),
        (ConnectionResetError(), settings(), "closes the connection without an answer"),
        (ConnectionResetError(), TLS, "does not speak TLS"),
        (asyncio.IncompleteReadError(b"", 4), settings(security_protocol="SASL_PLAINTEXT"), "during the login"),
        (ClosedUnaskedError(), settings(security_protocol="SASL_SSL"), "at the first request after the login"),
        (kafka.IncompatibleBrokerVersion("v0"), settings(), "the broker is too old"),
        (NotKafkaError(b"\x15\x03\x03\x00"), settings(), "this listener speaks TLS"),
        (NotKafkaError(b"SSH-"), settings(), "is not Kafka (it answers b'SSH-')"),
        (FileError("RELAY_X names /y"), settings(), "RELAY_X names /y"),
        (ValueError("Server sent wrong signature!"), settings(), "ValueError: Server sent wrong signature!"),
    ],
    ids=lambda value: repr(value)[:60] if isinstance(value, BaseException) else "",
)
def test_a_cause_is_said(error: BaseException, given: KafkaSettings, said: str) -> None:
    assert said in cause(error, ADDRESS, given)
    wrapped = kafka.KafkaConnectionError("Connection at broker-1:9092 closed")
    wrapped.__cause__ = error
    assert said in cause(wrapped, ADDRESS, given), "aiokafka wraps it"


def test_an_advertised_address_is_not_said_to_be_in_the_settings() -> None:
    refused = ConnectionRefusedError()
    assert "RELAY_KAFKA_BOOTSTRAP_SERVERS" in cause(refused, ADDRESS, settings())
    assert "advertised.listeners" in cause(refused, ("kafka-0.internal", 9092), settings())


def test_brokers_that_fail_alike_are_named_together() -> None:
    failures: dict[tuple[str, int], BaseException] = {
        ("::1", 2): ConnectionRefusedError(),
        ("a", 1): TimeoutError(),
        ("b", 1): TimeoutError(),
    }
    text = summary(failures, settings())
    assert text.startswith("[::1]:2: nothing listens")
    assert "; a:1, b:1: no answer within 8 s" in text


def test_the_bound_of_an_answer_is_below_what_tls_and_texts_look_like() -> None:
    for first in (b"\x15\x03\x00\x00", b"\x16\x03\x01\x00", b"HTTP", b"SSH-", b"220 "):
        assert int.from_bytes(first, "big") > MOST_BYTES
