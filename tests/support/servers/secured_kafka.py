"""A Kafka with a listener for each way to be secured, and some that are set up wrongly."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from relay.local import KafkaServer
from relay.local.parts import java_home, kafka_jars
from relay.local.ports import HOST, free_port
from tests.support.servers.certificates import EXPIRED, NOT_YET, Authority
from tests.support.servers.tokens import AUDIENCE, ISSUER, Issuer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

USER, NEWCOMER, PASSWORD = "relay", "newcomer", "geheim-7f3a"

PROTOCOLS = {
    "PLAINTEXT": "PLAINTEXT",
    "LOGIN": "SASL_SSL",
    "OPENLOGIN": "SASL_PLAINTEXT",
    "TLS": "SSL",
    "MUTUAL": "SSL",
    "EXPIRED": "SSL",
    "EARLY": "SSL",
    "OTHERNAME": "SSL",
    "SHORT": "SASL_SSL",
    "TOKEN": "SASL_SSL",
}
SESSION_MS = 3_000
"""How long a session lasts on the listener SHORT, which takes PLAIN, SCRAM-SHA-256 and SCRAM-SHA-512."""

_MODULES = "org.apache.kafka.common.security"
_SCRAM = f"{_MODULES}.scram.ScramLoginModule required;"
_PLAIN = f'{_MODULES}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
_TOKEN = f"{_MODULES}.oauthbearer.OAuthBearerLoginModule required;"
_VALIDATOR = f"{_MODULES}.oauthbearer.OAuthBearerValidatorCallbackHandler"


class SecuredKafka(KafkaServer):
    """Everybody may do everything on the listener PLAINTEXT; the others ask who it is. `authority` is the right one."""

    format_arguments = tuple(
        argument
        for name in (USER, NEWCOMER)
        for kind in ("256", "512")
        for argument in ("--add-scram", f"SCRAM-SHA-{kind}=[name={name},password={PASSWORD}]")
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "kafka", version=os.environ.get("RELAY_TEST_KAFKA_VERSION") or "4.3.1")
        self.authority = Authority(folder / "right", "right")
        self.stranger = Authority(folder / "stranger", "stranger")
        self.issuer = Issuer(folder / "issuer")
        self.java_arguments = (f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={self.issuer.keys.as_uri()}",)
        self.properties = self._secured()
        self._listeners: dict[str, int] = {}

    def address(self, listener: str) -> str:
        """host:port of one of them."""
        return f"{HOST}:{self.port() if listener == 'PLAINTEXT' else self._listeners[listener]}"

    def allow(self, *arguments: str, principals: Sequence[str] = (f"User:{USER}",)) -> None:
        """Let somebody do something: `allow("--operation", "Write", "--topic", "orders")`. It takes a second."""
        who = [part for principal in principals for part in ("--allow-principal", principal)]
        self._ask("org.apache.kafka.tools.AclCommand", "--add", *who, *arguments)

    def change_password(self, user: str, password: str) -> None:
        """Give a user another password for SCRAM-SHA-512. It takes two seconds."""
        entity = ("--entity-type", "users", "--entity-name", user)
        self._ask(
            "kafka.admin.ConfigCommand", "--alter", *entity, "--add-config", f"SCRAM-SHA-512=[password={password}]"
        )

    def _ask(self, tool: str, *arguments: str) -> None:
        """Run one of Kafka's own commands."""
        jars = os.pathsep.join(map(str, kafka_jars(self.version)))
        command = [str(java_home() / "bin" / "java"), "-XX:TieredStopAtLevel=1", "-cp", jars, tool]
        command += ["--bootstrap-server", self.bootstrap_servers, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def _secured(self) -> dict[str, object]:
        right = self.authority
        stores = {
            "LOGIN": right.store("login"),
            "TLS": right.store("tls"),
            "MUTUAL": right.store("mutual"),
            "EXPIRED": right.store("expired", valid=EXPIRED),
            "EARLY": right.store("early", valid=NOT_YET),
            "OTHERNAME": right.store("othername", "DNS:other.example"),
            "SHORT": right.store("short"),
            "TOKEN": right.store("token"),
        }
        secured: dict[str, object] = {
            "listener.security.protocol.map": ",".join(
                f"{name}:{protocol}" for name, protocol in {**PROTOCOLS, "CONTROLLER": "PLAINTEXT"}.items()
            ),
            "inter.broker.listener.name": "PLAINTEXT",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            # Inside TLS without a client certificate everybody is ANONYMOUS, too.
            "super.users": "User:ANONYMOUS",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.mutual.ssl.client.auth": "required",
            "listener.name.mutual.ssl.truststore.type": "PEM",
            "listener.name.mutual.ssl.truststore.location": right.certificate,
        }
        for name, store in stores.items():
            secured[f"listener.name.{name.lower()}.ssl.keystore.type"] = "PEM"
            secured[f"listener.name.{name.lower()}.ssl.keystore.location"] = store
        for name in ("login", "openlogin", "short"):
            secured[f"listener.name.{name}.scram-sha-512.sasl.jaas.config"] = _SCRAM
        short, token = "listener.name.short", "listener.name.token"
        return secured | {
            f"{short}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            f"{short}.scram-sha-256.sasl.jaas.config": _SCRAM,
            f"{short}.plain.sasl.jaas.config": _PLAIN,
            f"{short}.connections.max.reauth.ms": SESSION_MS,
            f"{token}.sasl.enabled.mechanisms": "OAUTHBEARER",
            f"{token}.oauthbearer.sasl.jaas.config": _TOKEN,
            f"{token}.oauthbearer.sasl.server.callback.handler.class": _VALIDATOR,
            f"{token}.sasl.oauthbearer.jwks.endpoint.url": self.issuer.keys.as_uri(),
            f"{token}.sasl.oauthbearer.expected.audience": AUDIENCE,
            f"{token}.sasl.oauthbearer.expected.issuer": ISSUER,
            # Without an end of its own, a session would last as long as the token that began it.
            f"{token}.connections.max.reauth.ms": 3_600_000,
        }

    def _configuration(self, data: Path) -> Path:
        if not self._listeners:
            taken = {self.port(), self.port("controller")}
            for name in PROTOCOLS:
                if name != "PLAINTEXT":
                    self._listeners[name] = free_port(frozenset(taken))
                    taken.add(self._listeners[name])
        own = ",".join(f"{name}://{self.address(name)}" for name in PROTOCOLS)
        self.properties |= {
            "listeners": f"{own},CONTROLLER://{HOST}:{self.port('controller')}",
            "advertised.listeners": own,
        }
        return super()._configuration(data)
