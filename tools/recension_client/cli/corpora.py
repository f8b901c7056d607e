"""Commands about whole corpora: ``snapshot``, ``snapshots``, ``ls``, ``cat``."""

from __future__ import annotations

from argparse import Namespace

from recension.model.digest import format_digest
from recension.model.instant import format_instant
from recension.model.manifest import Manifest
from recension.model.reading import WHOLE, Reader, Shard
from recension_client.cli import arguments, forms, output
from recension_client.cli.arguments import OK, Commands, asking


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    one = commands.add("snapshot", "make a snapshot and write its id", asking(_snapshot))
    arguments.selector(one)
    arguments.as_of(one, required=True)

    one = commands.add("snapshots", "list the snapshots in the order of their making", asking(_snapshots))
    one.add_argument("--tsv", action="store_true", help="id, T, K, projects, entries, bytes")

    one = commands.add("ls", "list the entries of a snapshot in page order", asking(_ls))
    arguments.snapshot(one, "snapshot", "SNAPSHOT")
    one.add_argument("--tsv", action="store_true", help="page id, title, revision, digest of the main text")

    one = commands.add("cat", "write the articles of a snapshot, one JSON object a line", asking(_cat))
    arguments.snapshot(one, "snapshot", "SNAPSHOT")
    one.add_argument(
        "--shard", metavar="I/N", type=arguments.shard, default=WHOLE, help="part I of N, from 0/N"
    )


def _snapshot(reader: Reader, options: Namespace) -> int:
    """Make a snapshot and name it."""
    manifest = reader.create_snapshot(
        arguments.selected(options), valid_at=options.at, known_at=options.known_at
    )
    if options.json:
        output.write_json(forms.snapshot_row(manifest))
        return OK
    for part in manifest.parts:
        output.note(f"{part.project}: {part.count:,} entries, {part.text_bytes:,} bytes of text")
    output.note(f"as of {format_instant(manifest.as_of.valid_at)} known at {manifest.as_of.known_at}")
    output.write(f"{format_digest(manifest.snapshot_id)}\n".encode())
    return OK


def _snapshots(reader: Reader, options: Namespace) -> int:
    """List the snapshots."""
    if options.json:
        for manifest in reader.snapshots():
            output.write_json(forms.snapshot_row(manifest))
        return OK
    rows = map(_snapshot_cells, reader.snapshots())
    if options.tsv:
        for row in rows:
            output.write_tsv(row)
    else:
        output.write_table(["snapshot", "valid at", "known at", "projects", "entries", "bytes"], rows)
    return OK


def _snapshot_cells(manifest: Manifest) -> tuple[object, ...]:
    return (
        format_digest(manifest.snapshot_id),
        format_instant(manifest.as_of.valid_at),
        manifest.as_of.known_at,
        ",".join(manifest.selector.projects),
        _count(manifest),
        sum(part.text_bytes for part in manifest.parts),
    )


def _ls(reader: Reader, options: Namespace) -> int:
    """List a snapshot's entries."""
    manifest = reader.snapshot(options.snapshot)
    widths = (10, 40, 12, 0)
    if not (options.json or options.tsv):
        output.write_line(("page", "title", "revision", "digest"), widths)
    # Entries of the bulk stream without texts: one call for all, instead of one for each page of a list.
    entries = reader.read(options.snapshot, text=False)
    for entry in output.watched(entries, "entries", _count(manifest)):
        if options.json:
            output.write_json(forms.entry_row(entry))
            continue
        fields = (entry.page_id, entry.title, entry.rev_id, forms.digest(entry.slot()))
        if options.tsv:
            output.write_tsv(fields)
        else:
            output.write_line(fields, widths)
    return OK


def _cat(reader: Reader, options: Namespace) -> int:
    """Write a snapshot, or one shard of it, as lines of JSON."""
    shard: Shard = options.shard
    total = _count(reader.snapshot(options.snapshot)) // shard.count
    for entry in output.watched(reader.read(options.snapshot, shard=shard), "articles", total):
        output.write_json(forms.article_row(entry))
    return OK


def _count(manifest: Manifest) -> int:
    return sum(part.count for part in manifest.parts)
