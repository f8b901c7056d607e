"""Plain text made of an export, beside it; ``docs/export.md`` has the files.

    FOLDER/plain/         the rendition, one or none: index.json, and a folder of files for each project

Each file is made of one shard and says of which bytes. A killed run goes on behind its last finished file.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from shutil import copyfileobj
from tempfile import TemporaryFile
from threading import Event
from typing import IO, Any, BinaryIO, Self

from recension.model.errors import (
    ExportDiffersError,
    ExportError,
    ExportFormatError,
    ExtraMissingError,
    VerificationError,
)
from recension.model.manifest import canonical_json
from recension_client.export import forms
from recension_client.export.fetching import DATA, WORK
from recension_client.export.folder import Folder, digest_of, keep, naming
from recension_client.export.layout import (
    INDEX,
    MAX_INDEX_BYTES,
    FileRecord,
    Form,
    Index,
    ShardFile,
    shard_files,
)
from recension_client.export.plain_pipe import DONE, FAILED, HEAD, NO_MEMORY
from recension_client.export.rows import MAIN, PlainRow, Row, Unreadable

FORMAT = "recension/rendition/v1"
PLAIN = "plain"
_NEXT = "plain-next"
_DONE = "plain-done"
_OLD = "plain-old"
_JOB = "job.json"
_LOCK = "lock"
_LIBRARY = "mwparserfromhell"
_AS_THEY_ARE = {"text"}
"""Content models whose text is plain already."""
_REASONS = {FAILED: "parser", NO_MEMORY: "memory"}
_MAX_RECORD_BYTES = 65_536

Watch = Callable[[int], None]
"""Told the bytes of text of each page that was rendered, as UTF-8 wikitext."""


@dataclass(frozen=True, slots=True)
class PlainFile:
    """The plain text of one shard."""

    path: str
    """``folder/name``, that of the shard."""
    rows: int
    without: int
    """Rows that have no plain text."""
    text_bytes: int
    """Plain text of its rows, UTF-8."""
    size_bytes: int
    sha256: str
    """Hex digest of the file."""
    source_sha256: str
    """Hex digest of the shard that it was made of."""


@dataclass(frozen=True, slots=True)
class Rendition:
    """The list of a rendition's files."""

    renderer: str
    """The library that made plain text of wikitext, and its version: another one leaves other things out."""
    form: Form
    writer: str
    files: tuple[PlainFile, ...]

    @property
    def document(self) -> dict[str, object]:
        """Return what the index and the lock say of it."""
        return {
            "format": FORMAT,
            "renderer": self.renderer,
            "form": self.form.value,
            "writer": self.writer,
            "files": [asdict(each) for each in self.files],
        }

    @property
    def made(self) -> bool:
        """Whether the files are there; else the lock says that they are wanted, and were not made yet."""
        return bool(self.files)

    def unmade(self, form: Form) -> Rendition:
        """Return what says that the same is wanted of other files, which have that form."""
        return replace(self, form=form, files=())

    @property
    def sources(self) -> list[str]:
        """The hex digests of the shards that it was made of."""
        return [each.source_sha256 for each in self.files]

    @property
    def encoded(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self.document)


def rendition_of(document: dict[str, object], export: Index) -> Rendition:
    """Read back what ``document`` gave. Raises ``ExportFormatError`` for anything else."""
    if document.get("format") != FORMAT:
        raise ExportFormatError(
            f"unknown rendition format {str(document.get('format'))[:80]!r}", hint="use a newer recension"
        )
    try:
        listed: Any = document["files"]
        found = Rendition(
            _text(document["renderer"]),
            Form(_text(document["form"])),
            _text(document["writer"]),
            tuple(PlainFile(**each) for each in listed),
        )
        _check(found, export)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ExportFormatError(f"the list of plain text is damaged: {str(error)[:200]}") from None
    if found.document != document:
        raise ExportFormatError("the list of plain text is damaged: it would be written in another way")
    return found


def _check(found: Rendition, export: Index) -> None:
    if found.made and [each.path for each in found.files] != [each.path for each in export.files]:
        raise ValueError("files that are not the export's")
    if found.form is not export.job.form:
        raise ValueError("another form than the export's")
    for each in found.files:
        numbers = (each.rows, each.without, each.text_bytes, each.size_bytes)
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("numbers below 0")
        if not all(re.fullmatch("[0-9a-f]{64}", digest) for digest in (each.sha256, each.source_sha256)):
            raise ValueError("no digest")


def _text(value: object) -> str:
    if type(value) is not str:
        raise ValueError(f"{str(value)[:80]!r} is no string")
    return value


def renderer_name() -> str:
    """Return the library that renders, with its version. Raises ``ExtraMissingError``."""
    try:
        return f"{_LIBRARY} {version(_LIBRARY)}"
    except PackageNotFoundError:
        raise ExtraMissingError(
            f"plain text needs {_LIBRARY}, which is not installed", hint="pip install 'recension[plain]'"
        ) from None


def read_rendition(root: Folder, export: Index) -> Rendition | None:
    """Return the rendition in a folder, if there is one. Raises ``ExportError``."""
    if not root.has(PLAIN):
        return None
    with root.folder(PLAIN) as plain:
        encoded = plain.read(INDEX, MAX_INDEX_BYTES)
        try:
            found = rendition_of(dict(json.loads(encoded)), export)
        except (ValueError, RecursionError, TypeError) as error:
            raise ExportFormatError(f"{plain.path(INDEX)} is damaged: {str(error)[:200]}") from None
    if not found.made:
        raise ExportFormatError(f"{root.path(PLAIN)} is damaged: its list has no files")
    return found


def differing(root: Folder, export: Index, wanted: Rendition) -> Iterator[str]:
    """Yield what is not as the list has it, by the digests of the files alone."""
    if not wanted.made:
        yield "the plain text was not made yet: recension fetch makes it"
        return
    if not root.has(PLAIN):
        yield f"{root.path(PLAIN)} is missing"
        return
    try:
        with root.folder(PLAIN) as plain:
            yield from (f"{path}: not a file of the rendition" for path in _strangers(plain, wanted))
            for each, source in zip(wanted.files, export.files, strict=True):
                name, file = each.path.split("/")
                if each.source_sha256 != source.sha256:
                    yield f"{PLAIN}/{each.path}: made of another shard than the export's"
                with plain.folder(name) as folder, folder.open(file) as held:
                    if digest_of(held)[0] != each.sha256:
                        yield f"{folder.path(file)}: its digest is another"
    except ExportError as error:
        yield error.message


def _strangers(plain: Folder, wanted: Rendition) -> Iterator[str]:
    paths = {each.path for each in wanted.files}
    folders = {path.split("/")[0] for path in paths}
    yield from (plain.path(name) for name in plain.names() if name not in folders | {INDEX})
    for name in sorted(folders):
        with plain.folder(name) as folder:
            yield from (folder.path(each) for each in folder.names() if f"{name}/{each}" not in paths)


def rendered_otherwise(
    root: Folder, export: Index, wanted: Rendition, *, watch: Watch = lambda _: None
) -> Iterator[str]:
    """Render everything again and yield what comes out otherwise. Raises as ``render`` does.

    Raises ``ExportDiffersError`` where another version of a library is installed than that which made it.
    """
    refuse_other_libraries(wanted, job_of(export))
    shards = shard_files(export.job.manifest, export.job.form)
    for file, source, old in zip(shards, export.files, wanted.files, strict=True):
        with TemporaryFile() as again:
            if _render_shard(root, file, source, again, watch) != old:
                yield f"{PLAIN}/{old.path}: rendered again it is otherwise"


def job_of(export: Index) -> Rendition:
    """Return what a rendition of an export has here, without its files. Raises ``ExtraMissingError``."""
    return Rendition(renderer_name(), export.job.form, forms.writer_name(export.job.form), ())


def refuse_other_libraries(wanted: Rendition, here: Rendition) -> None:
    """Refuse libraries that give other bytes than the wanted ones. Raises ``ExportDiffersError``."""
    for old, new in ((wanted.renderer, here.renderer), (wanted.writer, here.writer)):
        if old != new:
            raise ExportDiffersError(
                f"the plain text was made by {old}, here is {new}",
                hint="install that version for the same bytes, or take others: recension fetch --rewrite",
            )


def render(root: Folder, export: Index, *, workers: int = 2, watch: Watch = lambda _: None) -> Rendition:
    """Make the plain text of an export, or leave it where it is made already.

    Raises ``ExtraMissingError``, ``VerificationError`` where a shard is not the export's, ``ExportError`` for
    a folder that cannot be used, or that holds something else in the place of plain text.
    """
    job = job_of(export)
    with ExitStack() as stack:
        work = stack.enter_context(root.folder(WORK, create=True))
        stack.enter_context(work.held(_LOCK))
        _recover(root, work)
        held = _held(root, export, job)
        if held is not None:
            return held
        _refuse_foreign(root)
        made = _Run(root, work, export, job, workers, watch).run()
        _swap(root, work)
        return made


def _held(root: Folder, export: Index, job: Rendition) -> Rendition | None:
    """Return the rendition that is there, if it is the one wanted and whole."""
    with suppress(ExportError):
        held = read_rendition(root, export)
        if held is not None and replace(held, files=()) == job:
            return None if any(differing(root, export, held)) else held
    return None


def _refuse_foreign(root: Folder) -> None:
    """Refuse to put plain text in the place of what no recension wrote. Raises ``ExportError``."""
    if not root.has(PLAIN):
        return
    with root.folder(PLAIN) as plain:
        with suppress(ExportError, ValueError, RecursionError, LookupError, TypeError):
            document = json.loads(plain.read(INDEX, MAX_INDEX_BYTES))
            if str(document["format"]).startswith("recension/"):
                return
        raise ExportError(
            f"{plain.shown} is no plain text that was made here: its {INDEX} is missing or damaged",
            hint="move it away, or name another folder",
        )


def _recover(root: Folder, work: Folder) -> None:
    """Finish a swap that was killed between its two steps."""
    if work.has(_OLD):
        if not root.has(PLAIN):
            work.move(_NEXT, root, PLAIN)
        work.remove(_OLD)


def _swap(root: Folder, work: Folder) -> None:
    if not root.has(PLAIN):
        work.move(_NEXT, root, PLAIN)
    elif not root.exchange(PLAIN, work, _NEXT):
        root.move(PLAIN, work, _OLD)
        work.move(_NEXT, root, PLAIN)
    for name in (_DONE, _NEXT, _OLD):
        work.remove(name)


class _Run:
    """One attempt to render what is missing."""

    def __init__(
        self, root: Folder, work: Folder, export: Index, job: Rendition, workers: int, watch: Watch
    ) -> None:
        self._root = root
        self._work = work
        self._export = export
        self._job = job
        self._workers = workers
        self._watch = watch
        self._stop = Event()

    def run(self) -> Rendition:
        """Render all shards, and list them."""
        # Of this export alone: of another one, files might be left over that this one has not.
        export = sha256(self._export.encoded).hexdigest()
        job = canonical_json(self._job.document | {"export": export})
        with self._work.folder(_DONE, create=True) as done:
            begun = done.read(_JOB, _MAX_RECORD_BYTES) if done.has(_JOB) else b""
        if begun != job:
            self._work.remove(_DONE)
            self._work.remove(_NEXT)
        shards = shard_files(self._export.job.manifest, self._export.job.form)
        with (
            self._work.folder(_DONE, create=True) as done,
            self._work.folder(_NEXT, create=True) as staged,
            ThreadPoolExecutor(self._workers, "render") as pool,
        ):
            done.write(_JOB, job)
            futures = [
                pool.submit(self._shard, done, staged, file, record)
                for file, record in zip(shards, self._export.files, strict=True)
            ]
            try:
                made = [future.result() for future in futures]
            finally:
                self._stop.set()
            whole = replace(self._job, files=tuple(made))
            staged.write(INDEX, whole.encoded)
            return whole

    def _shard(self, done: Folder, staged: Folder, file: ShardFile, source: FileRecord) -> PlainFile:
        name = f"{file.folder}-{file.name}.json"
        with staged.folder(file.folder, create=True) as folder:
            finished = _finished(done, name, folder, file, source)
            if finished is not None:
                self._watch(source.text_bytes)
                return finished
            record = self._copied(folder, file, source) or self._write(folder, file, source)
        done.write(name, json.dumps(asdict(record)).encode())
        return record

    def _write(self, folder: Folder, file: ShardFile, source: FileRecord) -> PlainFile:
        part = f"{file.name}.part"
        with naming(folder.path(file.name)), folder.create(part) as plain:
            record = _render_shard(self._root, file, source, plain, self._seen)
            keep(plain)
        folder.rename(part, file.name)
        return record

    def _copied(self, folder: Folder, file: ShardFile, source: FileRecord) -> PlainFile | None:
        """Take the plain text of a shard that is the same as it was when it was rendered, if there is one."""
        with suppress(ExportError):
            held = read_rendition(self._root, self._export)
            if held is None or replace(held, files=()) != self._job:
                return None
            record = next((each for each in held.files if each.path == source.path), None)
            if record is None or record.source_sha256 != source.sha256:
                return None
            part = f"{file.name}.part"
            with (
                naming(folder.path(file.name)),
                self._root.folder(PLAIN) as plain,
                plain.folder(file.folder) as old,
                old.open(file.name) as shard,
                folder.create(part) as copy,
            ):
                copyfileobj(shard, copy)
                keep(copy)
                same = digest_of(copy)[0] == record.sha256
            if same:
                folder.rename(part, file.name)
                self._watch(source.text_bytes)
                return record
        return None

    def _seen(self, size: int) -> None:
        if self._stop.is_set():
            raise ExportError("stopped")
        self._watch(size)


def _render_shard(
    root: Folder, file: ShardFile, source: FileRecord, into: BinaryIO, watch: Watch
) -> PlainFile:
    rows = without = text_bytes = 0
    with (
        root.folder(DATA) as data,
        data.folder(file.folder) as shards,
        shards.open(file.name) as shard,
        forms.write_plain(file.form, into) as writer,
        Renderer() as renderer,
    ):
        if digest_of(shard)[0] != source.sha256:
            raise VerificationError(
                f"{shards.path(file.name)} is not the file of the export", hint="run: recension fetch"
            )
        shard.seek(0)
        for row in forms.read(file.form, shard):
            if isinstance(row, Unreadable):
                raise VerificationError(f"{shards.path(file.name)} holds something else than rows: {row.why}")
            made = plain_row(row, renderer)
            rows += 1
            without += made.text is None
            text_bytes += len(made.text or b"")
            writer.add(made)
            watch(len(row.text or b""))
        writer.close()
    digest, size = digest_of(into)
    return PlainFile(source.path, rows, without, text_bytes, size, digest, source.sha256)


def _finished(
    done: Folder, name: str, folder: Folder, file: ShardFile, source: FileRecord
) -> PlainFile | None:
    """Return the record of a shard that was rendered before, if nothing has changed since."""
    if not done.has(name):
        return None
    with suppress(ValueError, TypeError, ExportError):
        record = PlainFile(**json.loads(done.read(name, _MAX_RECORD_BYTES)))
        with folder.open(file.name) as plain:
            same = digest_of(plain)[0] == record.sha256
        return record if same and record.source_sha256 == source.sha256 else None
    return None


def plain_row(row: Row, renderer: Renderer) -> PlainRow:
    """Return the row of a page's plain text."""
    text, reason = _rendered(row, renderer)
    return PlainRow(
        row.id,
        row.url,
        row.title,
        None if text is None else text.encode(),
        row.page_id,
        row.rev_id,
        row.timestamp,
        row.namespace,
        row.digest,
        row.license,
        reason,
    )


def _rendered(row: Row, renderer: Renderer) -> tuple[str | None, str | None]:
    if row.text is None:
        return None, "withheld"
    model = next(slot.model for slot in row.slots or () if slot.role == MAIN)
    if model in _AS_THEY_ARE:
        return row.text.decode(), None
    if model != "wikitext":
        return None, "model"
    return renderer.render(row.text.decode())


class Renderer:
    """A process that makes plain text of wikitext, begun when it is needed."""

    def __init__(
        self, command: Sequence[str] = (sys.executable, "-P", "-m", "recension_client.export.plaintext")
    ) -> None:
        """``command``: what to run; without the folder that one is in, whose ``re.py`` is somebody else's."""
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and self._process is not None:
            self._process.kill()  # it may be at a page that takes long
        self._end()

    def render(self, wikitext: str) -> tuple[str | None, str | None]:
        """Return (plain text, None), or (None, why there is none)."""
        process = self._process or self._begin()
        requests, answers = _pipes(process)
        encoded = wikitext.encode()
        with suppress(BrokenPipeError):
            requests.write(HEAD.pack(0, len(encoded)) + encoded)
            requests.flush()
        head = answers.read(HEAD.size)
        status, length = HEAD.unpack(head) if len(head) == HEAD.size else (None, 0)
        answer = answers.read(length)
        if status is None or len(answer) < length:
            return None, "time" if self._end() == -signal.SIGVTALRM else "parser"
        return (answer.decode(), None) if status == DONE else (None, _REASONS[status])

    def _begin(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(  # noqa: S603 - our own
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return self._process

    def _end(self) -> int:
        """End the process and return how it ended."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        requests, answers = _pipes(process)
        with suppress(BrokenPipeError):
            requests.close()
        answers.close()
        return process.wait()


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None  # noqa: S101 - both are asked for where it begins
    assert process.stdout is not None  # noqa: S101
    return process.stdin, process.stdout
