"""Every setting, typed, read from the environment. No other module reads settings from it.

Nothing here opens a file or a connection. Secrets (`postgres_dsn`, `alert_urls`) never show in `repr`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.sql_text import listed_tables, qualified

CommaList = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """The product's settings. The environment variable of a field is FRAUD_<FIELD>.

    A source whose setting is absent is not captured: no `postgres_dsn`, no PostgreSQL capture.
    """

    model_config = SettingsConfigDict(env_prefix="FRAUD_", env_ignore_empty=True, frozen=True, extra="ignore")

    lake: str = Field("lake", description="a folder, or s3://bucket/prefix")
    work: Path | None = Field(None, description="local scratch folder for dbt and locks; default: <lake>/_work")

    cache: Path | None = Field(None, description="folder of parsed dbt projects; default: ~/.cache/fraud_lakehouse")

    pipeline: Path | None = Field(
        None,
        description="folder of sources.yml, streams.yml, features.yml, rules; default: ./pipeline, else the shipped",
    )

    postgres_dsn: SecretStr | None = Field(None, description="libpq connection string or URI")
    postgres_tables: CommaList = Field(
        (), description='comma list of [schema.]table, a name with a comma as "a,b"; default: discover public.*'
    )
    postgres_slot: str = Field("fraud_lakehouse", pattern=r"^[a-z0-9_]{1,63}$", description="replication slot")
    postgres_publication: str = Field("fraud_lakehouse", min_length=1, max_length=63, description="publication")
    slot_retained_bytes: int = Field(
        10 * 1024**3, ge=1, description="bytes of log the server may keep for the slot where it sets no limit itself"
    )

    kafka_bootstrap_servers: str | None = Field(None, description="host:port, comma separated")
    kafka_topic: str = Field("transaction", min_length=1, max_length=249, description="topic of card transactions")
    kafka_config_file: Path | None = Field(None, description="key=value lines of librdkafka properties")
    kafka_transaction_seconds: float = Field(
        60.0, gt=0, description="seconds a Kafka transaction may be open before it counts as hanging"
    )
    max_record_bytes: int = Field(1_048_576, ge=1, description="bytes of the longest Kafka value that is read")

    publish_features: bool = Field(False, description="true or false: whether features are published to Kafka")
    publish_topic_prefix: str = Field(
        "", pattern=r"^[A-Za-z0-9._-]{0,200}$", description="what the names of published topics begin with"
    )

    validator_url: SecretStr | None = Field(
        None, description="address of the validator of transfers, without /validate; default: they stay pending"
    )
    validator_timeout: float = Field(5.0, gt=0, description="seconds until an answer of the validator is complete")
    validator_concurrency: int = Field(8, ge=1, le=64, description="transfers sent to the validator at a time")

    update_delay: float = Field(0.0, ge=0, description="seconds between updates; 0 is live")
    allowed_lateness: float = Field(15.0, ge=0, description="seconds an event may be behind the watermark")
    max_amount: float = Field(
        1e12, gt=0, allow_inf_nan=False, description="largest amount, in absolute value, that features count"
    )
    max_future: float = Field(
        86_400.0,
        ge=0,
        le=100 * 366 * 86_400,
        description="seconds an event time may lie after its record's own timestamp; 0: no limit",
    )
    idle_seconds: float = Field(
        60.0, ge=0, description="seconds without rows after which a partition no longer delays the watermark"
    )
    replica_interval: float = Field(10.0, ge=0, description="seconds between builds of the deferred models when live")
    late_rows: Literal["drop", "correct"] = Field("drop", description="what a closed window does with late rows")
    label_delay: int = Field(
        604_800, ge=0, le=10 * 366 * 86_400, description="seconds from a card payment until its fraud label is known"
    )
    window_idle_seconds: float = Field(
        0.0, ge=0, description="seconds without rows after which a partition keeps no window open; 0: it always does"
    )
    window_spine: bool = Field(False, description="true or false: whether windows with zero counts are stored")
    late_share: float = Field(
        0.01, ge=0, le=1, description="share of an hour's card rows, 0 to 1, that may be late before a check warns"
    )
    batch_rows: int = Field(500_000, ge=1, description="most rows of one micro-batch and source")
    max_field_bytes: int = Field(
        64 * 1024 * 1024,
        ge=1,
        le=2**30,
        description="largest field of a PostgreSQL row; the table of a larger one is left out",
    )
    duckdb_memory: str = Field(
        "1GB", pattern=r"^\d+(\.\d+)? ?[KMGT]i?B$", description="DuckDB's memory limit, such as 1GB"
    )
    alert_urls: Annotated[tuple[SecretStr, ...], NoDecode] = Field((), description="Apprise URLs, comma separated")
    metrics_port: int = Field(0, ge=0, le=65535, description="port of the Prometheus endpoint of live; 0: none")
    metrics_host: str = Field("127.0.0.1", min_length=1, description="address the Prometheus endpoint listens on")
    failpoint: str | None = Field(None, description="name[:hits][:action] of a failpoint; tests only")
    alert_seconds: float = Field(
        10.0, gt=0, description="seconds from commit to alert that 99 of 100 may take before a check warns"
    )
    alert_burst: int = Field(20, ge=1, description="alerts delivered one by one per round; others as one digest")

    @field_validator("postgres_tables", mode="before")
    @classmethod
    def _split_tables(cls, value: Any) -> Any:
        return listed_tables(value) if isinstance(value, str) else value

    @field_validator("postgres_tables")
    @classmethod
    def _check_tables(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for table in value:
            qualified(table)
        return value

    @field_validator("alert_urls", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    def environment(self) -> dict[str, str]:
        """The environment variables that pass these settings to a child process, secrets included."""
        return {f"FRAUD_{name.upper()}": _text(getattr(self, name)) for name in type(self).model_fields}

    def variables(self) -> dict[str, str]:
        """The environment with these settings in it, secrets included: a pipeline also names other variables."""
        return {name: text for name, text in {**os.environ, **self.environment()}.items() if text}

    @property
    def is_local(self) -> bool:
        """Whether the lake is a folder of this machine."""
        return "://" not in self.lake or self.lake.startswith("file://")

    @property
    def cache_dir(self) -> Path:
        """Parsed dbt projects, shared by all lakes of this user; may be removed at any time between runs."""
        if self.cache is not None:
            return self.cache.resolve()
        home = _home()
        return home / ".cache" / "fraud_lakehouse" if home else self.work_dir.resolve()

    @property
    def work_dir(self) -> Path:
        """Local scratch folder (dbt target, locks); nothing in it is needed to recover."""
        if self.work is not None:
            return self.work
        return Path(self.lake.removeprefix("file://")) / "_work" if self.is_local else Path(".fraud_lakehouse")


def _text(value: Any) -> str:
    """A setting as the text of its variable; empty stands for the default."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(_text(one) for one in value)
    return "" if value is None else str(value)


def _home() -> Path | None:
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home
        return None
    return home if os.access(home, os.W_OK) else None


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment; keyword arguments win.

    Raises:
        SettingsError: names each wrong variable, its value's problem and what was expected.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            field = str(problem["loc"][0]) if problem["loc"] else "?"
            about = Settings.model_fields[field].description if field in Settings.model_fields else ""
            lines.append(f"FRAUD_{field.upper()}: {problem['msg']} (expected: {about})")
        raise SettingsError("; ".join(lines), "correct it in the environment (see .env.example)") from None
