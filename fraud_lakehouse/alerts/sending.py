"""One attempt to send a message, limited in time and in the bytes read. No redirect is followed.

Apprise's plugins limit each read, not the whole attempt: an answer that drips never ends. So an attempt runs in a
thread of its own. When its time is over, every connection it has opened is shut down, whatever the protocol, which ends
the reads. An attempt that waits for something else, such as a name server, is abandoned; it can open no connection any
more. Proxies from the environment (HTTPS_PROXY, NO_PROXY) are used: the operator has set them.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import cache, partial
from types import ModuleType
from typing import Any

import requests

SECONDS = 15.0  # to connect, send and read the whole answer
ANSWER_BYTES = 64 * 1024  # read of an answer's body; no service needs more
_CHUNK = 8 * 1024
_END_SECONDS = 1.0  # for a plugin to notice that its connections are shut down


class Sending:
    """Runs one attempt; `problem` is why it failed, if this class knows."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self._answer: str | None = "the attempt ended without an answer"
        self._lock = threading.Lock()
        self._is_over = False
        self._connections: list[int] = []

    def run(self, send: Callable[[], str | None]) -> str | None:
        """Return within SECONDS what `send` returns: None for an accepted message, else the reason."""
        thread = threading.Thread(target=self._work, args=(send,), name="alert attempt", daemon=True)
        thread.start()
        thread.join(SECONDS)
        if thread.is_alive():
            self._end()
            thread.join(_END_SECONDS)
            return self.problem  # any result is ignored: a connection that is shut down looks like the answer's end
        return self._answer and (self.problem or self._answer)

    def connecting(self, connection: socket.socket) -> None:
        """Register a connection that is about to be opened, so that it can be shut down.

        Raises:
            TimeoutError: the attempt is over.
        """
        with self._lock:
            if self._is_over:
                raise TimeoutError("the attempt is over")
            self._connections.append(os.dup(connection.fileno()))  # TLS moves the descriptor to another object

    def _work(self, send: Callable[[], str | None]) -> None:
        _running.set(self)
        try:
            self._answer = send()
        finally:
            with self._lock:
                for descriptor in self._connections:
                    os.close(descriptor)
                self._connections.clear()

    def _end(self) -> None:
        self.problem = self.problem or f"no complete answer within {SECONDS:g} s"
        with self._lock:
            self._is_over = True
            for descriptor in self._connections:
                with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
                    connection.shutdown(socket.SHUT_RDWR)


_running: ContextVar[Sending | None] = ContextVar("sending", default=None)


def guard(plugin: Any) -> None:
    """Make an Apprise plugin send only within the limits of the attempt that runs it."""
    _watch_connections()
    throttle = plugin.throttle  # sleeps as long as a service's answer demands
    plugin.throttle = lambda last_io=None, wait=None: throttle(last_io, wait and min(wait, SECONDS))
    for name, module in list(sys.modules.items()):
        if name.startswith("apprise.") and vars(module).get("requests") is requests:
            module.requests = _bounded_requests()  # type: ignore[attr-defined]


@cache
def _watch_connections() -> None:
    sys.addaudithook(_audit)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    """Called by Python before each connection is opened, by whatever library."""
    if event == "socket.connect" and (sending := _running.get()) is not None:
        sending.connecting(args[0])


@cache
def _bounded_requests() -> ModuleType:
    """The module `requests`, except that no redirect is followed and at most ANSWER_BYTES of an answer are read."""
    module = ModuleType("requests")
    vars(module).update({name: value for name, value in vars(requests).items() if not name.startswith("__")})
    methods = {method: partial(_request, method.upper()) for method in ("get", "post", "put", "patch", "delete")}
    vars(module).update(methods, request=_request)
    return module


def _request(method: str, url: str, **options: Any) -> requests.Response:
    """Like `requests.request`.

    Raises:
        requests.RequestException: as `requests.request`; also for a redirect.
    """
    bounds = {"allow_redirects": False, "stream": True}
    with requests.Session() as session, session.request(method, url, **{**options, **bounds}) as answer:
        if 300 <= answer.status_code < 400:
            problem = f"the destination redirects ({answer.status_code}), which is not followed: set its final address"
            if (sending := _running.get()) is not None:
                sending.problem = problem
            raise requests.TooManyRedirects(problem, response=answer)
        content = bytearray()
        for chunk in answer.iter_content(_CHUNK):
            content += chunk
            if len(content) >= ANSWER_BYTES:
                break
    answer._content = bytes(content[:ANSWER_BYTES])  # the value of `answer.content`
    return answer
