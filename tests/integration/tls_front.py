"""A TLS front for a PostgreSQL without TLS (the embedded one has none compiled in): ends TLS, passes the bytes on."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from pathlib import Path
from types import TracebackType

SSL_REQUEST = bytes.fromhex("0000000804d2162f")


def make_certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """A self-signed certificate for a host name, and its key, made by openssl."""
    certificate, key = folder / f"{host}.pem", folder / f"{host}.key"
    request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split()
    named = ["-subj", f"/CN={host}", "-addext", f"subjectAltName=DNS:{host}"]
    command = ["openssl", *request, *named, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


class TlsFront:
    """Listens on a port of 127.0.0.1; speaks PostgreSQL's own start of TLS, then plain to the server behind."""

    def __init__(self, target: int, certificate: Path, key: Path) -> None:
        self._target = target
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.encrypted = 0
        """Connections whose handshake succeeded."""

    def __enter__(self) -> TlsFront:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            if client.recv(8) != SSL_REQUEST:
                return
            client.sendall(b"S")
            with self._context.wrap_socket(client, server_side=True) as secure:
                self.encrypted += 1
                with socket.create_connection(("127.0.0.1", self._target)) as server:
                    self._pass_on(secure, server)
        except OSError:
            return  # the client did not trust us, or one side has gone
        finally:
            client.close()

    @staticmethod
    def _pass_on(secure: ssl.SSLSocket, server: socket.socket) -> None:
        """Both directions in one thread: an SSL socket is not to be read and written by two."""
        secure.settimeout(0.01)
        server.settimeout(0.01)
        while True:
            for source, sink in ((secure, server), (server, secure)):
                try:
                    data = source.recv(65_536)
                except (TimeoutError, ssl.SSLWantReadError):
                    continue
                if not data:
                    return
                sink.settimeout(10)
                sink.sendall(data)
                sink.settimeout(0.01)
