"""The command ``proof``: one page proved in or out of a snapshot, as a file that needs no server."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from recension.model.digest import format_digest
from recension.model.errors import InvalidArgumentError
from recension.model.manifest import Manifest
from recension_client import lockfile
from recension_client.cli import arguments, forms, output
from recension_client.cli.arguments import DIFFERENT, OK, Commands, connect
from recension_client.client import Client
from recension_client.proof import proof_file
from recension_client.verify import Proven, in_words, read_proof, verify_proof


def register(commands: Commands) -> None:
    """Add the command."""
    one = commands.add(
        "proof",
        "prove a page in or out of a snapshot by a small file, or verify such a file without a server",
        _proof,
    )
    one.add_argument(
        "what", metavar="WHAT", nargs="+", help="PAGE: a title, or id:N; or the two words: verify FILE"
    )
    arguments.lock(one)
    arguments.snapshot(one, "--snapshot", "ID", default="the lock's")
    one.add_argument("--project", metavar="PROJECT", help="of the page; default: the snapshot's only one")
    one.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="where the proof goes; default: stdout"
    )


def _proof(options: Namespace) -> int:
    match options.what:
        case [page]:
            return _prove(arguments.page_name(page), options)
        case ["verify", file]:
            return _verify(Path(file), options)
        case _:
            raise InvalidArgumentError(
                "not one page, nor verify and a file", hint="quote a title that has spaces"
            )


def _prove(page: int | str, options: Namespace) -> int:
    locked = "" if options.snapshot else lockfile.read(options.lock).server
    with connect(options, locked=locked) as client:
        manifest = client.snapshot(_wanted(options))
        project = _project(manifest, options)
        page_id = page if isinstance(page, int) else _page_id(client, manifest, project, page)
        proof = client.prove(manifest.snapshot_id, project, page_id)
    encoded = proof_file(proof)
    if options.output is None:
        output.write_text(encoded)
    else:
        output.replace_file(options.output, encoded)
    held = "is not in" if proof.entry is None else "is in"
    output.note(f"page {page_id} of {project} {held} {format_digest(manifest.snapshot_id)}")
    return OK


def _wanted(options: Namespace) -> bytes:
    """Return the id of the snapshot that is meant."""
    given: bytes | None = options.snapshot
    return lockfile.read(options.lock).manifest.snapshot_id if given is None else given


def _project(manifest: Manifest, options: Namespace) -> str:
    names = [part.project for part in manifest.parts]
    if options.project is None and len(names) == 1:
        return names[0]
    if options.project not in names:
        raise InvalidArgumentError(
            f"the snapshot is of {', '.join(names)}", hint="name one of them with --project", field="project"
        )
    return str(options.project)


def _page_id(client: Client, manifest: Manifest, project: str, title: str) -> int:
    """Return the page that had a title at the snapshot's as-of. Titles alone have no proof of absence."""
    as_of = manifest.as_of
    found = client.article(project, title, valid_at=as_of.valid_at, known_at=as_of.known_at, text=False)
    return found.revision.page_id


def _verify(path: Path, options: Namespace) -> int:
    wanted = format_digest(_wanted(options))
    try:
        shown = verify_proof(read_proof(path), wanted)
    except OSError as error:
        raise InvalidArgumentError(f"{path} cannot be read: {error.strerror}", field="file") from None
    except ValueError as error:
        if options.json:
            output.write_json({"ok": False, "snapshot": wanted, "problem": str(error)})
        else:
            output.write_line((f"NOT PROVED: {error}",), (0,))
        return DIFFERENT
    if options.json:
        output.write_json({"ok": True, "snapshot": wanted} | _row(shown))
        return OK
    for line in in_words(shown):
        output.write_line((line,), (0,))
    return OK


def _row(shown: Proven) -> forms.Row:
    row: forms.Row = {
        "project": shown.project,
        "page_id": shown.page_id,
        "in_snapshot": shown.entry is not None,
    }
    if shown.entry is None:
        return row
    return row | {
        "rev_id": shown.entry.rev_id,
        "timestamp": forms.instant(shown.entry.timestamp),
        "namespace": shown.entry.namespace,
        "title": shown.entry.title,
    }
