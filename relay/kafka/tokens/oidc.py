"""Asks a token endpoint for a token: OAuth 2's client credentials grant (RFC 6749, section 4.4)."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

import aiohttp

from relay.errors import SettingsError
from relay.kafka.certificates import fault_of
from relay.kafka.tokens.token import Token, TokenError
from relay.settings.checks import MASK, as_pairs
from relay.settings.secret import reveal
from relay.text import clip, one_line

if TYPE_CHECKING:
    from relay.settings import KafkaSettings

TIMEOUT = 10.0
"""Seconds that the endpoint may take."""

MOST_BYTES = 262_144
"""Maximum bytes of an answer: tokens have some thousand."""

_URL = "RELAY_KAFKA_OAUTH_TOKEN_ENDPOINT"
_CLIENT = "RELAY_KAFKA_OAUTH_CLIENT_ID or RELAY_KAFKA_OAUTH_CLIENT_SECRET"
_MOST_OF_AN_ANSWER = 300
"""Maximum characters of the endpoint's own words that are shown."""

_ADVICE = {
    "invalid_client": f"correct {_CLIENT}, or the client there",
    "unauthorized_client": "allow this client the grant type client_credentials",
    "unsupported_grant_type": "use an endpoint that knows the grant type client_credentials",
    "invalid_scope": "correct RELAY_KAFKA_OAUTH_SCOPE",
    "invalid_target": "correct RELAY_KAFKA_OAUTH_PARAMETERS",
    "invalid_request": "correct RELAY_KAFKA_OAUTH_SCOPE or RELAY_KAFKA_OAUTH_PARAMETERS",
}
"""What to do, by the codes of RFC 6749, section 5.2, and RFC 8707."""


_CERTIFICATE: dict[str, tuple[str, str]] = {
    "expired": ("has expired", "renew it, and check this machine's clock"),
    "not yet valid": ("is not valid yet", "check this machine's clock, and the certificate"),
    "other name": ("is for another name", f"use one of its names in {_URL}"),
    "unknown authority": (
        "is from an authority that is not trusted",
        "set RELAY_KAFKA_OAUTH_CAFILE to a file with the right authority",
    ),
}
"""What is said, and what to do, by what is wrong with the endpoint's certificate."""


class TokenEndpoint:
    """The token endpoint of the settings. Secret and authorities are read again for each token."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._url = settings.oauth_token_endpoint or ""
        self._id = settings.oauth_client_id or ""
        self._secret = settings.oauth_client_secret
        self._cafile = settings.oauth_cafile
        self._fields = {"grant_type": "client_credentials"}
        if settings.oauth_scope:
            self._fields["scope"] = settings.oauth_scope
        self._fields |= as_pairs(settings.oauth_parameters)

    async def __call__(self) -> Token:
        """Ask for one. Raises TokenError, which says what is wrong, without secrets."""
        if self._secret is None:
            raise TokenError("RELAY_KAFKA_OAUTH_CLIENT_SECRET is not set; set it")
        try:
            secret = await reveal(self._secret)
        except SettingsError as error:
            raise TokenError(str(error)) from error
        asked_at = time.time()
        status, body = await self._ask(secret)
        return self._read(status, body, secret, asked_at)

    async def _ask(self, secret: str) -> tuple[int, bytes]:
        login = _login(self._id, secret)
        try:
            async with (
                asyncio.timeout(TIMEOUT),
                # Not trust_env: with it a line of ~/.netrc would replace the client's id and secret.
                aiohttp.ClientSession() as session,
                session.post(
                    self._url,
                    data=self._fields,
                    headers={"Accept": "application/json", "Authorization": f"Basic {login}"},
                    proxy=_proxy_for(self._url),
                    ssl=self._tls(),
                    # The secret goes where the settings say, and nowhere else.
                    allow_redirects=False,
                ) as response,
            ):
                return response.status, await _whole(response.content)
        except TimeoutError:
            raise self._away(f"it did not answer within {TIMEOUT:g} s") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise TokenError(self._of_certificate(error.certificate_error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._away(_cause(error)) from error

    def _tls(self) -> ssl.SSLContext | bool:
        if self._cafile is None:
            return True
        try:
            return ssl.create_default_context(cafile=str(self._cafile))
        except (OSError, ValueError) as error:
            raise TokenError(
                f"RELAY_KAFKA_OAUTH_CAFILE names {self._cafile}, which cannot be used "
                f"({getattr(error, 'strerror', None) or type(error).__name__}); correct the file"
            ) from error

    def _read(self, status: int, body: bytes, secret: str, asked_at: float) -> Token:
        """Return the token of an answer (RFC 6749, section 5)."""
        try:
            answer: Any = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            answer = {}
        code = answer.get("error")
        if isinstance(code, str) and code:
            words = f"{code}: {answer['error_description']}" if answer.get("error_description") else code
            advice = _ADVICE.get(code, f"see its log, and check {_CLIENT}")
            told = _harmless(words, self._id, secret)
            raise TokenError(f"the token endpoint {self._url} refuses the client {self._id!r} ({told}); {advice}")
        if status in (401, 403):
            raise TokenError(
                f"the token endpoint {self._url} refuses the client {self._id!r} (status {status}); correct {_CLIENT}"
            )
        if status >= 500 or status == 429:
            raise self._away(f"it answers with status {status}")
        text = answer.get("access_token")
        if status != 200 or not isinstance(text, str) or not text:
            raise TokenError(
                f"{self._url} answers with status {status} and without an access_token, so it is not a token endpoint; "
                f"correct {_URL}"
            )
        try:
            return Token.of(text, asked_at, _ends(answer.get("expires_in"), asked_at))
        except ValueError as error:
            raise TokenError(f"what the token endpoint {self._url} gives {error}; correct {_URL}") from None

    def _of_certificate(self, error: Exception) -> str:
        said = "is not accepted"
        advice = "see RELAY_KAFKA_OAUTH_CAFILE"
        if isinstance(error, ssl.SSLCertVerificationError):
            said, advice = _CERTIFICATE.get(fault_of(error), (f"is not accepted ({error.verify_message})", advice))
        return f"the certificate of the token endpoint {self._url} {said}; {advice}"

    def _away(self, why: str) -> TokenError:
        return TokenError(
            f"the token endpoint {self._url} cannot be reached: {why}; check {_URL}, and whether the endpoint runs"
        )


def _login(client: str, secret: str) -> str:
    """Return both for the header. The standard wants them encoded first; most look the same afterwards."""
    return base64.b64encode(f"{quote_plus(client)}:{quote_plus(secret)}".encode()).decode()


async def _whole(content: aiohttp.StreamReader) -> bytes:
    """Return the answer, whose pieces come one by one; of one that does not end, as much as is read of any."""
    read = bytearray()
    while len(read) < MOST_BYTES and (more := await content.read(MOST_BYTES - len(read))):
        read += more
    return bytes(read)


def _proxy_for(url: str) -> str | None:
    """Return the proxy that the environment has for this URL (HTTPS_PROXY, HTTP_PROXY, NO_PROXY)."""
    parts = urlsplit(url)
    proxies = getproxies_environment()
    return None if proxy_bypass_environment(parts.netloc, proxies) else proxies.get(parts.scheme)


def _ends(expires_in: object, asked_at: float) -> float | None:
    """Return when the token expires: some endpoints write the number as a text, and some leave it out."""
    try:
        seconds = float(expires_in) if isinstance(expires_in, int | float | str) else None
    except ValueError:
        return None
    return asked_at + seconds if seconds is not None and 0 < seconds < float("inf") else None


def _harmless(words: object, client: str, secret: str) -> str:
    """Return the endpoint's own words, fit to be shown, should it repeat what it was sent, in any form."""
    told = str(words)
    for sent in (_login(client, secret), secret, quote_plus(secret)):
        told = told.replace(sent, MASK)
    return clip(one_line(told), _MOST_OF_AN_ANSWER)


def _cause(error: BaseException) -> str:
    """Return why a connection failed, in one line."""
    inner: BaseException = getattr(error, "os_error", error)
    if isinstance(inner, socket.gaierror):
        return "the host name cannot be resolved"
    if isinstance(inner, ssl.SSLError):
        return f"TLS failed ({inner.reason or 'it does not speak TLS'})"
    if isinstance(inner, OSError) and inner.strerror and (inner.errno or 0) > 0:
        return os.strerror(inner.errno or 0).lower()
    return clip(one_line(error) or type(error).__name__, _MOST_OF_AN_ANSWER)
