"""Reading ahead in a thread, and ending a stream from another one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from recension.model.errors import UnreachableError
from recension_client.pages import PageBatch, Window


class Leave:
    """Ends a stream from another thread, whether it waits for a message or for its next try."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = threading.Event()
        self._call: Any = None

    def __call__(self) -> None:
        """End it."""
        with self._lock:
            self._asked.set()
            if self._call is not None:
                self._call.cancel()

    def begin(self, call: Any) -> None:
        """Take note of the call that runs now."""
        with self._lock:
            self._call = call
            if self.asked:
                call.cancel()

    @property
    def asked(self) -> bool:
        """Whether the stream is to end."""
        return self._asked.is_set()

    def wait(self, seconds: float) -> bool:
        """Pause, and say whether the stream is to end."""
        return self._asked.wait(seconds)


def closed() -> UnreachableError:
    """Return the error of a stream that was ended from outside, and of a client that is closed."""
    return UnreachableError("the client is closed", hint="make a new one")


@contextmanager
def read_ahead(
    source: Iterator[PageBatch], window: Window[PageBatch], leave: Leave
) -> Iterator[Iterator[PageBatch]]:
    """Read into a window in a thread of its own, which has ended when the context has.

    ``leave``: ends ``source`` wherever it waits.
    """
    changed = threading.Condition()

    def put(batch: PageBatch) -> None:
        size = batch.text_bytes
        with changed:
            changed.wait_for(lambda: leave.asked or window.has_room(size))
            window.put(batch, size)
            changed.notify_all()

    def read() -> None:
        fault: BaseException | None = None
        try:
            for batch in source:
                put(batch)
                if leave.asked:
                    raise closed()  # noqa: TRY301 - whoever reads on must not take this for the end
        except BaseException as error:  # noqa: BLE001 - raised again where the batches are taken
            fault = error
        finally:
            with changed:
                window.fault, window.ended = fault, True
                changed.notify_all()

    def batches() -> Iterator[PageBatch]:
        while True:
            with changed:
                changed.wait_for(lambda: window.ready)
                batch = window.take()
                changed.notify_all()
            if batch is None:
                return
            yield batch

    thread = threading.Thread(target=read, name="recension-pages", daemon=True)
    thread.start()
    try:
        yield batches()
    finally:
        # An interpreter that ends has stopped the thread wherever it was, with what locks it held.
        if not sys.is_finalizing():
            leave()
            with changed:
                changed.notify_all()
            if thread is not threading.current_thread():  # the collector of cycles may come here in any
                thread.join()
