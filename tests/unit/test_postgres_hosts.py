"""A DSN with several hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from relay.errors import PostgresLostError, SchemaError
from relay.postgres.hosts import connect_to_primary, one_by_one

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

THREE = "postgresql://relay:se,cret@one:1,two,[::1]:3/shop"


def test_one_host_is_left_alone() -> None:
    for dsn in ("postgresql://relay@one:1/shop?sslmode=require", "postgresql:///shop", "postgresql://u:a,b@one/shop"):
        assert one_by_one(dsn) == [dsn]


def test_each_of_several_hosts_is_asked_for_the_primary() -> None:
    assert one_by_one(THREE) == [
        f"postgresql://relay:se,cret@{host}/shop?target_session_attrs=primary" for host in ("one:1", "two", "[::1]:3")
    ]
    assert one_by_one("postgresql://one,two/shop?sslmode=require")[1] == (
        "postgresql://two/shop?sslmode=require&target_session_attrs=primary"
    )


def test_what_the_dsn_asks_for_itself_is_left_alone() -> None:
    query = "?target_session_attrs=read-write"
    assert one_by_one(f"postgresql://one,two/{query}") == [f"postgresql://one/{query}", f"postgresql://two/{query}"]


def answers(**by_host: object) -> Callable[[str], Awaitable[Any]]:
    """A connect function with an answer or an error for each host."""

    async def connect(dsn: str) -> Any:
        answer = by_host[dsn.partition("//")[2].partition("/")[0]]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return connect


@pytest.mark.parametrize("error", [TimeoutError(), ConnectionRefusedError(), PostgresLostError("in recovery")])
async def test_a_host_that_is_away_or_no_primary_is_passed_over(error: Exception) -> None:
    dsn = "postgresql://one,two,three/shop"
    found, leads_to = await connect_to_primary(dsn, answers(one=error, two="primary", three="another"))
    assert cast("str", found) == "primary"
    assert leads_to == one_by_one(dsn)[1]


async def test_the_last_host_has_the_last_word_and_a_refusal_is_final() -> None:
    dsn = "postgresql://one,two/shop"
    with pytest.raises(PostgresLostError, match="second"):
        await connect_to_primary(dsn, answers(one=PostgresLostError("first"), two=PostgresLostError("second")))
    with pytest.raises(SchemaError):
        await connect_to_primary(dsn, answers(one=SchemaError("refused"), two="primary"))
