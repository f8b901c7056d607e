"""HTTP to upstream: what is asked of one origin, and answers that are read as they come.

Only over TLS, unless upstream is this very machine. A token goes to its own origin alone, into no message and
no log. What upstream does wrong becomes one of two errors: ``UpstreamUnreachableError``, after which it is
worth to ask again, and ``UpstreamRefusedError``, after which it is not. No retries here: only who asks knows
where to go on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import responses
from ipaddress import ip_address
from time import time as now
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import SplitResult, urljoin, urlsplit

import orjson
import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util import Timeout

from recension.model.errors import (
    InvalidArgumentError,
    SourceFormatError,
    UpstreamRefusedError,
    UpstreamUnreachableError,
)

RETRY_AFTER = "retryAfter"
"""Key of the seconds that upstream asks for, in the metadata of ``UpstreamUnreachableError``."""
MAX_ANSWER_BYTES = 32 * 1024 * 1024
"""Largest answer that is read as a whole."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
_AGAIN = frozenset({408, 425, 429})
"""And all of 500 and above: upstream's own trouble."""
_HINTS: Mapping[int, str] = {
    401: "the token or the password is not good: look at the credentials",
    403: "the account may not have this: ask upstream",
    404: "look whether the project, the date or the name is right",
}
_PORTS = {"https": 443, "http": 80}
_CHUNK_BYTES = 256 * 1024
_MAX_RETRY_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long upstream may take."""

    connect_seconds: float = 10.0
    idle_seconds: float = 60.0
    """Without a single byte, before the answer begins and within it."""


class Bearer(Protocol):
    """Has the token that requests carry."""

    def token(self) -> str:
        """Return one that is good as far as is known. Raises the errors of this module."""

    def renew(self, refused: str) -> bool:
        """Say whether ``token`` has another one than that which upstream refused."""


class Http:
    """Asks one origin. May be shared between threads; each answer is of one thread, but for ``stop``."""

    def __init__(
        self,
        origin: str,
        *,
        bearer: Bearer | None = None,
        patience: Patience = Patience(),
        agent: str = "recension",
        connections: int = 1,
    ) -> None:
        """``origin``: scheme, host and port: ``https://realtime.enterprise.wikimedia.com``.

        ``connections``: so many are kept open between requests.
        Raises ``InvalidArgumentError`` for one that is none, that holds a password, or that would carry what
        is said over a network as plain text; and for an ``agent`` that cannot be sent.
        """
        _check_origin(origin)
        if not _is_sendable(agent):
            raise InvalidArgumentError(
                "who asks: not of printable ASCII, which is all that a header holds",
                hint="give a mail address or a URL",
                field="agent",
            )
        self.origin = _origin_of(origin)
        self._bearer = bearer
        self._patience = patience
        self._agent = agent
        self._pool = urllib3.PoolManager(
            timeout=Timeout(connect=patience.connect_seconds, read=patience.idle_seconds),
            retries=False,
            maxsize=connections,
            headers={"User-Agent": agent, "Accept-Encoding": "identity"},
        )

    def ask(
        self,
        method: str,
        path: str,
        *,
        document: object | None = None,
        headers: Mapping[str, str] | None = None,
        good: frozenset[int] = frozenset({200}),
        elsewhere: bool = False,
    ) -> Answer:
        """Ask for ``path``, with ``document`` as JSON; return the answer, to be used in a ``with`` block.

        Follows redirects within the origin; ``elsewhere``: also to other hosts, without the token. A status
        that is not among ``good`` is an error. Raises ``UpstreamUnreachableError``, ``UpstreamRefusedError``.
        """
        body = None if document is None else orjson.dumps(document)
        asked = dict(headers or {}) | ({} if body is None else {"Content-Type": "application/json"})
        renewed = False
        while True:
            token = self._bearer.token() if self._bearer is not None else ""
            if not _is_sendable(token):  # the library's error would hold it
                raise UpstreamRefusedError(
                    f"{self.origin}: the token that upstream has made cannot be sent",
                    hint="look whether the address that makes tokens is right",
                )
            if token:
                asked["Authorization"] = f"Bearer {token}"
            answer = self._follow(method, path, body, asked, elsewhere=elsewhere)
            if answer.status in good:
                return answer
            with answer:
                if answer.status == HTTPStatus.UNAUTHORIZED and self._bearer is not None and not renewed:
                    renewed = True
                    if self._bearer.renew(token):
                        continue
                raise self._refusal(method, path, answer)

    def document(self, method: str, path: str, document: object | None = None) -> Any:
        """Return the value of an answer in JSON, of at most ``MAX_ANSWER_BYTES``.

        Raises what ``ask`` raises, and ``SourceFormatError`` when the answer is no JSON.
        """
        with self.ask(method, path, document=document, headers={"Accept": "application/json"}) as answer:
            data = answer.whole()
        try:
            return orjson.loads(data)
        except ValueError:
            raise SourceFormatError(
                f"{self.origin}{_bare(path)}: the answer is no JSON", hint="look whether the address is right"
            ) from None

    def _follow(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], *, elsewhere: bool
    ) -> Answer:
        url, asked = urljoin(self.origin, path), dict(headers)
        for _ in range(_MAX_REDIRECTS + 1):
            answer = self._once(method, url, body, asked)
            target = answer.header("Location")
            if answer.status not in _REDIRECTS or not target:
                return answer
            answer.close()
            url = urljoin(url, target)
            if _origin_of(url) != self.origin:
                if not elsewhere:
                    raise self._strays(path)
                asked = {name: value for name, value in asked.items() if name != "Authorization"}
                try:
                    _check_origin(_origin_of(url))
                except InvalidArgumentError:
                    raise self._strays(path) from None
        raise UpstreamRefusedError(
            f"{self.origin}{_bare(path)}: it redirects in a circle", hint="look whether the address is right"
        )

    def _strays(self, path: str) -> UpstreamRefusedError:
        return UpstreamRefusedError(
            f"{self.origin}{_bare(path)}: it redirects to another host, or to one without TLS",
            hint="give the address that it has now, if it is one to be trusted",
        )

    def _once(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        try:
            response = self._pool.request(
                method,
                url,
                body=body,
                headers={**self._pool.headers, **headers},
                redirect=False,
                preload_content=False,
            )
        except HTTPError as error:
            raise _unreachable(_origin_of(url), self._patience, error) from None
        return Answer(response, _origin_of(url), self._patience)

    def _refusal(
        self, method: str, path: str, answer: Answer
    ) -> UpstreamRefusedError | UpstreamUnreachableError:
        """Make the error of a status. What upstream says with it may echo secrets, so it is not repeated."""
        what = f"{self.origin}{_bare(path)}: {method} is answered with {_status(answer.status)}"
        if answer.status in _AGAIN or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            wait = _seconds(answer.header("Retry-After"))
            more: dict[str, object] = {} if wait is None else {RETRY_AFTER: wait}
            return UpstreamUnreachableError(
                what, hint="upstream has trouble, or was asked too often", status=answer.status, **more
            )
        hint = _HINTS.get(answer.status, "upstream does not understand what was asked")
        return UpstreamRefusedError(what, hint=hint, status=answer.status)


class Answer:
    """An answer whose body is read as it comes. Also a ``ByteSource``."""

    def __init__(self, response: urllib3.BaseHTTPResponse, origin: str, patience: Patience) -> None:
        self._response = response
        self._origin = origin
        self._patience = patience
        self.status = response.status

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def header(self, name: str) -> str:
        """Return a header, empty where there is none."""
        value: str = self._response.headers.get(name, "")
        return value

    def read(self, size: int, /) -> bytes:
        """Return 1 to ``size`` bytes as soon as there are any, or nothing at the end.

        Raises ``UpstreamUnreachableError``: broken off, or silent for too long.
        """
        try:
            return self._response.read1(size) or b""
        except (HTTPError, ValueError, AttributeError) as error:
            # The last two: the socket was taken away, by ``stop``.
            raise _unreachable(self._origin, self._patience, error) from None

    def whole(self, most: int = MAX_ANSWER_BYTES) -> bytes:
        """Return all of the body. Raises ``UpstreamRefusedError`` when it has more than ``most`` bytes."""
        data = bytearray()
        while piece := self.read(_CHUNK_BYTES):
            data += piece
            if len(data) > most:
                raise UpstreamRefusedError(
                    f"{self._origin}: an answer of more than {most:,} bytes", hint="ask for less at once"
                )
        return bytes(data)

    def stop(self) -> None:
        """End a ``read`` that waits in another thread, and all that would follow."""
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # it has ended by itself
            self._response.shutdown()

    def close(self) -> None:
        """Close the connection: what was not read is not waited for."""
        with contextlib.suppress(HTTPError, OSError):
            self._response.close()


# --- addresses and errors -----------------------------------------------------------------------


def _check_origin(origin: str) -> None:
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        parts, port = SplitResult("", "", "", "", ""), None
    host = parts.hostname or ""
    if (
        parts.scheme not in _PORTS
        or not host
        or parts.username is not None
        or parts.path.strip("/")
        or parts.query
        or parts.fragment
        or port == 0
    ):
        raise InvalidArgumentError(
            "not the origin of a server", hint="https://realtime.enterprise.wikimedia.com", field="url"
        )
    if parts.scheme == "http" and not _is_loopback(host):
        raise InvalidArgumentError(
            f"{host}: without TLS, anyone on the way could read and change what is said",
            hint="use https://; http:// is for this machine alone",
            field="url",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _origin_of(url: str) -> str:
    """Return scheme, host and port of an address; of one that cannot be read, nothing."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + ("" if port in (None, _PORTS.get(parts.scheme)) else f":{port}")


def _is_sendable(value: str) -> bool:
    return value.isascii() and value.isprintable()


def _bare(path: str) -> str:
    """Return a path without its query, which may hold a signature."""
    return urlsplit(path).path


def _status(status: int) -> str:
    return f"{status} {responses.get(status, '')}".strip()


def _seconds(said: str) -> float | None:
    """Read ``Retry-After``: seconds, or a date."""
    if said.isdecimal():
        return min(float(said), _MAX_RETRY_SECONDS)
    with contextlib.suppress(ValueError, TypeError):
        return min(max(parsedate_to_datetime(said).timestamp() - now(), 0.0), _MAX_RETRY_SECONDS)
    return None


def _unreachable(origin: str, patience: Patience, error: Exception) -> UpstreamUnreachableError:
    """Name a fault of the connection; the library's own words hold addresses with all that is in them."""
    match error:
        case ReadTimeoutError():
            what = f"nothing came for {patience.idle_seconds:g} seconds"
        case NameResolutionError():
            what = "the name is not known"
        case NewConnectionError():
            what = "no connection can be made"
        case ConnectTimeoutError():
            what = f"no connection within {patience.connect_seconds:g} seconds"
        case SSLError():
            what = f"TLS: {_short(error)}"
        case DecodeError():
            what = "what came cannot be decoded"
        case _:
            what = "the connection failed or broke off"
    return UpstreamUnreachableError(
        f"{origin}: {what}", hint="look at the network, and whether upstream works"
    )


def _short(error: Exception) -> str:
    return "".join(char for char in str(error)[:200] if char.isprintable())
