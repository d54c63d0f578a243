"""One destination of alerts: an Apprise URL, its name without secrets, and the sending of one message.

`delivery.py` decides which alert is sent when. Apprise's own log never leaves this module: its lines may quote a URL,
which for chat services is the credential; failure reasons taken from it are scrubbed. `sending.py` limits each attempt;
`plain_text.py` neutralises text.
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

import apprise

from fraud_lakehouse.alerts.message import Message
from fraud_lakehouse.alerts.plain_text import inert, printable
from fraud_lakehouse.alerts.sending import Sending, guard
from fraud_lakehouse.errors import SettingsError
from fraud_lakehouse.settings import Settings

_ERROR_LENGTH = 500
_VERBATIM = ("JSON", "XML", "Form", "Syslog", "Remote Syslog")  # read by programs: their text needs no neutralising


class Destination:
    """A destination of alerts.

    `name` is `scheme://host:port#fingerprint`, without user, password, path or tokens. The fingerprint (32 bits of a
    hash of the URL without its password) distinguishes two channels of one host, and stays when the password changes.

    Raises:
        ValueError: Apprise does not know the scheme, or a part of the URL is missing.
    """

    def __init__(self, url: str) -> None:
        asset = apprise.AppriseAsset(
            app_id="fraud_lakehouse",
            app_desc="fraud_lakehouse alerts",
            secure_logging=True,
            storage_mode=apprise.PersistentStoreMode.MEMORY,
            service_timeout=0,  # sending.py limits each attempt: a send that Apprise abandons could still arrive
            http_redirects=False,
            allow_templates=False,
        )
        self._apprise = apprise.Apprise(asset=asset)
        with _silenced():
            added = self._apprise.add(url)
        if not added or len(self._apprise) != 1:
            raise ValueError("unusable Apprise URL")
        self._plugin: Any = self._apprise[0]
        self._plugin.optional = False  # `?optional=yes` would count a failure as success
        guard(self._plugin)
        self._types = {kind.value: kind for kind in apprise.NotifyType}
        self._text = apprise.NotifyFormat.TEXT
        self._extras = dict(getattr(self._plugin, "payload_extras", {}))
        self._headers = dict(getattr(self._plugin, "headers", {}))
        self.name = self._redacted(url)
        self._secrets = self._secret_parts(url)

    def __repr__(self) -> str:
        return f"Destination({self.name})"

    def send(self, message: Message) -> str | None:
        """Send one message and wait for the answer; returns None if accepted, else the reason without secrets.

        For json:// and jsons:// the payload's fields are in the JSON object next to title and message, and the key is
        also in the header Idempotency-Key. Other services get the text, whose last line is the key. Returns within
        about `sending.SECONDS`, whatever the destination does.
        """
        return Sending().run(lambda: self._notify(message))

    def _notify(self, message: Message) -> str | None:
        if self._plugin.service_name == "JSON":
            self._plugin.payload_extras = {**message.payload, **self._extras}
            self._plugin.headers = {"Idempotency-Key": message.key, **self._headers}
        try:
            result = self._apprise.notify(
                body="\n".join(map(self._text_of, message.body.split("\n"))),
                title=self._text_of(message.title),
                notify_type=self._types[message.urgency],
                body_format=self._text,
            )
        except Exception as error:  # noqa: BLE001 - a plugin's defect must not stop the other destinations
            return self._scrub(f"{type(error).__name__}: {error}")
        if result:
            return None
        lines = [entry.message for one in result.results for entry in one.logs() if entry.level in ("WARNING", "ERROR")]
        return self._scrub("; ".join(dict.fromkeys(lines)) or "the destination did not accept the message")

    def _text_of(self, line: str) -> str:
        return printable(line) if self._plugin.service_name in _VERBATIM else inert(printable(line))

    def _redacted(self, url: str) -> str:
        scheme = self._plugin.url(privacy=True).split("://", 1)[0]
        token = self._plugin.template_tokens.get("host")  # without it, Apprise's `host` contains the first token
        host = self._plugin.host if token and not token.get("private") and self._plugin.host else ""
        port = f":{self._plugin.port}" if host and self._plugin.port else ""
        authority, slash, rest = url.partition("://")[2].partition("/")
        user, at, place = authority.rpartition("@")
        identity = f"{scheme}://{user.partition(':')[0]}{at}{place}{slash}{rest}"
        return f"{scheme}://{host}{port}#{hashlib.sha256(identity.encode()).hexdigest()[:8]}"

    def _secret_parts(self, url: str) -> list[str]:
        shown = {str(self._plugin.host), str(self._plugin.port)} if "://#" not in self.name else set()
        parts = re.split(r"[/:@?&=#+]+", url.partition("://")[2])
        both = {text for part in parts for text in (part, unquote(part)) if len(text) > 3 and text not in shown}
        return sorted(both, key=len, reverse=True)

    def _scrub(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return printable(text[:_ERROR_LENGTH])


def destinations(settings: Settings) -> tuple[Destination, ...]:
    """The configured destinations without duplicates, in the order given.

    Raises:
        SettingsError: names FRAUD_ALERT_URLS and the number of the invalid entry (1 = first), never its text.
    """
    found: dict[str, Destination] = {}
    for number, url in enumerate(settings.alert_urls, start=1):
        try:
            destination = Destination(url.get_secret_value())
        except Exception:  # noqa: BLE001 - Apprise plugins raise any exception, and may quote the URL
            raise SettingsError(
                f"FRAUD_ALERT_URLS: entry {number} of {len(settings.alert_urls)} is not a URL that Apprise knows, "
                "or a part of it is missing",
                "give Apprise URLs separated by commas, e.g. json://host:port/path; a comma inside one is %2C",
            ) from None
        found.setdefault(destination.name, destination)
    return tuple(found.values())


@contextmanager
def _silenced() -> Iterator[None]:
    """Load a URL without output from Apprise; afterwards only its warnings remain, and only for results.

    Log lines below WARNING, and the HTTP client's, quote URLs. Some of Apprise's modules are deprecated in Python.
    """
    log, http = logging.getLogger("apprise"), logging.getLogger("urllib3.connectionpool")
    log.propagate = False
    log.setLevel(logging.WARNING)
    http.setLevel(max(http.level, logging.INFO))
    log.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        log.disabled = False
