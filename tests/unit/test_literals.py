"""No source's table, and no column of one outside the lake's contracts, is a literal of the package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import fraud_lakehouse
from fraud_lakehouse.pipeline import KafkaSource, load_pipeline
from tests.declared import SHIPPED

PACKAGE = Path(fraud_lakehouse.__file__).parent
CONTRACTS = frozenset(
    {
        "amount",
        "email",
        "evaluation",
        "is_fraud",
        "name",
        "receiver_bank_account",
        "receiver_id",
        "registration_date",
        "sender_bank",
        "sender_bank_account",
        "sender_id",
        "status",
        "trans_date_trans_time",
        "trans_num",
        "transaction_date",
        "transaction_id",
        "transfer_date",
        "user_id",
    }
)
"""Columns of the lake's own tables with fixed names (docs/reference/tables.md)."""
# words of English, SQL or the catalogue as well
WORDS = frozenset({"category", "first", "id", "last", "merchant", "username"})
SHIPPED_ONLY = ("demo/", "detection/validator/")  # what generates the shipped data, and the client of its transfers
UPGRADES = {"storage/audit.py", "features/definitions.py"}  # what lakes of version 0.1 are called


def declared() -> tuple[set[str], set[str]]:
    """Tables and columns that the shipped pipeline declares."""
    pipeline = load_pipeline(SHIPPED, {})
    tables, columns = set(), set()
    for source in pipeline.sources.values():
        for topic in source.topics if isinstance(source, KafkaSource) else ():
            tables.add(topic.table)
            columns |= set(topic.fields)
    for stream in pipeline.streams.values():
        tables.add(stream.from_)
        columns |= {stream.id, stream.time, stream.amount, *([stream.label] if stream.label else [])}
        for entity in stream.entities.values():
            columns |= set(entity.key)
            tables |= {entity.exists_in.table} if entity.exists_in else set()
    return tables, columns - CONTRACTS - WORDS


def literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every string that is no docstring."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = {
        id(statement.value)
        for node in ast.walk(tree)
        if isinstance(node, documented)
        for statement in node.body
        if isinstance(statement, ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            yield node.lineno, node.value


def found_in(source: str, tables: set[str], columns: set[str]) -> list[str]:
    names = "|".join(sorted(map(re.escape, tables | columns), key=len, reverse=True))
    table = "|".join(sorted(map(re.escape, tables), key=len, reverse=True))
    alone = re.compile(rf"{names}")
    in_path = re.compile(rf"\b(?:bronze|silver)[/.](?:{table})(?:_\w+)?\b")
    return [
        f"{line}: {text}"
        for line, text in literals(ast.parse(source))
        if alone.fullmatch(text.strip()) or in_path.search(text)
    ]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_declared_name_is_a_literal(path: Path) -> None:
    name = path.relative_to(PACKAGE).as_posix()
    if not name.startswith(SHIPPED_ONLY) and name not in UPGRADES:
        assert found_in(path.read_text(), *declared()) == []


def test_a_declared_name_would_be_seen() -> None:
    tables, columns = declared()
    code = 'TABLE = "card_transactions"\nread("amt")\nopen("silver/users_history")\n"""users"""\n"among users"\n'
    assert found_in(code, tables, columns) == ["1: card_transactions", "2: amt", "3: silver/users_history"]
