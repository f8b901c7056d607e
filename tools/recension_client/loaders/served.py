"""Samples over gRPC, from a server that has the snapshot."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

from recension.model.digest import parse_digest
from recension.model.errors import LoaderForkedError
from recension.model.reading import MAX_INDEXES
from recension_client.client import Client
from recension_client.export.layout import terms_of
from recension_client.loaders.order import Order
from recension_client.loaders.samples import Sample, sample_of

REQUEST_BYTES = 16 * 1024 * 1024
"""Text of a request, by the mean of the snapshot; two are under way, or held, at once."""


class Served:
    """The samples of a snapshot on a server.

    Texts are those of their digests; that they are the snapshot's is the server's word, as it is not where
    they come from a folder that was fetched.
    """

    def __init__(
        self, target: str, snapshot: str, *, key: str = "", tls_ca: str = "", tls_cert: str = ""
    ) -> None:
        """``target``: ``host:port``; ``snapshot``: its id, ``sha256:<64 hex>``, as in ``recension.lock``.

        ``key``, ``tls_ca`` and ``tls_cert``: as a ``Client`` has them; the key goes to the processes that
        this object is sent to. Asks for the snapshot. Raises ``SnapshotNotFoundError``, and what a ``Client``
        raises.
        """
        self._target, self._key, self._tls_ca, self._tls_cert = target, key, tls_ca, tls_cert
        self._snapshot = parse_digest(snapshot, "snapshot")
        with self._connect() as client:
            manifest = client.snapshot(self._snapshot)
            self._terms = {part.project: terms_of(client.project(part.project)) for part in manifest.parts}
        self._order = Order.of(manifest)
        self._text_bytes = sum(part.text_bytes for part in manifest.parts)
        mean = self._text_bytes // max(1, self._order.count)
        self._request = max(16, min(REQUEST_BYTES // max(1, mean), MAX_INDEXES))
        self._process = os.getpid()

    def _connect(self) -> Client:
        # No partial, which shows what it holds: the key.
        return Client(self._target, key=self._key, tls_ca=self._tls_ca, tls_cert=self._tls_cert)

    @property
    def order(self) -> Order:
        """The order of its samples."""
        return self._order

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._process = os.getpid()

    def read(self, indexes: Iterable[int]) -> Iterator[Sample]:
        """Yield the samples at indexes of the snapshot; the next are fetched meanwhile."""
        if self._process != os.getpid():
            raise LoaderForkedError(
                "a process that was forked cannot go on with the connections of its parent",
                hint="start workers anew: DataLoader(..., multiprocessing_context='forkserver')",
            )
        left = iter(indexes)
        ahead: deque[Future[list[Sample]]] = deque()
        with self._connect() as client, ThreadPoolExecutor(1) as thread:
            try:
                while some := list(islice(left, self._request)):
                    ahead.append(thread.submit(self._fetch, client, some))
                    if len(ahead) > 1:
                        yield from ahead.popleft().result()
                while ahead:
                    yield from ahead.popleft().result()
            finally:
                # Whoever leaves early waits for nothing: what is under way ends with the connection.
                client.close()
                thread.shutdown(wait=True, cancel_futures=True)

    def _fetch(self, client: Client, indexes: list[int]) -> list[Sample]:
        entries = client.read_at(self._snapshot, indexes, most_bytes=self._text_bytes)
        return [sample_of(entry, self._terms) for entry in entries]
