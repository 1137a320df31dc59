"""What a role with LOGIN and CREATE on a database can put in the way of those who come after it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from tests.support.postgres.outbox import connected

if TYPE_CHECKING:
    import asyncpg

# Code of the attacker's, run with the rights of whoever calls it. The sequence remembers, whatever is rolled back.
_TRAP = """AS $trap$
BEGIN
    PERFORM pg_catalog.nextval('hostile.sprung');
    RAISE EXCEPTION 'trapped: {name}';
END
$trap$ LANGUAGE plpgsql"""

_SIGNATURES = """
SELECT p.proname AS name, pg_get_function_identity_arguments(p.oid) AS arguments,
       pg_get_function_result(p.oid) AS result
FROM pg_catalog.pg_proc AS p
WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND p.prorettype <> 'internal'::regtype
  AND NOT p.proargtypes::oid[] && ARRAY['internal'::regtype, 'cstring'::regtype, '"any"'::regtype]::oid[]
  AND p.proname ~ '^[a-z]'
  AND p.proname = ANY ($1)
"""

_OPERATORS = """
SELECT o.oprname AS name, format_type(o.oprleft, NULL) AS left, format_type(o.oprright, NULL) AS right,
       format_type(o.oprresult, NULL) AS result
FROM pg_catalog.pg_operator AS o
WHERE o.oprkind = 'b' AND o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprname = ANY ($1)
"""

_TYPES = ("text", "uuid", "bytea", "jsonb", "xid8", "regclass", "timestamptz", "name")

# As the attacks that were shown made use of: an exact match of types wins over PostgreSQL's own function, which comes
# first otherwise.
_EXACT = (
    ("hashtextextended(text, int)", "bigint"),
    ("format(text, bigint)", "text"),
    ("format(text, int)", "text"),
    ("format(text, text)", "text"),
    ("format(text, name)", "text"),
    ("convert_to(text, text)", "bytea"),
    ("quote_ident(name)", "text"),
    ("to_regclass(name)", "regclass"),
    ("to_regnamespace(name)", "regnamespace"),
    ("set_config(text, varchar, boolean)", "text"),
    ("current_setting(varchar)", "text"),
    ("pg_notify(text, varchar)", "void"),
    ("pg_notify(varchar, varchar)", "void"),
    ("jsonb_build_object(text, text)", "jsonb"),
    ("unnest(smallint[], bigint[])", "setof bigint"),
    ("unnest(smallint[])", "setof smallint"),
    ("unnest(bigint[])", "setof bigint"),
    ("substring(text, text)", "text"),
    ("make_interval(float8)", "interval"),
    ("generate_series(int, bigint)", "setof bigint"),
)


@dataclass(frozen=True)
class Attacker:
    """A role without any right on the outbox."""

    name: str
    dsn: str

    async def gained(self, connection: asyncpg.Connection) -> bool:
        """Whether somebody else ran code of the attacker's since the last time."""
        sprung = bool(await connection.fetchval("SELECT is_called FROM hostile.sprung"))
        await connection.execute("SELECT setval('hostile.sprung', 1, false)")
        return sprung


async def attacker_of(connection: asyncpg.Connection, dsn: str) -> Attacker:
    """A new role with LOGIN, CREATE on the database and CREATE in public, as up to PostgreSQL 14 everybody has."""
    name = f"attacker_{secrets.token_hex(4)}"
    database = await connection.fetchval("SELECT quote_ident(current_database())")
    await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    await connection.execute(f"GRANT CREATE, CONNECT ON DATABASE {database} TO {name}")
    await connection.execute(f"GRANT CREATE, USAGE ON SCHEMA public TO {name}")
    await connection.execute(
        f"CREATE SCHEMA hostile AUTHORIZATION {name}; GRANT USAGE ON SCHEMA hostile TO PUBLIC;"
        "CREATE SEQUENCE hostile.sprung; GRANT USAGE ON SEQUENCE hostile.sprung TO PUBLIC"
    )
    parts = urlsplit(dsn)
    netloc = f"{name}:secret@{parts.hostname}:{parts.port}"
    return Attacker(name, urlunsplit(parts._replace(netloc=netloc)))


async def forget(connection: asyncpg.Connection, attacker: Attacker) -> None:
    """Drop the role with all it has."""
    await connection.execute(
        f"DROP SCHEMA hostile CASCADE; DROP OWNED BY {attacker.name} CASCADE; DROP ROLE {attacker.name}"
    )


async def shadow_for(attacker: Attacker, victim: str) -> None:
    """Functions that match certain calls exactly, in the schema that comes first for `victim`, and in public."""
    async with connected(attacker.dsn) as connection:
        await connection.execute(f'CREATE SCHEMA "{victim}"; GRANT USAGE ON SCHEMA "{victim}" TO PUBLIC')
        for schema in (f'"{victim}"', "public"):
            for signature, result in _EXACT:
                trap = _TRAP.format(name=signature.partition("(")[0])
                await connection.execute(f"CREATE FUNCTION {schema}.{signature} RETURNS {result} {trap}")


async def shadow_all(attacker: Attacker, functions: list[str], operators: list[str]) -> int:
    """In the schema `hostile` a function, operator or type of the attacker for each of these of PostgreSQL.

    Returns how many there are. They take effect for whoever has that schema before pg_catalog in the search path.
    """
    made = 0
    async with connected(attacker.dsn) as connection:
        trap = _TRAP.format(name="a type")
        await connection.execute(f"CREATE FUNCTION hostile.trap_of_domains() RETURNS boolean {trap}")
        for type_ in _TYPES:
            await connection.execute(
                f"CREATE DOMAIN hostile.{type_} AS pg_catalog.{type_} CHECK (hostile.trap_of_domains())"
            )
        for row in await connection.fetch(_SIGNATURES, functions):
            trap = _TRAP.format(name=row["name"])
            await connection.execute(
                f"CREATE FUNCTION hostile.{row['name']}({row['arguments']}) RETURNS {row['result']} {trap}"
            )
            made += 1
        for number, row in enumerate(await connection.fetch(_OPERATORS, operators)):
            trap = _TRAP.format(name=f"operator {row['name']}")
            sides = f"{row['left']}, {row['right']}"
            await connection.execute(
                f"CREATE FUNCTION hostile.op_{number}({sides}) RETURNS {row['result']} {trap};"
                f"CREATE OPERATOR hostile.{row['name']} (FUNCTION = hostile.op_{number},"
                f" LEFTARG = {row['left']}, RIGHTARG = {row['right']})"
            )
            made += 1
    return made
