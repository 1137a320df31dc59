"""Asks a schema registry with Confluent's interface, by HTTP.

What a registry answers is not trusted: it may hang, send too much, or send whoever asks, with the password, elsewhere.
"""

from __future__ import annotations

import base64
import json
import threading
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from relay.errors import RelayError

if TYPE_CHECKING:
    from collections.abc import Callable

_MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
_LONGEST_ANSWER = 1_000_000
"""Bytes. An answer is an id, in some registries with the schema beside it."""
_HIGHEST_ID = 2**31 - 1


class RegistryError(RelayError):
    """The schema registry cannot be reached, or refuses what it was asked."""


class Registry:
    """A schema registry with Confluent's interface. `timeout` is in seconds, for each request as a whole.

    User and password may be part of the address. Redirects are not followed: who asks has sent a password.
    """

    def __init__(
        self, url: str, *, user: str | None = None, password: str | None = None, timeout: float = 10.0
    ) -> None:
        self._url, its_user, its_password = _parts(url)
        if user is None:
            user, password = its_user, its_password
        self._timeout = timeout
        self._headers = {"Content-Type": _MEDIA_TYPE, "Accept": _MEDIA_TYPE}
        if user is not None:
            credentials = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
            self._headers["Authorization"] = f"Basic {credentials}"

    def register(self, subject: str, kind: str, schema: str) -> int:
        """Register a schema (of kind AVRO, JSON or PROTOBUF) and return its id; the id it has, if it is there."""
        return self._ask(f"/subjects/{quote(subject, safe='')}/versions", subject, kind, schema)

    def look_up(self, subject: str, kind: str, schema: str) -> int:
        """Return the id of a schema that is registered. Raises RegistryError if it is not."""
        return self._ask(f"/subjects/{quote(subject, safe='')}", subject, kind, schema)

    def _ask(self, path: str, subject: str, kind: str, schema: str) -> int:
        asked = {"schema": schema} if kind == "AVRO" else {"schema": schema, "schemaType": kind}
        request = urllib.request.Request(  # noqa: S310 the address was checked
            self._url + path, json.dumps(asked).encode(), self._headers, method="POST"
        )
        try:
            status, answer = _within(self._timeout, lambda: self._exchange(request))
        except OSError as error:
            raise RegistryError(
                f"the schema registry at {self._url} cannot be reached: {_shown(getattr(error, 'reason', error))}"
            ) from error
        except (ValueError, HTTPException) as error:
            raise self._not_a_registry() from error
        if 300 <= status < 400:
            raise RegistryError(f"{self._url} leads elsewhere ({status}); give the registry's own address")
        if status != 200:
            text = _shown(answer[:2000].decode(errors="replace"))
            raise RegistryError(f"the schema registry refuses {subject}: {status} {text}")
        try:
            found = json.loads(answer)["id"]
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise self._not_a_registry() from error
        if found.__class__ is not int or not 0 <= found <= _HIGHEST_ID:
            raise self._not_a_registry()
        return found

    def _exchange(self, request: urllib.request.Request) -> tuple[int, bytes]:
        """Status and answer, of which too much is as bad as none."""
        try:
            with _opener().open(request, timeout=self._timeout) as answer:
                return answer.status, answer.read(_LONGEST_ANSWER)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(_LONGEST_ANSWER)

    def _not_a_registry(self) -> RegistryError:
        return RegistryError(f"{self._url} does not answer as a schema registry does; check the address")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would ask again by GET, and hand the password to whom it is sent to."""

    def redirect_request(self, *_: Any) -> None:
        """Let the redirect be the answer."""


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoRedirect)


def _parts(url: str) -> tuple[str, str | None, str | None]:
    """The address without what is secret in it, user and password. Raises RegistryError, which does not show those."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    host = parts.hostname or ""
    wrong = parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment
    if wrong or not (host + parts.path).isascii() or not (host + parts.path).isprintable() or " " in host + parts.path:
        shown = repr(url) if "@" not in url else "this"
        raise RegistryError(f"{shown} is not the address of a registry; write http://host:8081 or https://host")
    host = f"[{host}]" if ":" in host else host
    address = f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"
    user, password = parts.username, parts.password
    return address, None if user is None else unquote(user), None if password is None else unquote(password)


def _within(seconds: float, work: Callable[[], tuple[int, bytes]]) -> tuple[int, bytes]:
    """What the work returns or raises, or TimeoutError: a socket's own time-out begins again with each byte.

    A thread that does not end in time is left behind; it does not keep the process from ending.
    """
    found: list[tuple[int, bytes]] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:  # noqa: BLE001 raised where it is waited for
            raised.append(error)

    thread = threading.Thread(target=run, name="relay.enqueue registry", daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if not found:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return found[0]


def _shown(text: object) -> str:
    """A text from elsewhere, for a message."""
    return "".join(each if each.isprintable() else "?" for each in " ".join(str(text).split())[:300])
