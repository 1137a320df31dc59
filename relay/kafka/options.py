"""How to reach Kafka, for any of aiokafka's clients. Certificates, keys and passwords in files are read when needed."""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaError

from relay.errors import SettingsError
from relay.kafka.tokens.providers import provider_of
from relay.kafka.tokens.source import Bearer, TokenSource
from relay.settings.checks import as_pairs
from relay.settings.secret import CommandSecret, FileSecret, reveal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic import SecretStr

    from relay.settings import KafkaSettings


class FileError(KafkaError):
    """A certificate, a key or a password cannot be had from its file or command now.

    A subclass of Kafka's errors, so that aiokafka takes it for a failed connection and tries again.
    """

    def __str__(self) -> str:
        return str(self.args[0])


async def client_options(settings: KafkaSettings, security: Security) -> dict[str, Any]:
    """Return the arguments of a client: servers, client id, and security of the connection.

    Raises FileError or TokenError, which says what keeps a connection from being secured now.
    """
    return {
        "bootstrap_servers": settings.bootstrap_servers,
        "client_id": settings.client_id,
        "request_timeout_ms": int(settings.request_timeout * 1000),
        **await security.options(),
    }


class Security:
    """The security of a process's connections. Files are checked for every connection, and read when they changed."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._context: ssl.SSLContext | None = None
        self._made_of: object = None
        self._tokens = TokenSource(provider_of(settings)) if settings.sasl_mechanism == "OAUTHBEARER" else None
        self._extensions = as_pairs(settings.oauth_extensions)

    async def options(self) -> dict[str, Any]:
        """Return the arguments of a client or connection.

        Raises FileError, which names the file or command that is wrong, or TokenError.
        """
        settings = self._settings
        options: dict[str, Any] = {"security_protocol": settings.security_protocol}
        if settings.security_protocol.endswith("SSL"):
            options["ssl_context"] = self._tls(await _secret(settings.ssl_key_password))
        if self._tokens is not None:
            bearer = Bearer(await self._tokens.token(), self._extensions)
            options |= {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": bearer}
        elif settings.security_protocol.startswith("SASL"):
            options |= {
                "sasl_mechanism": settings.sasl_mechanism,
                "sasl_plain_username": settings.sasl_username,
                "sasl_plain_password": await _secret(settings.sasl_password),
            }
        return options

    def outlive(self, bearer: object) -> None:
        """Take note that the session of a connection with this Bearer is about to end."""
        if self._tokens is not None and isinstance(bearer, Bearer):
            self._tokens.outlive(bearer.own)

    def refused(self, options: Mapping[str, Any]) -> None:
        """Take note that a broker refused the login with these options: a token is not used a second time."""
        bearer = options.get("sasl_oauth_token_provider")
        if self._tokens is not None and isinstance(bearer, Bearer):
            self._tokens.refused(bearer.own)

    def check_files(self) -> None:
        """Raise FileError when a file cannot be used. Runs no command and asks nobody for a token."""
        settings = self._settings
        for secret in (settings.sasl_password, settings.oauth_client_secret, settings.oauth_token):
            if isinstance(secret, FileSecret):
                _read(secret)
        key_password = settings.ssl_key_password
        if settings.security_protocol.endswith("SSL") and not isinstance(key_password, CommandSecret):
            self._tls(_read(key_password) if key_password else None)

    def _tls(self, password: str | None) -> ssl.SSLContext:
        settings = self._settings
        files = (settings.ssl_cafile, settings.ssl_certfile, settings.ssl_keyfile)
        # To build a context takes tens of milliseconds, in which nothing else happens.
        made_of = (password, *map(_look, files))
        if self._context is None or made_of != self._made_of:
            self._context = _new_context(*files, password)
            self._made_of = made_of
        return self._context


async def _secret(secret: SecretStr | None) -> str | None:
    try:
        return await reveal(secret) if secret else None
    except SettingsError as error:
        raise FileError(str(error)) from error


def _read(secret: SecretStr) -> str:
    try:
        return secret.get_secret_value()
    except SettingsError as error:
        raise FileError(str(error)) from error


def _look(path: Path | None) -> tuple[int, ...] | None:
    """Return a value that changes with the file's content, also when a link in its path leads elsewhere."""
    if path is None:
        return None
    try:
        seen = path.stat()
    except OSError:
        # Reading it says why.
        return ()
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns


def _new_context(
    cafile: Path | None, certfile: Path | None, keyfile: Path | None, password: str | None
) -> ssl.SSLContext:
    if cafile is not None:
        _check("RELAY_KAFKA_SSL_CAFILE", cafile, "CERTIFICATE")
    try:
        context = ssl.create_default_context(cafile=str(cafile) if cafile else None)
    except (OSError, ValueError) as error:
        raise FileError(_unusable("RELAY_KAFKA_SSL_CAFILE", cafile, error)) from error
    if certfile is not None:
        _check("RELAY_KAFKA_SSL_CERTFILE", certfile, "CERTIFICATE")
        if keyfile is not None:
            _check("RELAY_KAFKA_SSL_KEYFILE", keyfile, "PRIVATE KEY")
        else:
            _check("RELAY_KAFKA_SSL_CERTFILE", certfile, "PRIVATE KEY")

        def key_password() -> str:
            # Without this OpenSSL would ask for it at the terminal, and wait.
            if password is None:
                raise FileError(f"the key in {keyfile or certfile} is encrypted; set RELAY_KAFKA_SSL_KEY_PASSWORD")
            return password

        try:
            context.load_cert_chain(certfile, keyfile, key_password)
        except (OSError, ValueError) as error:
            raise FileError(_unusable_key(certfile, keyfile, password, error)) from error
    return context


def _check(variable: str, path: Path, kind: str) -> None:
    """Raise FileError unless the file has a whole PEM block of this kind."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise FileError(
            f"{variable} names {path}, which cannot be read ({error.strerror}); correct the path or the file's rights"
        ) from error
    whole = rb"-----BEGIN [A-Z ]*%b-----.+?-----END [A-Z ]*%b-----" % ((kind.encode(),) * 2)
    if re.search(whole, text, re.DOTALL) is None:
        raise FileError(
            f"{variable} names {path}, which does not contain a complete {kind.lower()} (PEM); "
            "correct the file (one that is being written will be read again)"
        )


def _unusable(variable: str, path: Path | None, error: Exception) -> str:
    return f"{variable} names {path}, which cannot be used ({_reason(error)}); correct the file"


def _unusable_key(certfile: Path, keyfile: Path | None, password: str | None, error: Exception) -> str:
    if "KEY_VALUES_MISMATCH" in str(error):
        return (
            f"the key in {keyfile or certfile} does not belong to the certificate in {certfile}; "
            "replace both (they are read again), or correct RELAY_KAFKA_SSL_KEYFILE"
        )
    wrong_password = ", or RELAY_KAFKA_SSL_KEY_PASSWORD is not its password" if password is not None else ""
    key = f" or RELAY_KAFKA_SSL_KEYFILE {keyfile}" if keyfile else ""
    return (
        f"RELAY_KAFKA_SSL_CERTFILE {certfile}{key} cannot be used ({_reason(error)}){wrong_password}; correct the file"
    )


def _reason(error: Exception) -> str:
    """Return OpenSSL's text without the place in its source: `[SSL] PEM lib (_ssl.c:3900)`."""
    text = getattr(error, "strerror", None) or str(error)
    return re.sub(r"\s*\(_ssl\.c:\d+\)", "", str(text))
