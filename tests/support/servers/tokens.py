"""Who gives tokens: keys that sign JWTs as a broker checks them, and a token endpoint (OAuth 2 client credentials)."""

from __future__ import annotations

import base64
import json
import shutil
import ssl
import subprocess
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ISSUER, AUDIENCE = "https://login.example", "kafka"
CLIENT, CLIENT_SECRET = "relay-client", "geheim-9b2e"


class Issuer:
    """Signs tokens with a key of its own (RS256); `keys` is the file by which others check them (JWKS)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._key = folder / "issuer.key"
        self.keys = folder / "keys.json"
        _openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", self._key)
        modulus = _openssl("rsa", "-in", self._key, "-noout", "-modulus").decode().strip().partition("=")[2]
        public = {"kty": "RSA", "kid": "one", "use": "sig", "alg": "RS256", "e": "AQAB"}
        self.keys.write_text(json.dumps({"keys": [public | {"n": _encoded(bytes.fromhex(modulus))}]}))

    def token(self, seconds: float = 3_600, **claims: Any) -> str:
        """A token that is good from now on for so long."""
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "relay", "iat": now, "exp": now + seconds} | claims
        signed = f"{_json({'alg': 'RS256', 'kid': 'one', 'typ': 'JWT'})}.{_json(claims)}"
        signature = _openssl("dgst", "-sha256", "-sign", self._key, given=signed.encode())
        return f"{signed}.{_encoded(signature)}"


def unsecured(seconds: float = 3_600) -> str:
    """A token that nobody has signed."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "relay", "iat": now, "exp": now + seconds}
    return f"{_json({'alg': 'none'})}.{_json(claims)}.x"


class TokenServer:
    """A token endpoint for one client. While `away` it answers that it is busy."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.seconds: float = 3_600
        """How long the tokens are good."""
        self.away = False
        self.given = 0
        self.url = ""

    async def _answer(self, request: web.Request) -> web.Response:
        if self.away:
            return web.Response(status=503)
        login = base64.b64encode(f"{CLIENT}:{CLIENT_SECRET}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {login}":
            return web.json_response({"error": "invalid_client"}, status=401)
        fields = await request.post()
        if fields.get("grant_type") != "client_credentials" or fields.get("scope") != "kafka":
            return web.json_response({"error": "invalid_scope"}, status=400)
        self.given += 1
        token = self.issuer.token(self.seconds, jti=str(self.given))
        return web.json_response({"access_token": token, "token_type": "Bearer", "expires_in": self.seconds})


@asynccontextmanager
async def token_server(issuer: Issuer, certificate: tuple[Path, Path]) -> AsyncIterator[TokenServer]:
    """A token endpoint with TLS on 127.0.0.1, which shows this certificate."""
    server = TokenServer(issuer)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    application = web.Application()
    application.router.add_post("/token", server._answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        server.url = f"https://127.0.0.1:{runner.addresses[0][1]}/token"
        yield server
    finally:
        await runner.cleanup()


def _json(part: dict[str, Any]) -> str:
    return _encoded(json.dumps(part).encode())


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _openssl(*arguments: object, given: bytes = b"") -> bytes:
    program = shutil.which("openssl")
    assert program, "these tests need the program openssl"
    done = subprocess.run([program, *map(str, arguments)], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
