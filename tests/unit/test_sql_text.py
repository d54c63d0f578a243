"""Lists of tables as people write them into a setting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.settings import Settings, load_settings
from fraud_lakehouse.sql_text import listed_tables, qualified, quoted

NAMES = st.text('aB,."é \\n', min_size=1, max_size=4)


@given(st.lists(st.tuples(NAMES, NAMES)))
def test_whatever_the_names_quoted_ones_come_back(tables: list[tuple[str, str]]) -> None:
    text = " , ".join(f"{quoted(schema)}.{quoted(table)}" for schema, table in tables)
    assert [qualified(item) for item in listed_tables(text)] == tables


@pytest.mark.parametrize(
    ("text", "tables"),
    [
        ("", []),
        (" , ,", []),
        ("payments", [("public", "payments")]),
        ("Payments, risk.lists", [("public", "Payments"), ("risk", "lists")]),
        ("risk.a.b", [("risk", "a.b")]),
        ('"risk.a".b', [("risk.a", "b")]),
        ('"a,b".c,d', [("a,b", "c"), ("public", "d")]),
        ('x"y,o " s.t', [("public", 'x"y'), ('o " s', "t")]),
        ('"say ""hi"""', [("public", 'say "hi"')]),
    ],
)
def test_lists_of_tables(text: str, tables: list[tuple[str, str]]) -> None:
    assert [qualified(item) for item in Settings(postgres_tables=text).postgres_tables] == tables


@pytest.mark.parametrize("text", ['"a', 'a,"b', '""', '"a"b', '"a".', ".a", 'a,"b"."c"d', '"a"."b".c'])
def test_what_is_no_list_of_tables_is_named(text: str) -> None:
    with pytest.raises(SettingsError, match=r"FRAUD_POSTGRES_TABLES.*schema.*double quotes as in SQL"):
        load_settings(postgres_tables=text)


def test_a_child_process_reads_the_same_tables() -> None:
    settings = Settings(postgres_tables='"a,b".c,d')
    assert Settings(postgres_tables=settings.environment()["FRAUD_POSTGRES_TABLES"]) == settings
    with pytest.raises(SettingsError, match=r"'a,b' is not \[schema\.\]table"):
        load_settings(postgres_tables=("a,b",))
