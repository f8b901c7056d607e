"""The command ``retractions``: what was withdrawn from a lock's pin, out of the files with it, the answer."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from recension.model.digest import format_digest
from recension.model.errors import ExportDiffersError, LockError
from recension.model.instant import format_instant
from recension.model.retraction import Part, Withdrawn
from recension_client import lockfile
from recension_client.cli import arguments, output
from recension_client.cli.arguments import DIFFERENT, OK, Commands, connect
from recension_client.cli.exports import folder_of, render_for
from recension_client.cli.withdrawn import in_files, lost_of, pin_of
from recension_client.client import Client
from recension_client.export.folder import Folder
from recension_client.export.withdrawing import keep_list, still_there, withdraw
from recension_client.lockfile import Lock

_WHAT = ("list", "apply", "acknowledge")


def register(commands: Commands) -> None:
    """Add the command."""
    one = commands.add("retractions", "list what was withdrawn since the pin, and take it out", _retractions)
    one.description = (
        "List what was withdrawn from the lock's pin since it was made, and leave with 1 while any of it is"
        " in the fetched files or not answered for. apply takes the texts out of the files and the lock;"
        " acknowledge tells the server that it is done."
    )
    one.add_argument(
        "task", metavar="WHAT", nargs="?", choices=_WHAT, default="list", help="list, apply or acknowledge"
    )
    arguments.lock(one)
    one.add_argument("--folder", metavar="FOLDER", type=Path, help="where the files are; default: the lock's")
    one.add_argument("--workers", metavar="N", type=arguments.workers, default=2, help="of plain text")
    one.add_argument("--rewrite", action="store_true", help="make plain text anew by another library")


def _retractions(options: Namespace) -> int:
    lock = lockfile.read(options.lock)
    with connect(options, locked=lock.server) as client:
        name = pin_of(client, lock)
        entries = list(client.retractions(name))
        if options.task == "acknowledge":
            return _acknowledge(client, lock, name, entries, options)
    if options.task == "apply":
        return _apply(lock, entries, options)
    return _list(lock, entries, options)


def _list(lock: Lock, entries: Sequence[Withdrawn], options: Namespace) -> int:
    there = in_files(lock, entries, folder_of(lock, options)[0])
    rows = []
    for one in entries:
        held = there is not None and (one.project, one.page_id) in there
        files = "text is there" if held else "-" if there is None or Part.TEXT not in one.parts else "removed"
        rows.append((one, files, held or not one.acknowledged))
    if options.json:
        for one, files, owed in rows:
            output.write_json(
                {
                    "project": one.project,
                    "page_id": one.page_id,
                    "rev_id": one.rev_id,
                    "parts": [part.value for part in one.parts],
                    "reason": one.reason,
                    "position": one.position,
                    "withdrawn_at": format_instant(one.withdrawn_at),
                    "files": files,
                    "acknowledged": one.acknowledged,
                    "outstanding": owed,
                }
            )
    elif rows:
        output.write_table(
            ["project", "page", "revision", "withdrawn", "reason", "since", "files", "answered"],
            [
                (
                    one.project, one.page_id, one.rev_id, ",".join(one.parts), one.reason,
                    format_instant(one.withdrawn_at), files, "yes" if one.acknowledged else "no",
                )
                for one, files, _ in rows
            ],
        )  # fmt: skip
    else:
        output.note("nothing was withdrawn since the pin was made")
    return DIFFERENT if any(owed for _, _, owed in rows) else OK


def _apply(lock: Lock, entries: Sequence[Withdrawn], options: Namespace) -> int:
    if lock.index is None:
        raise LockError(f"{options.lock} names no files", hint="there is nothing to take out")
    target, named = folder_of(lock, options)
    lost = lost_of(entries)
    with Folder.at(target) as root:
        before = still_there(root, lock.index, lost)
        with output.transfer("apply", sum(record.text_bytes for record in lock.index.files)) as watch:
            index = withdraw(root, lock.index, lost, watch=watch)
        keep_list(root, index)
    lockfile.write(options.lock, lock.with_files(index, named))
    if lock.rendition is not None:
        render_for(lock.rendition, index, target, options)
    less = sum(record.withheld for record in index.files)
    if options.json:
        output.write_json(
            {"snapshot": format_digest(lock.manifest.snapshot_id), "removed": len(before), "withheld": less}
        )
    else:
        output.write(f"{len(before):,} texts removed; the files now lack {less:,}\n".encode())
    return OK


def _acknowledge(
    client: Client, lock: Lock, name: str, entries: Sequence[Withdrawn], options: Namespace
) -> int:
    there = in_files(lock, entries, folder_of(lock, options)[0])
    if there:
        raise ExportDiffersError(
            f"{len(there):,} withdrawn texts are in the files", hint="run: recension retractions apply"
        )
    owed = [one for one in entries if not one.acknowledged]
    if not owed:
        output.note("nothing is to be answered for")
        if options.json:
            output.write_json({"pin": name, "entries": 0, "statement": None})
        return OK
    said = client.acknowledge(name, max(one.position for one in owed))
    if options.json:
        output.write_json({"pin": name, "entries": len(owed), "statement": said.encoded.decode()})
    else:
        output.write(
            f"answered for {len(owed):,} entries of {name}, up to position {said.through}\n".encode()
        )
    return OK
