"""Whatever a payment, a rule or an error contains, a message has the lines, links and markup of its template."""

from __future__ import annotations

import email
import json
import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from io import BytesIO
from typing import Any
from unittest import mock
from urllib.parse import parse_qs

import pytest
import requests
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from fraud_lakehouse.alerts.destination import Destination
from fraud_lakehouse.alerts.message import Message, alert_message, digest_message
from fraud_lakehouse.alerts.plain_text import inert, one_line, printable
from tests.alert_receiver import alert_rows

KINDS = {
    "slack": "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/%23fraud",
    "slack blocks": "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/%23fraud?blocks=yes&format=markdown",
    "mattermost": f"mmost://chat.example.org/{'a' * 26}",
    "discord": "discord://1234567890/abcdefghijkl",
    "discord embeds": "discord://1234567890/abcdefghijkl?format=markdown",
    "teams": "workflows://host.example:443/workflow1/signature1/",
    "telegram": "tgram://123456789:abcdefg_hijklmnop/12315544/",
    "telegram markdown": "tgram://123456789:abcdefg_hijklmnop/12315544/?format=markdown",
    "google chat": "gchat://workspace/key/token",
    "rocket.chat": f"rocket://{'a' * 17}/{'b' * 24}@chat.example/#channel?mode=webhook",
    "zulip": "zulip://botname@org/a1b2c3d4e5f6g7h8i9j0a1b2c3d4e5f6/general",
    "kook": f"kook://{'a' * 30}/12345",
    "ntfy": "ntfy://push.example/topic",
    "mailgun": f"mailgun://user@example.org/{'a' * 32}-{'b' * 8}-{'c' * 8}",
}
HTML = {"telegram", "mailgun"}
FORGERIES = [
    "\nAlert: forged", "\r", "\u2028", "\x85", "\x1b[31m", "\u202e", "\u2066", "\x00", "\ud800", "\U000e0041",
    "@all", "@channel", "@here", "@everyone", "\uff20all", "<!channel>", "<@U123>", "<users/all>", "#town-square",
    "@**all**", "&commat;all", "&#64;all", "[CQ:at,qq=all]", "(met)all(met)", ":smile:", "![i](http://evil.example/i)",
    "[high](https://evil.example)", "[a][b]", "]: x", "](", "<https://evil.example|text>", "<a href='//evil.example'>",
    "https://evil.example/x", "evil.example", "www.evil.example", "ann@evil.example", "evil\u3002example", "<b>",
    "</b>", "&lt;b&gt;", "**", "*", "__", "_", "~~", "||", "`", "```", "# ", "- ", "1. ", "> ", "| a | b |", "$x$",
    "\\", "\t", "  ", "{noformat}", "a_b_c", "Subject: x", "%0aBcc: x", "=?utf-8?q?=0a?=",
]  # fmt: skip
HOSTILE = st.lists(st.sampled_from(FORGERIES) | st.text(max_size=5), max_size=8).map("".join).filter(str.strip)
MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
ACTIVE = re.compile(r"[@\uff20#\uff03]\w|<[!@#:/\w]|://|\w[.\u3002]\w*[^\W\d_]{2}|\]\(|(?<!\d):[\w+-]+:|&#?\w+;")


def alert(text: str) -> dict[str, Any]:
    """An alert with this text in each of its text fields."""
    evidence = json.dumps({"reason": text, text: text, "prior_count": text, "prior_mean": text})
    texts = dict.fromkeys(["rule", "severity", "entity_type", "entity_id", "transaction_id", "source"], text)
    (row,) = alert_rows(1, 1, evidence=evidence, alert_id="a1").to_dicts()
    return {**row, **texts, "amount": text, "event_time": text, "score": text, "rule_version": text}


def digest(text: str) -> Message:
    """A digest of alerts with this text in each of its text fields."""
    texts = dict.fromkeys(["rule", "severity", "entity_type", "entity_id"], text.encode(errors="replace").decode())
    return digest_message(alert_rows(0, 3, **texts))


def lines(message: Message) -> list[str]:
    """What services without a markup of their own are sent."""
    return [inert(printable(line)) for line in (message.title, *message.body.split("\n"))]


@cache
def destination(url: str) -> Destination:
    made = Destination(url)
    made._plugin.request_rate_per_sec = 0
    return made


def sent(kind: str, message: Message) -> str:
    """The texts in the request that the service would get."""
    requested: list[requests.PreparedRequest] = []

    def keep(_: requests.Session, request: requests.PreparedRequest, **__: Any) -> requests.Response:
        requested.append(request)
        answer = requests.Response()
        answer.status_code, answer.raw = 200, BytesIO(b"ok")
        return answer

    with mock.patch.object(requests.Session, "send", keep):
        destination(KINDS[kind]).send(message)
    (request,) = requested
    body = request.body.decode() if isinstance(request.body, bytes) else str(request.body)
    fields = json.loads(body) if body.startswith("{") else parse_qs(body)
    return "\n".join(strings(fields))


def strings(value: Any) -> Iterator[str]:
    """Every text in a JSON value, without addresses of pictures."""
    if isinstance(value, str) and not value.startswith(("https://", "http://")):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(inner)


class Tags(HTMLParser):
    """The tags of an HTML text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append(f"{tag} {attrs}")


def markup(text: str) -> set[str]:
    """Kinds of markup that a Markdown reader finds in a text."""
    tokens = MARKDOWN.parse(text)
    inner = [child.type for token in tokens for child in token.children or ()]
    return {*inner, *(token.type for token in tokens)}


def active(kind: str, text: str) -> list[str]:
    """What a service takes as mention or link, but for Apprise's own escapes and tags."""
    own = r"<[^>]*>|&(nbsp|emsp|quot|amp|apos);" if kind in HTML else r"\\|&amp;"
    return ACTIVE.findall(re.sub(own, " " if kind in HTML else "", text))


PLAIN = {"paragraph_open", "paragraph_close", "inline", "text", "softbreak", "hardbreak", "text_special"}


@given(HOSTILE)
@settings(max_examples=300)
def test_no_value_forges_a_line_or_anything_else(text: str) -> None:
    for made, ordinary in ((alert_message(alert(text)), alert_message(alert("x"))), (digest(text), digest("x"))):
        got = lines(made)
        assert len(got) == len(lines(ordinary))
        assert all(char.isprintable() or char in "\u200b\u200c\u200d" for line in got for char in line)
        assert not ACTIVE.search("\n".join(got))
        assert markup(got[0]) <= PLAIN and markup("\n".join(got[1:])) <= PLAIN


@pytest.mark.parametrize("kind", KINDS)
@given(text=HOSTILE)
@example(text="".join(FORGERIES))
@settings(max_examples=25, deadline=None)
def test_no_value_forges_anything_in_what_a_service_gets(kind: str, text: str) -> None:
    got, ordinary = sent(kind, alert_message(alert(text))), sent(kind, alert_message(alert("x")))
    assert re.findall(r"\n|<br", got) == re.findall(r"\n|<br", ordinary)
    if kind in HTML:
        assert Tags(got).found == Tags(ordinary).found
    assert active(kind, got) == active(kind, ordinary), "at most the service's own colour and channel"


@given(HOSTILE)
@settings(max_examples=15, deadline=None)
def test_an_email_has_the_headers_and_tags_of_its_template(text: str) -> None:
    def mailed(message: Message) -> Any:
        to = destination("mailto://ann:word@example.org/?smtp=127.0.0.1&to=ann@example.org&format=html")
        with mock.patch("smtplib.SMTP") as server:
            server.return_value.sendmail.return_value = {}
            assert to.send(message) is None
        return email.message_from_string(server.return_value.sendmail.call_args.args[2])

    got, ordinary = mailed(alert_message(alert(text))), mailed(alert_message(alert("x")))
    assert got.keys() == ordinary.keys()
    pages = [mail.get_payload(1).get_payload(decode=True).decode() for mail in (got, ordinary)]
    assert Tags(pages[0]).found == Tags(pages[1]).found


@given(HOSTILE)
def test_a_payment_cannot_make_its_alert_too_long_for_a_chat(text: str) -> None:
    long = text.encode(errors="replace").decode() * 1000  # as a table can hold it
    (row,) = alert_rows(1, 1, entity_id=long, transaction_id=long, evidence=json.dumps({"reason": long})).to_dicts()
    row["alert_id"] = "a" * 32
    assert len("\n".join(lines(alert_message(row)))) <= 2000, "Discord's limit"


@given(HOSTILE)
def test_json_has_every_value_as_it_is(text: str) -> None:
    payload = json.loads(json.dumps(alert_message(alert(text)).payload))
    assert payload["transaction_id"] == payload["entity_id"] == payload["evidence"]["reason"] == text


@pytest.mark.parametrize(
    "text",
    [
        "[high] amount above mean: user 17, 5,230.00",
        "When: 2026-03-01 12:00:00 (alert recorded 2026-03-01 12:00:01 UTC)",
        "Rule: amount_above_mean version 1",
        "Why: amount 5230.0 is 8.41 times the mean 622.1 of 12 earlier transactions; count_10min = 14",
        "Who: merchant fraud_O'Neil & Sons, Åse-Størmer (Oslo) 100% + 5 = é 中文 שלום 👩‍👧 می‌خواهم",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert inert(one_line(text)) == inert(printable(text)) == text


def test_a_long_value_is_cut_and_a_multiline_error_keeps_its_lines() -> None:
    assert one_line("a  b\n\tc") == "a b c"
    assert one_line("x" * 10_000_000, 10) == "x" * 9 + "…"
    body = "\n".join(["the model failed", "What to do: look\r\nat\x1b[2K it"])
    assert sent("ntfy", Message("k", "t", body, "info")).split("\n")[2:] == [
        "the model failed",
        "What to do: look ",
        "at\ufffd[2K it",
    ]
