"""Windows, sessions and features of card records are the same for any split into builds, and equal brute force."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.dbt import cards_oracle as oracle
from tests.dbt.small_lake import Row, SmallLake
from tests.dbt.test_card_models import BESIDE, build, check

# on and beside the bounds of windows, steps and gaps; a second step within the lateness
_ADVANCES = [timedelta(minutes=minutes) for minutes in (0, 0, 5, 29, 30, 31, 60, 360)]
_BESIDE = [timedelta(), timedelta(), timedelta(microseconds=1), timedelta(seconds=14), timedelta(seconds=15)]
_BEHIND = [timedelta(minutes=minutes) for minutes in (0, 0, 0, 0, 10, 30, 59, 420)]
RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "advance": st.sampled_from(_ADVANCES),
            "beside": st.sampled_from(_BESIDE),
            "behind": st.sampled_from(_BEHIND),
            "partition": st.sampled_from([0, 0, 0, 1]),
            "user_id": st.sampled_from([1, 1, 2]),
            "amt": st.sampled_from([0.5, 12.25, 100.0]),
            "then": st.sampled_from(["wait", "wait", "land", "build", "build", "build beside", "build between"]),
        }
    ),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module", params=["drop", "correct"])
def shared_lake(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallLake]:
    lake = SmallLake(tmp_path_factory.mktemp("splits") / "lake", late_rows=request.param)
    yield lake
    lake.transformer.close()


def record(number: int, drawn: Row, moment: datetime) -> Row:
    """A record as it lies in bronze; offsets in order of arrival."""
    return {
        "_topic": "transaction",
        "_partition": drawn["partition"],
        "_offset": number,
        "_timestamp": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number),
        "trans_num": f"payment {number}",
        "trans_date_trans_time": (moment + drawn["beside"] - drawn["behind"]).isoformat(" "),
        "user_id": drawn["user_id"],
        "amt": drawn["amt"],
    }


@settings(max_examples=3, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # shrinking takes hours
@given(drawn=RECORDS)
def test_any_split_gives_what_brute_force_gives(shared_lake: SmallLake, drawn: list[Row]) -> None:
    """The hot lane, and what is built beside it: at times that it has not built, or is just building."""
    shared_lake.clear()
    moment, waiting = oracle.START, []
    for number, one in enumerate(drawn):
        moment += one["advance"]
        waiting.append(record(number, one, moment))
        if one["then"] != "wait" or number == len(drawn) - 1:
            shared_lake.land("card_transactions", waiting)
            waiting = []
        if one["then"] == "build between":
            build(shared_lake, "card_transactions")
            build(shared_lake, *BESIDE)
        if one["then"].startswith("build"):
            shared_lake.build("hot")
        if one["then"] == "build beside":
            build(shared_lake, *BESIDE)
    shared_lake.build("hot")
    check(shared_lake, tier=False)
    shared_lake.build("hot", full_refresh=True)
    check(shared_lake, tier=False)
