"""Cut a MediaWiki XML dump into records (revisions, log items, the head) without ever holding a page.

The parser is expat, fed chunk by chunk. Measured on 333 MB of history: expat with these handlers reads
about 220 MB/s, lxml's ``XMLPullParser`` about 450 MB/s without most checks on what it builds. expat is taken
because it builds nothing: one page with any number of revisions, or a billion unknown siblings, costs no
memory; its depth, sizes and declarations are seen as they come; a text above the limit costs one record,
where libxml2 (``huge_tree=False``) ends the whole parse at 10,000,000 bytes or (``True``) has no limit.

What is refused, and why it is enough: without a DOCTYPE there are no entities to declare, expand or fetch,
so the document type is refused by its handler before anything in it is read. An undefined entity is then
not well-formed. Depth is counted here, since expat has no limit. A token (a tag with its attributes, a
comment) is scanned again from its start with every chunk by expat before 2.6.0 (CVE-2023-52425), so one
may span ``_MAX_TOKEN_BYTES`` at most, which bounds that work to some thirty scans.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn
from xml.parsers import expat

from recension.model.errors import (
    SourceCorruptError,
    SourceError,
    SourceFormatError,
    SourceLimitError,
    SourceTruncatedError,
)
from recension.sources.items import (
    MAX_BARREN_BYTES,
    MAX_EVENT_BYTES,
    MAX_EXCERPT_BYTES,
    BadRecordError,
    ByteSource,
    Rejected,
)

_CHUNK_BYTES = 256 * 1024
"""Small enough to be still in the processor's cache when it is parsed."""
_BUFFER_CHARS = 256 * 1024
_MAX_DEPTH = 32
_MAX_TOKEN_BYTES = 8 * 1024 * 1024
_MAX_ELEMENTS = 10_000
"""Elements of one record. A revision has about 20, the head of a large wiki 100 namespaces."""
_MAX_RECORD_CHARS = MAX_EVENT_BYTES + 1024 * 1024
"""Characters of one record: the largest text, and room for everything else that a record has."""
_MAX_KINDS = 1000
"""Names that are counted apart; hostile input could otherwise make a new one with every element."""
_OTHER = "…"

_CUT_SHORT = frozenset(
    expat.errors.codes[message]
    for message in (
        expat.errors.XML_ERROR_NO_ELEMENTS,
        expat.errors.XML_ERROR_UNCLOSED_TOKEN,
        expat.errors.XML_ERROR_UNCLOSED_CDATA_SECTION,
        expat.errors.XML_ERROR_PARTIAL_CHAR,
    )
)
_NO_MEMORY = expat.errors.codes[expat.errors.XML_ERROR_NO_MEMORY]
_NUMBER = re.compile(r"\s*(-?[0-9]{1,19})\s*")

_HINT_FETCH = "fetch the file again; every record before this place has been read"
_HINT_XML = "pass a MediaWiki export: its root element is <mediawiki>"
_HINT_KIND = "ingest history and current dumps as dump, pages-logging as logging"
_HINT_DOCTYPE = "no MediaWiki writes a document type; remove it if the file is to be trusted"


class Node:
    """One element of a record: its attributes, and either its text or its children."""

    __slots__ = ("attributes", "children", "name", "text")

    def __init__(self, name: str, attributes: dict[str, str]) -> None:
        """An open element; its text and children are filled in as they come."""
        self.name = name
        self.attributes = attributes
        self.children: list[Node] = []
        self.text = ""

    def child(self, name: str) -> Node | None:
        """The first child of that name."""
        for node in self.children:
            if node.name == name:
                return node
        return None

    def value(self, name: str) -> str | None:
        """The text of the first child of that name."""
        node = self.child(name)
        return None if node is None else node.text


class Window(NamedTuple):
    """The bytes that are being parsed, and where in the file they begin."""

    data: bytes
    byte: int
    line: int

    def line_of(self, byte: int) -> int:
        """Return the line of a byte in the window, or of the one behind it.

        Asked for the few lines that are told alone: expat would look at each character again to know a line.
        """
        return self.line + self.data.count(b"\n", 0, max(byte - self.byte, 0))

    @property
    def end(self) -> int:
        """The byte behind the last."""
        return self.byte + len(self.data)

    def cut(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` to ``end``, as far as the window and the limit reach."""
        first = max(start - self.byte, 0)
        return self.data[first : min(first + MAX_EXCERPT_BYTES, end - self.byte)]


class Record:
    """A finished record, and where it began."""

    __slots__ = ("_window", "byte", "excerpt", "fault", "node", "page")

    def __init__(self, node: Node, page: Node, window: Window, byte: int) -> None:
        """``page`` holds the head (title, ns, id) of the page around a revision, as far as it was read.

        ``byte``, where it begins, lies in ``window``.
        """
        self.node = node
        self.page = page
        self._window = window
        self.byte = byte
        self.excerpt = b""
        self.fault: BadRecordError | None = None

    def reject(self, fault: BadRecordError) -> Rejected:
        """Say why this record is left out."""
        title = self.page.value("title")
        number = self.node.value("id")
        about = [f"page {title!r}"[:200]] if title is not None else []
        about += [f"{self.node.name} {number!r}"[:60]] if number is not None else []
        message = ", ".join([*about, fault.message])
        line = self._window.line_of(self.byte)
        return Rejected(f"line {line}, byte {self.byte}", fault.reason, message, self.excerpt)


class XmlRecords:
    """Iterate over the records of one dump, in document order.

    ``records`` are the elements that are handed out whole, at any depth below the root; ``head`` those of a
    page that are kept until it ends. Everything else is passed over and counted in ``counts``; ``alien``
    maps elements that mean "wrong kind of dump" to the message of the ``SourceFormatError``.
    """

    def __init__(
        self,
        source: ByteSource,
        path: Path,
        *,
        records: frozenset[str],
        head: frozenset[str] = frozenset(),
        alien: dict[str, str] | None = None,
    ) -> None:
        """Nothing is read before the first ``next``."""
        self.counts: Counter[str] = Counter()
        self._source = source
        self._path = path
        self._records = records
        self._head = head
        self._alien = alien or {}
        self._done: list[Record] = []
        self._stack: list[Node] = []
        self._depth = 0
        self._skip_depth = 0
        self._record: Record | None = None
        self._record_depth = 0
        self._elements = 0
        self._size = 0
        self._page = Node("page", {})
        self._parts: list[str] = []
        self._fed = 0
        self._bytes_before = self._lines_before = 0
        self._window = Window(b"", 0, 1)
        self._barren = 0
        self._rooted = False
        self._parser = self._new_parser()

    def restart(self, byte: int, passed: int) -> None:
        """Go on with another document, which begins at ``byte`` of the file, ``passed`` lines further on."""
        line = self._window.line_of(self._window.end) + passed
        self._bytes_before, self._lines_before = byte, line - 1
        self._fed = byte
        self._window = Window(b"", byte, line)
        self._stack, self._record, self._page = [], None, Node("page", {})
        self._depth = self._skip_depth = 0
        self._rooted = False
        self._parser = self._new_parser()

    @property
    def _byte(self) -> int:
        return self._bytes_before + self._parser.CurrentByteIndex

    @property
    def _line(self) -> int:
        return self._lines_before + self._parser.CurrentLineNumber

    def _new_parser(self) -> expat.XMLParserType:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.buffer_size = _BUFFER_CHARS
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        # The bare method of a list is the cheapest handler there is; every line of text may call it.
        parser.CharacterDataHandler = self._parts.append
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        parser.EntityDeclHandler = self._refuse_doctype
        return parser

    def __iter__(self) -> Iterator[Record]:
        """Yield each record; then raise the ``SourceError`` that ended the input early, if one did."""
        while True:
            fault: SourceError | None = None
            more = True
            try:
                more = self._feed()
            except SourceError as error:
                fault = error
            yield from self._done
            self._done.clear()
            if fault is not None:
                raise fault
            if not more:
                return

    def _feed(self) -> bool:
        """Parse one chunk; false at the end of the input."""
        chunk = self._source.read(_CHUNK_BYTES)
        self._slide(chunk)
        try:
            self._parser.Parse(chunk, not chunk)
        except expat.ExpatError as error:
            self._fail(error, ended=not chunk)
        except MemoryError:
            raise self._limit("the record needs more memory than is allowed") from None
        except (ValueError, LookupError) as error:
            # pyexpat's own: half of a surrogate pair in UTF-16, an encoding that Python does not know.
            raise self._refuse_encoding(error) from None
        self._fed += len(chunk)
        self._check_budgets(len(chunk))
        return bool(chunk)

    # --- limits ---------------------------------------------------------------------------------

    def _check_budgets(self, size: int) -> None:
        # Between chunks the parser's index is the beginning of what it could not finish.
        if self._fed - self._byte > _MAX_TOKEN_BYTES:
            raise self._limit(f"a tag or comment of more than {_MAX_TOKEN_BYTES:,} bytes")
        self._barren = 0 if self._done else self._barren + size
        if self._barren > MAX_BARREN_BYTES:
            raise self._limit(f"{MAX_BARREN_BYTES:,} bytes without a record")
        self._trim_text()

    def _trim_text(self) -> None:
        """Let go of a text that nobody wants, or that is over the limit, while it is still coming in."""
        if not self._stack:
            self._parts.clear()
        elif self._size + sum(map(len, self._parts)) > _MAX_RECORD_CHARS:
            if self._record is None:
                raise self._limit(f"<{self._stack[-1].name}> of more than {_MAX_RECORD_CHARS:,} characters")
            self._parts.clear()
            self._oversize()

    def _oversize(self) -> None:
        if self._record is not None and self._record.fault is None:
            self._record.fault = BadRecordError(
                "TEXT_TOO_LARGE", f"the record has more than {_MAX_RECORD_CHARS:,} characters"
            )

    def _limit(self, what: str) -> SourceLimitError:
        line = self._line
        return SourceLimitError(
            f"{self._path}: line {line:,}: {what}",
            hint="the file is damaged or hostile; no MediaWiki writes this",
            path=self._path,
            line=line,
            byte=self._byte,
        )

    def _fail(self, error: expat.ExpatError, *, ended: bool) -> NoReturn:
        if error.code == _NO_MEMORY:
            raise self._limit("the record needs more memory than is allowed")
        byte, line = self._byte, error.lineno + self._lines_before
        title = self._page.value("title")
        where = f"{self._path}: line {line:,}, byte {byte:,}" + (
            f", in page {title!r}" if title is not None else ""
        )
        about = {"path": self._path, "line": line, "byte": byte, "page": title or ""}
        if ended and error.code in _CUT_SHORT:
            raise SourceTruncatedError(
                f"{where}: the dump ends before </mediawiki>", hint=_HINT_FETCH, **about
            )
        text = expat.ErrorString(error.code)
        if not self._rooted:
            raise SourceFormatError(f"{where}: not XML: {text}", hint=_HINT_XML, **about)
        raise SourceCorruptError(f"{where}: not well-formed: {text}", hint=_HINT_FETCH, **about)

    def _refuse_encoding(self, error: Exception) -> SourceError:
        refusal = SourceCorruptError if self._rooted else SourceFormatError
        line = self._line
        return refusal(
            f"{self._path}: line {line:,}: the characters cannot be decoded: {error}",
            hint="MediaWiki writes UTF-8; UTF-16 with a byte order mark is read too",
            path=self._path,
            line=line,
        )

    def _refuse_doctype(self, *_: object) -> NoReturn:
        raise SourceFormatError(
            f"{self._path}: line {self._line}: the file has a DOCTYPE, which is refused",
            hint=_HINT_DOCTYPE,
            path=self._path,
            line=self._line,
        )

    # --- elements -------------------------------------------------------------------------------

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._parts.clear()
        if self._depth > _MAX_DEPTH:
            raise self._limit(f"more than {_MAX_DEPTH} elements inside each other")
        if ":" in name:
            name = name.rpartition(":")[2]
        if self._record is not None:
            self._start_inside(name, attributes)
        elif self._skip_depth:
            return
        elif name in self._records and self._rooted:
            self._open_record(name, attributes)
        else:
            self._start_outside(name, attributes)

    def _start_inside(self, name: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        if attributes:
            self._size += sum(map(len, attributes)) + sum(map(len, attributes.values()))
            if self._size > _MAX_RECORD_CHARS:
                self._oversize()
                attributes = {}
        node = Node(name, attributes)
        if self._elements > _MAX_ELEMENTS:
            if self._record is not None and self._record.fault is None:
                self._record.fault = BadRecordError(
                    "TOO_MANY_ELEMENTS", f"the record has more than {_MAX_ELEMENTS:,} elements"
                )
        else:
            self._stack[-1].children.append(node)
        self._stack.append(node)

    def _open_record(self, name: str, attributes: dict[str, str]) -> None:
        node = Node(name, attributes)
        self._record = Record(node, self._page, self._window, self._byte)
        self._record_depth = self._depth
        self._elements = self._size = 0
        self._stack = [node]

    def _start_outside(self, name: str, attributes: dict[str, str]) -> None:
        if not self._rooted:
            if name != "mediawiki":
                raise SourceFormatError(
                    f"{self._path}: the root element is <{name[:100]}>, not <mediawiki>",
                    hint=_HINT_XML,
                    path=self._path,
                    line=self._line,
                )
            self._rooted = True
        elif name in self._alien:
            raise SourceFormatError(
                f"{self._path}: {self._alien[name]}",
                hint=_HINT_KIND,
                path=self._path,
                line=self._line,
                element=name,
            )
        elif name == "page":
            self._page = Node("page", {})
        elif name in self._head:
            # One of each: of a hostile page with a million titles the first is kept. What comes behind a
            # record is not its own: it is looked at once the chunk is parsed, wherever that ends.
            self._stack = [Node(name, attributes)]
            if self._page.child(name) is None:
                known = self._page.children
                self._page = Node("page", {})
                self._page.children = [*known, self._stack[0]]
        else:
            self.count(name)
            self._skip_depth = self._depth

    def _end(self, name: str) -> None:
        depth = self._depth
        self._depth = depth - 1
        if self._record is not None:
            self._end_inside(depth)
        elif self._skip_depth:
            if depth == self._skip_depth:
                self._skip_depth = 0
        elif self._stack:
            self._stack.pop().text = "".join(self._parts)
        elif depth == 2 and name.endswith("page"):  # noqa: PLR2004 - a child of the root
            self._page = Node("page", {})
        self._parts.clear()

    def _end_inside(self, depth: int) -> None:
        node = self._stack.pop()
        if not node.children and self._parts:
            self._size += sum(map(len, self._parts))
            if self._size > _MAX_RECORD_CHARS:
                self._oversize()
            else:
                node.text = "".join(self._parts)
        if depth == self._record_depth and self._record is not None:
            record, self._record = self._record, None
            end = self._byte
            record.excerpt = record.excerpt[: end - record.byte] or self._window.cut(record.byte, end)
            self._done.append(record)

    def count(self, name: str) -> None:
        """Note that something was passed over."""
        if name not in self.counts and len(self.counts) >= _MAX_KINDS:
            name = _OTHER
        self.counts[name[:100]] += 1

    # --- excerpts -------------------------------------------------------------------------------

    def _slide(self, chunk: bytes) -> None:
        """Move the window of raw bytes on to ``chunk``; what an open record needs of the old one is saved."""
        old = self._window
        record = self._record
        if record is not None and len(record.excerpt) < MAX_EXCERPT_BYTES:
            if not record.excerpt:
                record.excerpt = old.cut(record.byte, old.end)
            record.excerpt += chunk[: MAX_EXCERPT_BYTES - len(record.excerpt)]
        # A tag that is not finished may open a record, which then begins in the old window.
        rest = old.data[self._byte - old.byte :] if self._fed else b""
        if len(rest) > MAX_EXCERPT_BYTES:
            rest = b""
        at = old.end - len(rest)
        self._window = Window(rest + chunk if rest else chunk, at, old.line_of(at))


def number(text: str | None, what: str, *, absent: int | None = None) -> int:
    """Read a decimal number of up to 19 digits.

    ``absent`` stands for a missing or empty element. Raises ``BadRecordError`` with reason ``MISSING_ID``
    (nothing there) or ``INVALID_NUMBER``.
    """
    if not text or text.isspace():
        if absent is None:
            raise BadRecordError("MISSING_ID", f"it has no {what}")
        return absent
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise BadRecordError("INVALID_NUMBER", f"its {what} is not a number: {text[:40]!r}")
    return int(match[1])
