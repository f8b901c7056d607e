"""Commands about fetched files: ``fetch``, ``verify``."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from recension.model.digest import format_digest
from recension_client.cli import arguments, output
from recension_client.cli.arguments import DIFFERENT, OK, Commands, connect
from recension_client.export import checking
from recension_client.export.fetching import Fetched, fetch, needed_bytes, read_held
from recension_client.export.folder import Folder
from recension_client.export.layout import Form

FORMS = {"jsonl": Form.JSONL, "parquet": Form.PARQUET}
_SHOWN = 20


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    one = commands.add("fetch", "fetch a snapshot into a folder, checked against its root", _fetch)
    arguments.snapshot(one, "snapshot", "SNAPSHOT")
    one.add_argument("folder", metavar="FOLDER", type=Path, help="where its files go: FOLDER/data")
    one.add_argument("--form", choices=list(FORMS), default="jsonl", help="default: jsonl, in zstd")
    one.add_argument("--workers", metavar="N", type=arguments.workers, default=2, help="shards at a time")

    one = commands.add("verify", "check fetched files against their snapshot, without a server", _verify)
    one.add_argument("folder", metavar="FOLDER", type=Path)


def _fetch(options: Namespace) -> int:
    with connect(options) as client:
        manifest = client.snapshot(options.snapshot)
        text = sum(part.text_bytes for part in manifest.parts)
        pages = sum(part.count for part in manifest.parts)
        output.note(
            f"{pages:,} pages, {text:,} bytes of text: about {needed_bytes(manifest):,} bytes on disk"
        )
        with output.transfer("fetch", text) as watch:
            done = fetch(
                client,
                manifest,
                options.folder,
                FORMS[options.form],
                workers=options.workers,
                watch=watch,
            )
    _say(done, options)
    return OK


def _say(done: Fetched, options: Namespace) -> None:
    job = done.index.job
    size = sum(record.size_bytes for record in done.index.files)
    if options.json:
        output.write_json(
            {
                "snapshot": format_digest(job.manifest.snapshot_id),
                "folder": str(options.folder),
                "form": job.form.value,
                "writer": job.writer,
                "pages": sum(record.rows for record in done.index.files),
                "withheld": sum(record.withheld for record in done.index.files),
                "text_bytes": sum(record.text_bytes for record in done.index.files),
                "size_bytes": size,
                "received_bytes": done.received_bytes,
                "was_there": done.was_there,
            }
        )
        return
    if done.was_there:
        output.note("all of it was there already")
        return
    output.note(f"{len(done.index.files):,} files, {size:,} bytes; {done.received_bytes:,} bytes received")


def _verify(options: Namespace) -> int:
    with Folder.at(options.folder) as root:
        index = read_held(root)
        text = sum(record.text_bytes for record in index.files)
        with output.transfer("verify", text) as watch:
            verdict = checking.check(root, index, watch=watch)
    return say_verdict(verdict, index.job.manifest.snapshot_id, options)


def say_verdict(verdict: checking.Verdict, snapshot_id: bytes, options: Namespace) -> int:
    """Write what was found, and return the exit code."""
    if options.json:
        output.write_json(
            {
                "ok": verdict.ok,
                "snapshot": format_digest(snapshot_id),
                "problems": verdict.problems,
                "projects": [
                    {
                        "project": found.project,
                        "ok": found.ok,
                        "pages": found.pages,
                        "text_bytes": found.text_bytes,
                        "problems": found.problems,
                    }
                    | {name: pages.named for name, pages in _kinds(found)}
                    | {f"{name}_count": pages.count for name, pages in _kinds(found)}
                    for found in verdict.projects
                ],
            }
        )
        return OK if verdict.ok else DIFFERENT
    lines = list(verdict.problems)
    for found in verdict.projects:
        lines += [f"{found.project}: {problem}" for problem in found.problems]
        for name, pages in _kinds(found):
            shown = ", ".join(map(str, pages.named[:_SHOWN])) + (", ..." if pages.count > _SHOWN else "")
            if pages.count:
                lines.append(f"{found.project}: {name}: {shown} ({pages.count:,})")
        if found.ok:
            lines.append(f"{found.project}: ok: {found.pages:,} pages, {found.text_bytes:,} bytes of text")
    lines.append(f"{'ok' if verdict.ok else 'DIFFERENT'}: {format_digest(snapshot_id)}")
    for line in lines:
        output.write_line((line,), (0,))
    return OK if verdict.ok else DIFFERENT


def _kinds(found: checking.Findings) -> tuple[tuple[str, checking.Pages], ...]:
    return (
        ("differ", found.differ),
        ("missing", found.missing),
        ("extra", found.extra),
        ("retracted", found.retracted),
    )
