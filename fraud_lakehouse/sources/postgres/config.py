"""The configuration of one PostgreSQL source: its connection, which tables it captures, and their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from pydantic import SecretStr

from fraud_lakehouse.errors import LakehouseError
from fraud_lakehouse.sources.postgres.eligibility import Ineligibility
from fraud_lakehouse.sources.protection import Protection


@dataclass(frozen=True)
class PostgresConfig:
    """A PostgreSQL source.

    Args:
        name: used in `control/*`, locks, metrics and messages.
        dsn: libpq connection string or URI.
        dsn_env: the environment variable of the connection string.
        tables_env: the environment variable that may list tables, if any.
        tables: `[schema.]table`; if empty, all tables of schema public.
        prefix: prefix of its bronze tables' names.
        reserved: lower-case names that none of its bronze tables may have.
        update_delay: seconds between reads; 0 reads as soon as there are rows.
        protections: by bronze table, what is done to its sensitive columns.
    """

    name: str
    dsn: SecretStr
    slot: str
    publication: str
    dsn_env: str
    tables_env: str | None = None
    tables: tuple[str, ...] = ()
    prefix: str = ""
    reserved: frozenset[str] = frozenset()
    update_delay: float = 0.0
    protections: Mapping[str, Protection] = field(default_factory=dict, hash=False)

    @property
    def is_shorthand(self) -> bool:
        """Whether the FRAUD_POSTGRES_* variables configure it."""
        return self.dsn_env == "FRAUD_POSTGRES_DSN"

    @contextmanager
    def named(self) -> Iterator[None]:
        """Inside the block, errors name this source's own settings instead of FRAUD_POSTGRES_*.

        Raises:
            LakehouseError: as the block.
        """
        try:
            yield
        except LakehouseError as error:
            self._rename(error)
            raise

    def renamed(self, ineligibility: Ineligibility) -> Ineligibility:
        """The reason, with this source's own settings in its text."""
        self._rename(ineligibility.error)
        return replace(ineligibility)

    def _rename(self, error: LakehouseError) -> None:
        problem, fix = self._own(error.problem), self._own(error.fix)
        if (problem, fix) != (error.problem, error.fix):
            LakehouseError.__init__(error, problem, fix)

    def _own(self, text: str) -> str:
        for shipped, own in self._own_names().items():
            text = text.replace(shipped, own)
        return text

    def _own_names(self) -> dict[str, str]:
        if self.is_shorthand:
            return {"accept-source postgres": f"accept-source {self.name}"}
        return {
            "FRAUD_POSTGRES_DSN": self.dsn_env,
            "FRAUD_POSTGRES_TABLES": self.tables_env or f"`tables` of the source {self.name} in sources.yml",
            "FRAUD_POSTGRES_SLOT": f"`slot` of the source {self.name} in sources.yml",
            "FRAUD_POSTGRES_PUBLICATION": f"`publication` of the source {self.name} in sources.yml",
            "accept-source postgres": f"accept-source {self.name}",
            "fraud-lakehouse resync": f"fraud-lakehouse resync --source {self.name}",
            "fraud-lakehouse forget-slot": f"fraud-lakehouse forget-slot --source {self.name}",
        }
