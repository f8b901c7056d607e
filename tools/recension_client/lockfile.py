"""``recension.lock``: which corpus a repository uses; small, readable, made to be committed beside its code.

The manifest in it binds everything; the other keys say the same for a reader's eyes, and a lock in which they
do not is refused. Comments and the order of keys survive a rewrite.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import tomlkit
from tomlkit.container import Container
from tomlkit.items import Table

from recension.model.digest import format_digest, parse_digest
from recension.model.errors import LockError, LockVersionError, RecensionError
from recension.model.instant import format_instant, parse_instant
from recension.model.manifest import Manifest, OnHidden, Redirects, read_manifest
from recension.model.note import read_key
from recension_client.export.folder import Folder, naming
from recension_client.export.layout import FORMAT, FileRecord, Form, Index, Job, Terms, check_files
from recension_client.export.rendition import Rendition, rendition_of

NAME = "recension.lock"
VERSION = 1
MAX_BYTES = 64 * 1024 * 1024
_HEAD = "Which corpus this repository uses: made by recension, checked by `recension lock --check`."

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PinRecord:
    """The hold on the snapshot as it was when the lock was written."""

    name: str
    id: str
    """32 hex digits."""
    readable_until: int
    """Microseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class AgreementRecord:
    """The version of the licensee's agreement that was in force when the lock was written."""

    version: str
    """Its digest, as it is written."""
    ordinal: int


@dataclass(frozen=True, slots=True)
class Export:
    """The files that were made of the snapshot."""

    form: Form
    writer: str
    files: tuple[FileRecord, ...]
    folder: str = ""
    """Relative to the lock; empty where it lies elsewhere and is named at each command."""


@dataclass(frozen=True, slots=True)
class Lock:
    """What a lock says."""

    server: str
    manifest: Manifest
    terms: Mapping[str, Terms]
    pin: PinRecord | None = None
    export: Export | None = None
    rendition: Rendition | None = None
    """The plain text that was made of the files."""
    server_key: str = ""
    """Verifier key that the server signed with when the lock was written; empty if it signed nothing."""
    agreement: AgreementRecord | None = None
    """None where none was needed."""

    @property
    def index(self) -> Index | None:
        """The list of the files, if there are any."""
        if self.export is None:
            return None
        job = Job(self.manifest, self.export.form, self.export.writer, self.terms)
        return Index(job, self.export.files)

    def with_files(self, index: Index, folder: str) -> Lock:
        """Return the lock with the files that were made; plain text of others has to be made anew."""
        plain = self.rendition
        if plain is not None and plain.sources != [record.sha256 for record in index.files]:
            plain = plain.unmade(index.job.form)
        export = Export(index.job.form, index.job.writer, index.files, folder)
        return replace(self, export=export, rendition=plain)


def document_of(lock: Lock) -> Document:
    """Return all that a lock file says, in its order."""
    manifest = lock.manifest
    document: Document = {
        "version": VERSION,
        "server": lock.server,
        **({"server_key": lock.server_key} if lock.server_key else {}),
        "snapshot": {
            "id": format_digest(manifest.snapshot_id),
            "valid_at": format_instant(manifest.as_of.valid_at),
            "known_at": manifest.as_of.known_at,
            "manifest": manifest.encoded.decode(),
        },
        "selector": _selector(manifest),
        "projects": {
            part.project: {
                "pages": part.count,
                "text_bytes": part.text_bytes,
                "root": format_digest(part.root),
                "base_url": lock.terms[part.project].base_url,
                "license": lock.terms[part.project].license,
            }
            for part in manifest.parts
        },
    }
    if lock.agreement is not None:
        document["agreement"] = asdict(lock.agreement)
    if lock.pin is not None:
        document["pin"] = asdict(lock.pin) | {"readable_until": format_instant(lock.pin.readable_until)}
    if lock.export is not None:
        folder = {"folder": lock.export.folder} if lock.export.folder else {}
        document["export"] = {
            "format": FORMAT,
            **folder,
            "form": lock.export.form.value,
            "writer": lock.export.writer,
            "files": [asdict(record) for record in lock.export.files],
        }
    if lock.rendition is not None:
        document["plain"] = lock.rendition.document
    return document


def _selector(manifest: Manifest) -> Document:
    chosen = manifest.selector
    document: Document = {"projects": list(chosen.projects)}
    if chosen.namespaces:
        document["namespaces"] = list(chosen.namespaces)
    if chosen.models:
        document["models"] = list(chosen.models)
    if chosen.redirects is not Redirects.INCLUDE:
        document["redirects"] = chosen.redirects.value
    if chosen.min_age_seconds:
        document["min_age_seconds"] = chosen.min_age_seconds
    if chosen.on_hidden is not OnHidden.SKIP:
        document["on_hidden"] = chosen.on_hidden.value
    return document


def parse(text: str) -> Lock:
    """Read a lock. Raises ``LockVersionError`` for a newer one, ``LockError`` for one that was edited."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise LockError(f"the lock is not TOML: {error}") from None
    version = document.get("version")
    if type(version) is int and version > VERSION:
        raise LockVersionError(
            f"the lock is of version {version}, this recension knows {VERSION}",
            hint="use a newer recension",
            version=version,
        )
    try:
        lock = _lock_of(document)
        said = document_of(lock)
    except LockError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecensionError) as error:
        raise LockError(f"the lock is damaged: {str(error)[:200]}", hint=_RESTORE) from None
    wrong = list(_differences(said, document, ""))
    if wrong:
        raise LockError(
            f"the lock was edited: {', '.join(wrong[:10])} is not what its manifest says, or unknown",
            hint=_RESTORE,
            keys=",".join(wrong[:10]),
        )
    return lock


_RESTORE = "take it from version control, or make it anew with: recension pin"


def _lock_of(document: Document) -> Lock:
    manifest = read_manifest(document["snapshot"]["manifest"].encode())
    terms = {
        part.project: Terms(_text(project["base_url"]), _text(project["license"]))
        for part in manifest.parts
        for project in (document["projects"][part.project],)
    }
    pin = export = None
    if "pin" in document:
        held = document["pin"]
        pin = PinRecord(_text(held["name"]), _text(held["id"]), parse_instant(held["readable_until"]))
    if "export" in document:
        files = document["export"]
        folder = files.get("folder", "")
        if folder and not inner(folder):
            raise LockError(f"the lock names a folder outside its own: {folder[:80]!r}", hint=_RESTORE)
        records = tuple(FileRecord(**record) for record in files["files"])
        export = Export(Form(files["form"]), _text(files["writer"]), records, folder)
    key = str(read_key(_text(document["server_key"]))) if "server_key" in document else ""
    agreement = _agreement(document["agreement"]) if "agreement" in document else None
    lock = Lock(_text(document["server"]), manifest, terms, pin, export, server_key=key, agreement=agreement)
    if lock.index is None:
        return lock
    check_files(lock.index)
    return (
        replace(lock, rendition=rendition_of(document["plain"], lock.index)) if "plain" in document else lock
    )


def _agreement(said: Document) -> AgreementRecord:
    if type(said["ordinal"]) is not int or said["ordinal"] < 1:
        raise ValueError(f"{str(said['ordinal'])[:80]!r} is no ordinal")
    return AgreementRecord(format_digest(parse_digest(_text(said["version"]), "agreement")), said["ordinal"])


def inner(folder: str) -> bool:
    """Say whether a folder is one below the lock's own."""
    path = PurePosixPath(folder)
    return not path.is_absolute() and ".." not in path.parts and path.parts != () and "\0" not in folder


def _text(value: object) -> str:
    if type(value) is not str:
        raise ValueError(f"{str(value)[:80]!r} is no string")
    return value


def _differences(said: Any, found: Any, path: str) -> list[str]:
    if isinstance(said, dict) and isinstance(found, dict):
        keys = [*said, *(key for key in found if key not in said)]
        return [
            each
            for key in keys
            for each in (
                _differences(said[key], found[key], f"{path}{key}.")
                if key in said and key in found
                else [f"{path}{key}"]
            )
        ]
    return [] if type(said) is type(found) and said == found else [path.rstrip(".")]


def render(lock: Lock, old: str = "") -> str:
    """Write a lock; what ``old`` has beside it, comments and order, stays."""
    document = tomlkit.parse(old)
    if not old:
        document.add(tomlkit.comment(_HEAD))
    _put(document, document_of(lock))
    return tomlkit.dumps(document)


def _put(into: Container | Table, wanted: Document) -> None:
    for key in [key for key in into if key not in wanted]:
        into.remove(key)
    for key, value in wanted.items():
        held = into.get(key)
        if isinstance(value, dict):
            if not isinstance(held, Table):
                into[key] = tomlkit.table()
            _put(into[key], value)
        elif held is None or _plain(held) != value:
            into[key] = _item(value)


def _plain(held: Any) -> Any:
    return held.unwrap() if hasattr(held, "unwrap") else held


def _item(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        tables = tomlkit.aot()
        for each in value:
            tables.append(tomlkit.item(each))
        return tables
    if isinstance(value, str) and '"' in value and "'" not in value and value.isprintable():
        return tomlkit.string(value, literal=True)
    return tomlkit.item(value)


def read(path: Path) -> Lock:
    """Read a lock file. Raises ``LockError``."""
    return parse(_text_of(path))


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise LockError(f"{path} is no lock: it has more than {MAX_BYTES:,} bytes")
        return raw.decode()
    except FileNotFoundError:
        raise LockError(f"there is no {path}", hint="make it with: recension pin PROJECT --at TIME") from None
    except (OSError, UnicodeDecodeError) as error:
        raise LockError(f"{path} cannot be read: {error}") from None


def write(path: Path, lock: Lock) -> None:
    """Put a lock file in place: after a crash it is as before or as it is now."""
    old = _text_of(path) if path.exists() else ""
    with naming(str(path)), Folder.at(path.parent) as folder:
        folder.write(path.name, render(lock, old).encode())
