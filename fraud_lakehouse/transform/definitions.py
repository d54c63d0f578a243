"""Which definitions a table's features were computed with: stored in the table's own commits, with its positions.

A build of all rows commits `feature:<name>` = the definition's fingerprint (features/definitions.py). A build of new
rows under other definitions leaves a table of mixed definitions: it commits MIXED for each feature that differs or no
longer exists. A feature is outdated if its stored fingerprint is not the current one: some rows were computed by
another definition, or by none. `features` is the fingerprint of all definitions of the last build: while it matches,
nothing else is read. Tables older than definition tracking report every feature as outdated, except UNNUMBERED ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from deltalake import DeltaTable, Transaction

from fraud_lakehouse.features.definitions import UNNUMBERED, Definitions, number_of
from fraud_lakehouse.storage.lake import Lake, data_files

LAST = "features"
MIXED = 0
LAYER = "gold"

VersionOf = Callable[[str], int | None]
"""Returns the version of a table's transaction by its id."""


@dataclass(frozen=True)
class Outdated:
    """Features of a table with rows that were computed by another definition, or before the feature existed."""

    table: str
    features: tuple[str, ...]
    of: int

    @property
    def command(self) -> str:
        """The command that recomputes them."""
        return f"fraud-lakehouse rebuild {self.table}"

    def __str__(self) -> str:
        named = ", ".join(self.features[:5]) + (f" and {len(self.features) - 5} more" if len(self.features) > 5 else "")
        which = "all features" if len(self.features) == self.of else named
        return (
            f"{LAYER}/{self.table} has rows in which {which} were computed by another definition, or not at all; "
            f"`{self.command}` recomputes them"
        )


def app_id(feature: str) -> str:
    """Transaction id of a feature's fingerprint."""
    return f"feature:{feature}"


def to_commit(
    target: DeltaTable | None,
    definitions: Mapping[str, int],
    *,
    all_rows: bool,
    table: str = "",
    version_of: VersionOf | None = None,
) -> list[Transaction]:
    """The feature transactions that a commit of a model's rows adds.

    Args:
        target: the table before the commit.
        table: its name.
        version_of: reads the table's transactions; default: from its log.
        definitions: those that the rows were computed with; empty for a model without features.
        all_rows: whether the commit replaces all rows.
    """
    if not definitions:
        return []
    last = Transaction(LAST, number_of(dict(definitions)))
    present = [Transaction(app_id(name), number) for name, number in definitions.items()]
    if target is None:
        return [last, *present]
    version_of = version_of or target.transaction_version
    if not all_rows and version_of(LAST) == last.version:
        return []
    columns = [field.name for field in target.schema().fields]
    gone = [name for name in columns if name not in definitions and _stored(version_of, table, name) is not None]
    if not all_rows and data_files(target):
        present = [
            Transaction(app_id(name), number if _stored(version_of, table, name) == number else MIXED)
            for name, number in definitions.items()
            if version_of(app_id(name)) != number
        ]
    return [last, *present, *(Transaction(app_id(name), MIXED) for name in gone)]


def outdated_features(lake: Lake, definitions: Definitions) -> Iterator[Outdated]:
    """The stored tables with outdated features."""
    for table, numbers in definitions.items():
        if lake.exists(LAYER, table) and data_files(opened := lake.open(LAYER, table)):
            version_of = opened.transaction_version
            differ = [name for name, number in numbers.items() if _stored(version_of, table, name) != number]
            if differ:
                yield Outdated(table, tuple(differ), len(numbers))


def _stored(version_of: VersionOf, table: str, feature: str) -> int | None:
    """The fingerprint that all rows of a table were computed with; MIXED, or None if unknown."""
    number = version_of(app_id(feature))
    if number is None and version_of(LAST) is None:
        return UNNUMBERED.get(table, {}).get(feature)
    return number
