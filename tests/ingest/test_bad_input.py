"""Bad input to the real command: a named error with what to do, the right status, the store as it was."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from recension.archive.reader import Archive
from recension.model.errors import AsOfOutOfRangeError
from recension.model.manifest import Selector
from recension.model.record import Head
from recension.server.main import main
from recension.sources.items import MAX_EVENT_BYTES
from recension.store import lmdb as lmdb_store
from recension.store.lmdb import LmdbStore
from tests.ingest.test_run import GOOD, SAMPLE
from tests.sources.helpers import dump, logitem, page, revision
from tests.sources.test_containers import seven

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMMAND = Path(sys.executable).with_name("recension-server")
KNOWN = dump(
    "".join(page(revision(n), head=f"<title>P {n}</title><ns>0</ns><id>{n}</id>") for n in range(1, 400))
)
"""A dump that the store holds already: what of a part of it is complete changes nothing."""


def checked_zstd(data: bytes) -> bytes:
    options: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}
    return zstd.compress(data, options=options)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "bz2": bz2.compress,
    "gz": gzip.compress,
    "zst": checked_zstd,
    "xz": lzma.compress,
    "7z": lambda data: seven({"dump.xml": data}),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A file, how it is read, and the reason that the command has to give."""

    kind: str
    name: str
    data: bytes
    reason: str
    status: int = 3


def corrupt(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


def event(**changes: Any) -> bytes:
    """One line that would be taken, with fields changed."""
    return json.dumps({**GOOD, "sourceId": "new", **changes}).encode() + b"\n"


def edit(**changes: Any) -> bytes:
    """One edit that would be taken, with fields of it changed."""
    return event(edit={**GOOD["edit"], "revId": "500", **changes})  # type: ignore[dict-item]


def archives() -> dict[str, Case]:
    cases = {}
    for kind, pack in PACKERS.items():
        whole = pack(KNOWN)
        cases[f"{kind} cut"] = Case("dump", f"a.{kind}", whole[: len(whole) // 2], "SOURCE_TRUNCATED")
        cases[f"{kind} damaged"] = Case("dump", f"a.{kind}", corrupt(whole), "SOURCE_CORRUPT")
        cases[f"{kind} only by name"] = Case("dump", f"a.{kind}", b"no archive at all", "SOURCE_FORMAT")
        cases[f"{kind} twice"] = Case("dump", f"a.{kind}", pack(whole), "SOURCE_FORMAT")
    return cases


LAUGHS = (
    b'<!DOCTYPE m [<!ENTITY a "ha">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9))
    + b"]><mediawiki>&j;</mediawiki>"
)
XML = {
    "empty file": Case("dump", "a.xml", b"", "SOURCE_TRUNCATED"),
    "billion laughs": Case("dump", "a.xml", LAUGHS, "SOURCE_FORMAT"),
    "external entity": Case(
        "dump", "a.xml", b'<!DOCTYPE m [<!ENTITY e SYSTEM "/etc/passwd">]><mediawiki>&e;', "SOURCE_FORMAT"
    ),
    "document type": Case("dump", "a.xml", b'<!DOCTYPE m SYSTEM "m.dtd"><mediawiki/>', "SOURCE_FORMAT"),
    "undefined entity": Case("dump", "a.xml", b"<mediawiki>&nbsp;</mediawiki>", "SOURCE_CORRUPT"),
    "wrong root": Case("dump", "a.xml", b"<html><body/></html>", "SOURCE_FORMAT"),
    "log as history": Case("dump", "a.xml", dump(logitem("move", "move")), "SOURCE_FORMAT"),
    "history as log": Case("logging", "a.xml", dump(page(revision())), "SOURCE_FORMAT"),
    "events as history": Case("dump", "a.xml", event(), "SOURCE_FORMAT"),
    "cut": Case("dump", "a.xml", KNOWN[:-300], "SOURCE_TRUNCATED"),
    "NUL": Case("dump", "a.xml", dump(page(revision(text="<text>&#0;</text>"))), "SOURCE_CORRUPT"),
    "half of a surrogate pair": Case(
        "dump", "a.xml", dump(page(revision(text="<text>&#xD800;</text>"))), "SOURCE_CORRUPT"
    ),
    "not UTF-8": Case("dump", "a.xml", dump("<page>@</page>").replace(b"@", b"\xff"), "SOURCE_CORRUPT"),
    "nested too deep": Case("dump", "a.xml", dump("<a>" * 100_000), "SOURCE_LIMIT"),
    "line feed in a title": Case(
        "dump", "a.xml", dump(page(revision(500), head="<title>a\nb</title><id>9</id>")), "INVALID_EVENT", 1
    ),
    "title too long": Case(
        "dump",
        "a.xml",
        dump(page(revision(500), head=f"<title>{'x' * 10_001}</title><id>9</id>")),
        "INVALID_EVENT",
        1,
    ),
    "time": Case("dump", "a.xml", dump(page(revision(500, time="2001-13-01T00:00:00Z"))), "INVALID_TIME", 1),
    "revision with another text": Case(
        "dump", "a.xml", dump(page(revision(7, text="<text>x</text>"), head="<title>P</title><id>7</id>")),
        "REVISION_CONFLICT", 1,
    ),
}  # fmt: skip
LINES = {
    "XML": (KNOWN, "SOURCE_FORMAT"),
    "UTF-16": ("\ufeff{}".encode("utf-16-le"), "SOURCE_FORMAT"),
    "bad UTF-8": (edit(comment="@").replace(b"@", b"\xff"), "INVALID_UTF8"),
    "key twice": (event().replace(b'"pageId"', b'"pageId": "8", "pageId"'), "DUPLICATE_KEY"),
    "NaN": (event(pageId=float("nan")), "INVALID_FIELD"),
    "infinity": (event(pageId="@").replace(b'"@"', b"1e400"), "INVALID_FIELD"),
    "no object": (b"[]\n", "INVALID_FIELD"),
    "no JSON": (b"{oops\n", "INVALID_JSON"),
    "cut line": (event()[:-20], "TRUNCATED_LINE"),
    "nested too deep": (b"[" * 1_000_000 + b"\n", "NESTED_TOO_DEEP"),
    "line too long": (edit(comment="x" * MAX_EVENT_BYTES), "LINE_TOO_LONG"),
    "unknown field": (edit(colour="red"), "UNKNOWN_FIELD"),
    "other project": (event(project="q"), "WRONG_PROJECT"),
    "no time": (event(time=""), "INVALID_TIME"),
    "date alone": (event(time="2001-01-01"), "INVALID_TIME"),
    "month 13": (event(time="2001-13-01T00:00:00Z"), "INVALID_TIME"),
    "year 0": (event(time="0000-01-01T00:00:00Z"), "INVALID_TIME"),
    "no zone": (event(time="2001-01-01T00:00:00"), "INVALID_TIME"),
    "empty title": (edit(title=""), "INVALID_EVENT"),
    "title of 10,001 bytes": (edit(title="x" * 10_001), "INVALID_EVENT"),
    "tab in a title": (edit(title="a\tb"), "INVALID_EVENT"),
    "line feed in a title": (edit(title="a\nb"), "INVALID_EVENT"),
    "NUL in a title": (edit(title="a\0b"), "INVALID_EVENT"),
    "half of a surrogate pair": (edit(title="a\ud800"), "LONE_SURROGATE"),
    "half of a surrogate pair in a name": (event(**{"a\ud800": 1}), "UNKNOWN_FIELD"),
    "id 0": (event(pageId="0"), "INVALID_EVENT"),
    "id of 64 bits": (event(pageId=str(2**63)), "INVALID_FIELD"),
    "unknown page": (
        event(edit=None, pageId="900", move={"fromTitle": "A", "toTitle": "B"}),
        "PAGE_NOT_FOUND",
    ),
    "unknown revision": (
        event(edit=None, visibility={"revId": "900", "textHidden": True}),
        "REVISION_NOT_FOUND",
    ),
}
CASES = {
    **{f"archive, {name}": case for name, case in archives().items()},
    **{f"XML, {name}": case for name, case in XML.items()},
    **{
        f"events, {name}": Case("events", "a.ndjson", data, reason, 3 if reason == "SOURCE_FORMAT" else 1)
        for name, (data, reason) in LINES.items()
    },
}

NUMBERED = list(enumerate(CASES.items()))


def run(*arguments: str | Path, status: int, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command; whatever happens, no traceback, and a named error says what to do."""
    done = subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=100, **options
    )
    return checked(done, status)


def run_here(*arguments: str | Path, status: int) -> subprocess.CompletedProcess[str]:
    """Do the same in this process, which saves the command's start."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(list(map(str, arguments)))
        except SystemExit as error:  # as argparse ends
            code = int(error.code or 0)
    return checked(subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue()), status)


def checked(done: subprocess.CompletedProcess[str], status: int) -> subprocess.CompletedProcess[str]:
    """Hold what a command did against what all commands promise."""
    assert (status, "Traceback" in done.stderr) == (done.returncode, False), done.stderr
    if status == 3:
        assert done.stderr.startswith("error: ")
        assert "\nhint: " in done.stderr
    return done


def create(data: Path, name: str = "p") -> None:
    definition = ("--base-url", "https://t.example", "--language", "en", "--license", "CC0-1.0")
    run_here("project", "create", name, *definition, "--data", data, status=0)


def head_of(data: Path) -> Head:
    with closing(LmdbStore.open(data)) as store:
        return store.log.head()


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds ``KNOWN``; no test that shares it may change it."""
    folder = tmp_path_factory.mktemp("bad")
    create(folder / "data")
    path = write(folder, "known.xml", KNOWN)
    run("ingest", "dump", "p", path, "--data", folder / "data", status=0)
    return folder / "data"


@pytest.fixture
def unchanged(data: Path) -> Iterator[Path]:
    """The same store; its head is the same afterwards."""
    before = head_of(data)
    yield data
    assert before == head_of(data)


@dataclass(frozen=True, slots=True)
class Results:
    """What came of all cases; one command takes all files of a kind and a status, which must not mix."""

    faults: dict[str, dict[str, str]]
    kept: dict[str, list[dict[str, str]]]
    hints: str


@pytest.fixture(scope="module")
def results(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("cases")
    files = {name: write(folder, f"{number}-{case.name}", case.data) for number, (name, case) in NUMBERED}
    found = Results({}, {name: [] for name in CASES}, "")
    names = {path.name: name for name, path in files.items()}
    before = head_of(data)
    for kind, status in sorted({(case.kind, case.status) for case in CASES.values()}):
        chosen = [files[name] for name, case in CASES.items() if (kind, status) == (case.kind, case.status)]
        arguments = [kind, "p", *map(str, chosen), "--data", str(data), "--json"]
        report = json.loads(run("ingest", *arguments, status=status).stdout)
        assert (0, len(chosen)) == (report["accepted"], report["files"])
        assert len(chosen) == len(report["faults"]) + sum(report["rejected"].values())
        for fault in report["faults"]:
            found.faults[names[Path(fault["file"]).name]] = fault
        if status == 1:
            arguments = [kind, "p", str(chosen[0]), "--data", str(data), "--json"]
            run_here("ingest", *arguments, "--allow-rejected", status=0)
    for path in (data / "quarantine/p").iterdir():
        for line in path.read_bytes().splitlines():
            record = json.loads(line)
            found.kept[names[record["source"]]].append(record)
    assert before == head_of(data)
    return found


@pytest.mark.parametrize("name", CASES)
def test_bad_file(name: str, results: Results) -> None:
    """A file that cannot be read, or a record in it, is named with its place, and changes nothing."""
    case = CASES[name]
    if case.status == 3:
        fault = results.faults[name]
        assert (case.reason, []) == (fault["reason"], results.kept[name])
        assert all(fault[field] for field in ("message", "hint", "file"))
        assert fault["position"] or case.reason == "SOURCE_FORMAT"  # of the wrong kind as a whole
        return
    (record,) = results.kept[name]
    assert (case.reason, False) == (record["reason"], name in results.faults)
    assert all(record[field] for field in ("position", "message", "excerpt_base64"))


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_name_that_lies_does_not_matter(suffix: str, unchanged: Path, tmp_path: Path) -> None:
    """An archive is told by its content: one of a kind that is read is read, whatever its name."""
    other = "gz" if suffix != "gz" else "bz2"
    path = write(tmp_path, f"a.xml.{suffix}", PACKERS[other](KNOWN))
    report = json.loads(run_here("ingest", "dump", "p", path, "--data", unchanged, "--json", status=0).stdout)
    assert 399 == report["known"]


TITLES = [
    "x" * 255,
    "x" * 256,
    "ß" * 5000,
    "\u200fא\u202eabc\u2066",
    "👩\u200d👩\u200d👧 \U0010ffff",
    "é e\u0301",
    "[[a]] \"'|{}<>&\\",
    " a  b ",
]


def test_odd_titles_are_kept_to_the_byte(tmp_path: Path) -> None:
    """A title of the allowed length and characters comes back as it was."""
    create(tmp_path / "data")
    lines = [
        edit(revId=str(number), title=title)
        .replace(b'"new"', b'"%d"' % number)
        .replace(b'"7"', b'"%d"' % number)
        for number, title in enumerate(TITLES, 1000)
    ]
    path = write(tmp_path, "a.ndjson", b"".join(lines))
    run_here("ingest", "events", "p", path, "--data", tmp_path / "data", status=0)
    with closing(LmdbStore.open(tmp_path / "data")) as store:
        archive = Archive(store)
        for number, title in enumerate(TITLES, 1000):
            assert number == archive.article("p", title).revision.page_id
            assert title == archive.article("p", number).revision.title


def test_a_line_of_ten_million_bytes_is_taken(tmp_path: Path) -> None:
    """A legal line of more than 10 MB, NUL and all, is stored and comes back to the byte."""
    text = "a\0ß" * 1_200_000
    slots = [{"role": "main", "text": text}]
    create(tmp_path / "data")
    line = json.dumps({**GOOD, "edit": {"revId": "500", "title": "A", "slots": slots}}, ensure_ascii=False)
    assert 10_000_000 < len(line.encode()) < MAX_EVENT_BYTES
    path = write(tmp_path, "a.ndjson", line.encode())
    run_here("ingest", "events", "p", path, "--data", tmp_path / "data", status=0)
    with closing(LmdbStore.open(tmp_path / "data")) as store:
        assert text.encode() == Archive(store).text("p", 500)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("ingest",),
        ("ingest", "pictures", "p", "a.xml", "--data", "d"),
        ("ingest", "dump", "p", "--data", "d"),
        ("ingest", "dump", "p", "a.xml"),
        ("project", "create", "p", "--data", "d"),
        ("serve",),
        ("serve", "--data", "d", "--workers", "many"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong usage is 2, and nothing is made."""
    monkeypatch.chdir(tmp_path)
    assert "usage:" in run_here(*arguments, status=2).stderr
    assert [] == list(tmp_path.iterdir())


def test_an_unknown_project(unchanged: Path, tmp_path: Path) -> None:
    """A project that does not exist is named, before a file is looked at."""
    done = run_here("ingest", "dump", "nope", tmp_path / "absent", "--data", unchanged, status=3)
    assert "'nope'" in done.stderr
    assert "absent" not in done.stderr


@pytest.mark.parametrize("name", ["../x", "", "x" * 64])
def test_a_name_that_is_no_projects(name: str, unchanged: Path, tmp_path: Path) -> None:
    """What could not be a project's name is refused where one is made and where one is read."""
    definition = ("--base-url", "https://t.example", "--language", "en", "--license", "CC0-1.0")
    run_here("project", "create", name, *definition, "--data", unchanged, status=3)
    run_here("ingest", "dump", name, tmp_path / "absent", "--data", unchanged, status=3)


def test_what_is_no_file(unchanged: Path, tmp_path: Path) -> None:
    """An empty folder, a pipe, standard input and an impossible name are refused, each with its name."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    others: list[Path | str] = [
        tmp_path / "empty",
        tmp_path / "pipe",
        "-",
        "/dev/null",
        "x" * 300,
        tmp_path / "known.xml/x",
    ]
    write(tmp_path, "known.xml", KNOWN)
    done = run(
        *("ingest", "dump", "p", *others, "--data", unchanged, "--json"), status=3, stdin=subprocess.DEVNULL
    )
    assert [str(path) for path in others] == [fault["file"] for fault in json.loads(done.stdout)["faults"]]


def test_a_project_of_nothing(tmp_path: Path) -> None:
    """A snapshot of an empty project is out of range, which says to ingest first."""
    create(tmp_path / "data")
    with closing(LmdbStore.open(tmp_path / "data")) as store:
        head, archive = store.log.head(), Archive(store)
        for valid_at in (None, 0):
            with pytest.raises(AsOfOutOfRangeError) as caught:
                archive.create_snapshot(Selector.of(["p"]), valid_at=valid_at)
            assert "ingest" in caught.value.hint
        assert (head, 0, []) == (store.log.head(), archive.project("p").revisions, list(archive.snapshots()))


# --- data directories ---------------------------------------------------------------------------


def notes(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("mine")


def foreign_engine(path: Path) -> None:
    (path / "lmdb").mkdir(parents=True)
    (path / "lmdb/data.mdb").write_bytes(b"SQLite format 3\0" * 1000)


def engine_without_file(path: Path) -> None:
    (path / "lmdb").mkdir(parents=True)


PLACES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "empty": Path.mkdir,
    "other files": notes,
    "a file": lambda path: path.write_bytes(b"mine"),
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "another database": foreign_engine,
    "no database": engine_without_file,
}


@pytest.mark.parametrize(
    "name,command",
    # An empty directory is made a store by serve.
    [
        (name, command)
        for name in PLACES
        for command in ("ingest", "serve")
        if (name, command) != ("empty", "serve")
    ],
)
def test_a_directory_that_is_no_store(name: str, command: str, tmp_path: Path) -> None:
    """What is no data directory is refused, and nothing in it is touched."""
    place = tmp_path / "place"
    PLACES[name](place)
    before = tree(tmp_path)
    arguments: dict[str, tuple[str | Path, ...]] = {
        "ingest": ("ingest", "dump", "p", SAMPLE),
        "serve": ("serve", "--listen", "127.0.0.1:0"),
    }
    run_here(*arguments[command], "--data", place, status=3)
    assert before == tree(tmp_path)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder but LMDB's own lock file."""
    files = (path for path in folder.rglob("*") if path.name != "lock.mdb")
    return {str(path): path.read_bytes() if path.is_file() else None for path in files}


def test_the_installed_command_ends_so_too(tmp_path: Path) -> None:
    """Usage, and an error with a name, in a process of its own."""
    assert "usage:" in run("ingest", status=2).stderr
    run("serve", "--data", tmp_path / "absent", status=3)


def test_a_store_of_a_newer_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that a newer version made is refused by every command, unchanged."""
    with monkeypatch.context() as patch:
        patch.setattr(lmdb_store, "SCHEMA_VERSION", lmdb_store.SCHEMA_VERSION + 1)
        LmdbStore.open(tmp_path / "data", create=True).close()
    before = (tmp_path / "data/lmdb/data.mdb").read_bytes()
    for arguments in (("ingest", "dump", "p", SAMPLE), ("project", "list"), ("serve",)):
        done = run_here(*arguments, "--data", tmp_path / "data", status=3)
        assert "newer" in done.stderr
    assert before == (tmp_path / "data/lmdb/data.mdb").read_bytes()


# --- in the middle ------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1000k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("NOT TESTED: a full disk; mounting a small tmpfs needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    """A disk that fills up is named; with room, the same command takes the rest."""
    data = small_disk / "data"
    create(data)
    arguments = ("ingest", "dump", "p", SAMPLE, "--data", data, "--json")
    run_here(*arguments, status=3)
    report = json.loads(run_here(*arguments, status=3).stdout)
    assert [("STORE_FULL", str(SAMPLE))] == [(fault["reason"], fault["file"]) for fault in report["faults"]]
    assert report["head"] == head_of(data).hash.hex()
    held = report["known"]
    assert 0 < held < 1307
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    report = json.loads(run_here(*arguments, status=0).stdout)
    assert (held, 1307) == (report["known"], report["known"] + report["accepted"])


def test_an_interrupt(tmp_path: Path) -> None:
    """An interrupt in the middle is 130 and says how to go on; a second run takes the rest."""
    data, revisions = tmp_path / "data", 20_000
    create(data)
    path = write(tmp_path, "a.xml", dump(page("".join(map(revision, range(1, revisions + 1))))))
    with closing(LmdbStore.open(data)) as store:
        with subprocess.Popen(
            [COMMAND, "ingest", "dump", "p", path, "--data", data],
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            while store.log.head().position < 4 and process.poll() is None:
                time.sleep(0.001)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        assert (130, "Traceback" in errors) == (process.returncode, False), errors
        assert "run it again" in errors
        assert 0 < Archive(store).project("p").revisions < revisions
    report = json.loads(run_here("ingest", "dump", "p", path, "--data", data, "--json", status=0).stdout)
    assert revisions == report["known"] + report["accepted"]


def test_a_store_without_a_project(tmp_path: Path) -> None:
    """A store without a project says how to make one."""
    LmdbStore.open(tmp_path / "data", create=True).close()
    assert "project create" in run_here("project", "list", "--data", tmp_path / "data", status=0).stderr
