"""What enqueueing does where the clients differ: their ways to be outside of a transaction, and their peculiarities."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import django.conf
import django.db
import psycopg
import psycopg2
import psycopg2.extras
import pytest
import sqlalchemy
from django.db import transaction
from psycopg.types.json import set_json_dumps
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, registry, scoped_session, sessionmaker

from relay.enqueue import EnqueueError, Event, NotInTransactionError, cancel, enqueue, enqueue_many, reschedule
from tests.support.enqueue.clients import Django
from tests.support.enqueue.outbox import shared_outbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import shared as servers


@pytest.fixture(scope="module")
def outbox(postgres: servers.Postgres) -> Iterator[str]:
    """The DSN of a database with an outbox, which all tests here have in common."""
    with shared_outbox(postgres) as dsn:
        yield dsn


@pytest.fixture
def observer(outbox: str) -> Iterator[psycopg.Connection[Any]]:
    """Another connection, to an empty outbox."""
    with psycopg.connect(outbox, autocommit=True) as connection:
        connection.execute("TRUNCATE outbox.event; TRUNCATE orders")
        yield connection


def events(observer: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """Payload and headers of all events, in order."""
    rows: list[tuple[Any, ...]] = observer.execute("SELECT payload, headers FROM outbox.event ORDER BY id").fetchall()
    return rows


def one(connection: Any) -> Any:
    """Enqueue one event."""
    return enqueue(connection, "orders", key="k", payload="x")


def many(connection: Any, count: int = 2) -> Any:
    """Enqueue several events at once."""
    return enqueue_many(connection, [Event("orders", key="k", payload="x") for _ in range(count)])


both = pytest.mark.parametrize("by", [one, many])


class TestAsyncpg:
    """asyncpg's pools and codecs."""

    async def test_a_pool_is_refused_and_so_is_an_acquire_that_was_not_entered(self, outbox: str) -> None:
        async with asyncpg.create_pool(outbox, min_size=1, max_size=1) as pool:
            with pytest.raises(EnqueueError, match="a pool is not a connection"):
                one(pool)
            acquire = pool.acquire()
            with pytest.raises(EnqueueError, match=r"was not entered; write `async with pool\.acquire\(\)"):
                one(acquire)

    async def test_a_connection_that_was_not_awaited_is_refused(self) -> None:
        coming = asyncpg.connect("postgresql://nobody@127.0.0.1:1/x")
        with pytest.raises(EnqueueError, match="was not awaited"):
            one(coming)
        coming.close()

    @both
    async def test_codecs_of_the_caller_make_no_difference(
        self, outbox: str, observer: psycopg.Connection[Any], by: Any
    ) -> None:
        connection = await asyncpg.connect(outbox)
        await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
        await connection.set_type_codec("uuid", schema="pg_catalog", encoder=str, decoder=str)
        async with connection.transaction():
            await by(connection)
        await connection.close()
        assert events(observer)[0] == (b"x", {})

    async def test_what_a_boolean_is_to_the_caller_does_not_change_what_cancel_says(
        self, outbox: str, observer: psycopg.Connection[Any]
    ) -> None:
        connection = await asyncpg.connect(outbox)
        await connection.set_type_codec("bool", schema="pg_catalog", encoder=str, decoder=str)
        async with connection.transaction():
            await enqueue(connection, "orders", key="k", payload="x", delay=60, timer="t")
            assert await reschedule(connection, timer="t", delay=90) is True
            assert await cancel(connection, timer="t") is True
            assert await cancel(connection, timer="t") is False
        await connection.close()

    async def test_a_connection_of_a_pool_works_again_after_a_cancelled_call(self, outbox: str) -> None:
        async with asyncpg.create_pool(outbox, min_size=1, max_size=1) as pool:

            async def change() -> None:
                async with pool.acquire() as connection, connection.transaction():
                    await many(connection, 10_000)

            for delay in (0.0, 0.001, 0.005, 0.02):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(change(), delay)
                async with pool.acquire() as connection, connection.transaction():
                    await one(connection)


class TestPsycopg:
    """psycopg 3: modes, pipelines, dumpers."""

    def test_autocommit_mode_without_a_block_is_refused_by_its_name(self, outbox: str) -> None:
        with psycopg.connect(outbox, autocommit=True) as connection:
            with pytest.raises(
                NotInTransactionError, match=r"in autocommit mode; .* `with connection\.transaction\(\)"
            ):
                one(connection)
            with connection.transaction():
                one(connection)

    def test_a_transaction_that_is_not_begun_is_refused_and_one_that_a_statement_began_is_not(
        self, outbox: str, observer: psycopg.Connection[Any]
    ) -> None:
        with psycopg.connect(outbox) as connection:
            with pytest.raises(NotInTransactionError, match="execute\\(\\) the change before you enqueue"):
                one(connection)
            connection.execute("INSERT INTO orders VALUES (1, 'paid')")
            one(connection)
            connection.commit()
            with pytest.raises(NotInTransactionError):
                one(connection)
        assert len(events(observer)) == 1

    async def test_the_refusal_shows_asynchronous_code_to_an_asynchronous_connection(self, outbox: str) -> None:
        async with await psycopg.AsyncConnection.connect(outbox) as connection:
            with pytest.raises(NotInTransactionError, match=r"`async with connection\.transaction\(\):`, or await"):
                await one(connection)

    def test_a_cursor_is_refused(self, outbox: str) -> None:
        with psycopg.connect(outbox) as connection, pytest.raises(EnqueueError, match="a cursor is not a connection"):
            one(connection.cursor())

    @both
    def test_dumpers_and_row_factories_of_the_caller_make_no_difference(
        self, outbox: str, observer: psycopg.Connection[Any], by: Any
    ) -> None:
        with psycopg.connect(outbox, row_factory=psycopg.rows.dict_row, cursor_factory=psycopg.RawCursor) as connection:
            set_json_dumps(lambda _: "broken", connection)
            connection.execute("SELECT")
            by(connection)
        assert events(observer)[0] == (b"x", {})

    def test_what_a_boolean_is_to_the_caller_does_not_change_what_cancel_says(
        self, outbox: str, observer: psycopg.Connection[Any]
    ) -> None:
        class NoneLoader(psycopg.adapt.Loader):
            def load(self, data: Any) -> None:
                """Whatever it is."""

        with psycopg.connect(outbox, row_factory=psycopg.rows.dict_row) as connection:
            connection.adapters.register_loader("bool", NoneLoader)
            with connection.transaction():
                enqueue(connection, "orders", key="k", payload="x", delay=60, timer="t")
                assert reschedule(connection, timer="t", delay=90) is True
                assert cancel(connection, timer="t") is True
                assert cancel(connection, timer="t") is False

    def test_a_prepared_two_phase_transaction_takes_no_more_events(
        self, outbox: str, observer: psycopg.Connection[Any]
    ) -> None:
        with psycopg.connect(outbox) as connection:
            xid = connection.xid(1, "global", "branch")
            connection.tpc_begin(xid)
            one(connection)
            connection.tpc_prepare()
            with pytest.raises(NotInTransactionError):
                one(connection)
            connection.tpc_commit()
        assert len(events(observer)) == 1

    def test_in_a_pipeline_it_is_refused_until_the_server_has_answered(
        self, outbox: str, observer: psycopg.Connection[Any]
    ) -> None:
        with psycopg.connect(outbox) as connection, connection.pipeline() as pipeline:
            connection.execute("INSERT INTO orders VALUES (1, 'paid')")
            with pytest.raises(NotInTransactionError, match=r"pipeline\.sync\(\)"):
                one(connection)
            pipeline.sync()
            one(connection)
            connection.commit()
        assert len(events(observer)) == 1


class TestPsycopg2:
    """psycopg2: modes, cursors, gevent."""

    def test_autocommit_mode_is_refused_by_its_name(self, outbox: str) -> None:
        connection = psycopg2.connect(outbox)
        connection.autocommit = True
        with pytest.raises(NotInTransactionError, match=r"in autocommit mode; set connection\.autocommit = False"):
            one(connection)
        connection.close()

    @both
    def test_under_a_wait_callback_events_are_written_in_order(
        self, outbox: str, observer: psycopg.Connection[Any], by: Any
    ) -> None:
        connection = psycopg2.connect(outbox, cursor_factory=psycopg2.extras.DictCursor)
        psycopg2.extensions.set_wait_callback(psycopg2.extras.wait_select)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT")
                by(connection)
                enqueue_many(connection, [Event("orders", key="k", payload=str(n)) for n in range(1100)])
        finally:
            psycopg2.extensions.set_wait_callback(None)
        connection.close()
        assert [payload for payload, _ in events(observer)][-1100:] == [str(n).encode() for n in range(1100)]


class Order:
    """Something that changes."""

    def __init__(self, id: int, state: str) -> None:  # noqa: A002 the column's name
        self.id = id
        self.state = state


registry().map_imperatively(
    Order,
    sqlalchemy.Table(
        "orders",
        sqlalchemy.MetaData(),
        sqlalchemy.Column("id", sqlalchemy.BigInteger, primary_key=True),
        sqlalchemy.Column("state", sqlalchemy.Text),
    ),
)


def url(dsn: str, driver: str) -> str:
    """SQLAlchemy's URL."""
    return dsn.replace("postgresql://", f"postgresql+{driver}://", 1)


@contextmanager
def engine_of(dsn: str, driver: str = "psycopg", **options: Any) -> Iterator[sqlalchemy.Engine]:
    """An engine, disposed of at the end."""
    engine = sqlalchemy.create_engine(url(dsn, driver), **options)
    yield engine
    engine.dispose()


class TestSqlAlchemy:
    """SQLAlchemy: isolation levels, two phases, sessions of all kinds."""

    @pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
    @both
    def test_autocommit_isolation_is_refused_wherever_it_is_set(self, outbox: str, driver: str, by: Any) -> None:
        with engine_of(outbox, driver) as engine, engine_of(outbox, driver, isolation_level="AUTOCOMMIT") as other:
            with other.begin() as connection, pytest.raises(NotInTransactionError, match="is AUTOCOMMIT"):
                by(connection)
            connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            with connection, connection.begin(), pytest.raises(NotInTransactionError, match="is AUTOCOMMIT"):
                by(connection)
            session = Session(other)
            with session, session.begin(), pytest.raises(NotInTransactionError, match="is AUTOCOMMIT"):
                by(session)

    @pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
    async def test_autocommit_isolation_is_refused_on_asynchronous_drivers(self, outbox: str, driver: str) -> None:
        engine = create_async_engine(url(outbox, driver), isolation_level="AUTOCOMMIT")
        async with engine.begin() as connection:
            with pytest.raises(NotInTransactionError, match=r"`async with connection\.begin\(\):`"):
                await one(connection)
        await engine.dispose()

    @both
    def test_a_transaction_that_sqlalchemy_began_by_itself_counts(
        self, outbox: str, observer: psycopg.Connection[Any], by: Any
    ) -> None:
        with engine_of(outbox) as engine, engine.connect() as connection:
            with pytest.raises(NotInTransactionError):
                by(connection)
            connection.execute(sqlalchemy.text("INSERT INTO orders VALUES (1, 'paid')"))
            by(connection)
            connection.commit()
        assert events(observer)

    @both
    def test_a_session_writes_its_pending_changes_before_the_event(
        self, outbox: str, observer: psycopg.Connection[Any], by: Any
    ) -> None:
        with engine_of(outbox) as engine, Session(engine, autoflush=False) as session, session.begin():
            order = Order(id=1, state="paid")
            session.add(order)
            by(session)
            assert sqlalchemy.inspect(order).persistent
            assert session.scalar(sqlalchemy.text("SELECT count(*) FROM orders")) == 1

    def test_a_session_whose_flush_failed_is_refused(self, outbox: str, observer: psycopg.Connection[Any]) -> None:
        with engine_of(outbox) as engine, Session(engine) as session:
            session.execute(sqlalchemy.text("INSERT INTO orders VALUES (1, 'paid')"))
            session.add(Order(id=1, state="twice"))
            with pytest.raises(sqlalchemy.exc.IntegrityError):
                one(session)
            with pytest.raises(NotInTransactionError):
                one(session)
            session.rollback()
        assert events(observer) == []

    @pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
    def test_a_two_phase_transaction_takes_events_until_it_is_prepared(
        self, outbox: str, observer: psycopg.Connection[Any], driver: str
    ) -> None:
        with engine_of(outbox, driver) as engine:
            with engine.connect() as connection:
                two_phase = connection.begin_twophase()
                one(connection)
                two_phase.prepare()
                for by in (one, many):
                    with pytest.raises(NotInTransactionError, match="prepare"):
                        by(connection)
                two_phase.commit()
            with Session(engine, twophase=True) as session:
                session.begin()
                one(session)
                session.prepare()
                for by in (one, many):
                    with pytest.raises(NotInTransactionError, match="prepared"):
                        by(session)
                session.commit()
        assert len(events(observer)) == 2

    def test_a_savepoint_that_is_rolled_back_by_hand_takes_no_more_events(
        self, outbox: str, observer: psycopg.Connection[Any]
    ) -> None:
        with engine_of(outbox) as engine, engine.begin() as connection:
            with connection.begin_nested() as savepoint:
                savepoint.rollback()
                with pytest.raises(NotInTransactionError, match=r"SQLAlchemy says: .* closed transaction"):
                    one(connection)
            one(connection)
        assert len(events(observer)) == 1

    def test_engines_and_factories_are_refused(self, outbox: str) -> None:
        with engine_of(outbox) as engine:
            with pytest.raises(EnqueueError, match=r"write `with engine\.begin\(\) as connection:`"):
                one(engine)
            with pytest.raises(EnqueueError, match=r"write `with factory\.begin\(\) as session:`"):
                one(sessionmaker(engine))
        asynchronous = create_async_engine(url(outbox, "asyncpg"))
        with pytest.raises(EnqueueError, match=r"write `async with engine\.begin\(\) as connection:`"):
            one(asynchronous)
        with pytest.raises(EnqueueError, match=r"write `async with factory\.begin\(\) as session:`"):
            one(async_sessionmaker(asynchronous))

    def test_a_session_without_a_default_bind_shows_how_to_name_the_transaction(
        self, outbox: str, observer: psycopg.Connection[Any]
    ) -> None:
        with engine_of(outbox) as engine, Session(binds={Order: engine}) as session:
            session.add(Order(1, "paid"))
            session.flush()
            for by in (one, many):
                with pytest.raises(EnqueueError, match=r'session\.connection\(bind_arguments=\{"mapper": \.\.\.\}\)'):
                    by(session)
                by(session.connection(bind_arguments={"mapper": Order}))
            session.commit()
        assert len(events(observer)) == 3

    def test_another_database_is_refused(self) -> None:
        engine = sqlalchemy.create_engine("sqlite://")
        with engine.begin() as connection, pytest.raises(EnqueueError, match=r"cannot enqueue .* sqlite\+pysqlite"):
            one(connection)
        engine.dispose()

    @both
    def test_a_scoped_session_is_its_session(self, outbox: str, observer: psycopg.Connection[Any], by: Any) -> None:
        with engine_of(outbox) as engine:
            scoped = scoped_session(sessionmaker(engine))
            with scoped.begin():
                by(scoped)
            scoped.remove()
        assert events(observer)

    @pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
    @both
    async def test_an_asynchronous_scoped_session_is_its_session(
        self, outbox: str, observer: psycopg.Connection[Any], driver: str, by: Any
    ) -> None:
        engine = create_async_engine(url(outbox, driver))
        scoped = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
        async with scoped.begin():
            await by(scoped)
        await scoped.remove()
        await engine.dispose()
        assert events(observer)

    @pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
    @both
    async def test_the_synchronous_session_in_run_sync_is_taken(
        self, outbox: str, observer: psycopg.Connection[Any], driver: str, by: Any
    ) -> None:
        engine = create_async_engine(url(outbox, driver))
        async with AsyncSession(engine) as session, session.begin():
            await session.run_sync(by)
        await engine.dispose()
        assert events(observer)

    @both
    def test_binding_on_the_client_makes_no_difference(
        self, outbox: str, observer: psycopg.Connection[Any], by: Any
    ) -> None:
        options = {"cursor_factory": psycopg.ClientCursor}
        with engine_of(outbox, connect_args=options) as engine, engine.begin() as connection:
            by(connection)
        assert events(observer)[0] == (b"x", {})


class TestDjango:
    """Django's ways to have a transaction, and not to have one."""

    @pytest.fixture
    def connection(self, outbox: str, observer: psycopg.Connection[Any]) -> Iterator[Any]:
        """The default connection, in this thread."""
        client = Django()
        client.connect(outbox)
        yield client.connection
        client.connection.close()
        del django.db.connections["default"]

    @both
    def test_atomic_is_a_transaction_and_autocommit_is_none(
        self, connection: Any, observer: psycopg.Connection[Any], by: Any
    ) -> None:
        with pytest.raises(NotInTransactionError, match=r"`with transaction\.atomic\(\):`"):
            by(connection)
        with transaction.atomic(durable=True):
            by(connection)
        with transaction.atomic():
            by(django.db.connections["default"])
        assert events(observer)

    def test_a_block_that_is_to_be_rolled_back_is_refused(self, connection: Any) -> None:
        with transaction.atomic():
            transaction.set_rollback(True)
            with pytest.raises(NotInTransactionError, match="an earlier statement of this transaction failed"):
                one(connection)

    def test_transactions_by_hand_count_once_they_have_begun(
        self, connection: Any, observer: psycopg.Connection[Any]
    ) -> None:
        transaction.set_autocommit(False)
        with pytest.raises(NotInTransactionError):
            one(connection)
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO orders VALUES (1, 'paid')")
        one(connection)
        transaction.commit()
        with pytest.raises(NotInTransactionError):
            one(connection)
        transaction.set_autocommit(True)
        assert len(events(observer)) == 1

    def test_the_block_around_a_test_case_does_not_count(
        self, connection: Any, observer: psycopg.Connection[Any]
    ) -> None:
        """As for durable blocks: the service would have no transaction there."""
        of_the_test: Any = transaction.atomic()
        of_the_test._from_testcase = True
        with of_the_test:
            with pytest.raises(NotInTransactionError):
                one(connection)
            with transaction.atomic():
                one(connection)
            transaction.set_rollback(True)
        assert events(observer) == []

    def test_a_view_has_a_transaction_with_atomic_requests(
        self, connection: Any, observer: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from django.core.handlers.base import BaseHandler

        def view() -> Any:
            one(connection)

        handler = BaseHandler()
        with pytest.raises(NotInTransactionError):
            handler.make_view_atomic(view)()
        monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)
        handler.make_view_atomic(view)()
        assert len(events(observer)) == 1

    def test_an_asynchronous_view_enqueues_in_a_function_of_its_own(
        self, outbox: str, observer: psycopg.Connection[Any]
    ) -> None:
        from asgiref.sync import sync_to_async

        client = Django()
        client.connect(outbox)

        def pay() -> None:
            with transaction.atomic():
                one(django.db.connection)

        async def view() -> None:
            with pytest.raises(NotInTransactionError, match=r"call that with `await sync_to_async\(function\)\(\)`"):
                one(django.db.connection)
            await sync_to_async(pay)()
            await sync_to_async(django.db.connections.close_all)()

        asyncio.run(view())
        assert len(events(observer)) == 1

    def test_another_database_is_refused(self) -> None:
        from django.db.backends.sqlite3.base import DatabaseWrapper

        with pytest.raises(EnqueueError, match="this connection of Django is to sqlite"):
            one(DatabaseWrapper({"NAME": ":memory:"}))

    def test_all_connections_and_cursors_are_refused(self, connection: Any) -> None:
        with pytest.raises(EnqueueError, match=r"connections\['default'\]"):
            one(django.db.connections)
        with connection.cursor() as cursor, pytest.raises(EnqueueError, match="a cursor is not a connection"):
            one(cursor)

    @pytest.mark.usefixtures("connection")
    def test_psycopg2_below_makes_no_difference(self, outbox: str, observer: psycopg.Connection[Any]) -> None:
        """Django takes psycopg 3 where it is: this needs a process that has none."""
        parts = urlsplit(outbox)
        settings = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": parts.path[1:],
            "PASSWORD": parts.password,
            "USER": parts.username,
            "HOST": parts.hostname,
            "PORT": parts.port,
        }
        program = f"""
import sys
sys.modules["psycopg"] = None
import django, django.conf
django.conf.settings.configure(LOGGING_CONFIG=None, DATABASES={{"default": {settings!r}}})
django.setup()
from django.db import connection, transaction
from relay.enqueue import EnqueueError, Event, NotInTransactionError, enqueue, enqueue_many
try:
    enqueue(connection, "orders", key="k", payload="outside")
except NotInTransactionError:
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL search_path = hostile")
        enqueue(connection, "orders", key="k", payload=bytes(range(256)), headers={{"a": "ü"}})
        enqueue_many(connection, [Event("orders", key="k", payload=str(n)) for n in range(3)])
    try:
        with transaction.atomic():
            enqueue_many(connection, [Event("orders", key="k", payload=bytes(n * 1_000_000)) for n in range(3)])
    except EnqueueError as error:
        print(error)
assert connection.Database.__name__ == "psycopg2"
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.stderr == ""
        assert done.stdout.startswith("events[1] for topic orders has 1,000,003 bytes")
        assert events(observer) == [(bytes(range(256)), {"a": "ü"}), (b"0", {}), (b"1", {}), (b"2", {})]
