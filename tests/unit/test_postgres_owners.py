"""Whose schema and tables are used, and in whose things are made."""

from __future__ import annotations

from dataclasses import replace

from relay.postgres.owners import Owned, names, refused_to_change, refused_to_look, refused_to_use

SCHEMA = Owned(
    kind="schema",
    name="outbox",
    owner="shop",
    ours=True,
    below_us=False,
    above_us=False,
    of_the_schemas=True,
    open=False,
)
TABLE = replace(SCHEMA, kind="table", name="outbox.event")


def test_a_schema_that_is_not_there_yet_is_nobodys() -> None:
    assert refused_to_change([], "outbox") is None
    assert refused_to_use([], "outbox") is None


def test_what_is_ours_is_used_and_changed() -> None:
    assert refused_to_change([SCHEMA, TABLE], "outbox") is None
    assert refused_to_use([SCHEMA, TABLE], "outbox") is None


def test_what_belongs_to_others_is_used_and_not_changed() -> None:
    found = [replace(each, ours=False) for each in (SCHEMA, TABLE)]
    assert refused_to_use(found, "outbox") is None
    refused = refused_to_change(found, "outbox")
    assert refused is not None
    assert refused.startswith("the schema outbox belongs to shop")
    assert "`relay migrate --owner shop`" in refused


def test_a_superuser_runs_no_functions_of_others_unless_it_was_made_a_member() -> None:
    found = [replace(each, ours=False, below_us=True) for each in (SCHEMA, TABLE)]
    assert "GRANT shop TO" in str(refused_to_use(found, "outbox"))
    assert refused_to_use([replace(each, ours=True) for each in found], "outbox") is None


def test_a_migrating_role_looks_only_at_what_is_ours_or_of_somebody_with_more_rights() -> None:
    found = [replace(each, ours=False) for each in (SCHEMA, TABLE)]
    assert str(refused_to_look(found, "outbox")).startswith("the schema outbox belongs to shop")
    assert refused_to_look([replace(each, above_us=True) for each in found], "outbox") is None
    assert refused_to_look([SCHEMA, TABLE], "outbox") is None


def test_one_table_of_somebody_else_is_named_in_both_cases() -> None:
    squatted = replace(TABLE, owner="mallory", ours=False, of_the_schemas=False)
    for refused in (refused_to_change([SCHEMA, squatted], "outbox"), refused_to_use([SCHEMA, squatted], "outbox")):
        assert refused is not None
        assert refused.startswith("the table outbox.event belongs to mallory")


def test_nothing_is_made_where_everybody_may_make_things() -> None:
    refused = refused_to_change([replace(SCHEMA, name="public", open=True)], "public")
    assert "REVOKE CREATE ON SCHEMA public FROM PUBLIC" in str(refused)


def test_all_kinds_of_things_are_looked_at() -> None:
    assert {"event", "event_id", "pending", "enqueue", "drop_segment"} <= set(names())
