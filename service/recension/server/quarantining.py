"""The command ``quarantine``: what ingests could not take, looked at, taken again, handed out."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from recension.model.errors import InvalidArgumentError, NotAStoreError, StoreError
from recension.model.instant import format_instant
from recension.server.ingest import report
from recension.server.opening import OpenStore, take_data
from recension.server.quarantine import Kept, Quarantine, kept_files, read_kept
from recension.server.retrying import retry
from recension.server.telling import plain

_ID_CHARS = 12
_SHOWN = 20
_SHOWN_CHARS = 400
_REJECTED = 1
_NOTHING = "nothing is in quarantine\n"


class _File(NamedTuple):
    """A file of the quarantine."""

    project: str
    id: str
    path: Path


def add_commands(commands: Any, open_store: OpenStore) -> None:
    """Add the command to the subparsers of ``recension-server``."""
    group = commands.add_parser("quarantine", help="records that ingests could not take")
    kinds = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    one = kinds.add_parser("list", help="what there is: by project, source and reason")
    one.add_argument("project", metavar="PROJECT", nargs="?", help="of this project alone")
    _finish(one, _list)

    one = kinds.add_parser("show", help="records: where they were, why they were rejected, how they begin")
    _take_choice(one)
    one.add_argument(
        "--limit", type=int, default=_SHOWN, metavar="N", help="at most so many (%(default)s), 0 for all"
    )
    _finish(one, _show)

    one = kinds.add_parser("export", help="records as NDJSON to standard output, or each as a file")
    _take_choice(one)
    one.add_argument("--into", type=Path, metavar="FOLDER", help="an empty folder for files")
    _finish(one, _export)

    one = kinds.add_parser("retry", help="take records again, after what was in their way was put right")
    one.add_argument("project", metavar="PROJECT")
    one.add_argument("id", metavar="ID", nargs="?", default="", help="of one source; of all, without")
    one.add_argument("--file", type=Path, metavar="FILE", help="where the file is that ID came from")
    one.add_argument("--quiet", action="store_true", help="no table")
    _finish(one, lambda arguments: _retry(arguments, open_store))


def _take_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", metavar="PROJECT")
    parser.add_argument("id", metavar="ID", nargs="?", default="", help="of one source, as list has it")
    parser.add_argument("--reason", default="", metavar="REASON", help="of this reason alone")


def _finish(parser: argparse.ArgumentParser, run: Any) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON")
    take_data(parser, run)


def _files(data: Path, project: str = "", id_: str = "") -> list[_File]:
    """Return the files that are meant.

    Raises ``InvalidArgumentError`` for an id that is not one file's, or no name, and ``NotAStoreError``.
    """
    if not data.is_dir():
        raise NotAStoreError(f"{data}: there is no such directory", hint="check the path", path=data)
    if project:
        Quarantine(data, project)  # or a name could lead out of it
    found = [
        _File(path.parent.name, Quarantine.digest_in(path)[:_ID_CHARS], path)
        for path in kept_files(data, project)
    ]
    if not id_:
        return found
    meant = [file for file in found if Quarantine.digest_in(file.path).startswith(id_)]
    if len(meant) != 1:
        raise InvalidArgumentError(
            f"id: {len(meant)} sources have an id that begins with {id_[:80]!r}",
            hint="see recension-server quarantine list",
            field="id",
        )
    return meant


# --- list -----------------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace) -> int:
    documents = [_summary(file) for file in _files(arguments.data, arguments.project or "")]
    if arguments.json:
        sys.stdout.write(json.dumps(documents, ensure_ascii=False) + "\n")
        return 0
    if not documents:
        sys.stdout.write(_NOTHING)
        return 0
    table = Table(box=None)
    for column in ("project", "id", "source", "reason", "records", "last written"):
        table.add_column(column, justify="right" if column == "records" else "left")
    for one in documents:
        for reason, count in one["reasons"].items():
            source = Text(plain(one["source"]))
            table.add_row(one["project"], one["id"], source, Text(reason), f"{count:,}", one["written_at"])
    Console().print(table)
    return 0


def _summary(file: _File) -> dict[str, Any]:
    reasons: Counter[str] = Counter()
    first: Kept | None = None
    for kept in read_kept(file.path):
        first = first or kept
        reasons[kept.reason] += 1
    written_at = format_instant(int(file.path.stat().st_mtime) * 1_000_000)
    return {
        "project": file.project,
        "id": file.id,
        "form": first.source.form if first else "",
        "source": first.source.name if first else "",
        "path": first.source.path if first else "",
        "records": reasons.total(),
        "reasons": dict(sorted(reasons.items())),
        "written_at": written_at,
        "file": str(file.path),
    }


# --- show, export -----------------------------------------------------------------------------------


def _chosen(arguments: argparse.Namespace) -> Iterator[tuple[_File, Kept]]:
    for file in _files(arguments.data, arguments.project, arguments.id):
        for kept in read_kept(file.path):
            if arguments.reason in ("", kept.reason):
                yield file, kept


def _document(file: _File, kept: Kept) -> dict[str, Any]:
    return {"project": file.project, "id": file.id, **json.loads(kept.line())}


def _show(arguments: argparse.Namespace) -> int:
    number = -1
    for number, (file, kept) in enumerate(_chosen(arguments)):
        if arguments.limit and number == arguments.limit:
            sys.stderr.write(f"more than {arguments.limit:,}: see --limit, or export\n")
            break
        if arguments.json:
            sys.stdout.write(json.dumps(_document(file, kept), ensure_ascii=False) + "\n")
            continue
        text = plain(kept.excerpt.decode("utf-8", "backslashreplace"))
        more = "..." if len(text) > _SHOWN_CHARS or len(kept.record) > len(kept.excerpt) else ""
        sys.stdout.write(
            f"{file.id} {plain(kept.source.name)}: {plain(kept.position)}\n"
            f"  {kept.reason}: {plain(kept.message)}\n"
            f"  {text[:_SHOWN_CHARS]}{more}\n"
        )
    if number < 0:
        sys.stderr.write(_NOTHING)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    if arguments.into is None:
        for file, kept in _chosen(arguments):
            sys.stdout.write(json.dumps(_document(file, kept), ensure_ascii=False) + "\n")
        return 0
    folder: Path = arguments.into
    with _explained(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_empty = not any(folder.iterdir())
    if not is_empty:
        raise InvalidArgumentError(
            f"{folder}: there is something in it", hint="choose an empty folder", field="into"
        )
    number = 0
    for number, (file, kept) in enumerate(_chosen(arguments), 1):
        name = f"{file.id}-{number:06d}-{kept.reason}"
        _write(folder / name, kept.record or kept.excerpt)
        document = _document(file, kept) | {"file": name}
        described = {key: value for key, value in document.items() if not key.endswith("_base64")}
        sys.stdout.write(json.dumps(described, ensure_ascii=False) + "\n")
    sys.stderr.write(f"{number:,} records are in {plain(str(folder))}\n")
    return 0


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written: {error.strerror}", hint="choose another folder", path=path
        ) from error


def _write(path: Path, content: bytes) -> None:
    with _explained(path):
        path.touch(mode=0o600, exist_ok=False)
        path.write_bytes(content)


# --- retry ----------------------------------------------------------------------------------------


def _retry(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    files = _files(arguments.data, arguments.project, arguments.id)
    if arguments.file is not None and len(files) != 1:
        raise InvalidArgumentError(
            f"file: it is of one source, and {len(files)} are meant",
            hint="say which, by its id",
            field="file",
        )
    if not files:
        sys.stderr.write(_NOTHING)
    status = 0
    with closing(open_store(arguments.data)) as store:
        for file in files:
            summary = retry(
                store,
                arguments.project,
                file.path,
                data=arguments.data,
                source=arguments.file,
                quiet=arguments.quiet,
            )
            report(summary, json_output=arguments.json, quiet=arguments.quiet)
            status = max(status, 3 if summary.faults else _REJECTED if summary.rejected.total() else 0)
    return status
