"""The providers of tokens that need no network of ours: a secret of the settings, and AWS's signer."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from relay.errors import SettingsError
from relay.kafka.tokens.oidc import TokenEndpoint
from relay.kafka.tokens.token import Token, TokenError
from relay.settings.kafka_security import ambient_region
from relay.settings.secret import reveal
from relay.text import clip, one_line

if TYPE_CHECKING:
    from pydantic import SecretStr

    from relay.kafka.tokens.source import Provider
    from relay.settings import KafkaSettings

AWS_TIMEOUT = 10.0
"""Seconds that AWS's credentials may take: they come from a file, from the environment or from a local address."""


def provider_of(settings: KafkaSettings) -> Provider:
    """Return the provider that the settings name."""
    if settings.oauth_provider == "oidc":
        return TokenEndpoint(settings)
    if settings.oauth_provider == "aws-msk-iam":
        return AwsSigner(settings.oauth_aws_region or ambient_region() or "")
    if settings.oauth_token is None:
        raise SettingsError("RELAY_KAFKA_OAUTH_PROVIDER=token needs RELAY_KAFKA_OAUTH_TOKEN; set it")
    return GivenToken(settings.oauth_token)


class GivenToken:
    """A token that somebody else renews: in a file or by a command."""

    def __init__(self, secret: SecretStr) -> None:
        self._secret = secret

    async def __call__(self) -> Token:
        """Read the token. Raises TokenError."""
        try:
            return Token.of((await reveal(self._secret)).strip(), time.time())
        except SettingsError as error:
            raise TokenError(str(error)) from error
        except ValueError as error:
            raise TokenError(f"RELAY_KAFKA_OAUTH_TOKEN {error}; correct the file or the command") from None


class AwsSigner:
    """Tokens for MSK, signed with the credentials that AWS's own tools would use."""

    def __init__(self, region: str) -> None:
        self._region = region

    async def __call__(self) -> Token:
        """Sign one. Raises TokenError."""
        try:
            async with asyncio.timeout(AWS_TIMEOUT):
                text, expires_ms = await asyncio.to_thread(self._sign)
        except TimeoutError:
            raise TokenError(
                f"AWS's credentials did not come within {AWS_TIMEOUT:g} s; check the role of this machine or pod"
            ) from None
        except Exception as error:
            # Without credentials, the signer fails on the None that it got instead.
            told = "" if isinstance(error, AttributeError) else f" ({_told(error)})"
            raise TokenError(
                f"no token for MSK can be signed: no usable AWS credentials{told}; give this machine or pod a role, or "
                "set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        return Token.of(text, time.time(), expires_ms / 1000)

    def _sign(self) -> tuple[str, int]:
        # Imported here: it takes a second, and few need it.
        from aws_msk_iam_sasl_signer import MSKAuthTokenProvider

        signed: Any = MSKAuthTokenProvider.generate_auth_token(self._region)
        return str(signed[0]), int(signed[1])


def _told(error: Exception) -> str:
    return clip(f"{type(error).__name__}: {one_line(error)}", 200)
