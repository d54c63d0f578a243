"""Names of the lake are unlike each other even for readers that do not tell upper from lower case."""

from __future__ import annotations

import re
from random import Random

from hypothesis import example, given
from hypothesis import strategies as st

from fraud_lakehouse.sources.postgres.names import bronze_name, bronze_names, column_names

NAMES = st.lists(st.text('aAbB_ "é', min_size=1, max_size=4), unique=True, max_size=12)
RESERVED = ("_op", "_text")


@given(NAMES)
@example(["A", column_names(["A", "a"])[1], "a"])
@example(["_op", "_OP", "_lake_x", "source_op"])
def test_columns_keep_their_names_unless_one_is_taken(names: list[str]) -> None:
    own = column_names(names, RESERVED)
    assert len({name.lower() for name in own} | set(RESERVED)) == len(names) + len(RESERVED)
    assert not any(name.lower().startswith("_lake_") for name in own)
    for number, (name, result) in enumerate(zip(names, own, strict=True)):
        before = {other.lower() for other in own[:number]}
        is_free = name.lower() not in {*before, *RESERVED} and not name.lower().startswith("_lake_")
        assert (result == name) == is_free


@given(
    st.lists(st.tuples(st.sampled_from(["public", "a", "A"]), st.text("aA_ é", min_size=1, max_size=5)), unique=True)
)
@example(
    [("public", "Users"), ("public", bronze_names([("public", "Users"), ("public", "users")])[1]), ("public", "users")]
)
def test_the_oldest_table_keeps_its_name(tables: list[tuple[str, str]]) -> None:
    names = bronze_names(tables)
    assert len({name.lower() for name in names}) == len(tables)
    for number, (source, name) in enumerate(zip(tables, names, strict=True)):
        is_free = bronze_name(*source).lower() not in {other.lower() for other in names[:number]}
        assert (name == bronze_name(*source)) == is_free


TABLE = st.one_of(st.text(min_size=1, max_size=63), st.text("aA_ é/.", min_size=1, max_size=4))
SOURCES = st.lists(st.tuples(st.sampled_from(["public", "a", "A"]), TABLE), unique=True, min_size=1, max_size=12)


@given(SOURCES, st.randoms())
@example([("public", ".."), ("public", "../x"), ("public", "_delta_log"), ("public", "e\u0301"), ("public", "é")], None)
def test_a_name_is_a_safe_folder_and_stays_whatever_tables_come_and_go(
    tables: list[tuple[str, str]], random: Random | None
) -> None:
    first = bronze_names(tables)
    known = dict(zip(tables, first, strict=True))
    for name in first:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_$-]*", name), "one folder, of the layer's own, in any file system"
        assert name.lower() != "_delta_log"
    assert len({name.lower() for name in first}) == len(tables)
    if random is not None:
        random.shuffle(tables)
    dropped, *remaining = tables
    assert bronze_names(remaining, known) == [known[table] for table in remaining]
    assert bronze_names([*remaining, dropped], known)[-1] == known[dropped], "it was created anew"
    newcomer = (dropped[0], dropped[1].swapcase())
    if newcomer not in known:
        assert bronze_names([newcomer], known)[0].lower() not in {name.lower() for name in first}


def test_tables_of_the_lakes_own_are_told_apart() -> None:
    reserved = {"card_transactions", "users_history"}
    for table in ("card_transactions", "Users_History", "_delta_log"):
        assert bronze_name("public", table, reserved=reserved).startswith(f"{table}_")
        assert bronze_name("public", table, "shop_", reserved) == f"shop_{table}", "with a prefix they differ already"
    assert bronze_name("public", "transactions", reserved=reserved) == "transactions"
    assert bronze_name("sales", "orders") == "sales__orders"
