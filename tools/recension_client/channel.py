"""How both clients connect, show their key, and count what they receive."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from typing import Any, cast

from recension.model.access import Secret
from recension.model.errors import InvalidArgumentError
from recension_client.questions import Channel

MAX_RECEIVE_BYTES = 8 * 1024 * 1024
"""Largest message taken; the server keeps its own well below."""

Metadata = tuple[tuple[str, str], ...]

OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    # ``retrying`` alone says when to ask again, and a connection is tried anew as often as it asks.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Streams have no deadline; this finds a peer that is gone. Servers refuse more than one in 5 minutes.
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]


def metadata_of(key: str, target: str) -> Metadata:
    """Return what each call says of its caller; nothing without a key.

    Raises ``InvalidArgumentError`` for what is no key, and for one that others could read on its way.
    """
    if not key:
        return ()
    shown = Secret.parse(key).written
    if not _stays_here(target):
        raise InvalidArgumentError(
            f"the way to {target[:200]} is not encrypted: the key is not sent there",
            hint="connect to a loopback address, such as the near end of a tunnel",
            field="key",
        )
    return (("authorization", f"Bearer {shown}"),)


def _stays_here(target: str) -> bool:
    if target.startswith("unix:"):
        return True
    host = target.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def counted(channel: Channel, received: Callable[[int], None], metadata: Metadata = ()) -> Channel:
    """Return a channel that tells ``received`` how many bytes each message has.

    ``metadata`` goes with each call.
    """
    return cast("Channel", _Counted(channel, received, metadata))


class _Counted:
    """What stubs need of a channel, and no more."""

    def __init__(self, channel: Channel, received: Callable[[int], None], metadata: Metadata) -> None:
        self._channel = channel
        self._received = received
        self._metadata = metadata

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
