"""From a server into ``FOLDER/credits``: whom to credit for a snapshot, in files and in pages for people.

    FOLDER/credits/index.json                 the list of the files, canonical JSON
    FOLDER/credits/rows/aawiki-00001.jsonl.zst
    FOLDER/credits/html/index.html            for people, and beside it its parts
    FOLDER/credits/markdown/index.md

They are made in one pass beside an older ``credits``, and take its place in one step when they are whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from recension.model.credit import Attribution
from recension.model.digest import format_digest
from recension.model.errors import ExtraMissingError, VerificationError
from recension.model.manifest import Manifest, canonical_json
from recension_client.client import Client
from recension_client.credits.rows import CreditRow, checked_base, encode_line, row_of
from recension_client.export import jsonl
from recension_client.export.fetching import WORK
from recension_client.export.folder import Folder, digest_of, keep
from recension_client.export.layout import INDEX, Form, folder_of

FORMAT = "recension/credits/v1"
CREDITS = "credits"
ROWS = "rows"
FILE_PAGES = 262_144
"""Pages of the snapshot in one file of rows."""
BOOK_PAGES = 2_000
"""Pages of the snapshot on one page for people ..."""
BOOK_SHARES = 20_000
"""... which ends earlier when it has named so many contributors: some 2 MB."""
_NEXT = "credits-next"
_OLD = "credits-old"
_LOCK = "credits-lock"


@dataclass(frozen=True, slots=True)
class CreditFile:
    """One file."""

    path: str
    """Below ``credits``."""
    pages: int
    """Pages of the snapshot that it credits."""
    size_bytes: int
    sha256: str
    """Hex digest of the file."""


@dataclass(frozen=True, slots=True)
class Credits:
    """What was made."""

    manifest: Manifest
    since: bytes
    """Snapshot whose entries are left out; empty for none."""
    known_at: int
    """Position of the server when it was asked: what was hidden later is not hidden here."""
    form: Form
    writer: str
    pages: int
    edits: int
    hidden_edits: int
    unstated_edits: int
    licenses: Mapping[str, int]
    """Pages by SPDX id."""
    files: tuple[CreditFile, ...]

    @property
    def uncredited(self) -> int:
        """Pages of the snapshot that did not come: they lie outside of what the caller is granted."""
        return 0 if self.since else sum(part.count for part in self.manifest.parts) - self.pages

    @property
    def document(self) -> dict[str, object]:
        """What the index says."""
        document: dict[str, object] = {
            "format": FORMAT,
            "snapshot": format_digest(self.manifest.snapshot_id),
            "manifest": self.manifest.encoded.decode(),
            "known_at": str(self.known_at),
            "form": self.form.value,
            "writer": self.writer,
            "pages": self.pages,
            "uncredited": self.uncredited,
            "edits": self.edits,
            "hidden_edits": self.hidden_edits,
            "unstated_edits": self.unstated_edits,
            "licenses": dict(self.licenses),
            "files": [asdict(each) for each in self.files],
        }
        if self.since:
            document["since"] = format_digest(self.since)
        return document


class RowWriter(Protocol):
    """Writes the rows of one file."""

    def add(self, row: CreditRow) -> None:
        """Take the next row."""
        ...

    def close(self) -> None:
        """Finish; the file stays open."""
        ...


class _Lines:
    """Rows as lines of JSON in one zstd frame."""

    def __init__(self, file: BinaryIO) -> None:
        self._frame = jsonl.Writer(file)

    def add(self, row: CreditRow) -> None:
        """Take the next row."""
        self._frame.line(encode_line(row))

    def close(self) -> None:
        """Finish the frame."""
        self._frame.close()


class Part(NamedTuple):
    """Some pages of a project on one page for people."""

    project: str
    number: int
    """From 1, over all projects."""
    first: str
    last: str
    """Titles."""
    pages: int


class Book(Protocol):
    """A form for people: parts, and an index of them."""

    folder: str
    suffix: str

    def page(self, part: Part, rows: list[CreditRow]) -> str:
        """Return one part."""
        ...

    def index(self, parts: list[Part], made: Credits) -> str:
        """Return the index; ``made`` is without its files."""
        ...


def write(
    client: Client,
    manifest: Manifest,
    target: Path,
    form: Form,
    *,
    since: bytes = b"",
    books: Iterable[Book] = (),
    watch: Callable[[Iterator[Attribution], int], Iterator[Attribution]] = lambda found, _: found,
) -> Credits:
    """Write the credits of a snapshot. Raises ``VerificationError`` when what the server sends is none.

    ``since``: as of ``Reader.attributions``. ``watch`` is given the stream and the pages of the snapshot, and
    gives it back.
    """
    make, writer = _writers(form)
    known_at = client.server_info().position
    bases = {
        part.project: checked_base(client.project(part.project).base_url.rstrip("/"))
        for part in manifest.parts
    }
    pages = sum(part.count for part in manifest.parts)
    with ExitStack() as stack:
        root = stack.enter_context(Folder.at(target, create=True))
        work = stack.enter_context(root.folder(WORK, create=True))
        stack.enter_context(work.held(_LOCK))
        _recover(root, work)
        with work.folder(_NEXT, create=True) as new:
            run = _Run(new, manifest, bases, make, form, tuple(books))
            run.take(watch(client.attributions(manifest.snapshot_id, since=since), pages))
            run.check()
            made = run.made(since, known_at, writer)
            new.write(INDEX, canonical_json(made.document))
        _swap(root, work)
    return made


def _writers(form: Form) -> tuple[Callable[[BinaryIO], RowWriter], str]:
    if form is Form.JSONL:
        return _Lines, jsonl.WRITER
    try:
        from recension_client.credits import parquet  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise ExtraMissingError(
            "Parquet needs pyarrow, which is not installed", hint="pip install 'recension[parquet]'"
        ) from None
    return parquet.Writer, parquet.WRITER


def _recover(root: Folder, work: Folder) -> None:
    """Finish a swap that was killed between its two steps, and forget what was not finished."""
    if work.has(_OLD) and not root.has(CREDITS):
        work.move(_OLD, root, CREDITS)
    for name in (_OLD, _NEXT):
        work.remove(name)


def _swap(root: Folder, work: Folder) -> None:
    if not root.has(CREDITS):
        work.move(_NEXT, root, CREDITS)
    elif not root.exchange(CREDITS, work, _NEXT):
        root.move(CREDITS, work, _OLD)
        work.move(_NEXT, root, CREDITS)
    for name in (_NEXT, _OLD):
        work.remove(name)


class _Run:
    """One pass over the pages of a snapshot."""

    def __init__(
        self,
        new: Folder,
        manifest: Manifest,
        bases: Mapping[str, str],
        make: Callable[[BinaryIO], RowWriter],
        form: Form,
        books: tuple[Book, ...],
    ) -> None:
        self._new = new
        self._manifest = manifest
        self._bases = bases
        self._make = make
        self._form = form
        self._books = books
        self._files: list[CreditFile] = []
        self._parts: list[Part] = []
        self._pages: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()
        self._licenses: Counter[str] = Counter()

    def take(self, found: Iterator[Attribution]) -> None:
        """Write all pages."""
        pending = next(found, None)
        number: Counter[str] = Counter()
        while pending is not None:
            project = pending.project
            if project not in self._bases:
                raise VerificationError(
                    f"the server sent a page of {project[:80]!r}, which is not in the snapshot"
                )
            number[project] += 1
            pending = self._file(project, number[project], pending, found)

    def _file(
        self, project: str, number: int, first: Attribution, found: Iterator[Attribution]
    ) -> Attribution | None:
        """Write the pages of one file of rows, and return the first that is of the next."""
        name, pages = f"{folder_of(project)}-{number:05}.{self._form}", 0
        section: list[CreditRow] = []
        shares = 0
        after: Attribution | None = first
        with self._new.folder(ROWS, create=True) as folder, folder.create(name) as file:
            writer = self._make(file)
            while after is not None and after.project == project and pages < FILE_PAGES:
                row = row_of(after, self._bases)
                writer.add(row)
                self._count(after)
                pages += 1
                if self._books:
                    section.append(row)
                    shares += len(row.contributors)
                    if len(section) >= BOOK_PAGES or shares >= BOOK_SHARES:
                        self._bind(project, section)
                        section, shares = [], 0
                after = next(found, None)
            self._bind(project, section)
            writer.close()
            keep(file)
            sha256, size = digest_of(file)
        self._files.append(CreditFile(f"{ROWS}/{name}", pages, size, sha256))
        return after

    def _count(self, found: Attribution) -> None:
        self._pages[found.project] += 1
        self._licenses[found.license] += 1
        self._sums.update(edits=found.edits, hidden=found.hidden_edits, unstated=found.unstated_edits)

    def _bind(self, project: str, rows: list[CreditRow]) -> None:
        """Write one part of each book."""
        if not rows:
            return
        part = Part(project, len(self._parts) + 1, rows[0].title, rows[-1].title, len(rows))
        self._parts.append(part)
        for book in self._books:
            self._put(book, f"{part.number:05}", book.page(part, rows), len(rows))

    def _put(self, book: Book, name: str, text: str, pages: int) -> None:
        with (
            self._new.folder(book.folder, create=True) as folder,
            folder.create(f"{name}.{book.suffix}") as file,
        ):
            file.write(text.encode("utf-8", "replace"))
            keep(file)
            sha256, size = digest_of(file)
        self._files.append(CreditFile(f"{book.folder}/{name}.{book.suffix}", pages, size, sha256))

    def check(self) -> None:
        """Refuse more pages than the snapshot has; fewer may be granted. Raises ``VerificationError``."""
        for part in self._manifest.parts:
            came = self._pages[part.project]
            if came > part.count:
                raise VerificationError(
                    f"{part.project}: {came:,} pages came, the snapshot has {part.count:,}"
                )

    def made(self, since: bytes, known_at: int, writer: str) -> Credits:
        """Write the indexes for people, and return all that was made."""

        def credits_() -> Credits:
            return Credits(
                self._manifest,
                since,
                known_at,
                self._form,
                writer,
                self._pages.total(),
                self._sums["edits"],
                self._sums["hidden"],
                self._sums["unstated"],
                dict(sorted(self._licenses.items())),
                tuple(sorted(self._files, key=lambda each: each.path)),
            )

        for book in self._books:
            self._put(book, "index", book.index(self._parts, credits_()), 0)
        return credits_()
