"""Expressions of every operation, and rows with the values at which engines differ."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from fraud_lakehouse.rules.expression import Kind, Node, column
from fraud_lakehouse.rules.syntax import Problem, parse, typed

COLUMNS = {
    "w1": "bigint",
    "w2": "bigint",
    "n1": "double",
    "n2": "double",
    "s1": "varchar",
    "s2": "varchar",
    "b1": "boolean",
    "b2": "boolean",
    "t1": "timestamp",
    "t2": "timestamp",
}
NUMBERS = [0.0, -0.0, 1.0, 0.5, 2.5, -2.5, 0.1, 267.5, 1.005, -1e300, 1e308, 9007199254740993.0, 2.0**63, 1e16, 12.5e6]
WHOLES = [0, 1, -1, 2, 10, 4111111111111111111, 9007199254740993, 9007199254740992, 2**63 - 1, -(2**63)]
WORDS = [
    "",
    "a",
    "Ab%_c",
    "é",
    "true",
    "FALSE",
    "12",
    "-4.50",
    "1e5",
    "1e999",
    " 7",
    "nan",
    "9223372036854775808",
    "a\\b",
]
TIMES = [datetime.fromisoformat(text) for text in ("2024-02-29 23:59:59.5", "2023-01-01", "1969-12-31 05:00:00.000001")]
_VALUES: dict[str, list[Any]] = {
    "bigint": WHOLES,
    "double": NUMBERS,
    "varchar": WORDS,
    "boolean": [True, False],
    "timestamp": TIMES,
}
_STEPS = {name: 1 + 2 * index for index, name in enumerate(COLUMNS)}


def _value(kind: str, position: int) -> Any:
    values = [*_VALUES[kind], None]
    return values[position % len(values)]


ROWS: list[dict[str, Any]] = [
    {name: _value(kind, row * _STEPS[name] + row // 7) for name, kind in COLUMNS.items()} for row in range(64)
]
EXPRESSIONS = """
n1 + n2; n1 - n2; n1 * n2; n1 / n2; n1 % n2; w1 + w2; w1 / 3; -n1; -w1; 7 % n2; n1 / w1
abs(n1); abs(w1); floor(n1); ceil(n1); sqrt(n1); ln(n1); round(n1); round(n1, 2); round(n1 / 8, 1); round(w1)
greatest(n1, n2, 1.5); least(w1, w2); greatest(w1, n1); least(s1, s2); greatest(t1, t2)
coalesce(n1, w1, 0); coalesce(s1, 'none'); nullif(n1, 0); nullif(w1, w2); nullif(s1, 'a')
w1 = w2; w1 < w2; w1 = n1; n1 >= n2; s1 < s2; s1 <> s2; b1 = b2; t1 < t2; n1 <> 0; w1 = 9007199254740993
n1 is distinct from n2; s1 is not distinct from s2; b1 is null; n1 is not null; t1 = timestamp '2023-01-01 00:00:00'
b1 and b2; b1 or b2; not b1; b1 and n1 > 0; b1 or s1 = 'a' or b2
n1 between 0 and 10; s1 not between 'a' and 'b'; w1 in (1, 2, -1); s1 not in ('a', 'é'); n1 in (0, 2.5)
s1 like 'A%'; s1 like '%\\%'; s1 not like '_'; s1 like '%b_'; starts_with(s1, 'a'); contains(s1, '%'); contains(s1, s2)
case when b1 then n1 when b2 then w1 else -1 end; case s1 when 'a' then 1 when 'é' then 2 end; if(n1 > 0, s1, s2)
lower(s1); upper(s2); length(s1); substr(s1, 2); substr(s1, 1, 3); s1 || '-' || w1; s1 || n1; 'at ' || t1 || ' ' || b1
cast(w1 as double); cast(s1 as double); cast(b1 as double); cast(n1 as bigint); cast(s1 as bigint); cast(b1 as bigint)
cast(n1 as varchar); cast(w1 as varchar); cast(b1 as varchar); cast(t1 as varchar)
cast(n1 as boolean); cast(w1 as boolean); cast(s1 as boolean)
extract(hour from t1); extract(dow from t1); extract(day from t1); extract(month from t1); hour(t2)
coalesce(0, hour(null))
ln(n1 - 2) > 0 and sqrt(n1) / w1 < 3; round(n1 - 3 * n2, 6) > 0; coalesce(abs(n1) / w1, 1); (n1 + w1) % 7 = 0
""".replace("\n", ";").split(";")
EXPRESSIONS = [text.strip() for text in EXPRESSIONS if text.strip()]


def resolve(name: str) -> Node | Problem:
    return column(name, COLUMNS[name]) if name in COLUMNS else Problem(f"{name} is unknown", is_name=True)


def checked(text: str, kind: Kind | None = None) -> Node:
    """The nodes of an expression without problems."""
    tree = parse(text)
    assert not isinstance(tree, Problem), tree
    node, problems = typed(tree, resolve, kind)
    assert problems == [], (text, problems)
    return node


def same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9) or one == other
    return type(one) is type(other) and one == other
