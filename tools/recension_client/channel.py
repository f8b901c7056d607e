"""How both clients connect, and how they count what they receive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from recension_client.questions import Channel

MAX_RECEIVE_BYTES = 8 * 1024 * 1024
"""Largest message taken; the server keeps its own well below."""

OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    # ``retrying`` alone says when to ask again, and a connection is tried anew as often as it asks.
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Streams have no deadline; this finds a peer that is gone. Servers refuse more than one in 5 minutes.
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]


def counted(channel: Channel, received: Callable[[int], None]) -> Channel:
    """Return a channel that tells ``received`` how many bytes each message has."""
    return cast("Channel", _Counted(channel, received))


class _Counted:
    """What stubs need of a channel, and no more."""

    def __init__(self, channel: Channel, received: Callable[[int], None]) -> None:
        self._channel = channel
        self._received = received

    def unary_unary(self, method: str, *, response_deserializer: Callable[[bytes], Any], **rest: Any) -> Any:
        """Return a call that takes one message."""
        reads = self._reading(response_deserializer)
        return self._channel.unary_unary(method, response_deserializer=reads, **rest)

    def unary_stream(self, method: str, *, response_deserializer: Callable[[bytes], Any], **rest: Any) -> Any:
        """Return a call that takes many."""
        reads = self._reading(response_deserializer)
        return self._channel.unary_stream(method, response_deserializer=reads, **rest)

    def _reading(self, read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        def counting(message: bytes) -> Any:
            self._received(len(message))
            return read(message)

        return counting
