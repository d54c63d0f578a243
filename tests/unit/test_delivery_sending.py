"""An alert is delivered only when its destination says so, in time, in few bytes and itself."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
import requests

from fraud_lakehouse.alerts import sending
from fraud_lakehouse.alerts.destination import Destination
from fraud_lakehouse.alerts.message import Message
from tests.alert_receiver import HOSTILE, Dripper, Mode, Receiver
from tests.patience import PATIENCE

MESSAGE = Message("key", "title", "body", "failure", {"alert_id": "key"})
TLS_RECORD = b"\x16\x03\x03\x3f\xff"  # its head: 16 kB of a handshake follow
TIMED_OUT = "no complete answer within 0.7 s"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "SECONDS", 0.7)


@pytest.fixture
def elsewhere() -> Iterator[Receiver]:
    with Receiver() as server:
        yield server


def no_attempt_is_left() -> bool:
    """Whether the threads of all attempts have ended."""
    for thread in threading.enumerate():
        if thread.name == "alert attempt":
            thread.join(PATIENCE)
    return not any(thread.name == "alert attempt" for thread in threading.enumerate())


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
@pytest.mark.parametrize("options", ["", "?redirect=yes", "?method=PUT"])
def test_no_redirect_is_followed(elsewhere: Receiver, status: int, options: str) -> None:
    with Receiver(status=status, location=f"http://{elsewhere.host}/") as server:
        error = Destination(server.url + options).send(MESSAGE)
    assert error is not None and f"the destination redirects ({status})" in error and "set its final address" in error
    assert elsewhere.methods == []


def test_no_redirect_to_the_same_host_is_followed() -> None:
    with Receiver(status=307) as server:
        server.location = f"http://{server.host}/other"
        assert "redirects (307)" in str(Destination(server.url).send(MESSAGE))
        assert server.methods == ["POST"]


@pytest.mark.parametrize("kind", ["json", "xml", "form", "mmost", "gotify", "ntfy", "rocket"])
def test_every_http_service_is_bound(elsewhere: Receiver, kind: str) -> None:
    with Receiver(status=302, location=f"http://{elsewhere.host}/") as server:
        urls = {
            "mmost": f"mmost://{server.host}/{'a' * 26}",
            "gotify": f"gotify://{server.host}/{'a' * 15}",
            "ntfy": f"ntfy://{server.host}/topic",
            "rocket": f"rocket://{'a' * 17}/{'b' * 24}@{server.host}/#channel?mode=webhook",
        }
        error = Destination(urls.get(kind, f"{kind}://{server.host}/")).send(MESSAGE)
    assert "redirects (302)" in str(error)
    assert elsewhere.methods == []


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_delivered(status: int) -> None:
    with Receiver(status=status) as server:
        assert Destination(server.url).send(MESSAGE) is None


@pytest.mark.parametrize("status", [103, 400, 401, 404, 410, 413, 418, 429, 500, 503, 599])
@pytest.mark.parametrize("options", ["", "?optional=yes"])
def test_anything_else_is_a_failure_with_its_status(status: int, options: str) -> None:
    with Receiver(status=status) as server:
        assert str(status) in str(Destination(server.url + options).send(MESSAGE))


@pytest.mark.parametrize("body, is_accepted", [(b"ok", True), (b'{"ok": false}', False), (b"<p>parked</p>", False)])
def test_slack_must_say_that_it_has_the_message(
    body: bytes, is_accepted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*_: Any, **__: Any) -> requests.Response:
        output = requests.Response()
        output.status_code, output.raw = 200, BytesIO(body)
        return output

    monkeypatch.setattr(requests.Session, "send", answer)
    slack = Destination("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/%23fraud")
    assert (slack.send(MESSAGE) is None) == is_accepted


TIMED: list[Mode] = ["drip_head", "drip_body", "no_answer", "flood_1xx"]
BROKEN: list[Mode] = ["endless_head", "close", "malformed", "cut_body"]


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("mode", TIMED)
def test_an_answer_that_does_not_end_in_time_is_a_failure(mode: Mode) -> None:
    with Receiver(mode=mode) as server:
        assert Destination(f"{server.url}?rto=600").send(MESSAGE) == TIMED_OUT
        assert no_attempt_is_left(), "its connection is gone although the server keeps it open"


@pytest.mark.parametrize("mode", BROKEN)
def test_a_broken_answer_is_a_failure(mode: Mode) -> None:
    with Receiver(mode=mode) as server:
        assert "Connection error" in str(Destination(server.url).send(MESSAGE))


@pytest.mark.parametrize("mode", ["endless_body", "compressed_bomb"])
def test_of_a_long_answer_little_is_read_and_the_status_counts(mode: Mode) -> None:
    with Receiver(mode=mode) as server:
        read = sending._request("POST", server.url.replace("json", "http"), data="{}").content
        assert len(read) == sending.ANSWER_BYTES
        assert Destination(server.url).send(MESSAGE) is None


def test_every_hostile_mode_is_tested() -> None:
    assert {*TIMED, *BROKEN, "endless_body", "compressed_bomb"} == set(HOSTILE)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    "scheme, start", [("jsons", TLS_RECORD), ("mailto", b"220-"), ("mailtos", TLS_RECORD)], ids=str
)
def test_the_time_is_bounded_below_http_too(scheme: str, start: bytes) -> None:
    with Dripper(start) as server:
        url = f"{scheme}://{server.host}/?cto=600"
        if scheme.startswith("mailto"):
            url = f"{scheme}://ann:word@{server.host}/?smtp=127.0.0.1&from=ann@example.org&to=ann@example.org&cto=600"
        assert Destination(url).send(MESSAGE) == TIMED_OUT
        assert no_attempt_is_left()


@pytest.mark.usefixtures("short")
def test_a_slow_name_server_does_not_stretch_the_attempt(monkeypatch: pytest.MonkeyPatch, elsewhere: Receiver) -> None:
    answered = threading.Event()
    resolve = socket.getaddrinfo

    def slow(host: Any, *args: Any, **options: Any) -> Any:
        answered.wait(PATIENCE)
        return resolve("127.0.0.1", *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    destination = Destination(f"json://slow.example:{elsewhere.host.partition(':')[2]}/")
    assert destination.send(MESSAGE) == TIMED_OUT
    answered.set()
    assert no_attempt_is_left()
    assert elsewhere.methods == [], "the attempt is over: nothing is sent any more"
    monkeypatch.setattr(sending, "SECONDS", PATIENCE)
    assert destination.send(MESSAGE) is None, "the next one succeeds"


@pytest.mark.usefixtures("short")
def test_a_service_that_asks_for_a_long_pause_gets_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("apprise.url.time.sleep", slept.append)
    plugin = Destination("discord://1234567890/abcdefghijkl")._plugin
    for _ in range(2):
        plugin.throttle(wait=1e9)
    assert slept == [0.7]


def test_the_rest_of_the_process_is_not_bound(elsewhere: Receiver) -> None:
    with Receiver(status=307, location=f"http://{elsewhere.host}/") as server:
        Destination(server.url).send(MESSAGE)
        assert requests.post(f"http://{server.host}/", data="{}", timeout=PATIENCE).status_code == 200


def test_what_a_destination_says_cannot_forge_lines_of_the_log() -> None:
    output = json.dumps({"code": 40001, "error": "denied\n2026 ERROR forged \x1b[31m"}).encode()
    with Receiver(status=400, body=output) as server:
        error = str(Destination(f"ntfy://{server.host}/topic").send(MESSAGE))
    assert "denied 2026 ERROR forged \ufffd[31m" in error
