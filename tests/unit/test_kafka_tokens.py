"""Tokens: kept while they are good, renewed in time, and every reason why there is none said without a secret."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote_plus

import pytest
from aiohttp import web
from pydantic import SecretStr

from relay.errors import SettingsError
from relay.kafka.connection import BearerLogin, TokenRefusedError
from relay.kafka.diagnose import cause
from relay.kafka.options import Security
from relay.kafka.tokens import oidc, providers
from relay.kafka.tokens.oidc import TokenEndpoint
from relay.kafka.tokens.providers import AwsSigner, GivenToken
from relay.kafka.tokens.source import FRESH, Bearer, TokenSource
from relay.kafka.tokens.token import Token, TokenError
from relay.settings import KafkaSettings, Settings
from relay.settings.secret import FileSecret
from tests.support.servers.certificates import EXPIRED, NOT_YET, Authority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

SECRET = "geheim-7f3a"


def jwt(**claims: Any) -> str:
    """A token as a server would sign it; nobody checks the signature here."""
    parts = ({"alg": "RS256"}, claims)
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    return f"{'.'.join(encoded)}.c2ln"


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Scripted:
    """A provider with the next answers, and what it was asked."""

    def __init__(self, clock: Clock, answers: Sequence[Token | TokenError]) -> None:
        self._clock = clock
        self.answers = list(answers)

    async def __call__(self) -> Token:
        await asyncio.sleep(0)
        answer = self.answers.pop(0)
        if isinstance(answer, TokenError):
            raise answer
        return answer


async def test_a_token_is_asked_for_once_however_many_connections_want_it() -> None:
    clock = Clock()
    source = TokenSource(Scripted(clock, [Token("a", 1_000, 1_100)]), clock)
    assert {token.text for token in await asyncio.gather(*(source.token() for _ in range(8)))} == {"a"}


async def test_a_token_is_renewed_before_it_expires() -> None:
    clock = Clock()
    source = TokenSource(Scripted(clock, [Token("a", 1_000, 1_100), Token("b", 1_075, 1_175)]), clock)
    assert (await source.token()).text == "a"
    clock.now = 1_000 + FRESH * 100 - 1
    assert (await source.token()).text == "a"
    clock.now = 1_000 + FRESH * 100
    assert (await source.token()).text == "b"


async def test_a_token_is_renewed_earlier_for_a_session_that_is_about_to_end() -> None:
    clock = Clock()
    away = TokenError("away")
    first, second = Token("a", 1_000, 1_100), Token("b", 1_000, 1_100)
    source = TokenSource(Scripted(clock, [first, away, second]), clock)
    assert await source.token() is first
    source.outlive(first)
    assert await source.token() is first, "the next cannot be had now, and this one is still good"
    assert await source.token() is second
    source.outlive(first)
    assert await source.token() is second, "that session had another token"


def test_of_two_ends_of_a_token_the_earlier_counts() -> None:
    assert Token.of(jwt(exp=50), 0, 60).ends == 50
    assert Token.of(jwt(exp=70), 0, 60).ends == 60


async def test_while_no_new_token_can_be_had_the_old_one_is_used_until_it_expires() -> None:
    clock = Clock()
    away = TokenError("away")
    source = TokenSource(Scripted(clock, [Token("a", 1_000, 1_100), away, away, Token("b", 1_101, 1_201)]), clock)
    await source.token()
    clock.now = 1_099
    assert (await source.token()).text == "a"
    clock.now = 1_100
    with pytest.raises(TokenError, match="away"):
        await source.token()
    assert (await source.token()).text == "b"


async def test_a_token_that_says_nothing_of_its_end_is_asked_for_each_time() -> None:
    clock = Clock()
    source = TokenSource(Scripted(clock, [Token("a", 1_000, None), Token("b", 1_000, None)]), clock)
    assert [(await source.token()).text for _ in range(2)] == ["a", "b"]


async def test_a_token_that_the_broker_refused_is_not_used_again() -> None:
    clock = Clock()
    first, second = Token("a", 1_000, 1_100), Token("b", 1_000, 1_100)
    source = TokenSource(Scripted(clock, [first, second]), clock)
    source.refused(await source.token())
    assert await source.token() is second
    source.refused(first)
    assert await source.token() is second, "that was the other one"


async def test_a_token_that_is_over_when_it_comes_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    clock.now = 2_000
    token = Token.of(jwt(iss="https://login", sub="relay", aud=["kafka", "x"], exp=1_990), 2_000)
    with pytest.raises(TokenError) as raised:
        await TokenSource(Scripted(clock, [token]), clock).token()
    assert "(issuer https://login, audience kafka x, subject relay, expired 10 s ago)" in str(raised.value)
    assert token.text not in str(raised.value) + repr(token)


@pytest.mark.parametrize("exp", [10**400, float("inf"), True, "soon", -1, None])
def test_an_odd_end_of_a_token_counts_as_none(exp: object) -> None:
    assert Token.of(jwt(exp=exp), 0).ends is None


@pytest.mark.parametrize("text", ["", "two words", "line\nend", "a\x01b", "\u00e4"])
def test_what_is_not_a_token_is_refused_without_being_told(text: str) -> None:
    with pytest.raises(ValueError, match="is not a token") as raised:
        Token.of(text, 0)
    assert not text or text not in str(raised.value)


def test_claims_that_would_fool_a_terminal_are_escaped_and_cut() -> None:
    told = Token.of(jwt(sub="\x1b[31m" + "x" * 1_000), 0).described(0)
    assert told.startswith("subject \\x1b[31mxxx")
    assert len(told) < 200


async def test_a_given_token_is_read_from_its_file_each_time(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("opaque-1\n")
    provider = GivenToken(FileSecret("RELAY_KAFKA_OAUTH_TOKEN", str(file)))
    assert (await provider()).text == "opaque-1"
    file.write_text(jwt(exp=time.time() + 60))
    token = await provider()
    assert token.ends is not None
    for content, said in (
        ("", "RELAY_KAFKA_OAUTH_TOKEN (from file"),
        (f'{{"token": "{SECRET}"}}', "RELAY_KAFKA_OAUTH_TOKEN is not a token"),
    ):
        file.write_text(content)
        with pytest.raises(TokenError) as raised:
            await provider()
        assert said in str(raised.value)
        assert SECRET not in str(raised.value)


# The token endpoint


class Endpoint:
    """A token endpoint that answers as it is told."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.authorization = ""
        self.answer: Callable[[], Awaitable[web.StreamResponse]] = self._token

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(dict(parse_qsl(await request.text())))
        self.authorization = request.headers["Authorization"]
        return await self.answer()

    async def _token(self) -> web.StreamResponse:
        return web.json_response({"access_token": "opaque", "expires_in": 300, "token_type": "Bearer"})

    def answers(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        async def answer() -> web.StreamResponse:
            return web.Response(status=status, text=text, headers=headers)

        self.answer = answer


@asynccontextmanager
async def serving(endpoint: Endpoint, **options: Any) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_post("/token", endpoint.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, **options)
    await site.start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}/token"
    finally:
        await runner.cleanup()


def settings(url: str, **more: Any) -> KafkaSettings:
    return KafkaSettings.model_validate(
        {
            "bootstrap_servers": "b:1",
            "oauth_provider": "oidc",
            "oauth_token_endpoint": url,
            "oauth_client_id": "relay",
            "oauth_client_secret": SECRET,
            **more,
        }
    )


async def test_a_token_endpoint_is_asked_as_the_standard_says() -> None:
    endpoint = Endpoint()
    async with serving(endpoint) as address:
        more = {
            "oauth_client_id": "re:lay",
            "oauth_client_secret": "a b%",
            "oauth_scope": "kafka.write all",
            "oauth_parameters": "audience=kafka, resource=urn:a%2Cb",
        }
        before = time.time()
        token = await TokenEndpoint(settings(f"http://{address}", **more))()
    assert (token.text, token.ends is not None and 299 < token.ends - before < 320) == ("opaque", True)
    assert endpoint.asked == [
        {
            "grant_type": "client_credentials",
            "scope": "kafka.write all",
            "audience": "kafka",
            "resource": "urn:a,b",
        }
    ]
    assert base64.b64decode(endpoint.authorization.removeprefix("Basic ")) == b"re%3Alay:a+b%25"


async def refusal(url: str, **more: Any) -> str:
    with pytest.raises(TokenError) as raised:
        await TokenEndpoint(settings(url, **more))()
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)
    return str(raised.value)


ANSWERS = {
    "invalid client": (
        401,
        '{"error": "invalid_client"}',
        "refuses the client 'relay' (invalid_client); correct",
    ),
    "words": (
        400,
        json.dumps({"error": "invalid_scope", "error_description": f"no \x1b[1m {SECRET}"}),
        "(invalid_scope: no \\x1b[1m ********); correct RELAY_KAFKA_OAUTH_SCOPE",
    ),
    "other code": (400, '{"error": "odd"}', "(odd); see its log, and check RELAY_KAFKA_OAUTH_CLIENT_ID or"),
    "401 in HTML": (401, "<html>", "refuses the client 'relay' (status 401); correct RELAY_KAFKA_OAUTH_CLIENT_ID or"),
    "500": (503, "busy", "cannot be reached: it answers with status 503; check RELAY_KAFKA_OAUTH_TOKEN_ENDPOINT"),
    "404": (404, "no", "answers with status 404 and without an access_token, so it is not a token endpoint"),
    "HTML": (200, "<html>", "answers with status 200 and without an access_token"),
    "no token": (200, "{}", "without an access_token"),
    "empty token": (200, '{"access_token": ""}', "without an access_token"),
    "number": (200, '{"access_token": 7}', "without an access_token"),
    "list": (200, "[]", "without an access_token"),
    "odd token": (200, '{"access_token": "a b"}', "is not a token"),
    "redirect": (302, "", "answers with status 302 and without"),
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_what_a_token_endpoint_answers_is_said(answer: str) -> None:
    status, text, said = ANSWERS[answer]
    endpoint = Endpoint()
    endpoint.answers(status, text, {"Location": "http://127.0.0.1:1/"} if status == 302 else None)
    async with serving(endpoint) as address:
        assert said in await refusal(f"http://{address}")


@pytest.mark.parametrize("size", [2_000, 200_000])
async def test_an_answer_that_comes_in_pieces_is_read_whole(size: int) -> None:
    """Tokens with many groups are larger than what a network delivers at once."""
    body = json.dumps({"access_token": "a" * size, "expires_in": 300}).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n" % len(body))
        for piece in (body[:100], body[100:1_000], body[1_000:]):
            writer.write(piece)
            await writer.drain()
            # So long that whoever reads only what has come gets this piece alone.
            await asyncio.sleep(0.05)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        over.set()

    over = asyncio.Event()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        assert (await TokenEndpoint(settings(f"http://{host}:{port}/token"))()).text == "a" * size
        await over.wait()


async def test_an_answer_without_end_is_refused() -> None:
    endpoint = Endpoint()
    endpoint.answers(200, json.dumps({"access_token": "a" * oidc.MOST_BYTES}))
    async with serving(endpoint) as address:
        assert "without an access_token" in await refusal(f"http://{address}")


@pytest.mark.parametrize(
    "repeat", [str, quote_plus, lambda secret: base64.b64encode(f"relay:{quote_plus(secret)}".encode()).decode()]
)
async def test_whatever_form_of_the_secret_an_endpoint_repeats_is_masked(repeat: Callable[[str], str]) -> None:
    secret = "ge/heim &7"
    endpoint = Endpoint()
    endpoint.answers(400, json.dumps({"error": "invalid_client", "error_description": f"was sent {repeat(secret)}"}))
    async with serving(endpoint) as address:
        assert "(invalid_client: was sent ********)" in await refusal(f"http://{address}", oauth_client_secret=secret)


async def test_a_token_endpoint_that_is_away_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be reached: connection refused; check RELAY_KAFKA_OAUTH" in await refusal("http://127.0.0.1:1/token")
    assert "cannot be reached: the host name cannot be resolved" in await refusal("http://not-there.invalid/token")

    hanging = asyncio.Event()

    async def hang() -> web.StreamResponse:
        await hanging.wait()
        return web.Response()

    endpoint = Endpoint()
    endpoint.answer = hang
    monkeypatch.setattr(oidc, "TIMEOUT", 0.2)
    async with serving(endpoint) as address:
        assert "cannot be reached: it did not answer within 0.2 s" in await refusal(f"http://{address}")
        hanging.set()


async def test_the_certificate_of_a_token_endpoint_is_checked_and_what_is_wrong_is_said(tmp_path: Path) -> None:
    import ssl

    authority, stranger = Authority(tmp_path / "right", "right"), Authority(tmp_path / "other", "other")
    certificates = {
        "": authority.issue("good"),
        "is from an authority that is not trusted; set RELAY_KAFKA_OAUTH_CAFILE": stranger.issue("strange"),
        "has expired; renew it": authority.issue("old", valid=EXPIRED),
        "is not valid yet; check this machine's clock": authority.issue("early", valid=NOT_YET),
        "is for another name; use one of its names": authority.issue("elsewhere", "DNS:other.example"),
    }
    for said, (certificate, key) in certificates.items():
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        endpoint = Endpoint()
        async with serving(endpoint, ssl_context=context) as address:
            given = {"oauth_cafile": authority.certificate}
            if said:
                text = await refusal(f"https://{address}", **given)
                assert f"the certificate of the token endpoint https://{address} {said}" in text
                assert endpoint.asked == [], "the secret was not sent"
            else:
                assert (await TokenEndpoint(settings(f"https://{address}", **given))()).text == "opaque"
    endpoint = Endpoint()
    async with serving(endpoint) as address:
        assert "TLS failed" in await refusal(f"https://{address}")


async def test_the_secret_of_a_token_endpoint_is_read_for_each_token(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    endpoint = Endpoint()
    async with serving(endpoint) as address:
        secret = FileSecret("RELAY_KAFKA_OAUTH_CLIENT_SECRET", str(file))
        given = settings(f"http://{address}").model_copy(update={"oauth_client_secret": secret})
        for text in ("one", "two"):
            file.write_text(text)
            await TokenEndpoint(given)()
            assert base64.b64decode(endpoint.authorization.removeprefix("Basic ")) == f"relay:{text}".encode()
        file.unlink()
        with pytest.raises(TokenError, match="RELAY_KAFKA_OAUTH_CLIENT_SECRET_FILE names"):
            await TokenEndpoint(given)()


# AWS


async def test_a_token_for_msk_is_signed_with_the_credentials_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("aws_msk_iam_sasl_signer")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    token = await AwsSigner("eu-west-1")()
    url = base64.urlsafe_b64decode(token.text + "=" * (-len(token.text) % 4)).decode()
    assert url.startswith("https://kafka.eu-west-1.amazonaws.com/?Action=kafka-cluster%3AConnect&")
    assert "AKIDEXAMPLE" in url
    assert SECRET not in url
    assert token.ends is not None
    assert 800 < token.ends - time.time() <= 900


async def test_without_aws_credentials_the_error_says_where_they_may_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aws_msk_iam_sasl_signer")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/no/such/file")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/no/such/file")
    with pytest.raises(TokenError, match="no usable AWS credentials; give this machine or pod a role, or set AWS_PROF"):
        await AwsSigner("eu-west-1")()
    monkeypatch.setenv("AWS_PROFILE", "not-there")
    with pytest.raises(TokenError, match=r"no usable AWS credentials \(ProfileNotFound"):
        await AwsSigner("eu-west-1")()


async def test_aws_credentials_that_do_not_come_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(_: str) -> tuple[str, int]:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        return "x", 0

    stub = SimpleNamespace(MSKAuthTokenProvider=SimpleNamespace(generate_auth_token=hang))
    monkeypatch.setitem(sys.modules, "aws_msk_iam_sasl_signer", stub)
    monkeypatch.setattr(providers, "AWS_TIMEOUT", 0.1)
    try:
        with pytest.raises(TokenError, match=r"did not come within 0\.1 s"):
            await AwsSigner("eu-west-1")()
    finally:
        release.set()


# The login


async def test_the_token_and_the_extensions_are_sent_and_success_is_heard() -> None:
    login = BearerLogin(sasl_oauth_token_provider=Bearer(Token("abc", 0, None), {"logicalCluster": "lkc-1"}))  # type: ignore[no-untyped-call]
    assert await login.step(None) == (b"n,,\x01auth=Bearer abc\x01logicalCluster=lkc-1\x01\x01", True)
    assert await login.step(b"") is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b'{"status":"invalid_token"}', "invalid_token"),
        (b"[1]", "[1]"),
        (b"\xff\x1b", "\ufffd\\x1b"),
    ],
)
async def test_a_refused_token_is_heard_and_described(answer: bytes, said: str) -> None:
    token = Token.of(jwt(iss="https://login", exp=time.time() + 100), time.time())
    login = BearerLogin(sasl_oauth_token_provider=Bearer(token, {}))  # type: ignore[no-untyped-call]
    await login.step(None)
    with pytest.raises(TokenRefusedError) as raised:
        await login.step(answer)
    given = KafkaSettings(bootstrap_servers="b:1", sasl_mechanism="OAUTHBEARER")
    text = cause(raised.value, ("b", 1), given)
    assert text.startswith(f"the broker refuses the token ({said}; issuer https://login, expires in ")
    assert token.text not in text


async def test_a_token_is_shared_by_all_connections_of_a_process(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(jwt(exp=time.time() + 100))
    secret = FileSecret("RELAY_KAFKA_OAUTH_TOKEN", str(file))
    given = KafkaSettings(
        bootstrap_servers="b:1",
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="OAUTHBEARER",
        oauth_provider="token",
        oauth_extensions="a=b",
    ).model_copy(update={"oauth_token": secret})
    security = Security(given)
    security.check_files()
    options = await security.options()
    file.write_text("")
    again = await security.options()
    assert again["sasl_oauth_token_provider"].own is options["sasl_oauth_token_provider"].own
    security.refused(options)
    with pytest.raises(TokenError, match="is empty"):
        await security.options()


# The settings

OIDC = {
    "RELAY_KAFKA_OAUTH_PROVIDER": "oidc",
    "RELAY_KAFKA_OAUTH_TOKEN_ENDPOINT": "https://login.example/token",
    "RELAY_KAFKA_OAUTH_CLIENT_ID": "relay",
    "RELAY_KAFKA_OAUTH_CLIENT_SECRET": SECRET,
}
BASE = {
    "RELAY_POSTGRES_DSN": "postgresql://localhost/x",
    "RELAY_KAFKA_BOOTSTRAP_SERVERS": "b:1",
    "RELAY_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "RELAY_KAFKA_SASL_MECHANISM": "OAUTHBEARER",
}


def test_complete_settings_of_each_provider_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aws_msk_iam_sasl_signer")
    taken = Settings.load(
        BASE
        | OIDC
        | {
            "RELAY_KAFKA_OAUTH_SCOPE": "kafka",
            "RELAY_KAFKA_OAUTH_PARAMETERS": "audience=x",
            "RELAY_KAFKA_OAUTH_CAFILE": __file__,
            "RELAY_KAFKA_OAUTH_EXTENSIONS": "logicalCluster=lkc-1,identityPoolId=pool-1",
        }
    )
    assert taken.kafka.oauth_client_secret == SecretStr(SECRET)
    Settings.load(BASE | {"RELAY_KAFKA_OAUTH_PROVIDER": "TOKEN", "RELAY_KAFKA_OAUTH_TOKEN_COMMAND": "echo x"})
    aws = {"RELAY_KAFKA_OAUTH_PROVIDER": "aws-msk-iam"}
    Settings.load(BASE | aws | {"RELAY_KAFKA_OAUTH_AWS_REGION": "us-gov-west-1"})
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    Settings.load(BASE | aws)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "=OAUTHBEARER needs RELAY_KAFKA_OAUTH_PROVIDER too; set it to oidc, aws-msk-iam or token"),
        (
            {"RELAY_KAFKA_OAUTH_PROVIDER": "oidc", "RELAY_KAFKA_OAUTH_CLIENT_ID": "x"},
            "=oidc needs RELAY_KAFKA_OAUTH_TOKEN_ENDPOINT, RELAY_KAFKA_OAUTH_CLIENT_SECRET too; set them",
        ),
        ({"RELAY_KAFKA_OAUTH_PROVIDER": "token"}, "=token needs RELAY_KAFKA_OAUTH_TOKEN too; set it"),
        (
            {"RELAY_KAFKA_OAUTH_PROVIDER": "aws-msk-iam"},
            "=aws-msk-iam needs a region; set RELAY_KAFKA_OAUTH_AWS",
        ),
        (OIDC | {"RELAY_KAFKA_SASL_USERNAME": "x"}, "RELAY_KAFKA_SASL_USERNAME would have no effect with"),
        (OIDC | {"RELAY_KAFKA_OAUTH_AWS_REGION": "eu-west-1"}, "OAUTH_AWS_REGION would have no effect with"),
        (OIDC | {"RELAY_KAFKA_OAUTH_TOKEN": SECRET}, "RELAY_KAFKA_OAUTH_TOKEN would have no effect with"),
        (
            OIDC | {"RELAY_KAFKA_SECURITY_PROTOCOL": "SSL"},
            "no effect with RELAY_KAFKA_SECURITY_PROTOCOL=SSL",
        ),
        (
            OIDC
            | {
                "RELAY_KAFKA_SASL_MECHANISM": "PLAIN",
                "RELAY_KAFKA_SASL_USERNAME": "x",
                "RELAY_KAFKA_SASL_PASSWORD": SECRET,
            },
            "RELAY_KAFKA_OAUTH_CLIENT_SECRET would have no effect with RELAY_KAFKA_SASL_MECHANISM=PLAIN",
        ),
        (OIDC | {"RELAY_KAFKA_OAUTH_TOKEN_ENDPOINT": "login.example"}, "is not the URL of a token endpoint; write it"),
        (OIDC | {"RELAY_KAFKA_OAUTH_TOKEN_ENDPOINT": f"https://a:{SECRET}@b/"}, "contains a user name or a fragment"),
        (OIDC | {"RELAY_KAFKA_OAUTH_PARAMETERS": f"audience=a,{SECRET}"}, "is not a list of pairs; write name=value"),
        (OIDC | {"RELAY_KAFKA_OAUTH_EXTENSIONS": "auth=x"}, "contains the name 'auth'"),
        (OIDC | {"RELAY_KAFKA_OAUTH_EXTENSIONS": "a=%01"}, "contains a value of a with characters that are not ASCII"),
        (OIDC | {"RELAY_KAFKA_OAUTH_AWS_REGION": "evil.example/"}, "is not an AWS region; write it like eu-west-1"),
    ],
)
def test_settings_of_a_token_that_do_not_fit_are_refused(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], said: str
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SettingsError) as raised:
        Settings.load(BASE | given)
    assert said in str(raised.value)
    assert SECRET not in str(raised.value)
