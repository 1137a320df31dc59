"""One connection to a broker: aiokafka's, with what a relay needs that runs for months."""

from __future__ import annotations

import asyncio
import json
import time
import weakref
from typing import TYPE_CHECKING, Any

from aiokafka import errors
from aiokafka.conn import AIOKafkaConnection, CloseReason, OAuthAuthenticator
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.admin import SaslAuthenticateRequest, SaslHandShakeRequest
from aiokafka.util import wait_for

from relay.kafka.produce import Produce
from relay.kafka.tokens.source import Bearer
from relay.text import clip, one_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from aiokafka.protocol.api import Request, Response

CLOSE_TIMEOUT = 1.0
"""Seconds that closing a connection may take before it is cut."""

TURNS = 3
"""Turns of the event loop that a socket needs to be closed whose TLS handshake has failed; uvloop closes it after it
has said so."""


class TokenRefusedError(KafkaError):
    """A broker refuses a token. `said` is its word, `about` what is known of the token without its text."""

    def __init__(self, said: str, about: str) -> None:
        super().__init__(said)
        self.said = said
        self.about = about


LOGIN_ERRORS = (TokenRefusedError, errors.AuthenticationFailedError, errors.SaslAuthenticationFailed)
"""With these a broker says that it does not know, or does not like, who logs in."""


_opened: weakref.WeakSet[Connection] = weakref.WeakSet()


def open_connections() -> int:
    """Return the number of connections to brokers that this process has open, whoever opened them."""
    return sum(not connection.is_over() for connection in _opened)


class Connection(AIOKafkaConnection):
    """A connection of aiokafka that can be cut, and knows when the broker will end its session."""

    session_ends: float | None = None
    """When the broker ends the session, by the event loop's clock; None if the broker set no end."""

    mechanisms: Sequence[str] = ()
    """The mechanisms to log in with that the broker offers."""

    _transport: asyncio.WriteTransport | None = None

    @classmethod
    async def open(cls, host: str, port: int, options: Mapping[str, Any]) -> Connection:
        """Open a connection as aiokafka's `create_conn` does, but close it before raising if it cannot be made."""
        connection = cls(host, port, **options)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await connection.cut()
            raise
        _opened.add(connection)
        return connection

    def close(self, reason: CloseReason | None = None, exc: BaseException | None = None) -> asyncio.Future[None] | None:
        """Begin to close the connection as aiokafka does, without waiting again for a broker that was too slow."""
        if self._writer is not None:
            # aiokafka forgets it now.
            self._transport = self._writer.transport
        closed: asyncio.Future[None] | None = super().close(reason, exc)  # type: ignore[no-untyped-call]
        if self._transport is not None and reason is CloseReason.CONNECTION_TIMEOUT:
            self._transport.abort()
        return closed

    def send(self, request: Request[Any], expect_response: bool = True) -> Awaitable[Response]:
        """Send a request as aiokafka does, but do not copy the record batches in it, and log no password or token.

        Raises KafkaConnectionError when the connection is closed.
        """
        login = isinstance(request, SaslAuthenticateRequest)
        if self._writer is None or not expect_response or not (login or isinstance(request, Produce)):
            answered: Awaitable[Response] = super().send(request, expect_response)  # type: ignore[no-untyped-call]
            return self._of_login(answered) if isinstance(request, SaslHandShakeRequest) else answered
        prepared = request.prepare(self._versions)
        number = self._next_correlation_id()  # type: ignore[no-untyped-call]
        header = prepared.build_request_header(correlation_id=number, client_id=self._client_id)
        try:
            if isinstance(request, Produce):
                self._writer.writelines(request.frame(header.encode()))
            else:
                # aiokafka's own way writes each request into its log, at the level debug.
                message = header.encode() + prepared.encode()
                self._writer.write(len(message).to_bytes(4, "big") + message)
        except OSError as error:
            self.close(CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"connection to {self._host}:{self._port} broken: {error}") from error
        answer: asyncio.Future[Response] = self._loop.create_future()
        self._requests.append((number, prepared, answer))
        answering: Awaitable[Response] = wait_for(answer, self._request_timeout)
        return self._of_login(answering) if login else answering

    async def _of_login(self, answer: Awaitable[Response]) -> Response:
        """Hear from the answers to a login which mechanisms there are, and how long the session lasts."""
        # The session begins when the broker has checked the login, so by this clock it ends a little earlier.
        asked_at = self._loop.time()
        response = await answer
        self.mechanisms = getattr(response, "enabled_mechanisms", self.mechanisms)
        if lifetime := getattr(response, "session_lifetime_ms", 0):
            self.session_ends = asked_at + lifetime / 1000
        return response

    async def wait_answered(self, timeout: float) -> None:
        """Wait, for at most `timeout` seconds, until the requests that were sent are answered."""
        waiting = [answer for *_, answer in self._requests]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout)

    @property
    def bearer(self) -> object:
        """What it logged in with, if that was a token."""
        return self._sasl_oauth_token_provider

    def authenticator_oauth(self) -> Any:
        """Return what logs in with a token."""
        login: Any = BearerLogin
        return login(sasl_oauth_token_provider=self._sasl_oauth_token_provider)

    def is_over(self) -> bool:
        """Return whether the connection's socket is closed."""
        return self._closed_fut is not None and self._closed_fut.done()

    async def finish(self) -> None:
        """Close the connection, and cut it if the broker takes longer than CLOSE_TIMEOUT to agree."""
        closed = self.close()
        if closed is not None and not closed.done():
            await asyncio.wait([closed], timeout=CLOSE_TIMEOUT)
        await self.cut()

    async def cut(self) -> None:
        """Close the connection whatever the broker says, even if it was never open."""
        closed = self.close()
        if self._transport is None:
            for _ in range(TURNS):
                await asyncio.sleep(0)
        elif closed is not None and not closed.done():
            self._transport.abort()
            await asyncio.wait([closed], timeout=CLOSE_TIMEOUT)


class BearerLogin(OAuthAuthenticator):
    """Logs in with a token, and hears when the broker refuses it.

    A broker does so with an answer that is no error, and says more only if it is asked (RFC 7628, section 3.2.3).
    aiokafka takes that answer for success.
    """

    async def step(self, payload: bytes | None) -> tuple[bytes, bool] | None:
        """Return what is to be sent next, None when logged in. Raises TokenRefusedError."""
        first = not self._token_sent
        following: tuple[bytes, bool] | None = await super().step(payload)  # type: ignore[no-untyped-call]
        if first or not payload:
            return following
        provider = self._sasl_oauth_token_provider
        about = provider.own.described(time.time()) if isinstance(provider, Bearer) else ""
        raise TokenRefusedError(_said(payload), about)


def _said(payload: bytes) -> str:
    """Return the broker's word for what is wrong with the token, `invalid_token` for example."""
    try:
        answer = json.loads(payload)
    except ValueError:
        answer = payload.decode("utf-8", "replace")
    said = answer.get("status", answer) if isinstance(answer, dict) else answer
    return clip(one_line(said), 200)
