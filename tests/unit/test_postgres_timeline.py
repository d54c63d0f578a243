from __future__ import annotations

import pytest

from fraud_lakehouse.sources.postgres.timeline import Timeline, history_branches

FOREVER = 2**63 - 1
FIRST = Timeline(1)
SECOND = Timeline(2, ((1, 500),))
THIRD = Timeline(3, ((1, 500), (2, 900)))


@pytest.mark.parametrize(
    "now, before, left",
    [
        (FIRST, FIRST, FOREVER),
        (THIRD, THIRD, FOREVER),
        (SECOND, FIRST, 500),
        (THIRD, FIRST, 500),
        (THIRD, SECOND, 900),
        (FIRST, SECOND, None),  # the old primary came back
        (Timeline(2, ((1, 400),)), SECOND, None),  # another server's second timeline
        (Timeline(3, ((1, 400), (2, 900))), SECOND, None),
        (Timeline(4, ((1, 500), (3, 950))), SECOND, None),
    ],
)
def test_where_a_history_leaves_an_earlier_one(now: Timeline, before: Timeline, left: int | None) -> None:
    assert now.left_at(before) == left


def test_a_history_file_is_read_and_kept() -> None:
    text = "# a comment\n1\t0/1F4\tno recovery target specified\n\n2\t1/384\tbefore 2026-01-01 00:00:00+00\n"
    timeline = Timeline(3, history_branches(text))
    assert timeline == Timeline(3, ((1, 0x1F4), (2, (1 << 32) | 0x384)))
    assert Timeline.of_detail(timeline.detail()) == timeline
    assert Timeline.of_detail({"identity": "pg:1:s"}) is None
