"""Keeps a token while it is good, and gets the next one in time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

from aiokafka.abc import AbstractTokenProvider

from relay.kafka.tokens.token import Token, TokenError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

FRESH = 0.75
"""Part of a token's life after which a new one is asked for. The old one is used for as long as that fails."""


class Provider(Protocol):
    """Gives a new token. Raises TokenError, which says why it cannot and what to do, without secrets."""

    def __call__(self) -> Awaitable[Token]: ...


class TokenSource:
    """The token of this process, for all connections to Kafka."""

    def __init__(self, provider: Provider, clock: Callable[[], float] = time.time) -> None:
        self._provider = provider
        self._clock = clock
        self._getting = asyncio.Lock()
        self._token: Token | None = None
        self._is_outlived = False

    async def token(self) -> Token:
        """Return a token that is good now. Raises TokenError."""
        async with self._getting:
            if self._token is None or self._is_outlived or not self._is_fresh(self._token):
                try:
                    self._token = await self._new()
                    self._is_outlived = False
                except TokenError:
                    if self._token is None or self._token.ends is None or self._token.ends <= self._clock():
                        raise
            return self._token

    def outlive(self, token: Token) -> None:
        """Have the next connection get another token, if that can be had: a session with this one is about to end.

        Only the broker knows when, by its clock and its rules.
        """
        self._is_outlived = self._is_outlived or self._token is token

    def refused(self, token: Token) -> None:
        """Forget a token that the broker refuses, so that the next connection gets another one."""
        if self._token is token:
            self._token = None

    async def _new(self) -> Token:
        token = await self._provider()
        if token.ends is not None and token.ends <= self._clock():
            raise TokenError(
                f"the token for Kafka is of no use any more ({token.described(self._clock())}); see to it that "
                "whoever writes it renews it, and compare the clocks"
            )
        return token

    def _is_fresh(self, token: Token) -> bool:
        """Return whether less than FRESH of the token's life is over; one that does not say how long is got anew."""
        return token.ends is not None and self._clock() < token.begins + FRESH * (token.ends - token.begins)


class Bearer(AbstractTokenProvider):
    """Hands aiokafka the token that was got for one connection, and the SASL extensions."""

    def __init__(self, token: Token, extensions: Mapping[str, str]) -> None:
        self.own = token
        self._extensions = dict(extensions)

    async def token(self) -> str:
        """Return the token's text."""
        return self.own.text

    def extensions(self) -> dict[str, str]:
        """Return the extensions, by their names."""
        return self._extensions
