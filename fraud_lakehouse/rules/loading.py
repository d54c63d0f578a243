"""The rules of a pipeline folder: read, checked against its streams, each file on its own."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fraud_lakehouse.features.requested import FeatureRequest
from fraud_lakehouse.pipeline import Mistake, shipped_folder
from fraud_lakehouse.pipeline.building import build
from fraud_lakehouse.pipeline.document import Document, read_document
from fraud_lakehouse.pipeline.mistakes import Location, nearest, place, shown
from fraud_lakehouse.pipeline.values import NAME
from fraud_lakehouse.rules.binding import Problems, StreamRule, bind
from fraud_lakehouse.rules.rule import ALL, Rule
from fraud_lakehouse.rules.scope import Scope

FOLDER = "rules"
STREAMS = "streams.yml"


@dataclass(frozen=True)
class Rules:
    """The rules of a folder.

    Args:
        is_own: whether the pipeline folder has rules of its own; else these are the shipped ones.
        rules: those without mistakes, of any state, by name.
        bound: each of them on its streams, by name.
        mistakes: those of the other files, by the name of the rule.
        example_lines: the line of each example, by the name of the rule.
    """

    folder: Path
    is_own: bool
    rules: Mapping[str, Rule] = field(default_factory=dict)
    bound: Mapping[str, tuple[StreamRule, ...]] = field(default_factory=dict)
    mistakes: Mapping[str, tuple[Mistake, ...]] = field(default_factory=dict)
    example_lines: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def of_stream(self, stream: str, on: str = "arrival") -> tuple[StreamRule, ...]:
        """The live and shadow rules of a stream, by name."""
        every = (one for bound in self.bound.values() for one in bound)
        return tuple(one for one in every if one.scope.name == stream and one.rule.on == on and one.rule.is_evaluated)

    def requests(self, stream: str) -> tuple[FeatureRequest, ...]:
        """What the live and shadow rules of a stream need of the feature engine, each once."""
        return tuple({request.name: request for one in self.of_stream(stream) for request in one.requests}.values())

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong with each rule that has mistakes, in one text."""
        return {name: "; ".join(str(one) for one in found) for name, found in self.mistakes.items()}

    def with_former(self, former: Rules) -> Rules:
        """These rules, and of those that have mistakes now what they were before."""
        kept = [name for name in former.rules if name in self.mistakes]
        return replace(
            self,
            rules={**self.rules, **{name: former.rules[name] for name in kept}},
            bound={**self.bound, **{name: former.bound[name] for name in kept}},
        )

    def all_mistakes(self) -> list[Mistake]:
        """All mistakes, by file and line."""
        return sorted(one for mistakes in self.mistakes.values() for one in mistakes)


class _RuleDocument(Document):
    """A rule's file as an entry under the rule's name, which messages leave out."""

    def report(self, location: Location, problem: str) -> None:
        where = f"{place(location[1:])}: " if location[1:] else ""
        self.mistakes.append(Mistake(self.file, self.line(location), where + problem))


def rules_folder(pipeline_folder: Path) -> tuple[Path, bool]:
    """Where the rules of a pipeline folder are: its `rules`, else the shipped ones; and whether they are its own."""
    own = pipeline_folder / FOLDER
    if own.is_dir() or pipeline_folder.resolve() == shipped_folder().resolve():
        return own, True
    return shipped_folder() / FOLDER, False


def load_rules(pipeline_folder: Path, scopes: Mapping[str, Scope]) -> Rules:
    """Read and check the rules of a pipeline folder; never raises on what their files hold.

    Of the shipped rules, which a folder without its own has, only those are there that its streams allow. A rule for a
    declared stream without models, whose table is not captured yet, is no mistake; it is there once the models are.

    Args:
        scopes: the streams that have models, by name.
    """
    folder, is_own = rules_folder(pipeline_folder)
    waiting = read_document(pipeline_folder / STREAMS, "streams").values.keys() - scopes.keys()
    rules: dict[str, Rule] = {}
    bound: dict[str, tuple[StreamRule, ...]] = {}
    mistakes: dict[str, tuple[Mistake, ...]] = {}
    lines: dict[str, tuple[int, ...]] = {}
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix in (".yml", ".yaml") and path.name[0] != ".")
    except OSError:
        files = []
    for path in files:
        name = path.stem
        document, rule = _read(path)
        found = _bound(document, rule, scopes, waiting, is_own=is_own) if rule is not None else []
        if document.mistakes:
            mistakes[name] = tuple(sorted(set(document.mistakes)))
        elif rule is not None and found:
            rules[name], bound[name] = rule, tuple(found)
            lines[name] = tuple(document.line((name, "examples", index)) for index in range(len(rule.examples)))
    return Rules(folder, is_own, rules, bound, mistakes, lines)


def _read(path: Path) -> tuple[Document, Rule | None]:
    """A rule's file, and the rule unless it has mistakes."""
    name = path.stem
    read = read_document(path, "description, streams, severity, when and reason")
    file = f"{FOLDER}/{path.name}"
    document = _RuleDocument(
        file,
        read.is_read,
        {name: read.values},
        {(name, *at): line for at, line in read.lines.items()} | {(name,): 1},
        [Mistake(file, one.line, one.problem) for one in read.mistakes],
    )
    if path.suffix != ".yml":
        document.report((name,), f"the file is called {shown(path.name)}, expected {name}.yml")
    if not re.fullmatch(NAME, name) or len(name) > 60:
        document.report((name,), f"the file is called {shown(path.name)}, expected a name of a-z, 0-9 and _, and .yml")
    if not document.is_read or document.mistakes:
        return document, None
    if "name" in read.values:
        document.report((name, "name"), "unknown key, expected none: the file's name is the rule's")
    rule = build(document, name, Rule)
    return document, rule if not document.mistakes else None


def _bound(
    document: Document, rule: Rule, scopes: Mapping[str, Scope], waiting: Collection[str], *, is_own: bool
) -> list[StreamRule]:
    """The rule on its streams; what is wrong goes to the document."""
    wanted = _streams(document, rule, scopes, waiting, is_own=is_own)
    found: list[StreamRule] = []
    failed: list[Problems] = []
    for scope in wanted:
        result = bind(rule, scope)
        if isinstance(result, StreamRule):
            found.append(result)
        elif not is_own:
            continue
        elif rule.streams == (ALL,) and any(problem.is_name for _, problem in result):
            failed.append(result)
        else:
            _report(document, rule, result)
    if failed and not found:
        document.report((rule.name, "streams"), "no stream has every name that the rule uses, expected one that has")
        fewest = min(map(len, failed))
        _report(document, rule, next(one for one in failed if len(one) == fewest))
    return found


def _streams(
    document: Document, rule: Rule, scopes: Mapping[str, Scope], waiting: Collection[str], *, is_own: bool
) -> list[Scope]:
    """The streams that a rule names."""
    for key, names in (("streams", rule.streams), ("except", rule.except_)):
        for index, name in enumerate(names):
            if is_own and name not in scopes and name not in waiting and name != ALL:
                at = (rule.name, key, index) if (rule.name, key, index) in document.lines else (rule.name, key)
                known = ", ".join(scopes) or "none is declared"
                document.report(at, f"found {shown(name)}, expected a declared stream: {known}{nearest(name, scopes)}")
    if rule.streams != (ALL,):
        return [scopes[name] for name in rule.streams if name in scopes]
    every = [scope for name, scope in scopes.items() if name not in rule.except_]
    return [scope for scope in every if not rule.kinds or scope.kind in rule.kinds]


def _report(document: Document, rule: Rule, problems: Iterable[tuple[Location, object]]) -> None:
    for at, problem in problems:
        document.report((rule.name, *at), str(getattr(problem, "text", problem)))
