"""Says in one sentence why a connection to a broker failed, and what to do. Decides only; no I/O."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import TYPE_CHECKING

import aiokafka.errors as kafka

from relay.kafka.certificates import fault_of
from relay.kafka.connection import Connection, TokenRefusedError
from relay.kafka.frames import NotKafkaError
from relay.kafka.options import FileError
from relay.kafka.tokens.token import TokenError
from relay.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from relay.settings import KafkaSettings

Address = tuple[str, int]

_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG"})
"""OpenSSL's reasons for bytes that are not TLS."""

_SERVERS = "RELAY_KAFKA_BOOTSTRAP_SERVERS"
_PROTOCOL = "RELAY_KAFKA_SECURITY_PROTOCOL"


class ClosedUnaskedError(ConnectionError):
    """A broker accepted the connection and closed it at the first request, without an answer."""


def summary(failures: Mapping[Address, BaseException], settings: KafkaSettings) -> str:
    """Return the causes of all failed connections in one line; brokers that fail alike are named together."""
    by_cause: dict[str, list[str]] = {}
    for address, error in failures.items():
        by_cause.setdefault(cause(error, address, settings), []).append(_text(address))
    causes = sorted(by_cause.items(), key=lambda each: sorted(each[1]))
    return "; ".join(f"{', '.join(sorted(brokers))}: {text}" for text, brokers in causes)


def cause(error: BaseException, address: Address, settings: KafkaSettings) -> str:
    """Return why the connection to `address` failed, and what to do, without any secret."""
    chain = list(_chain(error))
    for each in chain:
        text = _of_kafka(each, settings) or _of_tls(each, address, settings) or _of_network(each, address, settings)
        if text is not None:
            return text
    if isinstance(chain[-1], (kafka.KafkaConnectionError, EOFError, ConnectionError)):
        return _closed(settings)
    return _plain(chain[-1])


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes; aiokafka wraps the cause once or twice."""
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__


def _of_kafka(error: BaseException, settings: KafkaSettings) -> str | None:
    """Return the cause if the broker itself told it; None otherwise."""
    match error:
        case FileError() | TokenError():
            return str(error)
        case NotKafkaError(speaks_tls=True):
            logs_in = settings.security_protocol.startswith("SASL")
            encrypted = "SASL_SSL" if logs_in else "SSL (or SASL_SSL, if it wants a login)"
            return f"this listener speaks TLS; set {_PROTOCOL}={encrypted}, or name a listener without TLS"
        case NotKafkaError():
            return f"the server that listens there is not Kafka (it answers {error.first!r}); correct {_SERVERS}"
        case kafka.IncompatibleBrokerVersion():
            return f"the broker is too old, or aiokafka does not understand its answer ({_plain(error)})"
        case ClosedUnaskedError() if settings.security_protocol in ("PLAINTEXT", "SSL"):
            login = "SASL_SSL" if settings.security_protocol == "SSL" else "SASL_PLAINTEXT"
            return (
                "the broker closes the connection at the first request: this listener wants a login; "
                f"set {_PROTOCOL}={login}"
            )
        case ClosedUnaskedError():
            return "the broker closes the connection at the first request after the login; see its log"
    return _of_login(error, settings)


def _of_login(error: BaseException, settings: KafkaSettings) -> str | None:
    """Return the cause if the broker told it in answer to a login; None otherwise."""
    match error:
        case kafka.UnsupportedSaslMechanismError():
            # aiokafka's error has the connection as its argument, and not the mechanisms.
            refused = error.args[0] if error.args else None
            enabled = refused.mechanisms if isinstance(refused, Connection) else ()
            offered = f" ({', '.join(sorted(map(one_line, enabled)))})" if enabled else ""
            return (
                f"the broker does not offer the mechanism {settings.sasl_mechanism}; "
                f"set RELAY_KAFKA_SASL_MECHANISM to one it offers{offered}"
            )
        case kafka.IllegalSaslStateError():
            other = settings.security_protocol.removeprefix("SASL_")
            return f"this listener does not want a login; set {_PROTOCOL}={other}, or name a listener with SASL"
        case TokenRefusedError():
            return (
                f"the broker refuses the token ({error.said}{f'; {error.about}' if error.about else ''}); compare "
                "issuer, audience and scope with what the broker expects (sasl.oauthbearer.*), and the clocks"
            )
        case kafka.SaslAuthenticationFailed() | kafka.AuthenticationFailedError() if (
            settings.sasl_mechanism == "OAUTHBEARER"
        ):
            return (
                f"the broker refuses the token ({_plain(error)}); check whether its user may log in there, and "
                "RELAY_KAFKA_OAUTH_EXTENSIONS"
            )
        case kafka.SaslAuthenticationFailed() | kafka.AuthenticationFailedError():
            return (
                f"the broker refuses the login of {settings.sasl_username!r}: wrong user name or password; "
                "correct RELAY_KAFKA_SASL_USERNAME or RELAY_KAFKA_SASL_PASSWORD, or the user in Kafka"
            )
    return None


def _of_tls(error: BaseException, address: Address, settings: KafkaSettings) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _of_certificate(error, address, settings)
    if not isinstance(error, ssl.SSLError):
        return None
    reason = str(error.reason or error)
    if "ALERT" in reason:
        return _of_alert(reason.upper().replace(" ", "_"), settings)
    if reason in _NO_TLS:
        return _plaintext(settings)
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)) or "EOF" in reason:
        return _plaintext(settings)
    return f"TLS failed: {reason}; see the broker's log"


def _of_certificate(error: ssl.SSLCertVerificationError, address: Address, settings: KafkaSettings) -> str:
    fault = fault_of(error)
    if fault == "expired":
        return (
            "the broker's certificate has expired (or an authority's certificate has); "
            "renew it, and check this machine's clock"
        )
    if fault == "not yet valid":
        return "the broker's certificate is not valid yet; check this machine's clock, and the certificate"
    if fault == "other name":
        return (
            f"the broker's certificate is not for the name {address[0]}; use one of its names (subjectAltName) "
            f"in {_SERVERS} and in advertised.listeners, or issue a certificate for this name"
        )
    if fault == "unknown authority":
        trusted = f"in {settings.ssl_cafile}" if settings.ssl_cafile else "one of the system's"
        return (
            f"the broker's certificate is from an authority that is not {trusted}; "
            "set RELAY_KAFKA_SSL_CAFILE to a file with the right authority"
        )
    return f"the broker's certificate is not accepted ({error.verify_message}); see RELAY_KAFKA_SSL_CAFILE"


def _of_alert(reason: str, settings: KafkaSettings) -> str:
    """Return the cause of a TLS alert, with which a broker ends the handshake: nearly always our certificate."""
    if settings.ssl_certfile is None:
        if any(word in reason for word in ("CERTIFICATE", "HANDSHAKE_FAILURE", "INTERNAL_ERROR")):
            return (
                "the broker asks for a client certificate and none is set; "
                "set RELAY_KAFKA_SSL_CERTFILE and RELAY_KAFKA_SSL_KEYFILE"
            )
    elif "EXPIRED" in reason:
        return f"the broker refuses the client certificate {settings.ssl_certfile}: it has expired; renew it"
    elif any(word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED", "HANDSHAKE_FAILURE")):
        return (
            f"the broker refuses the client certificate {settings.ssl_certfile} ({_words(reason)}); "
            "renew it if it has expired, or have the broker trust its authority"
        )
    if "PROTOCOL_VERSION" in reason:
        return (
            "the broker does not accept any version of TLS that this machine's OpenSSL offers; "
            "enable TLSv1.2 or TLSv1.3 on the broker"
        )
    return f"the broker ended the TLS handshake ({_words(reason)}); see the broker's log"


def _words(reason: str) -> str:
    return reason.partition("ALERT_")[2].replace("_", " ").lower() or reason.lower()


def _of_network(error: BaseException, address: Address, settings: KafkaSettings) -> str | None:
    match error:
        case socket.gaierror():
            if _named(address, settings):
                return f"the host name cannot be resolved; correct it in {_SERVERS}, or in the name service"
            return (
                "a broker advertises itself by this name, which cannot be resolved; "
                "correct its advertised.listeners, or the name service"
            )
        case ConnectionRefusedError():
            if _named(address, settings):
                return f"nothing listens on this port; start the broker, or correct {_SERVERS}"
            return "nothing listens on this port; start the broker, or correct its advertised.listeners"
        case TimeoutError() | asyncio.TimeoutError():
            return (
                f"no answer within {settings.request_timeout:g} s; check whether the broker hangs, "
                "and whether a firewall is in the way"
            )
        case OSError(errno=errno.EHOSTUNREACH | errno.ENETUNREACH):
            return f"there is no route to this address ({error.strerror}); check the network, and {_SERVERS}"
        case OSError(errno=errno.EMFILE | errno.ENFILE):
            return "this process has no file descriptors left; raise its limit (ulimit -n)"
        case ConnectionResetError() | BrokenPipeError() | asyncio.IncompleteReadError():
            # Python's own event loop tells a handshake that is cut so.
            return _closed(settings)
    return None


def _closed(settings: KafkaSettings) -> str:
    """Return the cause of a connection that was closed without an answer. It depends on the kind of listener."""
    match settings.security_protocol:
        case "PLAINTEXT":
            return (
                "the broker closes the connection without an answer; "
                f"if this listener wants TLS, set {_PROTOCOL}, else see the broker's log"
            )
        case "SSL" | "SASL_SSL":
            return _plaintext(settings)
        case _:
            return f"the broker closes the connection during the login; if this listener speaks TLS, set {_PROTOCOL}"


def _plaintext(settings: KafkaSettings) -> str:
    plain = "SASL_PLAINTEXT" if settings.security_protocol.startswith("SASL") else "PLAINTEXT"
    return (
        "this listener does not speak TLS, or ends the handshake without an answer; "
        f"name a listener with TLS in {_SERVERS}, or set {_PROTOCOL}={plain} if the traffic may go unencrypted"
    )


def _named(address: Address, settings: KafkaSettings) -> bool:
    """Return whether the address comes from the settings, and not from a broker's advertisement."""
    host, port = address
    return any(each.strip() in (f"{host}:{port}", f"[{host}]:{port}") for each in settings.bootstrap_servers.split(","))


def _text(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _plain(error: BaseException) -> str:
    text = " ".join(str(error).split())
    name = type(error).__name__
    return text if name in text else f"{name}: {text}" if text else name
