"""`control/idle_partitions`: times at which a topic had nothing beyond what was landed, by the broker's own word.

Where nothing lands, no row says that time has passed; an observation does. Once the idle seconds after the newest
landing are over, models take event time for going on as the clock does (`dbt_project/macros/windows/watermark.sql`).
What they make of the same rows and observations is the same at every build.

Each costs a commit and a build, so it is made only when something comes of it: when the newest payments are passed, and
at each end of a window that may hold one. Then no more, until something has landed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from urllib.parse import unquote

import polars as pl
from deltalake import DeltaTable

from fraud_lakehouse.pipeline import Stream
from fraud_lakehouse.settings import Settings
from fraud_lakehouse.sources.kafka.config import TopicConfig, shipped_topic
from fraud_lakehouse.sources.kafka.topic import KafkaTopic
from fraud_lakehouse.storage.appender import Appender
from fraud_lakehouse.storage.errors import lake_errors
from fraud_lakehouse.storage.lake import Lake, data_files, scan_files, table_root
from fraud_lakehouse.storage.schemas import IDLE_PARTITIONS, INGESTED_AT, UTC_MICROSECONDS

TABLE = ("control", "idle_partitions")
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  event times have no zone
_YEARS = (datetime(2, 1, 1), datetime(9999, 1, 1))  # noqa: DTZ001
_BEYOND = timedelta(milliseconds=1)  # what is told strictly after its time is told at it
_TRUNCATED = timedelta(milliseconds=1)  # by which a file's stated greatest time may be short


@dataclass(frozen=True)
class Windows:
    """Windows of `size` seconds of which one ends every `step` seconds, aligned to the epoch.

    Sessions are as windows of their gap: `size` after its last payment the last one has ended.
    """

    size: int
    step: int


REFERENCE = (Windows(6 * 3600, 3600),)


@dataclass(frozen=True)
class Newest:
    """When a topic's newest readable record landed (UTC), and the newest event time (no zone) among the last ones."""

    landed_at: datetime
    event_time: datetime | None


class IdlePartitions:
    """The table, and when a row of it is due. For one thread.

    Args:
        windows: the windows that there are now; default: those of the reference.
        topic: whose records these are; default: the topic that the settings are shorthand for. Without a stream of
            payments nothing is ever due.
    """

    def __init__(
        self,
        lake: Lake,
        settings: Settings,
        windows: Callable[[], Sequence[Windows]] = lambda: REFERENCE,
        topic: TopicConfig | None = None,
    ) -> None:
        self._lake = lake
        self._settings = settings
        self._windows = windows
        self._config = topic or shipped_topic(settings)
        self._version: int | None = None
        self._poll_at: datetime | None = None

    def due(self, topic: KafkaTopic, at: datetime) -> datetime | None:
        """The moment up to `at` (UTC) that asks for an observation which is not made yet; None where there is none.

        Raises:
            LakeError: the lake cannot be read.
        """
        times = self._times(topic)
        known = self._lake.open(*TABLE).transaction_version(_app_id(topic)) if self._lake.exists(*TABLE) else None
        return _open_since(times, known, at)

    def ingested(self, version: int, at: datetime) -> None:
        """Take note that rows were landed at `at` or later, in this version of bronze: nothing is due for a while."""
        self._version, self._poll_at = version, at + timedelta(seconds=min(self._patience) + self._lateness)

    def observe(self, topic: KafkaTopic, version: int, ends: Mapping[str, int], at: datetime) -> bool:
        """Record that every partition has been read to its end, if that is due; whether it was recorded.

        Args:
            version: of bronze, with all that was landed; one that we do not know is looked into.
            ends: by app_id of the partition, its end as the broker confirms it.
            at: a moment before the broker was asked (UTC).

        Raises:
            ConcurrentWriterError: another writer has observed it.
            LakeError: the lake cannot be read or written.
        """
        if version == self._version and (self._poll_at is None or at < self._poll_at):
            return False
        times = self._times(topic)
        is_due = bool(times) and times[0] <= at and self._is_open(topic, times, at)
        if is_due:
            self._record(topic, ends, at)
        self._version, self._poll_at = version, next((time for time in times if time > at), None)
        return is_due

    @cached_property
    def _table(self) -> Appender:
        return Appender.open(self._lake, *TABLE, IDLE_PARTITIONS)

    @property
    def _lateness(self) -> float:
        stream = self._config.stream
        own = stream.lateness if stream is not None else None
        return self._settings.allowed_lateness if own is None else own

    @property
    def _patience(self) -> list[float]:
        """Idle seconds of all who wait for one: feature vectors, and windows where these go on by time at all."""
        idle, windows = self._settings.idle_seconds, self._settings.window_idle_seconds
        return [idle, windows] if windows > 0 else [idle]

    def _is_open(self, topic: KafkaTopic, times: Sequence[datetime], at: datetime) -> bool:
        """Whether nobody has observed what was due last; `_record` is refused if somebody does after this."""
        self._table.refresh()
        return _open_since(times, self._table.position(_app_id(topic)), at) is not None

    def _record(self, topic: KafkaTopic, ends: Mapping[str, int], at: datetime) -> None:
        rows = [
            {
                "source": self._config.name,
                "app_id": app_id,
                "topic": topic.name,
                "partition": topic.partition_of(app_id),
            }
            | {"position": position, "observed_at": at}
            for app_id, position in ends.items()
        ]
        self._table.append(pl.DataFrame(rows, schema=IDLE_PARTITIONS), {_app_id(topic): _microseconds(at)})

    def _times(self, topic: KafkaTopic) -> list[datetime]:
        """The moments that ask for an observation, from the newest landing on; none where nothing has landed."""
        stream, settings, bronze = self._config.stream, self._settings, ("bronze", self._config.table)
        if stream is None or not self._lake.exists(*bronze):
            return []
        max_future = settings.max_future if stream.max_future is None else stream.max_future
        with lake_errors(self._lake, *bronze):
            handle = self._lake.open(*bronze)
            newest = newest_of(handle, topic.name, stream, settings.window_idle_seconds, max_future)
        return sorted(set(self._times_after(newest))) if newest is not None else []

    def _times_after(self, newest: Newest) -> Iterator[datetime]:
        lateness = timedelta(seconds=self._lateness)
        for idle in self._patience:
            yield newest.landed_at + timedelta(seconds=idle) + lateness + _BEYOND
        if self._settings.window_idle_seconds > 0:
            begin = newest.landed_at + timedelta(seconds=self._settings.window_idle_seconds) + lateness + _BEYOND
            for windows in self._windows():
                if newest.event_time is not None:
                    yield from (begin + (end - newest.event_time) for end in _ends(windows, newest.event_time))
                yield begin + timedelta(seconds=windows.size)  # whatever the event time: by then all have ended


def newest_of(handle: DeltaTable, topic: str, stream: Stream, seconds: float, max_future: float) -> Newest | None:
    """The newest landing of a topic's readable records, and the newest event time of those of the last `seconds`.

    Event times that models exclude (dbt_project/macros/excluded.sql) are left out. Most files are left unread where
    their statistics say when their rows landed.

    Args:
        stream: says which column is the event time, and the zone of times without one.
        max_future: seconds that an event time may lie after its record's own; 0: no limit.
    """
    actions = pl.DataFrame(handle.get_add_actions(flatten=True))
    stated = f"max.{INGESTED_AT}"
    if actions.height and stated in actions.columns:
        ingested = pl.col(stated).cast(UTC_MICROSECONDS)
        near = ingested >= ingested.max() - timedelta(seconds=seconds) - _TRUNCATED
        paths = actions.filter(near.fill_null(value=True))["path"]
        files = [f"{table_root(handle)}/{unquote(path)}" for path in paths]
        if found := _newest_in(handle, files, topic, stream, seconds, max_future):
            return found
    return _newest_in(handle, data_files(handle), topic, stream, seconds, max_future)


def _newest_in(
    handle: DeltaTable, files: Sequence[str], topic: str, stream: Stream, seconds: float, max_future: float
) -> Newest | None:
    rows = scan_files(handle, files).filter(pl.col("_topic") == topic, pl.col("_error").is_null())
    landed_at = rows.select(pl.col(INGESTED_AT).max()).collect().item()
    if landed_at is None:
        return None
    time = _event_time(rows.collect_schema()[stream.time], stream)
    last = rows.filter(pl.col(INGESTED_AT) >= landed_at - timedelta(seconds=seconds))
    counts = time.is_between(*_YEARS, closed="left")
    if max_future:
        recorded_at = pl.coalesce("_timestamp", INGESTED_AT).dt.replace_time_zone(None)
        counts &= time - timedelta(seconds=max_future) <= recorded_at
    return Newest(landed_at, last.select(time.filter(counts).max()).collect().item())


def _event_time(kind: pl.DataType, stream: Stream) -> pl.Expr:
    """A stream's event time as UTC without a zone, which is how windows are aligned."""
    time = pl.col(stream.time)
    if kind == pl.String():
        time = time.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False)
    elif isinstance(kind, pl.Datetime) and kind.time_zone:
        return time.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    if stream.timezone == "UTC":
        return time
    there = time.dt.replace_time_zone(stream.timezone, ambiguous="earliest", non_existent="null")
    return there.dt.convert_time_zone("UTC").dt.replace_time_zone(None)


def _ends(windows: Windows, after: datetime) -> Iterator[datetime]:
    """The ends of the windows that an event at `after` may lie in."""
    step = timedelta(seconds=windows.step)
    end = _EPOCH + ((after - _EPOCH) // step + 1) * step
    while end <= after + timedelta(seconds=windows.size):
        yield end
        end += step


def _open_since(times: Sequence[datetime], observed: int | None, at: datetime) -> datetime | None:
    """The newest of the times up to `at`, unless it was observed (microseconds since 1970) since."""
    passed = [time for time in times if time <= at]
    return passed[-1] if passed and (observed is None or observed < _microseconds(passed[-1])) else None


def _app_id(topic: KafkaTopic) -> str:
    return f"{topic.identity}:observed"


def _microseconds(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
