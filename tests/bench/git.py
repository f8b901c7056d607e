"""git on the same history: an import stream made of our events, packs, and the questions git can answer."""

from __future__ import annotations

import subprocess
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha1
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from recension.model.event import Delete, Edit, Event, Move, Presence, Restore

PACKED = ("--depth=50", "--window=250")
"""As ``git gc --aggressive`` packs."""


@dataclass(slots=True)
class History:
    """What was written into an import stream, and where git keeps it."""

    blobs: dict[str, str] = field(default_factory=dict)
    """Path by blob id: git's packer sorts by it."""
    revisions: dict[int, str] = field(default_factory=dict)
    """Blob id by revision id."""
    times: list[int] = field(default_factory=list)
    """Of the commits, ascending: all that happens in one instant is one commit."""
    commits: list[str] = field(default_factory=list)
    """Ids of the commits, known after the import."""
    raw_bytes: int = 0
    """Of the distinct texts."""

    def commit_at(self, time: int) -> str:
        """Return the commit that was newest then. git gets this for nothing."""
        return self.commits[bisect_right(self.times, time) - 1]


def blob_id(text: bytes) -> str:
    """Return git's name of a text."""
    return sha1(b"blob %d\0" % len(text) + text, usedforsecurity=False).hexdigest()


def main_text(event: Event) -> bytes | None:
    """Return an edit's main text, if it has one."""
    if not isinstance(event.what, Edit):
        return None
    return next((slot.text for slot in event.what.slots if slot.presence is Presence.PRESENT), None)


def plain(title: str) -> str:
    """Return a title as a path that no other title can stand in the way of."""
    return title.replace("/", "%2F")


class _Stream:
    """Writes a history in the language of ``git fast-import``."""

    def __init__(self, file: IO[bytes], path_of: Callable[[str], str]) -> None:
        self.history = History()
        self._file = file
        self._path_of = path_of
        self._paths: dict[int, str] = {}
        self._texts: dict[int, str] = {}
        self._at: dict[str, int] = {}
        self._marks: dict[str, int] = {}

    def write(self, time: int, events: list[Event]) -> None:
        """Write what happened in one instant as a commit."""
        touched: dict[str, None] = {}
        for event in events:
            self._apply(event, touched)
        self.history.times.append(time)
        who = (events[0].what.contributor.name or "nobody").translate({60: None, 62: None, 10: None})
        comment = events[0].what.comment.text.encode()
        lines = [b"commit refs/heads/main", b"mark :%d" % (2**40 + len(self.history.times))]
        lines.append(f"committer {who} <> {max(0, time // 1_000_000)} +0000".encode())
        lines.append(b"data %d\n%s" % (len(comment), comment))
        lines += [b"D " + _quoted(path) for path in touched if path not in self._at]
        for path in touched:
            if path in self._at:
                mark = self._marks[self._texts[self._at[path]]]
                lines.append(b"M 100644 :%d %s" % (mark, _quoted(path)))
        self._file.write(b"\n".join([*lines, b"\n"]))

    def _apply(self, event: Event, touched: dict[str, None]) -> None:
        page, what = event.page_id, event.what
        match what:
            case Edit():
                if not self.blob(event):
                    return
                # A dump names a page by its last title, which is as good a path as any.
                self._put(page, self._path_of(what.title), touched)
            case Move():
                self._put(page, self._path_of(what.to_title), touched)
            case Delete():
                self._drop(page, touched)
            case Restore():
                self._put(page, self._path_of(what.title), touched)
            case _:
                pass

    def blob(self, event: Event) -> bool:
        """Write an edit's text unless it was written before; False if the edit has none."""
        text, edit = main_text(event), event.what
        if text is None or not isinstance(edit, Edit):
            return False
        name = blob_id(text)
        self._texts[event.page_id] = self.history.revisions[edit.rev_id] = name
        if name not in self._marks:
            self._marks[name] = len(self._marks) + 1
            self.history.blobs[name] = self._path_of(edit.title)
            self.history.raw_bytes += len(text)
            self._file.write(b"blob\nmark :%d\ndata %d\n%s\n" % (self._marks[name], len(text), text))
        return True

    def _put(self, page: int, path: str, touched: dict[str, None]) -> None:
        self._drop(page, touched)
        if page in self._texts:
            self._paths[page], self._at[path], touched[path] = path, page, None

    def _drop(self, page: int, touched: dict[str, None]) -> None:
        path = self._paths.pop(page, None)
        if path is not None and self._at.get(path) == page:
            del self._at[path]
            touched[path] = None


def _quoted(path: str) -> bytes:
    return b'"' + path.encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


def write_stream(events: Iterable[Event], path: Path, path_of: Callable[[str], str] = str) -> History:
    """Write events, in the order of their time, as an import stream."""
    with path.open("wb") as file:
        stream = _Stream(file, path_of)
        for time, some in groupby(events, key=lambda event: event.time):
            stream.write(time, list(some))
    return stream.history


def write_blobs(events: Iterable[Event], path: Path) -> History:
    """Write the texts of edits as an import stream without commits."""
    with path.open("wb") as file:
        stream = _Stream(file, plain)
        for event in events:
            stream.blob(event)
    return stream.history


class Git:
    """A bare repository. Its settings are those of its own; a person's are not read."""

    def __init__(self, path: Path) -> None:
        """Make an empty one."""
        self.path = path
        subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(path)], check=True)

    def run(self, *command: str, stdin: IO[bytes] | bytes | None = None) -> bytes:
        """Run one command and return what it writes."""
        given = stdin if isinstance(stdin, bytes) else None
        process = subprocess.Popen(
            ["git", "-C", str(self.path), *command],
            stdin=subprocess.PIPE if isinstance(stdin, bytes) else stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, said = process.communicate(given)
        if process.returncode:
            raise RuntimeError(f"git {command[0]}: {said.decode(errors='replace').strip()}")
        return out

    def fast_import(self, stream: Path, history: History) -> None:
        """Import a stream; the history learns the ids of its commits."""
        marks = self.path / "marks"
        with stream.open("rb") as file:
            self.run("fast-import", "--quiet", f"--export-marks={marks}", stdin=file)
        named = dict(line.split() for line in marks.read_text().splitlines())
        marks.unlink()
        history.commits = [named[f":{2**40 + at}"] for at in range(1, len(history.times) + 1)]

    def repack(self) -> None:
        """Pack as tightly as git can, with all cores; texts that no commit shows stay, as they do with us."""
        self.run("repack", "-a", "-d", "-f", "--keep-unreachable", "--quiet", *PACKED)

    def packed_bytes(self) -> int:
        """Return the bytes of the repository's packs and their indexes."""
        return sum(path.stat().st_size for path in (self.path / "objects/pack").iterdir())

    def pack_blobs(self, history: History, *, window: int = 250, threads: int = 1) -> tuple[int, int]:
        """Pack the bare texts with the paths as hints; return (pack, index) bytes.

        One thread by default: with more, each works on a part of its own and the pack grows. The effort
        grows with ``window``; ``git gc`` takes 10.
        """
        name = self.path / "blobs"
        listed = "".join(f"{blob} {path}\n" for blob, path in history.blobs.items())
        self.run(
            "pack-objects", "--quiet", "--no-reuse-delta", f"--threads={threads}",
            "--depth=50", f"--window={window}", str(name),
            stdin=listed.encode(),
        )  # fmt: skip
        made = {path.suffix: path.stat().st_size for path in self.path.glob("blobs-*")}
        for path in self.path.glob("blobs-*"):
            path.unlink()
        return made[".pack"], made[".idx"]


class CatFile:
    """A running ``git cat-file --batch``. Used by ``with``."""

    def __init__(self, git: Git) -> None:
        """Of this repository."""
        self._git = git
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it."""
        self._process = subprocess.Popen(
            ["git", "-C", str(self._git.path), "cat-file", "--batch"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        if self._process is not None:
            self._process.communicate()

    def text(self, name: str) -> bytes:
        """Return a blob by its id, or by ``commit:path``."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(name.encode() + b"\n")
        process.stdin.flush()
        size = int(process.stdout.readline().rsplit(b" ", 1)[1])
        return process.stdout.read(size + 1)[:-1]


def batch_texts(answer: bytes) -> Iterator[bytes]:
    """Yield the texts of what ``git cat-file --batch`` wrote at once."""
    at = 0
    while at < len(answer):
        end = answer.index(b"\n", at)
        size = int(answer[at:end].rsplit(b" ", 1)[1])
        yield answer[end + 1 : end + 1 + size]
        at = end + size + 2
