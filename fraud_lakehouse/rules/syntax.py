"""SQL text to typed nodes: parsed by sqlglot, then checked against what rules may say.

Everything that is not listed here is a problem, with what to write instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from fraud_lakehouse.pipeline.mistakes import nearest
from fraud_lakehouse.rules.allowed import (
    ARITHMETIC,
    CASTS,
    COMPARISONS,
    DEEPEST,
    EXTRACTED,
    FLAGS,
    FUNCTIONS,
    HINTS,
    LONGEST,
    MOST_DIGITS,
    MOST_OPERATIONS,
    OF_NUMBER,
    OF_TEXT,
    TWO_TEXTS,
    known_keys,
)
from fraud_lakehouse.rules.expression import (
    NUMERIC,
    Kind,
    Node,
    common_kind,
    converted,
    cost,
    finite_or_null,
    implied,
    literal,
)
from fraud_lakehouse.rules.networks import Networks

Resolve = Callable[[str], "Node | Problem"]


@dataclass(frozen=True)
class Problem:
    """What is wrong with an expression. `is_name`: a name that this stream does not have."""

    text: str
    is_name: bool = False


def parse(text: str) -> exp.Expr | Problem:
    """The syntax tree of one expression."""
    if len(text) > LONGEST:
        return Problem(f"an expression of {len(text):,} characters, expected at most {LONGEST:,}")
    try:
        trees = sqlglot.parse(text, dialect="duckdb")
    except SqlglotError as error:
        found = getattr(error, "errors", None)
        where = f" near {found[0]['highlight']!r}" if found and found[0].get("highlight") else ""
        return Problem(f"{_short(text)} is no SQL expression{where}, expected one such as count_10min > max_count")
    except RecursionError:
        return Problem("an expression nested too deeply, expected features or a simpler one")
    if len(trees) != 1 or trees[0] is None:
        return Problem(f"found {len(trees)} expressions in {_short(text)}, expected one")
    return trees[0]


def typed(tree: exp.Expr, resolve: Resolve, kind: Kind | None = None) -> tuple[Node, list[Problem]]:
    """The tree as typed nodes, and everything that is wrong with it; with problems the nodes mean nothing.

    Args:
        kind: what the expression must be.
    """
    checker = _Checker(resolve)
    node = checker.node(tree, 0)
    node = finite_or_null(node) if kind is None else checker.must_be(node, kind, tree)
    if not checker.problems and cost(node) > MOST_OPERATIONS:
        problem = f"an expression of more than {MOST_OPERATIONS} operations, expected a simpler one"
        return node, [Problem(problem)]
    return node, list(dict.fromkeys(checker.problems))


def names_in(tree: exp.Expr) -> list[str]:
    """The names that an expression uses, each once."""
    return list(dict.fromkeys(found.name for found in tree.find_all(exp.Column)))


class _Checker:
    """One expression. After a problem, a value of unknown kind stands for what it is about, so that all are found."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self.problems: list[Problem] = []

    def node(self, tree: exp.Expr, depth: int) -> Node:
        if depth > DEEPEST:
            return self._problem(f"more than {DEEPEST} levels, expected a simpler expression")
        unexpected = [key for key in tree.args if tree.args[key] and key not in known_keys(type(tree)) | FLAGS]
        if unexpected:
            return self._not_allowed(tree)
        if isinstance(tree, exp.Paren):
            return self.node(tree.this, depth)
        if isinstance(tree, exp.Column):
            return self._column(tree)
        if isinstance(tree, exp.Literal | exp.Boolean | exp.Null):
            return self._literal(tree)
        if isinstance(tree, exp.Neg) and isinstance(tree.this, exp.Literal) and not tree.this.is_string:
            return literal(-self._literal(tree.this).value)
        for build in (self._logical, self._comparison, self._numeric, self._textual, self._choice, self._converted):
            found = build(tree, depth + 1)
            if found is not None:
                return found
        return self._not_allowed(tree)

    def must_be(self, node: Node, kind: Kind, tree: exp.Expr) -> Node:
        """The value as this kind, where that needs no cast."""
        found = implied(node, kind)
        if found is None:
            return self._problem(f"{_short(tree)} is a {node.kind}, expected a {kind}{_cast_hint(node.kind, kind)}")
        return found

    def _problem(self, text: str, *, is_name: bool = False) -> Node:
        self.problems.append(Problem(text, is_name))
        return Node("literal", Kind.ANY)

    def _not_allowed(self, tree: exp.Expr) -> Node:
        for classes, what, instead in HINTS:
            if isinstance(tree, classes):
                return self._problem(f"{_short(tree)} is {what}, which a rule cannot compute, expected {instead}")
        if isinstance(tree, exp.Func):
            name = str(tree.name if isinstance(tree, exp.Anonymous) else tree.sql_name()).lower()
            if name not in FUNCTIONS:
                return self._problem(
                    f"unknown function {name!r}, expected one of {', '.join(FUNCTIONS)}{nearest(name, FUNCTIONS)}"
                )
        return self._problem(
            f"{_short(tree)} is not allowed here, expected names, literals, operators and the functions"
            f" {', '.join(FUNCTIONS)}"
        )

    def _column(self, tree: exp.Column) -> Node:
        if not isinstance(tree.this, exp.Identifier):
            return self._not_allowed(tree.this)
        found = self._resolve(tree.name)
        if isinstance(found, Problem):
            self.problems.append(found)
            return Node("literal", Kind.ANY)
        return found

    def _literal(self, tree: exp.Literal | exp.Boolean | exp.Null) -> Node:
        if isinstance(tree, exp.Null):
            return literal(None)
        if isinstance(tree, exp.Boolean) or tree.is_string:
            return literal(tree.this)
        text = str(tree.this)
        number: Any = int(text) if text.isdecimal() else float(text)
        if abs(number) > 1e308:
            return self._problem(f"the number {text} is too large, expected one below 1e308")
        return literal(number)

    def _pair(self, tree: exp.Expr, depth: int) -> tuple[Node, Node]:
        return self.node(tree.this, depth), self.node(tree.expression, depth)

    def _alike(self, nodes: Sequence[Node], tree: exp.Expr) -> tuple[tuple[Node, ...], Kind]:
        """The values as one kind."""
        kind = common_kind(nodes)
        if kind is None:
            kinds = " with a ".join(dict.fromkeys(node.kind for node in nodes if node.kind != Kind.NULL))
            self._problem(f"{_short(tree)} puts a {kinds} together, expected values of one kind; use cast(… as …)")
            return tuple(Node("literal", Kind.TEXT) for _ in nodes), Kind.TEXT
        return tuple(converted(node, kind) for node in nodes), kind

    def _logical(self, tree: exp.Expr, depth: int) -> Node | None:
        if isinstance(tree, exp.And | exp.Or):
            op = "and" if isinstance(tree, exp.And) else "or"
            args = [self.must_be(self.node(one, depth), Kind.BOOLEAN, one) for one in tree.flatten()]
            return Node(op, Kind.BOOLEAN, tuple(args))
        if isinstance(tree, exp.Not):
            return Node("not", Kind.BOOLEAN, (self.must_be(self.node(tree.this, depth), Kind.BOOLEAN, tree.this),))
        if isinstance(tree, exp.Is):
            if not isinstance(tree.expression, exp.Null):
                return self._problem(f"{_short(tree)} is not allowed, expected `= {tree.expression.sql().lower()}`")
            return Node("is_null", Kind.BOOLEAN, (finite_or_null(self.node(tree.this, depth)),))
        return None

    def _comparison(self, tree: exp.Expr, depth: int) -> Node | None:
        if type(tree) in COMPARISONS:
            op = COMPARISONS[type(tree)]
            pair = self._pair(tree, depth)
            if op not in ("same", "differs") and any(one.kind == Kind.NULL for one in pair):
                return self._problem(f"{_short(tree)} is never true, expected `is null` or `is not null`")
            args, kind = self._alike(pair, tree)
            if kind == Kind.BOOLEAN and op in ("lt", "le", "gt", "ge"):
                return self._problem(f"{_short(tree)} orders true and false, expected = or <>")
            return Node(op, Kind.BOOLEAN, args)
        if isinstance(tree, exp.Between):
            bounds = (tree.args["low"], tree.args["high"])
            args, _ = self._alike([self.node(one, depth) for one in (tree.this, *bounds)], tree)
            return Node("between", Kind.BOOLEAN, args)
        if isinstance(tree, exp.In):
            args, _ = self._alike([self.node(one, depth) for one in (tree.this, *tree.expressions)], tree)
            if any(one.op != "literal" or one.value is None for one in args[1:]) or len(args) < 2:
                return self._problem(f"{_short(tree)} compares with what is no constant, expected a list of literals")
            return Node("in", Kind.BOOLEAN, (args[0],), value=tuple(one.value for one in args[1:]))
        if isinstance(tree, exp.Like):
            text, pattern = self._pair(tree, depth)
            text = self.must_be(text, Kind.TEXT, tree.this)
            if pattern.op != "literal" or not isinstance(pattern.value, str):
                return self._problem(f"{_short(tree)} has no constant pattern, expected a text such as 'shop%'")
            like = Node("like", Kind.BOOLEAN, (text,), value=pattern.value)
            return Node("not", Kind.BOOLEAN, (like,)) if tree.args.get("negate") else like
        return None

    def _operand(self, tree: exp.Expr, depth: int) -> Node:
        """A number to compute with: the only use for one that is not finite."""
        node = self.node(tree, depth)
        return node if node.kind == Kind.NUMBER else self.must_be(node, Kind.NUMBER, tree)

    def _number(self, tree: exp.Expr, depth: int) -> Node:
        return self.must_be(self.node(tree, depth), Kind.NUMBER, tree)

    def _numeric(self, tree: exp.Expr, depth: int) -> Node | None:
        if type(tree) in ARITHMETIC:
            args = self._operand(tree.this, depth), self._operand(tree.expression, depth)
            return Node(ARITHMETIC[type(tree)], Kind.NUMBER, args)
        if isinstance(tree, exp.Neg | exp.Abs):
            op = "neg" if isinstance(tree, exp.Neg) else "abs"
            return Node(op, Kind.NUMBER, (self._operand(tree.this, depth),))
        if type(tree) in OF_NUMBER:
            return Node(OF_NUMBER[type(tree)], Kind.NUMBER, (self._number(tree.this, depth),))
        if isinstance(tree, exp.Round):
            digits = self.node(tree.args["decimals"], depth).value if tree.args.get("decimals") else 0
            if type(digits) is not int or not 0 <= digits <= MOST_DIGITS:
                return self._problem(
                    f"{_short(tree)} rounds to what is no number of decimals, expected 0 to {MOST_DIGITS}"
                )
            return Node("round", Kind.NUMBER, (self._number(tree.this, depth),), value=digits)
        if isinstance(tree, exp.Extract | exp.Hour):
            of = tree.expression if isinstance(tree, exp.Extract) else tree.this
            part = tree.this.name.lower() if isinstance(tree, exp.Extract) else "hour"
            if part not in EXTRACTED:
                return self._problem(
                    f"cannot extract {part!r}, expected one of {', '.join(EXTRACTED)}{nearest(part, EXTRACTED)}"
                )
            return Node("extract", Kind.WHOLE, (self.must_be(self.node(of, depth), Kind.TIME, of),), value=part)
        return None

    def _text(self, tree: exp.Expr, depth: int) -> Node:
        return self.must_be(self.node(tree, depth), Kind.TEXT, tree)

    def _textual(self, tree: exp.Expr, depth: int) -> Node | None:
        if isinstance(tree, exp.DPipe):
            args = tuple(converted(self.node(one, depth), Kind.TEXT) for one in tree.flatten())
            return Node("concat", Kind.TEXT, args)
        if type(tree) in OF_TEXT:
            op, kind = OF_TEXT[type(tree)]
            return Node(op, kind, (self._text(tree.this, depth),))
        if type(tree) in TWO_TEXTS:
            args = self._text(tree.this, depth), self._text(tree.expression, depth)
            return Node(TWO_TEXTS[type(tree)], Kind.BOOLEAN, args)
        if isinstance(tree, exp.Anonymous) and tree.name.lower() == "in_networks":
            return self._in_networks(tree, depth)
        if isinstance(tree, exp.Substring):
            of = self._text(tree.this, depth)
            bounds = [self.node(tree.args[key], depth).value for key in ("start", "length") if tree.args.get(key)]
            if any(type(one) is not int or one < 1 or one > LONGEST for one in bounds):
                return self._problem(
                    f"{_short(tree)} needs constant bounds, expected substr(text, start from 1, length)"
                )
            return Node("substr", Kind.TEXT, (of,), value=tuple(bounds))
        return None

    def _choice(self, tree: exp.Expr, depth: int) -> Node | None:
        if isinstance(tree, exp.Coalesce | exp.Greatest | exp.Least):
            op = (
                "coalesce"
                if isinstance(tree, exp.Coalesce)
                else "greatest"
                if isinstance(tree, exp.Greatest)
                else "least"
            )
            args, kind = self._alike([self.node(one, depth) for one in (tree.this, *tree.expressions)], tree)
            if op != "coalesce" and kind == Kind.BOOLEAN:
                return self._problem(f"{_short(tree)} orders true and false, expected numbers, texts or times")
            return Node(op, kind, args)
        if isinstance(tree, exp.Nullif):
            args, kind = self._alike(self._pair(tree, depth), tree)
            return Node("nullif", kind, args)
        if isinstance(tree, exp.If):
            return self._case([(tree.this, tree.args["true"])], tree.args.get("false"), tree, depth)
        if isinstance(tree, exp.Case):
            branches = [(one.this, one.args["true"]) for one in tree.args["ifs"]]
            if tree.this is not None:
                branches = [(exp.EQ(this=tree.this.copy(), expression=when.copy()), then) for when, then in branches]
            return self._case(branches, tree.args.get("default"), tree, depth)
        return None

    def _in_networks(self, tree: exp.Anonymous, depth: int) -> Node:
        """in_networks(address, networks): the address a column, the networks a constant, such as a parameter."""
        expected = "expected in_networks(column, networks) with networks such as '10.0.0.0/8, 2001:db8::/32'"
        if len(tree.expressions) != 2:
            return self._problem(f"{_short(tree)} has {len(tree.expressions)} arguments, {expected}")
        address, listed = (self._text(one, depth) for one in tree.expressions)
        if address.op not in ("column", "text_of_any") or listed.op != "literal" or not isinstance(listed.value, str):
            return self._problem(f"{_short(tree)} is not of a column and a constant, {expected}")
        try:
            networks = Networks.of(listed.value)
        except ValueError as error:
            return self._problem(f"{_short(tree)}: {error}, {expected}")
        return Node("in_networks", Kind.BOOLEAN, (address,), value=networks)

    def _case(
        self, branches: list[tuple[exp.Expr, exp.Expr]], default: exp.Expr | None, tree: exp.Expr, depth: int
    ) -> Node:
        conditions = [self.must_be(self.node(when, depth), Kind.BOOLEAN, when) for when, _ in branches]
        results = [self.node(then, depth) for _, then in branches]
        results.append(self.node(default, depth) if default is not None else literal(None))
        alike, kind = self._alike(results, tree)
        args = [one for pair in zip(conditions, alike, strict=False) for one in pair]
        return Node("case", kind, (*args, alike[-1]))

    def _converted(self, tree: exp.Expr, depth: int) -> Node | None:
        if not isinstance(tree, exp.Cast):
            return None
        target = tree.to.this.name if not tree.to.expressions else ""
        if target in ("TIMESTAMP", "TIMESTAMPNTZ") and isinstance(tree.this, exp.Literal) and tree.this.is_string:
            return self._time(tree.this.name)
        if target not in CASTS:
            return self._problem(
                f"cannot cast to {tree.to.sql('duckdb').lower()}, expected double, bigint, varchar or boolean"
            )
        node, kind = self.node(tree.this, depth), CASTS[target]
        try:
            return converted(node, kind)
        except KeyError:
            return self._problem(
                f"{_short(tree)} turns a {node.kind} into a {kind}, expected cast(… as varchar) or none"
            )

    def _time(self, text: str) -> Node:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is not None:
            return self._problem(
                f"found the time {text!r}, expected one in UTC such as timestamp '2026-01-31 12:00:00'"
            )
        return literal(moment)


def _short(tree: exp.Expr | str) -> str:
    text = " ".join((tree if isinstance(tree, str) else tree.sql("duckdb")).split())
    return f"`{text if len(text) <= 60 else text[:60] + '…'}`"


def _cast_hint(found: Kind, kind: Kind) -> str:
    if kind == Kind.NUMBER and found == Kind.TEXT:
        return "; use cast(… as double) if its text is a number"
    if kind == Kind.TEXT and found in NUMERIC:
        return "; use cast(… as varchar)"
    return "; write a comparison" if kind == Kind.BOOLEAN else ""
