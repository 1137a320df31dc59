"""Checks which of the Kafka group's security settings go together; no message of them contains a secret."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SSL = ("ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_key_password")
_PASSWORD = ("sasl_username", "sasl_password")
_OIDC = ("oauth_token_endpoint", "oauth_client_id", "oauth_client_secret")
_OAUTH: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "oidc": (_OIDC, ("oauth_scope", "oauth_parameters", "oauth_cafile", "oauth_extensions")),
    "token": (("oauth_token",), ("oauth_extensions",)),
    "aws-msk-iam": ((), ("oauth_aws_region", "oauth_extensions")),
}
"""For each provider of tokens the settings that it needs, and those that it may have."""

_ALL_OAUTH = ("oauth_provider", *dict.fromkeys(name for both in _OAUTH.values() for some in both for name in some))


def problems(kafka: Mapping[str, object]) -> Iterator[str]:
    """Yield a sentence for each of the settings that do not fit together."""
    protocol = str(kafka["security_protocol"])
    if protocol.startswith("SASL_"):
        yield from _login(kafka, protocol)
    elif given := _given(kafka, ("sasl_mechanism", *_PASSWORD, *_ALL_OAUTH)):
        yield (
            f"{_variables(given)} would have no effect with RELAY_KAFKA_SECURITY_PROTOCOL={protocol}; "
            "set the protocol to SASL_SSL (or SASL_PLAINTEXT), or remove what would have no effect"
        )
    yield from _tls(kafka, protocol)


def _login(kafka: Mapping[str, object], protocol: str) -> Iterator[str]:
    mechanism = kafka["sasl_mechanism"]
    if mechanism == "OAUTHBEARER":
        yield from _tokens(kafka)
        return
    needed = ("sasl_mechanism", *_PASSWORD)
    if missing := [name for name in needed if kafka[name] is None]:
        them = "it" if len(missing) == 1 else "them"
        yield f"RELAY_KAFKA_SECURITY_PROTOCOL={protocol} needs {_variables(missing)} too; set {them}"
    if given := _given(kafka, _ALL_OAUTH):
        yield (
            f"{_variables(given)} would have no effect with RELAY_KAFKA_SASL_MECHANISM={mechanism or ''}; "
            "set the mechanism to OAUTHBEARER, or remove what would have no effect"
        )


def _tokens(kafka: Mapping[str, object]) -> Iterator[str]:
    if given := _given(kafka, _PASSWORD):
        yield (
            f"{_variables(given)} would have no effect with RELAY_KAFKA_SASL_MECHANISM=OAUTHBEARER; remove what would "
            "have no effect"
        )
    provider = kafka["oauth_provider"]
    if provider is None:
        yield (
            "RELAY_KAFKA_SASL_MECHANISM=OAUTHBEARER needs RELAY_KAFKA_OAUTH_PROVIDER too; set it to oidc, aws-msk-iam "
            "or token"
        )
        return
    needed, allowed = _OAUTH[str(provider)]
    if missing := [name for name in needed if kafka[name] is None]:
        them = "it" if len(missing) == 1 else "them"
        yield f"RELAY_KAFKA_OAUTH_PROVIDER={provider} needs {_variables(missing)} too; set {them}"
    if given := [name for name in _given(kafka, _ALL_OAUTH[1:]) if name not in (*needed, *allowed)]:
        yield (
            f"{_variables(given)} would have no effect with RELAY_KAFKA_OAUTH_PROVIDER={provider}; "
            "remove what would have no effect"
        )
    if provider == "aws-msk-iam":
        if importlib.util.find_spec("aws_msk_iam_sasl_signer") is None:
            yield (
                "RELAY_KAFKA_OAUTH_PROVIDER=aws-msk-iam needs the package aws-msk-iam-sasl-signer-python; "
                "install it with pip install 'outbox-relay[aws]'"
            )
        if kafka["oauth_aws_region"] is None and ambient_region() is None:
            yield (
                "RELAY_KAFKA_OAUTH_PROVIDER=aws-msk-iam needs a region; set RELAY_KAFKA_OAUTH_AWS_REGION, or AWS_REGION"
            )


def ambient_region() -> str | None:
    """Return the AWS region of the environment, if it has one."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None


def _tls(kafka: Mapping[str, object], protocol: str) -> Iterator[str]:
    given = _given(kafka, _SSL)
    if given and not protocol.endswith("SSL"):
        yield (
            f"{_variables(given)} would have no effect with RELAY_KAFKA_SECURITY_PROTOCOL={protocol}; "
            "set the protocol to SSL or SASL_SSL, or remove what would have no effect"
        )
    elif kafka["ssl_certfile"] is None and (given := _given(kafka, _SSL[2:])):
        yield f"{_variables(given)} would have no effect without RELAY_KAFKA_SSL_CERTFILE; set it too"


def _given(kafka: Mapping[str, object], names: tuple[str, ...]) -> list[str]:
    return [name for name in names if kafka[name] is not None]


def _variables(names: list[str]) -> str:
    return ", ".join(f"RELAY_KAFKA_{name.upper()}" for name in names)
