"""The shipped dbt project with models that fail on one amount, as long as a test wants them to."""

from __future__ import annotations

from pathlib import Path

from tests.dbt.small_lake import copied_project

BAD = 5000.66
"""The amount that fails; it is one to be alerted."""
MODELS = {
    "transactions_ledger": ("silver", "amount"),
    "card_transactions": ("silver", "amt"),
    "user_avg": ("gold", "avg_amount"),
}


class FaultyProject:
    """A copy of the project; a model has its fault from `fail` to `mend`."""

    def __init__(self, folder: Path) -> None:
        self._faults = folder / "faults"
        self._faults.mkdir()
        self.path = copied_project(folder)
        for name, (layer, column) in MODELS.items():
            model = self.path / "models" / layer / f"{name}.sql"
            has_fault = f"(select count(*) from glob('{self._faults / name}')) > 0"
            fails = f"{column} = {BAD} and {has_fault} then error('{name} met its value') else true end"
            model.write_text(f"{model.read_text().rstrip()}\nwhere case when {fails}\n")

    def fail(self, model: str) -> None:
        (self._faults / model).touch()

    def mend(self, model: str) -> None:
        (self._faults / model).unlink(missing_ok=True)
