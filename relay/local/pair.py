"""Both servers together, for `relay local` and the demo."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from relay.local import parts
from relay.local.kafka import KafkaServer
from relay.local.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEFAULT_FOLDER = Path(".relay-local")


@contextmanager
def local_servers(
    folder: Path = DEFAULT_FOLDER,
    *,
    postgres_port: int | None = None,
    kafka_port: int | None = None,
    say: Callable[[str], object] = lambda _: None,
) -> Iterator[tuple[PostgresServer, KafkaServer]]:
    """Start PostgreSQL and Kafka with their data below `folder`; stop both at the end.

    `say` gets a sentence about each step that takes longer than a moment. Raises MissingPartError before a server is
    started if a part is missing, LocalServerError if a server does not start.
    """
    parts.postgres_programs()
    parts.java_home()
    if not parts.kafka_is_here():
        say(f"fetching Kafka {parts.KAFKA_VERSION} from Maven Central, 60 MB, about 30 s, once")
        parts.kafka_jars()
    say(f"starting PostgreSQL and Kafka in {folder}")
    with ExitStack() as running:
        # Kafka first, because it is the one that takes seconds: whoever has seen PostgreSQL has seen both.
        kafka = running.enter_context(KafkaServer(folder / "kafka", kafka_port))
        postgres = running.enter_context(PostgresServer(folder / "postgres", postgres_port))
        yield postgres, kafka
