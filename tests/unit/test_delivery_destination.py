from __future__ import annotations

import pytest

from fraud_lakehouse.alerts.destination import Destination, destinations
from fraud_lakehouse.settings import Settings

TOKENS = "T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"


@pytest.mark.parametrize(
    "url, shown",
    [
        ("json://ann:word@example.org:8080/hook/abc", "json://example.org:8080#"),
        ("jsons://example.org/hook", "jsons://example.org#"),
        ("mailto://ann:word@example.org", "mailto://example.org:25#"),
        (f"slack://{TOKENS}/%23fraud", "slack://#"),
        (f"https://hooks.slack.com/services/{TOKENS}", "slack://#"),
        ("discord://1234567890/abcdefghijkl", "discord://#"),
        ("tgram://123456789:abcdefg_hijklmnop/12315544/", "tgram://#"),
    ],
)
def test_the_name_shows_scheme_and_host_only(url: str, shown: str) -> None:
    name = Destination(url).name
    assert name.startswith(shown)
    assert len(name) == len(shown) + 8


def test_a_changed_password_keeps_the_name_and_another_path_does_not() -> None:
    name = Destination("json://ann:one@example.org/a").name
    assert Destination("json://ann:two@example.org/a").name == name
    assert Destination("json://ann:one@example.org/b").name != name
    assert Destination("json://bob:one@example.org/a").name != name


def test_an_entry_given_twice_is_one_destination() -> None:
    urls = ("json://example.org/a", "json://example.org/b", "json://example.org/a")
    assert len(destinations(Settings(alert_urls=urls))) == 2


def test_repr_shows_no_secret() -> None:
    assert "word" not in repr(Destination("json://ann:word@example.org"))
