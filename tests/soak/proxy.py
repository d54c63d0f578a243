"""A TCP proxy between the product and a server, whose connections can be cut, frozen or half closed."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST


class Proxy:
    """Listens on 127.0.0.1:`port` and forwards to `upstream`; a context manager.

    Args:
        upstream: host and port of the server; may be set later, before the first connection.
    """

    def __init__(self, upstream: tuple[str, int] | None = None) -> None:
        self.upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._orphans: list[socket.socket] = []
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        with self._lock:
            return len(self._pairs)

    def cut(self) -> int:
        """Reset every connection on both sides; returns how many."""
        pairs = self._take()
        for pair in pairs:
            for side in pair:
                _reset(side)
        return len(pairs)

    def half_open(self) -> int:
        """Reset the product's side only: the server goes on believing in the connection until `heal`."""
        pairs = self._take()
        for client, server in pairs:
            _reset(client)
            self._orphans.append(server)
        return len(pairs)

    def freeze(self) -> None:
        """Forward nothing more, in either direction; connections stay open, new ones are accepted and wait."""
        self._flowing.clear()

    def heal(self) -> None:
        """Forward again; end what `half_open` left."""
        self._flowing.set()
        orphans, self._orphans = self._orphans, []
        for side in orphans:
            _reset(side)

    def close(self) -> None:
        """End everything."""
        self._listener.close()
        self.cut()
        self.heal()

    def _take(self) -> list[tuple[socket.socket, socket.socket]]:
        with self._lock:
            pairs, self._pairs = self._pairs, []
        return pairs

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                assert self.upstream is not None
                server = socket.create_connection(self.upstream, timeout=5)
            except OSError:
                _reset(client)
                continue
            server.settimeout(None)
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (client, server)
            with self._lock:
                self._pairs.append(pair)
            for source, target in (pair, pair[::-1]):
                threading.Thread(target=self._pump, args=(source, target, pair), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, pair: tuple[socket.socket, socket.socket]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flowing.wait()
                target.sendall(data)
        with self._lock:
            if pair not in self._pairs:
                return  # cut, or half open: whoever took it decides
            self._pairs.remove(pair)
        for side in pair:
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()


def _reset(side: socket.socket) -> None:
    with contextlib.suppress(OSError):
        side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    with contextlib.suppress(OSError):
        side.shutdown(socket.SHUT_RD)  # wakes the thread that reads it
    side.close()
