"""How both clients connect, show their key, and count what they receive."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc

from recension.model.access import Secret
from recension.model.errors import InvalidArgumentError
from recension.model.private import OpenToOthersError, read_private
from recension_client.questions import Channel

MAX_RECEIVE_BYTES = 8 * 1024 * 1024
"""Largest message taken; the server keeps its own well below."""

Metadata = tuple[tuple[str, str], ...]
_Channel = TypeVar("_Channel", bound=Channel)

SYSTEM = "system"
"""Says that a certificate may lead to any of the usual roots."""

OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    # ``retrying`` alone says when to ask again, and a connection is tried anew as often as it asks.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # A channel that is made anew tries at once, whatever befell one before it.
    ("grpc.use_local_subchannel_pool", 1),
    # Streams have no deadline; this finds a peer that is gone. Servers refuse more than one in 5 minutes.
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]
_TOKEN = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
"""A JSON web token."""
_PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)
_NO_PROXY = ("grpc.enable_http_proxy", 0)
"""gRPC asks the environment's proxy for this machine too: it would read what is sent, or reach another."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a server is reached. Made by ``way_to``."""

    target: str
    credentials: grpc.ChannelCredentials | None
    """Those of TLS; ``None`` where nothing is encrypted."""
    metadata: Metadata = field(repr=False)
    """What each call says of its caller."""

    @property
    def options(self) -> list[tuple[str, Any]]:
        """Those of its channels."""
        return [*OPTIONS, _NO_PROXY] if _stays_here(self.target) else OPTIONS

    def channel(self) -> grpc.Channel:
        """Connect at the first call."""
        if self.credentials is None:
            return grpc.insecure_channel(self.target, options=self.options)
        return grpc.secure_channel(self.target, self.credentials, options=self.options)

    def async_channel(self) -> grpc.aio.Channel:
        """Connect at the first call, in the running event loop."""
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.target, options=self.options)
        return grpc.aio.secure_channel(self.target, self.credentials, options=self.options)


def way_to(target: str, key: str = "", tls_ca: str = "", tls_cert: str = "") -> Way:
    """Return the way to a server.

    ``key``: what to show, or a token of one's own issuer. ``tls_ca``: path of the roots that its certificate
    has to lead to, PEM; ``SYSTEM`` for those that gRPC brings along; empty without TLS. ``tls_cert``: path of
    one's own certificate and its private key, PEM, of mode 600; empty for none. Raises
    ``InvalidArgumentError`` for what is no key, root or certificate, and for a key that others could read on
    its way.
    """
    credentials = _credentials(tls_ca, tls_cert)
    if not key:
        return Way(target, credentials, ())
    shown = key if _TOKEN.fullmatch(key) else Secret.parse(key).written
    if credentials is None and not _stays_here(target):
        raise InvalidArgumentError(
            f"the way to {target[:200]} is not encrypted: the key is not sent there",
            hint=f"use TLS: --tls-ca FILE, or --tls-ca {SYSTEM}",
            field="key",
        )
    return Way(target, credentials, (("authorization", f"Bearer {shown}"),))


def _credentials(tls_ca: str, tls_cert: str) -> grpc.ChannelCredentials | None:
    if not tls_ca:
        if tls_cert:
            raise InvalidArgumentError(
                "a certificate is shown over TLS alone", hint="give --tls-ca too", field="tls_cert"
            )
        return None
    key, chain = _own(tls_cert) if tls_cert else (None, None)
    if tls_ca == SYSTEM:
        return grpc.ssl_channel_credentials(None, key, chain)
    try:
        roots = Path(tls_ca).read_bytes()
    except OSError as error:
        raise InvalidArgumentError(f"{tls_ca} cannot be read: {error.strerror}", field="tls_ca") from None
    if b"-----BEGIN CERTIFICATE-----" not in roots:
        raise InvalidArgumentError(
            f"{tls_ca} holds no certificate in PEM", hint="ask the operator for the root", field="tls_ca"
        )
    return grpc.ssl_channel_credentials(roots, key, chain)


def _own(path: str) -> tuple[bytes, bytes]:
    """Return the private key and the certificates of a file."""
    try:
        text = read_private(Path(path))
    except OpenToOthersError as error:
        raise InvalidArgumentError(f"{path}: {error}", hint=f"chmod 600 {path}", field="tls_cert") from None
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(f"{path} cannot be read: {error}", field="tls_cert") from None
    blocks = [match[0] for match in _PEM.finditer(text)]
    keys = [block for block in blocks if "PRIVATE KEY" in block]
    chain = [block for block in blocks if "BEGIN CERTIFICATE" in block]
    if len(keys) != 1 or not chain:
        raise InvalidArgumentError(
            f"{path} holds {len(keys)} private keys and {len(chain)} certificates in PEM",
            hint="put one's certificate, those that lead to its root, and its private key into one file",
            field="tls_cert",
        )
    return keys[0].encode(), "\n".join(chain).encode()


def _stays_here(target: str) -> bool:
    if target.startswith("unix:"):
        return True
    host = target.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def counted(channel: _Channel, received: Callable[[int], None], metadata: Metadata = ()) -> _Channel:
    """Return a channel that tells ``received`` how many bytes each message has.

    ``metadata`` goes with each call.
    """
    return cast("_Channel", _Counted(channel, received, metadata))


class _Counted:
    """What stubs and clients need of a channel, and no more."""

    def __init__(self, channel: Channel, received: Callable[[int], None], metadata: Metadata) -> None:
        self._channel = channel
        self._received = received
        self._metadata = metadata
        self.close = channel.close

    def unary_unary(self, method: str, *, response_deserializer: Callable[[bytes], Any], **rest: Any) -> Any:
        """Return a call that takes one message."""
        reads = self._reading(response_deserializer)
        call = self._channel.unary_unary(method, response_deserializer=reads, **rest)
        return partial(call, metadata=self._metadata)

    def unary_stream(self, method: str, *, response_deserializer: Callable[[bytes], Any], **rest: Any) -> Any:
        """Return a call that takes many."""
        reads = self._reading(response_deserializer)
        call = self._channel.unary_stream(method, response_deserializer=reads, **rest)
        return partial(call, metadata=self._metadata)

    def _reading(self, read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        def counting(message: bytes) -> Any:
            self._received(len(message))
            return read(message)

        return counting
