"""Cut a history dump into runs of whole pages, so that several processes can each parse a share of it.

A run ends with the first ``</page>`` behind its first ``RUN_BYTES``. No parser is needed to find that: ``<``
is escaped in texts and attributes, so these bytes are something else only in a comment, a CDATA section or
a processing instruction. MediaWiki writes none of those; where a file has one, the run that holds it goes on
to the end of the file. A file with an unusual head is one run. Where a run ends depends on the decoded
bytes alone, never on who reads it.

Each run is a document of its own for the parser: the root is put before it and closed behind it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from recension.model.errors import SourceError
from recension.sources.items import ByteSource

RUN_BYTES = 16 * 1024 * 1024
_SKIP_BYTES = 256 * 1024
"""Small enough to be still in the processor's cache when it is looked at."""
_HEAD_BYTES = 1024 * 1024
"""Within so many bytes the first page begins, or the file is one run."""
_OPENING, _CLOSING = b"<mediawiki>", b"</mediawiki>"
_PAGE, _PAGE_END = b"<page>", b"</page>"
_PAGE_ENDING = re.compile(_PAGE_END)
_HIDING = re.compile(rb"<[!?]")
_HIDING_AT_FIRST = re.compile(rb"<(?:[!?]|siteinfo)")
"""In the first run, behind a page: all shares must know what a head there says, so the file is one run."""
_OVERLAP = len(b"<siteinfo") - 1
"""So much of what was read is looked at again: a pattern may begin in it."""
_ROOT = re.compile(
    rb"(?:\xef\xbb\xbf)?(?:<\?xml(?:\s+version=[\"']1\.0[\"'])?(?:\s+encoding=[\"'](?i:utf-8)[\"'])?\s*\?>)?"
    rb"\s*<mediawiki[\s>]"
)
"""How a file of UTF-8 begins. In another encoding these bytes may mean something else."""


class Share(NamedTuple):
    """Which runs are parsed: of every ``of`` of them that one, from 0."""

    which: int
    of: int


WHOLE = Share(0, 1)
"""All runs."""


class Runs:
    """The runs of a share, one after another; ``read`` ends behind each, ``next_run`` goes on.

    A share that has the first run begins there: with the head of the file. The others begin before their
    first run, and ask for the head apart.
    """

    def __init__(self, source: ByteSource, share: Share) -> None:
        """Nothing is read before it is asked for."""
        self.byte = 0
        """Where in the file the bytes of the run begin, those of the root put before it included."""
        self.passed = 0
        """Line feeds between this run and the one of the share before it."""
        self.cut = False
        """Whether the run was read to its end and another one follows."""
        self._source = source
        self._share = share
        self._number = 0
        self._ahead = b""
        self._drained = False
        self._last = b""
        """The last bytes of the run that were handed out."""
        self._fault: SourceError | None = None
        """What ended the file behind ``_ahead``."""
        self._root: list[bytes] = []
        """Opening and closing tag that are still to be put around the run."""
        self._size = 0
        self._at = 0
        self._head: bytes | None = None
        self._started = False
        self._whole = False
        """Whether the run goes on to the end of the file."""

    def head(self) -> bytes:
        """Return what comes before the first page, closed; nothing if the file is one run."""
        self._start()
        return self._head + _CLOSING if self._head is not None else b""

    def read(self, size: int, /) -> bytes:
        """Return at least one byte of the run, or nothing at its end."""
        self._start()
        if len(self._root) > 1:
            return self._root.pop(0)
        piece = self._piece(size)
        if not piece and self.cut and self._root:
            return self._root.pop()
        return piece

    def next_run(self) -> bool:
        """Go to the next run of the share, past those of others; false when the file has none."""
        self._start()
        self.passed = 0
        while not self._whole:
            while piece := self._piece(_SKIP_BYTES):
                self.passed += piece.count(b"\n")
            if not self.cut:
                return False
            self._number += 1
            self._size, self._last, self.cut = 0, b"", False
            if self._number % self._share.of == self._share.which:
                self.byte = self._at - len(_OPENING)
                self._root = [_OPENING, _CLOSING]
                return True
        return False

    def _start(self) -> None:
        """Find the head of the file."""
        if self._started:
            return
        self._started = True
        while _PAGE not in self._ahead and len(self._ahead) < _HEAD_BYTES:
            chunk = self._fetch(_HEAD_BYTES)
            if not chunk:
                break
            self._ahead += chunk
        end = self._ahead.find(_PAGE, 0, _HEAD_BYTES)
        root = _ROOT.match(self._ahead)
        if root is None or end < root.end() or _HIDING.search(self._ahead, root.end(), end):
            self._whole = True
        else:
            self._head = self._ahead[:end]
            self._root = [_CLOSING]

    def _fetch(self, size: int) -> bytes:
        """Read on; a fault waits until what came before it is handed out."""
        if not self._drained:
            try:
                chunk = self._source.read(size)
            except SourceError as fault:
                self._fault, chunk = fault, b""
            self._drained = not chunk
            if chunk:
                return chunk
        if self._fault is not None and not self._ahead:
            raise self._fault
        return b""

    def _piece(self, size: int) -> bytes:
        """Return the next bytes of the run as they are in the file; nothing at its end."""
        if self.cut:
            return b""
        data, self._ahead = self._ahead, b""
        data = data or self._fetch(size)
        end = 0 if self._whole else self._end(data)
        if end:
            data, self._ahead = data[:end], data[end:]
            self.cut = True
        self._last = (self._last + data[-_OVERLAP:])[-_OVERLAP:]
        self._size += len(data)
        self._at += len(data)
        return data

    def _end(self, data: bytes) -> int:
        """Return where in ``data`` the run ends, 0 if it does not; notes if it goes on to the end of all."""
        first = self._number == 0
        start = (len(self._head or b"") if first else 0) - self._size
        least = RUN_BYTES - len(_PAGE_END) - self._size
        end = self._behind(_PAGE_ENDING, data, max(least, start), len(data))
        if self._behind(_HIDING_AT_FIRST if first else _HIDING, data, start, end or len(data)):
            self._whole = True
            return 0
        return end

    def _behind(self, pattern: re.Pattern[bytes], data: bytes, start: int, stop: int) -> int:
        """Return where in ``data`` the first match ends that begins at ``start`` or later, 0 for none.

        It may begin in the bytes before.
        """
        before = len(self._last)
        seam = self._last + data[:_OVERLAP]
        found = pattern.search(seam, max(before + start, 0), before + stop)
        if found:
            return found.end() - before
        found = pattern.search(data, max(start, 0), stop)
        return found.end() if found else 0
