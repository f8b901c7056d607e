"""Commands about the lock: ``pin``, ``lock``, ``status``, ``update``, ``quote``, ``doctor``."""

from __future__ import annotations

import time
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from recension.model.digest import format_digest
from recension.model.errors import AgreementNotFoundError, ExportError, LockError, RecensionError
from recension.model.instant import format_instant, parse_instant
from recension.model.manifest import FORMAT, Manifest
from recension.model.reading import Change, ServerInfo
from recension_client import lockfile
from recension_client.cli import arguments, output
from recension_client.cli.arguments import DEFAULT_SERVER, DIFFERENT, OK, Commands, asking, connect
from recension_client.cli.exports import check_signed, folder_of, materialise, render_for
from recension_client.client import Client
from recension_client.export import jsonl, rendition
from recension_client.export.fetching import DATA, differing, read_held
from recension_client.export.folder import Folder
from recension_client.export.layout import Index, terms_of
from recension_client.lockfile import AgreementRecord, Lock, PinRecord
from recension_client.trust import trust_of

_MICROS = 1_000_000
_CLOCK_SLACK_SECONDS = 300


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    one = commands.add("pin", "make a snapshot, hold it if a name is given, and write the lock", _pin)
    arguments.selector(one)
    arguments.as_of(one, required=True)
    arguments.lock(one)
    one.add_argument("--name", metavar="NAME", help="take a pin of this name")
    one.add_argument("--until", metavar="T", type=parse_instant, help="until when the pin holds")
    one.add_argument(
        "--label", metavar="KEY=VALUE", type=_label, action="append", default=[], help="label of the pin"
    )
    one.add_argument(
        "--server-key",
        metavar="KEY",
        default="",
        help="the server's key as its operator told it (default: the lock's, else the one it signs with)",
    )
    one.add_argument("--force", action="store_true", help="replace a lock of another snapshot")

    one = commands.add("lock", "show the lock; --check compares it with itself and the files", _lock)
    arguments.lock(one)
    one.add_argument("--check", action="store_true", help="leave with 1, and say what differs")
    one.add_argument("folder", metavar="FOLDER", type=Path, nargs="?", help="default: the lock's")

    one = commands.add("status", "ask the server about the locked snapshot and its pin", _status)
    arguments.lock(one)

    one = commands.add("update", "move the lock to a newer as-of and fetch what differs", _update)
    arguments.as_of(one)
    arguments.lock(one)
    one.add_argument("--workers", metavar="N", type=arguments.workers, default=2, help="shards at a time")
    one.add_argument("--dry-run", action="store_true", help="only say what it would fetch")

    one = commands.add("quote", "say what moving from a snapshot to another will fetch", asking(_quote))
    arguments.snapshot(one, "before", "A")
    arguments.snapshot(one, "after", "B")

    one = commands.add("doctor", "see whether everything is there that the other commands need", _doctor)
    arguments.lock(one)


def _label(text: str) -> tuple[str, str]:
    key, given, value = text.partition("=")
    if not (key and given):
        raise ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _pin(options: Namespace) -> int:
    if (options.name is None) != (options.until is None):
        raise LockError(
            "a pin has a name and a time until which it holds", hint="give --name and --until, or none"
        )
    with connect(options) as client:
        manifest = client.create_snapshot(
            arguments.selected(options), valid_at=options.at, known_at=options.known_at
        )
        known = options.server_key
        if options.lock.exists() and not options.force:
            held = lockfile.read(options.lock)
            known = known or held.server_key
            if held.manifest.snapshot_id != manifest.snapshot_id:
                raise LockError(
                    f"{options.lock} is of another snapshot",
                    hint="move it with: recension update; or give --force",
                )
        terms = {part.project: terms_of(client.project(part.project)) for part in manifest.parts}
        key = _signed_key(client, manifest, known)
        pin = None
        if options.name is not None:
            made = client.create_pin(options.name, manifest.snapshot_id, options.until, dict(options.label))
            if key:
                trust_of(key).check_pin(client, made.statement)
            pin = PinRecord(made.name, made.statement.id.hex(), made.readable_until)
        agreement = _agreed(client)
    made_lock = Lock(
        options.server or DEFAULT_SERVER, manifest, terms, pin, server_key=key, agreement=agreement
    )
    lockfile.write(options.lock, made_lock)
    _show(lockfile.read(options.lock), options)
    return OK


def _agreed(client: Client) -> AgreementRecord | None:
    """Return the version of the caller's agreement that is in force, if there is one."""
    try:
        info = client.own_agreement()
    except AgreementNotFoundError:
        return None
    return None if info is None else AgreementRecord(info.version.name, info.version.ordinal)


def _signed_key(client: Client, manifest: Manifest, known: str) -> str:
    """Return the key that has signed a snapshot, one that follows from ``known`` and from what is remembered.

    Without ``known``, the server's key is taken as it is, unless another of that name is remembered. Empty
    if the server signs nothing, and was never known to. Raises ``VerificationError``, ``ExtraMissingError``.
    """
    keys = client.server_info().signing_keys
    if not keys and not known:
        return ""
    known = known or keys[-1].key
    trust = trust_of(known)
    trust.check_snapshot(client, manifest.snapshot_id, known)
    return trust.key


def _show(lock: Lock, options: Namespace) -> None:
    if options.json:
        output.write_json(lockfile.document_of(lock))
        return
    for name, value in _facts(lock):
        output.write_line((name, value), (14, 0))


def _facts(lock: Lock) -> Iterator[tuple[str, str]]:
    manifest = lock.manifest
    yield "snapshot", format_digest(manifest.snapshot_id)
    yield "as of", f"{format_instant(manifest.as_of.valid_at)} known at {manifest.as_of.known_at}"
    for part in manifest.parts:
        yield part.project, f"{part.count:,} pages, {part.text_bytes:,} bytes of text"
    if lock.server_key:
        yield "signed with", lock.server_key
    if lock.agreement is not None:
        yield "agreement", _named(lock.agreement)
    if lock.pin is not None:
        yield "pin", f"{lock.pin.name}, until {format_instant(lock.pin.readable_until)}"
    if lock.export is not None:
        size = sum(record.size_bytes for record in lock.export.files)
        yield (
            "files",
            f"{len(lock.export.files):,} {lock.export.form}, {size:,} bytes, by {lock.export.writer}",
        )
    if lock.rendition is not None:
        size = sum(record.size_bytes for record in lock.rendition.files)
        files = f"{len(lock.rendition.files):,} files, {size:,} bytes, by {lock.rendition.renderer}"
        yield "plain text", files if lock.rendition.made else "not made yet"


def _named(agreement: AgreementRecord | None) -> str:
    return "none" if agreement is None else f"version {agreement.ordinal}, {agreement.version}"


def _lock(options: Namespace) -> int:
    if not options.check:
        _show(lockfile.read(options.lock), options)
        return OK
    agreement = None
    try:
        lock = lockfile.read(options.lock)
        agreement = lock.agreement
        problems = list(_lock_problems(lock, options))
    except LockError as error:
        problems = [error.message]
    if options.json:
        under = None if agreement is None else asdict(agreement)
        output.write_json({"ok": not problems, "problems": problems, "agreement": under})
        return DIFFERENT if problems else OK
    for problem in problems or ["ok"]:
        output.write_line((problem,), (0,))
    if agreement is not None:
        output.write_line((f"under agreement {_named(agreement)}",), (0,))
    return DIFFERENT if problems else OK


def _lock_problems(lock: Lock, options: Namespace) -> Iterator[str]:
    if lock.index is None:
        output.note("the lock names no files")
        return
    target, _ = folder_of(lock, options)
    if options.folder is None and not (target / DATA).exists():
        output.note(f"nothing is fetched into {target}")
        return
    try:
        with Folder.at(target) as root:
            held = read_held(root)
            if held.job.manifest.snapshot_id != lock.manifest.snapshot_id:
                yield f"{target} holds {format_digest(held.job.manifest.snapshot_id)}, another snapshot"
                return
            if held != lock.index:
                yield f"{target}: the list of its files is not the lock's"
            yield from differing(root, lock.index)
            if lock.rendition is not None:
                yield from rendition.differing(root, lock.index, lock.rendition)
    except ExportError as error:
        yield error.message


def _status(options: Namespace) -> int:
    lock = lockfile.read(options.lock)
    with connect(options, locked=lock.server) as client:
        check_signed(client, lock)
        client.snapshot(lock.manifest.snapshot_id)
        newer = {
            part.project: max(0, client.project(part.project).position - lock.manifest.as_of.known_at)
            for part in lock.manifest.parts
        }
        pin = None if lock.pin is None else client.pin(lock.pin.name)
        agreement = _agreed(client)
        if lock.server_key and pin is not None:
            trust_of(lock.server_key).check_pin(client, pin.statement)
    if lock.pin is not None and pin is not None and lock.pin.id != pin.statement.id.hex():
        raise LockError(
            f"the pin {lock.pin.name!r} of today is another than the lock's", hint="recension pin --force"
        )
    until = None if pin is None else format_instant(pin.readable_until)
    if options.json:
        snapshot = format_digest(lock.manifest.snapshot_id)
        now = None if agreement is None else asdict(agreement)
        row = {"snapshot": snapshot, "readable_until": until, "newer_positions": newer, "agreement": now}
        output.write_json(row)
        return OK
    _show(lock, options)
    if agreement != lock.agreement:
        output.write_line(("in force now", _named(agreement)), (14, 0))
    output.write_line(("readable until", until or "no pin holds it"), (14, 0))
    for project, behind in newer.items():
        said = "nothing newer" if not behind else f"the log is {behind:,} positions further"
        output.write_line((project, said), (14, 0))
    return OK


@dataclass(frozen=True, slots=True)
class _Quote:
    """What moving from one snapshot to another fetches."""

    changed: int = 0
    removed: int = 0
    fetched: int = 0
    """Pages whose text is fetched."""
    text_bytes: int = 0

    def row(self) -> dict[str, object]:
        """Describe it."""
        return {
            "changed": self.changed,
            "removed": self.removed,
            "pages_to_fetch": self.fetched,
            "text_bytes_to_fetch": self.text_bytes,
        }

    def __str__(self) -> str:
        return (
            f"{self.changed:,} pages differ, {self.removed:,} of them gone; "
            f"{self.fetched:,} texts to fetch, {self.text_bytes:,} bytes"
        )


def _quote_of(changes: Iterator[Change]) -> _Quote:
    total = _Quote()
    for change in changes:
        held = set() if change.before is None else {slot.digest for slot in change.before.slots}
        slots = () if change.after is None else change.after.slots
        missing = [slot.size_bytes for slot in slots if slot.digest and slot.digest not in held]
        total = _Quote(
            total.changed + 1,
            total.removed + (change.after is None),
            total.fetched + bool(missing),
            total.text_bytes + sum(missing),
        )
    return total


def _quote(client: Client, options: Namespace) -> int:
    quote = _quote_of(client.diff(options.before, options.after))
    if options.json:
        output.write_json(quote.row())
    else:
        output.write_line((str(quote),), (0,))
    return OK


def _update(options: Namespace) -> int:
    lock = lockfile.read(options.lock)
    at = time.time_ns() // 1000 if options.at is None else options.at
    with connect(options, locked=lock.server) as client:
        check_signed(client, lock)
        manifest = client.create_snapshot(lock.manifest.selector, valid_at=at, known_at=options.known_at)
        quote = _quote_of(client.diff(lock.manifest.snapshot_id, manifest.snapshot_id))
        if options.json:
            output.write_json(quote.row() | {"snapshot": format_digest(manifest.snapshot_id)})
        else:
            output.write_line((str(quote),), (0,))
        if options.dry_run:
            return OK
        terms = {part.project: terms_of(client.project(part.project)) for part in manifest.parts}
        key = _signed_key(client, manifest, lock.server_key)
        # A pin holds the older snapshot; the newer one has none until it is taken.
        moved = replace(
            lock,
            manifest=manifest,
            terms=terms,
            pin=None,
            export=None,
            server_key=key,
            agreement=_agreed(client),
        )
        if lock.export is None:
            lockfile.write(options.lock, moved)
            return OK
        target, named = folder_of(lock, options)

        def accept(index: Index) -> None:
            lockfile.write(options.lock, moved.with_files(index, named))

        done = materialise(client, manifest, target, lock.export.form, options, terms=terms, accept=accept)
    if lock.rendition is not None:
        render_for(None, done.index, target, options)
    return OK


def _doctor(options: Namespace) -> int:
    findings = list(_examine(options))
    if options.json:
        for good, what, said in findings:
            output.write_json({"ok": good, "check": what, "found": said})
    else:
        for good, what, said in findings:
            output.write_line(("ok" if good else "AMISS", what, said), (5, 10, 0))
    return OK if all(good for good, _, _ in findings) else DIFFERENT


def _examine(options: Namespace) -> Iterator[tuple[bool, str, str]]:
    yield True, "recension", version("recension")
    yield True, "zstd", jsonl.WRITER
    parquet = find_spec("pyarrow") is not None
    yield (
        True,
        "parquet",
        version("pyarrow") if parquet else "not installed: pip install 'recension[parquet]'",
    )
    plain = find_spec("mwparserfromhell") is not None
    yield (
        True,
        "plain text",
        version("mwparserfromhell") if plain else "not installed: pip install 'recension[plain]'",
    )
    verify = find_spec("cryptography") is not None
    yield (
        True,
        "signatures",
        version("cryptography") if verify else "not checked: pip install 'recension[verify]'",
    )
    lock, locked = None, ""
    if options.lock.exists() or options.lock_given:
        try:
            lock = lockfile.read(options.lock)
            locked = lock.server
            yield True, "lock", f"{options.lock}: {format_digest(lock.manifest.snapshot_id)}"
        except LockError as error:
            yield False, "lock", error.message
    try:
        with connect(options, locked=locked) as client:
            info = client.server_info()
            signing = _examine_key(client, lock, info)
    except RecensionError as error:
        yield False, "server", error.message
        return
    yield (
        True,
        "server",
        f"{options.server or locked or DEFAULT_SERVER}: recension {info.version}, log at {info.position}",
    )
    yield signing
    known = FORMAT in info.formats
    yield known, "formats", ", ".join(info.formats) if known else f"the server does not speak {FORMAT}"
    ahead = info.recorded_at // _MICROS - int(time.time())
    yield (
        ahead < _CLOCK_SLACK_SECONDS,
        "clock",
        (
            "not behind the server's log"
            if ahead < _CLOCK_SLACK_SECONDS
            else f"the server's newest commit is {ahead:,} s in the future of this machine"
        ),
    )


def _examine_key(client: Client, lock: Lock | None, info: ServerInfo) -> tuple[bool, str, str]:
    """Return what is found of the server's signatures; what a lock says of them has to hold."""
    if lock is not None and lock.server_key:
        try:
            check_signed(client, lock)
        except RecensionError as error:
            return False, "key", error.message
        return True, "key", f"{trust_of(lock.server_key).key}; the locked snapshot is in its log"
    if not info.signing_keys:
        return True, "key", "the server signs nothing"
    return True, "key", f"{info.signing_keys[-1].key}; the lock names none"
