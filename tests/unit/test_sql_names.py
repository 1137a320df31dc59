"""What SQL text that runs under somebody else's search path names: PostgreSQL's own things by their full names."""

from __future__ import annotations

import re

import pytest

from relay.enqueue import contract
from relay.postgres import sql

# Statements on connections whose search path is the caller's, or not set yet.
FOREIGN_CONNECTION = ("patient_session", "safe_search_path", "safe_search_path_of_transaction")

# What is followed by a bracket and is the grammar's, which no schema can replace.
_GRAMMAR = {
    *("coalesce", "nullif", "greatest", "least", "exists", "any", "all", "array", "row", "values", "with", "over"),
    *("in", "and", "or", "not", "as", "on", "into", "from", "select", "where", "using", "filter", "check"),
    *("if", "then", "else", "loop", "returning"),
}
# Types that are words of the grammar: always PostgreSQL's own.
_GRAMMAR_TYPES = {"boolean", "smallint", "integer", "int", "bigint", "real", "numeric"}
_OPERATOR = re.compile(r"(?<![:<>=])(?:\|\||->>?|<>|!=|<=|>=|!?~\*?|@>|[-+*/%&|?<>=])(?![=>])")


def unqualified(text: str) -> list[str]:
    """Functions, operators and types that a search path decides about."""
    text = re.sub(r"--[^\n]*", "", text)
    text = re.sub(r"'(?:[^']|'')*'", "''", text)
    text = re.sub(r"INSERT INTO [\w.]+ \(", "INSERT INTO (", text)
    found = [f"{name}()" for name in re.findall(r"(?<![\w.])([a-z_]\w*)\s*\(", text) if name.lower() not in _GRAMMAR]
    found += [f"::{name}" for name in re.findall(r"::\s*([a-z_]\w*)(?![\w.])", text) if name not in _GRAMMAR_TYPES]
    found += [f"{name} in DECLARE" for name in _declared(text) if name not in _GRAMMAR_TYPES]
    without = re.sub(
        r"OPERATOR\([^)]*\)|:=|=>|\bERRCODE =|INSERT INTO [\w.]+ *\([^)]*\)|count\(\*\)|SET (?:LOCAL )?\w+ =", "", text
    )
    return found + [f"operator {name}" for name in _OPERATOR.findall(without)]


def _declared(text: str) -> list[str]:
    declarations = re.search(r"\bDECLARE\b(.*?)\bBEGIN\b", text, re.DOTALL)
    if declarations is None:
        return []
    return re.findall(r"^\s*\w+\s+(?:CONSTANT\s+)?([a-z_]\w*)(?![\w.])", declarations[1], re.MULTILINE)


def functions() -> dict[str, tuple[str, str]]:
    """Every function of the schema as its last migration makes it: by its arguments' types, options and body."""
    text = "\n".join(migration.sql for migration in sql.migrations())
    made = re.finditer(
        r"CREATE (?:OR REPLACE )?FUNCTION (outbox\.\w+)\((.*?)\)\s*RETURNS(.*?)\$\$(.*?)\$\$", text, re.DOTALL
    )
    found = {}
    for match in made:
        arguments = [argument.split()[1] for argument in match[2].split(",") if argument.strip()]
        found[f"{match[1]}({', '.join(arguments)})"] = (match[3], match[4])
    return found


@pytest.mark.parametrize("name", FOREIGN_CONNECTION)
def test_a_statement_on_somebody_elses_connection_is_qualified(name: str) -> None:
    assert unqualified(sql.query(name)) == []


@pytest.mark.parametrize("parameters", [contract.DOLLARS, contract.FORMAT, contract.FORMAT_BINARY])
def test_the_insert_on_a_callers_connection_is_qualified(parameters: tuple[str, ...]) -> None:
    for scheduled in (False, True):
        statement = contract.insert("outbox", parameters, scheduled)
        assert unqualified(re.sub(r"\$\d|%[sb]", "x", statement)) == []
        assert unqualified(contract.copy("outbox", scheduled).partition(" (")[0]) == []


@pytest.mark.parametrize("function", ["cancel_scheduled", "reschedule"])
def test_the_call_of_a_function_on_a_callers_connection_is_qualified(function: str) -> None:
    statement = contract.function_call("outbox", function, contract.FORMAT)
    assert unqualified(statement.replace("%s", "x")) == []


@pytest.mark.parametrize("name", functions())
def test_a_function_sets_its_search_path_or_is_qualified(name: str) -> None:
    options, body = functions()[name]
    if "SET search_path = pg_catalog, pg_temp" not in options:
        assert unqualified(body) == [], name
        assert "SECURITY DEFINER" not in options, name


def test_functions_of_writers_and_of_each_receipt_are_qualified_because_setting_a_path_would_cost_them() -> None:
    plain = {name for name, (options, _) in functions().items() if "search_path" not in options}
    assert plain == {
        "outbox.places(bytea)",
        "outbox.enqueue(text, text, text, jsonb, text)",
        "outbox.enqueue(text, text, jsonb, jsonb, text)",
        "outbox.enqueue_at(timestamptz, text, text, text, jsonb, text, text)",
        "outbox.enqueue_at(timestamptz, text, text, jsonb, jsonb, text, text)",
        "outbox.enqueue_in(interval, text, text, text, jsonb, text, text)",
        "outbox.enqueue_in(interval, text, text, jsonb, jsonb, text, text)",
        "outbox.set_deliver_at()",
        "outbox.wake_up()",
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("SELECT convert_to($1, 'UTF8')", ["convert_to()"]),
        ("SELECT pg_catalog.convert_to($1, 'UTF8'), coalesce(a, b)", []),
        ("SELECT a::text::pg_catalog.jsonb, b::bigint", ["::text"]),
        ("SELECT a = b, c OPERATOR(pg_catalog.=) d", ["operator ="]),
        ("SELECT a || b, f.x -> 'a', NOT x", ["operator ||", "operator ->"]),
        ("DECLARE\n    a CONSTANT uuid := 1;\n    b pg_catalog.text;\n    c bigint;\nBEGIN", ["uuid in DECLARE"]),
        ("SELECT 'a = b' -- lower(x)", []),
        ("INSERT INTO outbox.event (a, b) VALUES (x, pg_catalog.f(y => 1))", []),
    ],
)
def test_what_is_not_qualified_is_found(text: str, found: list[str]) -> None:
    assert unqualified(text) == found
