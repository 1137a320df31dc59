"""A Kafka with a second listener, whose clients come through a proxy that delays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from relay.local import KafkaServer
from relay.local.ports import HOST, free_port

if TYPE_CHECKING:
    from pathlib import Path


class DelayedKafka(KafkaServer):
    """Advertises the proxy's port to those who come by way of it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self.proxy_port = free_port()
        self.behind_proxy = free_port(frozenset({self.proxy_port}))

    @property
    def delayed_servers(self) -> str:
        """host:port for clients that come by way of the proxy, which has to run at `proxy_port`."""
        return f"{HOST}:{self.proxy_port}"

    def _configuration(self, data: Path) -> Path:
        direct, delayed = f"PLAINTEXT://{HOST}:{self.port()}", f"DELAYED://{HOST}"
        self.properties |= {
            "listeners": f"{direct},{delayed}:{self.behind_proxy},CONTROLLER://{HOST}:{self.port('controller')}",
            "advertised.listeners": f"{direct},{delayed}:{self.proxy_port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,DELAYED:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
        }
        return super()._configuration(data)
