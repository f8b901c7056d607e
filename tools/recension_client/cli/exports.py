"""Commands about fetched files: ``fetch``, ``verify``."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from recension.model.digest import format_digest, parse_digest
from recension.model.errors import (
    ExportDiffersError,
    ExportFormatError,
    InvalidArgumentError,
    LockError,
    VerificationError,
)
from recension.model.manifest import Manifest
from recension.model.retraction import Withdrawn
from recension_client import lockfile
from recension_client.cli import arguments, output
from recension_client.cli.arguments import DIFFERENT, OK, Commands, connect
from recension_client.cli.withdrawn import in_files, pin_of
from recension_client.client import Client
from recension_client.export import checking, rendition
from recension_client.export.fetching import Fetched, fetch, needed_bytes, read_held
from recension_client.export.folder import Folder
from recension_client.export.layout import Form, Index, Terms
from recension_client.export.rendition import Rendition
from recension_client.lockfile import Lock
from recension_client.trust import trust_of

FORMS = {"jsonl": Form.JSONL, "parquet": Form.PARQUET}
_SHOWN = 20


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    one = commands.add("fetch", "fetch a snapshot into a folder, checked against its root", _fetch)
    one.add_argument(
        "what",
        metavar="WHAT",
        nargs="*",
        help="SNAPSHOT FOLDER, or FOLDER alone or nothing: then what the lock says",
    )
    arguments.lock(one)
    one.add_argument("--form", choices=list(FORMS), help="default: the lock's, else jsonl, in zstd")
    one.add_argument("--workers", metavar="N", type=arguments.workers, default=2, help="shards at a time")
    one.add_argument(
        "--plain",
        action="store_true",
        help="make plain text of the wikitext too, in FOLDER/plain (default: the lock's)",
    )
    one.add_argument(
        "--rewrite", action="store_true", help="take other bytes of the same rows, as of a newer library"
    )

    one = commands.add("verify", "check fetched files against their snapshot, without a server", _verify)
    one.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", help="default: the lock's")
    arguments.lock(one)
    one.add_argument("--plain", action="store_true", help="render the plain text again, and compare")
    one.add_argument(
        "--online", action="store_true", help="ask the server what was withdrawn since; 1 if its text is here"
    )


def _fetch(options: Namespace) -> int:
    if len(options.what) > 2:  # noqa: PLR2004 - a snapshot and a folder
        raise InvalidArgumentError("too many arguments", hint="recension fetch --help")
    if len(options.what) == 2:  # noqa: PLR2004
        snapshot, folder = options.what
        with connect(options) as client:
            manifest = client.snapshot(parse_digest(snapshot, "snapshot"))
            done = materialise(client, manifest, Path(folder), form_of(options), options)
        _say(done, Path(folder), options)
        if options.plain:
            rendered(done.index, Path(folder), options)
        return OK
    lock = lockfile.read(options.lock)
    target, named = folder_of(lock, options)
    form = lock.export.form if lock.export is not None and not options.form else form_of(options)
    with connect(options, locked=lock.server) as client:
        check_signed(client, lock)
        manifest = client.snapshot(lock.manifest.snapshot_id)
        accept = _accepting(lock, named, options)
        done = materialise(client, manifest, target, form, options, terms=lock.terms, accept=accept)
    _say(done, target, options)
    if options.plain or lock.rendition is not None:
        render_for(lock.rendition, done.index, target, options)
    return OK


def check_signed(client: Client, lock: Lock) -> None:
    """Refuse a server that has not signed the lock's snapshot by the lock's key, or took back what it signed.

    A lock that names no key asks for nothing. Raises ``VerificationError``, ``ExtraMissingError``.
    """
    if lock.server_key:
        trust_of(lock.server_key).check_snapshot(client, lock.manifest.snapshot_id, lock.server_key)


def form_of(options: Namespace) -> Form:
    """Return the form that is asked for."""
    return FORMS[options.form or "jsonl"]


def folder_of(lock: Lock, options: Namespace) -> tuple[Path, str]:
    """Return where a lock's files are, and the name of that in the lock; empty if it lies elsewhere."""
    given = options.what[0] if getattr(options, "what", None) else getattr(options, "folder", None)
    if given is None:
        name = lock.export.folder if lock.export is not None and lock.export.folder else "corpus"
        return options.lock.parent / name, name
    target = Path(given)
    try:
        name = target.absolute().relative_to(options.lock.parent.absolute()).as_posix()
    except ValueError:
        name = ""
    return target, name if lockfile.inner(name) else ""


def _accepting(lock: Lock, named: str, options: Namespace) -> Callable[[Index], None]:
    """Return what compares the files made with those of the lock, and keeps them where there were none."""

    def accept(index: Index) -> None:
        if lock.index is not None and lock.index.job.form is index.job.form and not options.rewrite:
            refuse_others(lock.index, index)
        lockfile.write(options.lock, lock.with_files(index, named))

    return accept


def refuse_others(locked: Index, made: Index) -> None:
    """Refuse other bytes than the lock's, unless a retraction since is why. Raises ``ExportDiffersError``."""
    if locked.job.writer != made.job.writer:
        raise ExportDiffersError(
            f"the lock's files were written by {locked.job.writer}, here is {made.job.writer}",
            hint="install that version for the same bytes, or take others: --rewrite",
        )
    for old, new in zip(locked.files, made.files, strict=True):
        if old != new and new.withheld <= old.withheld:
            raise ExportDiffersError(
                f"{new.path} has the snapshot's rows, and other bytes than the lock's", hint="--rewrite"
            )
        if old != new:
            output.note(f"{new.path}: {new.withheld - old.withheld:,} texts were withdrawn since the lock")


def materialise(
    client: Client,
    manifest: Manifest,
    target: Path,
    form: Form,
    options: Namespace,
    *,
    terms: Mapping[str, Terms] | None = None,
    accept: Callable[[Index], None] = lambda _: None,
) -> Fetched:
    """Fetch under a progress bar, after saying how much it is."""
    text = sum(part.text_bytes for part in manifest.parts)
    pages = sum(part.count for part in manifest.parts)
    output.note(f"{pages:,} pages, {text:,} bytes of text: about {needed_bytes(manifest):,} bytes on disk")
    with output.transfer("fetch", text) as watch:
        return fetch(
            client, manifest, target, form, terms=terms, workers=options.workers, watch=watch, accept=accept
        )


def rendered(index: Index, target: Path, options: Namespace) -> Rendition:
    """Make the plain text of fetched files under a progress bar."""
    text = sum(record.text_bytes for record in index.files)
    with Folder.at(target) as root, output.transfer("render", text) as watch:
        made = rendition.render(root, index, workers=options.workers, watch=watch)
    without = sum(record.without for record in made.files)
    output.note(f"{target / rendition.PLAIN}: plain text by {made.renderer}; {without:,} pages have none")
    return made


def render_for(locked: Rendition | None, index: Index, target: Path, options: Namespace) -> None:
    """Make the plain text and write it into the lock.

    ``locked``: the lock's before the files were fetched; it may be of other files. Raises
    ``ExportDiffersError`` when the same files give another.
    """
    same = locked is not None and locked.sources == [record.sha256 for record in index.files]
    if locked is not None and same and not options.rewrite:
        rendition.refuse_other_libraries(locked, rendition.job_of(index))
    made = rendered(index, target, options)
    if same and made != locked and not options.rewrite:
        raise ExportDiffersError(
            "the plain text is another than the lock's: a page took too long, here or there", hint="--rewrite"
        )
    lockfile.write(options.lock, replace(lockfile.read(options.lock), rendition=made))


def _say(done: Fetched, target: Path, options: Namespace) -> None:
    job = done.index.job
    size = sum(record.size_bytes for record in done.index.files)
    if options.json:
        output.write_json(
            {
                "snapshot": format_digest(job.manifest.snapshot_id),
                "folder": str(target),
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
    since: Sequence[Withdrawn] | None = None
    there = False
    if options.folder is not None and not options.lock_given and not options.online:
        target, locked, plain = options.folder, None, None
    else:
        lock = lockfile.read(options.lock)
        target, _ = folder_of(lock, options)
        locked, plain = lock.index, lock.rendition
        if locked is None:
            raise LockError(f"{options.lock} names no files", hint="run: recension fetch")
        if options.online:
            with connect(options, locked=lock.server) as client:
                since = list(client.retractions(pin_of(client, lock)))
            there = bool(in_files(lock, since, target))
    with Folder.at(target) as root:
        index = read_held(root) if locked is None else locked
        text = sum(record.text_bytes for record in index.files)
        with output.transfer("verify", text) as watch:
            verdict = checking.check(root, index, watch=watch)
        verdict.problems.extend(_plain_problems(root, index, plain, text, options))
    said = say_verdict(verdict, index.job.manifest.snapshot_id, options, since)
    return DIFFERENT if there else said


def _plain_problems(
    root: Folder, index: Index, plain: Rendition | None, text: int, options: Namespace
) -> Iterator[str]:
    """Yield what is wrong with the plain text: the lock's, or without a lock that of the folder."""
    try:
        wanted = rendition.read_rendition(root, index) if plain is None else plain
        if wanted is None:
            if options.plain:
                yield f"{root.path(rendition.PLAIN)} is missing"
            return
        problems = list(rendition.differing(root, index, wanted))
        yield from problems
        if options.plain and not problems:
            with output.transfer("render", text) as watch:
                yield from rendition.rendered_otherwise(root, index, wanted, watch=watch)
    except (ExportFormatError, VerificationError) as error:
        yield error.message


def say_verdict(
    verdict: checking.Verdict,
    snapshot_id: bytes,
    options: Namespace,
    since: Sequence[Withdrawn] | None = None,
) -> int:
    """Write what was found, and return the exit code; ``since``: what the server says was withdrawn since."""
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
            | ({} if since is None else {"retracted_since": list(map(_retracted, since))})
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
    for one in since or ():
        what = ", ".join(one.parts)
        lines.append(f"{one.project}: retracted since: page {one.page_id}: {what} ({one.reason})")
    lines.append(f"{'ok' if verdict.ok else 'DIFFERENT'}: {format_digest(snapshot_id)}")
    for line in lines:
        output.write_line((line,), (0,))
    return OK if verdict.ok else DIFFERENT


def _retracted(one: Withdrawn) -> dict[str, object]:
    return {
        "project": one.project,
        "page_id": one.page_id,
        "rev_id": one.rev_id,
        "parts": [part.value for part in one.parts],
        "reason": one.reason,
        "position": one.position,
        "acknowledged": one.acknowledged,
    }


def _kinds(found: checking.Findings) -> tuple[tuple[str, checking.Pages], ...]:
    return (
        ("differ", found.differ),
        ("missing", found.missing),
        ("extra", found.extra),
        ("retracted", found.retracted),
    )
