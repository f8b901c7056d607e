"""A local server that plays upstream, over real sockets, and can be as rude as the network is."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit


class CutError(Exception):
    """The test wants this connection to end here."""


class Asked:
    """One request, and the means to answer it."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self._handler = handler
        self.method = handler.command
        self.path = urlsplit(handler.path).path
        self.query = urlsplit(handler.path).query
        self.headers = handler.headers
        self.body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))

    @property
    def document(self) -> Any:
        """What was sent as JSON."""
        return json.loads(self.body) if self.body else None

    def reply(self, status: int, body: bytes | object = b"", **headers: str) -> None:
        """Answer as a whole; underscores in names of headers are dashes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.head(status, Content_Length=str(len(data)), **headers)
        if self.method != "HEAD":
            self._handler.wfile.write(data)

    def head(self, status: int, **headers: str) -> None:
        """Send what comes before the body."""
        self._handler.send_response(status)
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.end_headers()

    def raw(self, data: bytes) -> None:
        """Send bytes of the body as they are."""
        self._handler.wfile.write(data)

    @contextmanager
    def chunked(self, content_type: str = "application/x-ndjson") -> Iterator[Callable[[bytes], None]]:
        """Send a body in chunks; it ends well with the block."""
        self.head(200, Transfer_Encoding="chunked", Content_Type=content_type)

        def write(data: bytes) -> None:
            if data:
                self.raw(b"%x\r\n%s\r\n" % (len(data), data))

        yield write
        self.raw(b"0\r\n\r\n")

    def cut(self, *, reset: bool = False) -> None:
        """Close the connection here and now; ``reset``: as when the other side has died."""
        if reset:
            self._handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise CutError


class Upstream:
    """A server on this machine that answers with ``answer``, each request in a thread of its own."""

    def __init__(self, answer: Callable[[Asked], None]) -> None:
        self.asked: list[str] = []
        """Method and path of each request, in their order."""
        upstream = self

        class _Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 0

            def _answer(self) -> None:
                asked = Asked(self)
                upstream.asked.append(f"{asked.method} {asked.path}")
                try:
                    answer(asked)
                except (CutError, OSError):
                    self.close_connection = True

            do_GET = do_POST = do_HEAD = _answer  # noqa: N815 - http.server gives the names

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:  # the client has gone, which is its right
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def origin(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
