"""By which definitions a table's features were computed: kept in the table's own commits, beside reading positions.

A build of all rows commits `feature:<name>` = the definition's number with them (features/definitions.py). A build of
new rows under other definitions leaves a table of mixed meaning: it commits MIXED for each feature that differs, and
for one that is no more. So a feature whose number there is not the present one has rows that another definition, or
none, has computed. `features` is the number of all definitions of the last build: while it stays, nothing else is
looked at. Rows of before a table kept numbers were computed by no definition that is known, but for UNNUMBERED.
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
"""The version of a transaction of a table, by its id."""


@dataclass(frozen=True)
class Outdated:
    """Features of a table with rows that were computed by another definition, or before the feature was there."""

    table: str
    features: tuple[str, ...]
    of: int

    @property
    def command(self) -> str:
        """What computes them anew."""
        return f"fraud-lakehouse rebuild {self.table}"

    def __str__(self) -> str:
        named = ", ".join(self.features[:5]) + (f" and {len(self.features) - 5} more" if len(self.features) > 5 else "")
        which = "all features" if len(self.features) == self.of else named
        return (
            f"{LAYER}/{self.table} has rows in which {which} were computed by another definition or not at all; "
            f"`{self.command}` computes them anew"
        )


def app_id(feature: str) -> str:
    """Transaction id that a feature's number is committed under."""
    return f"feature:{feature}"


def to_commit(
    target: DeltaTable | None,
    definitions: Mapping[str, int],
    *,
    all_rows: bool,
    table: str = "",
    version_of: VersionOf | None = None,
) -> list[Transaction]:
    """What a commit of a model's rows says of its features.

    Args:
        target: the table before it.
        table: its name.
        version_of: who answers for its transactions; default: its log.
        definitions: those that the rows were computed by; empty for a model without features.
        all_rows: whether the table then has no others.
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
    """The stored tables with such features."""
    for table, numbers in definitions.items():
        if lake.exists(LAYER, table) and data_files(opened := lake.open(LAYER, table)):
            version_of = opened.transaction_version
            differ = [name for name, number in numbers.items() if _stored(version_of, table, name) != number]
            if differ:
                yield Outdated(table, tuple(differ), len(numbers))


def _stored(version_of: VersionOf, table: str, feature: str) -> int | None:
    """The number that all rows of a table were computed by; MIXED, or None where it is not known."""
    number = version_of(app_id(feature))
    if number is None and version_of(LAST) is None:
        return UNNUMBERED.get(table, {}).get(feature)
    return number
