"""Commands about whole corpora: ``snapshot``, ``snapshots``, ``ls``, ``diff``, ``cat``."""

from __future__ import annotations

from argparse import Namespace

from recension.model.digest import format_digest
from recension.model.instant import format_instant
from recension.model.manifest import Manifest, OnHidden, Redirects, Selector
from recension.model.reading import WHOLE, Entry, Reader, Shard
from recension_client.cli import arguments, forms, output
from recension_client.cli.arguments import DIFFERENT, OK, Commands, asking


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    one = commands.add("snapshot", "make a snapshot and write its id", asking(_snapshot))
    one.add_argument("projects", metavar="PROJECT", nargs="+", help="one or more projects")
    arguments.as_of(one, required=True)
    one.add_argument(
        "--namespace",
        metavar="N",
        type=arguments.namespace,
        nargs="+",
        action="extend",
        help="only these namespaces",
    )
    one.add_argument("--model", metavar="MODEL", nargs="+", action="extend", help="only these content models")
    one.add_argument(
        "--redirects",
        type=Redirects,
        choices=list(Redirects),
        default=Redirects.INCLUDE,
        help="default: include",
    )
    one.add_argument(
        "--on-hidden",
        type=OnHidden,
        choices=list(OnHidden),
        default=OnHidden.SKIP,
        help="hidden pages: leave out, take the newest that is not, or keep without text",
    )
    one.add_argument(
        "--min-age",
        metavar="SECONDS",
        type=arguments.age,
        default=0,
        help="take the newest revision that is at least this old",
    )

    one = commands.add("snapshots", "list the snapshots in the order of their making", asking(_snapshots))
    one.add_argument("--tsv", action="store_true", help="id, T, K, projects, entries, bytes")

    one = commands.add("ls", "list the entries of a snapshot in page order", asking(_ls))
    arguments.snapshot(one, "snapshot", "SNAPSHOT")
    one.add_argument("--tsv", action="store_true", help="page id, title, revision, digest of the main text")

    one = commands.add("diff", "write what differs between two snapshots", asking(_diff))
    arguments.snapshot(one, "before", "A")
    arguments.snapshot(one, "after", "B")
    one.add_argument(
        "--tsv", action="store_true", help="kind, page id, title in A and B, revision in A and B"
    )
    one.add_argument("--exit-code", action="store_true", help="leave with 1 when they differ")

    one = commands.add("cat", "write the articles of a snapshot, one JSON object a line", asking(_cat))
    arguments.snapshot(one, "snapshot", "SNAPSHOT")
    one.add_argument(
        "--shard", metavar="I/N", type=arguments.shard, default=WHOLE, help="part I of N, from 0/N"
    )


def _snapshot(reader: Reader, options: Namespace) -> int:
    """Make a snapshot and name it."""
    selector = Selector.of(
        options.projects,
        options.namespace,
        options.model,
        options.redirects,
        options.min_age,
        options.on_hidden,
    )
    manifest = reader.create_snapshot(selector, valid_at=options.at, known_at=options.known_at)
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


def _diff(reader: Reader, options: Namespace) -> int:
    """Write what differs between two snapshots."""
    found = 0
    sizes = [_count(reader.snapshot(id_)) for id_ in (options.before, options.after)]
    # How many pages differ is known only at the end, unless one side is empty; a guess would mislead.
    total = max(sizes) if 0 in sizes else None
    widths = (12, 10, 24, 0)
    if not (options.json or options.tsv):
        output.write_line(("kind", "page", "revisions", "title"), widths)
    for change in output.watched(reader.diff(options.before, options.after), "changes", total):
        found += 1
        if options.json:
            output.write_json(forms.change_row(change))
            continue
        before, after = change.before, change.after
        fields = (
            change.kind.value,
            change.page_id,
            *_sides(before, after),
        )
        if options.tsv:
            output.write_tsv(fields)
        else:
            kind, page_id, title_a, title_b, rev_a, rev_b = fields
            title = title_a if title_a == title_b or not title_b else title_b if not title_a else ""
            title = title or f"{title_a} -> {title_b}"
            output.write_line((kind, page_id, f"{rev_a or '-'} -> {rev_b or '-'}", title), widths)
    if not found:
        output.note("no difference")
    return DIFFERENT if found and options.exit_code else OK


def _sides(before: Entry | None, after: Entry | None) -> tuple[str, str, str, str]:
    return (
        before.title if before else "",
        after.title if after else "",
        str(before.rev_id) if before else "",
        str(after.rev_id) if after else "",
    )


def _count(manifest: Manifest) -> int:
    return sum(part.count for part in manifest.parts)
