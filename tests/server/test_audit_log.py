"""The audit log by itself: found again by any question, signed, verified, and tampered with in any way."""

from __future__ import annotations

import csv
import json
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from recension.archive.ledger import Ledger
from recension.archive.pins import LicenseePins
from recension.archive.rebuild import rebuild
from recension.model import errors
from recension.model.audit import Call, encode_record, read_record
from recension.model.instant import MAX_INSTANT, MIN_INSTANT, format_instant, parse_instant
from recension.model.merkle import EMPTY, Frontier, MerkleTree, leaf_hash
from recension.server.audit import log as log_module
from recension.server.audit.checkpoints import AuditCheckpoints, audit_key, last_path
from recension.server.audit.commands import keys_of
from recension.server.audit.export import COLUMNS, FORMS, export
from recension.server.audit.log import AuditLog, Wanted, _encoded
from recension.server.audit.verify import Held, Kind, Verified, verify
from recension.server.main import main
from recension.server.signing import Signer
from recension.store.auditing import CHECKPOINTS, META, AuditStore, Change
from recension.store.lmdb import LmdbStore
from tests.archive.helpers import World, edit
from tests.server.audit_mutations import Mutator, Tables, read, resealed, write

NAME = "example.org/recension"
DAY = 86_400 * 1_000_000
START = parse_instant("2026-11-01")
LATER = parse_instant("2999-01-01")


def call(number: int, at_: int, **fields: Any) -> Call:
    fields = {"caller": "acme", "method": "RevisionService/GetArticle", "outcome": "OK"} | fields
    return Call(at_, f"r{number}", role="licensee", key="00", duration_us=5, **fields)


class Audited:
    """A store with pins, and its audit log."""

    def __init__(self, data: Path, now: int = START) -> None:
        self.data = data
        self.now = now
        self.world = World()
        self.world.add(self.world.event(1, 1, edit(1, "text")))
        self.snapshot = self.world.snapshot(2)
        self.pins = LicenseePins(self.world.store, "acme")
        self.env = AuditStore(data)
        self.log = AuditLog(self.world.store, self.env, clock=lambda: self.now)
        self.signer = Signer(self.world.store, Ledger(self.world.store), data / "signing.key")
        self.checkpoints = AuditCheckpoints(self.env, self.signer, clock=lambda: self.now)

    def verify(self, *held: str) -> Verified:
        notes = [Held("the held", note) for note in held]
        return verify(self.env, keys_of(self.world.store), notes, statements=self.log.statements)


@pytest.fixture
def audited(tmp_path: Path) -> Iterator[Audited]:
    one = Audited(tmp_path)
    yield one
    one.env.close()


def filled(audited: Audited, count: int = 40) -> list[str]:
    """Fill a log with calls and statements of several days; the checkpoints that were signed meanwhile."""
    audited.signer.create(NAME)
    notes = []
    for number in range(count):
        audited.now += DAY // 7
        if number % 5 == 0:
            audited.pins.create(f"p{number}", audited.snapshot, LATER)
        audited.log.append([call(number, audited.now - number % 3, bytes=number).entry])
        if number % 10 == 9:
            notes.append(audited.checkpoints.sign().note)
    notes.append(audited.checkpoints.sign().note)
    return notes


# --- the tree ---


def test_the_frontier_is_the_tree() -> None:
    """Of every size it has the root of the whole tree, and goes on from what it is made of."""
    tree, frontier = MerkleTree(), Frontier()
    assert frontier.root() == EMPTY
    for number in range(300):
        leaf = leaf_hash(b"%d" % number)
        tree.append(leaf)
        frontier = Frontier(frontier.size, frontier.peaks)
        frontier.append(leaf)
        assert (frontier.size, frontier.root()) == (tree.size, tree.root(tree.size))
    with pytest.raises(ValueError, match="peaks"):
        Frontier(3, [bytes(32)])


def test_records_have_one_encoding() -> None:
    """What is read is what was written; anything else, or in another place, is refused by name."""
    good = encode_record(7, call(1, START, project="é\ud800\0" + "x" * 300).entry.fields)
    record = read_record(7, good)
    assert (record.at, record.get("caller"), record.number("bytes")) == (START, "acme", 0)
    assert record.get("project") == ("é\ufffd\0" + "x" * 300)[:255]
    fields = dict(call(1, START).entry.fields)
    wrong = (
        *({name: value for name, value in fields.items() if name != gone} for gone in ("kind", "ended_at")),
        *(fields | {name: "x"} for name in ("kind", "ended_at", "bytes")),
        *(fields | {"ended_at": at} for at in ("2026-11-04T17:88:34Z", "2026-11-04T17:58:60Z", 5)),
        *(fields | {"caller": value} for value in (5, 5.5)),
        fields | {"bytes": -1},
    )
    raw = (b"", b"{}", b"[]", good + b" ", good.replace(b'"index":7', b'"index": 7'), b"\xff")
    for bad in (*raw, *(encode_record(7, each) for each in wrong)):
        with pytest.raises(errors.AuditDamagedError):
            read_record(7, bad)
    with pytest.raises(errors.AuditDamagedError, match="record 7 stands in the place of 8"):
        read_record(8, good)


# --- found again ---


def test_questions_find_what_a_look_at_each_record_finds(audited: Audited) -> None:
    """Times that come late, in any order, over days; every bound is exact, whatever the rows of days say."""
    draw = random.Random("days")
    times: list[int] = []
    for group in range(60):
        audited.now += draw.choice([0, 1, DAY // 3, 2 * DAY])
        late = draw.choice([0, 0, DAY, 5 * DAY])
        made = [audited.now - draw.randrange(late + 1) for _ in range(draw.randint(1, 4))]
        audited.log.append([call(group, one).entry for one in made])
        times += made
    assert [one.at for one in audited.log.records()] == times
    midnights = [one - one % DAY for one in draw.sample(times, 6)]
    bounds = [START - DAY, *draw.sample(times, 10), *midnights, audited.now + DAY]
    for since in (None, *bounds):
        for until in (None, *bounds):
            found = [one.at for one in audited.log.records(Wanted(since=since, until=until))]
            assert found == [
                one for one in times if (since is None or since <= one) and (until is None or one < until)
            ]
    assert verify(audited.env, []).findings == []


def test_records_are_filtered_and_paged(audited: Audited) -> None:
    """By whom it concerns, what was asked and how it ended; pages begin behind any record."""
    audited.pins.create("p", audited.snapshot, LATER)
    calls = [
        call(1, START, agreement="sha256:a", snapshot="sha256:s"),
        call(2, START, caller="u", outcome="NOT_FOUND", reason="PAGE_NOT_FOUND", true_reason="FORBIDDEN"),
        call(3, START, method="SnapshotService/ReadSnapshot"),
    ]
    audited.log.append([one.entry for one in calls])

    def found(**fields: Any) -> list[int]:
        return [one.index for one in audited.log.records(Wanted(**fields))]

    assert found() == [0, 1, 2, 3]
    assert found(licensee="acme") == [0, 1, 3]
    assert found(method="GetArticle") == found(method="RevisionService/GetArticle") == [1, 2]
    assert found(outcome="NOT_FOUND") == found(outcome="PAGE_NOT_FOUND") == found(outcome="FORBIDDEN") == [2]
    assert found(agreement="sha256:a") == found(snapshot="sha256:s") == [1]
    assert found(licensee="nobody") == []
    assert [one.index for one in audited.log.records(after=1)] == [2, 3]
    assert [one.index for one in audited.log.records(after=0, before=3)] == [1, 2]


def test_a_long_log_is_taken_over_bit_by_bit(audited: Audited, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of calls need not wait for it: each group takes over some, and says that there is more."""
    monkeypatch.setattr(log_module, "_LOOKED_AT_BYTES", 1)
    world = audited.world
    for day in range(3, 43):
        world.add(world.event(1, day, edit(day, f"text {day}")))
    for number in range(20):
        audited.pins.create(f"p{number}", audited.snapshot, LATER)
    groups = 0
    while audited.log.append([call(groups, START).entry], all_=False):
        groups += 1
        assert audited.env.head().taken == 16 * groups
    assert groups == world.store.log.head().position // 16
    assert [one.get("pin") for one in audited.log.records() if one.get("pin")] == [
        f"p{number}" for number in range(20)
    ]
    requests = [one.get("request") for one in audited.log.records() if one.get("request")]
    assert requests == [f"r{number}" for number in range(groups + 1)]


def test_a_store_that_was_restored_is_followed_from_where_both_agree(audited: Audited) -> None:
    """What came after a backup is gone from the store and not from the log, which says so and goes on."""
    world = audited.world
    audited.pins.create("kept", audited.snapshot, LATER)
    audited.log.append()
    backup = World()
    backup.store = type(world.store)()
    rebuild(world.store, backup.store)
    audited.pins.create("lost", audited.snapshot, LATER)
    audited.log.append()
    restored = LicenseePins(backup.store, "acme")
    for name in ("new", "newer"):
        restored.create(name, audited.snapshot, LATER)
    AuditLog(backup.store, audited.env).append()
    told = [(one.get("kind"), one.get("pin")) for one in audited.log.records()]
    assert told == [
        ("statement", "kept"),
        ("statement", "lost"),
        ("replaced", ""),
        ("statement", "new"),
        ("statement", "newer"),
    ]


# --- signed and verified ---


def test_a_log_as_it_was_made_is_right(audited: Audited) -> None:
    """The control: nothing is found, of an empty log neither, and each checkpoint is compared with."""
    audited.env.make()
    assert (audited.verify().findings, audited.verify().root) == ([], EMPTY)
    notes = filled(audited)
    result = audited.verify(*notes)
    assert result.findings == []
    assert result.size == sum(1 for _ in audited.log.records())
    assert result.compared == len(notes) + len(set(notes))
    tree = MerkleTree()
    for record in audited.log.records():
        tree.append(leaf_hash(record.encoded))
    assert result.root == tree.root(tree.size)
    assert notes[-1].startswith(f"{NAME}/audit\n{result.size}\n")


def test_a_statement_that_was_passed_over_is_named(audited: Audited) -> None:
    """Who makes a log without one, checkpoints included, is found out by the store's own log."""
    filled(audited, 12)
    audited.pins.create("kept", audited.snapshot, LATER)
    audited.log.append()

    assert [] == audited.verify().findings
    audited.pins.create("hushed", audited.snapshot, LATER)
    newest = audited.world.store.log.head()
    pass_over = lambda head: Change(replace(head, taken=newest.position, taken_hash=newest.hash))  # noqa: E731
    audited.env.update(pass_over)
    audited.pins.create("later", audited.snapshot, LATER)
    audited.log.append([call(99, audited.now).entry])
    audited.checkpoints.sign()
    assert [] == verify(audited.env, keys_of(audited.world.store)).findings  # the log by itself is whole
    assert [(Kind.LEFT_OUT, newest.position)] == [(one.kind, one.index) for one in audited.verify().findings]


def test_checkpoints_are_of_the_audit_log_alone(audited: Audited) -> None:
    """One of the store's own log is none of it, nor one of another key; a rotated key is followed."""
    notes = filled(audited)
    audited.signer.rotate()
    again = audited.checkpoints.sign()
    assert again.note != notes[-1]
    assert audited.verify(notes[-1], again.note).findings == []
    other = audited.signer.checkpoint()
    forged = notes[-1].replace(f"\n{again.size}\n", f"\n{again.size - 1}\n")
    stranger = notes[-1].replace(f"— {NAME}/audit", f"— {NAME}/other")
    for note in (other, forged, stranger, "", "a\nb\n", "a\nb\nc\n\nd"):
        assert audited.verify(note).kinds == {Kind.FORGED}
    assert str(audit_key(keys_of(audited.world.store)[0])).startswith(f"{NAME}/audit+")


def test_a_log_that_was_rolled_back_is_not_signed(audited: Audited) -> None:
    """Beside the key lies what was signed last; a log without it is a fork, and signing says so."""
    audited.env.make()
    with pytest.raises(errors.NoSigningKeyError):
        audited.checkpoints.sign()
    filled(audited, 9)
    audited.env.close()
    shutil.copytree(audited.env.path, audited.data / "before")
    audited.log.append([call(99, audited.now).entry])
    note = audited.checkpoints.sign().note
    assert last_path(audited.data / "signing.key").read_text(encoding="utf-8") == note
    audited.env.close()
    shutil.rmtree(audited.env.path)
    (audited.data / "before").rename(audited.env.path)
    assert audited.verify(note).kinds == {Kind.ROLLED_BACK}
    for _ in range(3):
        with pytest.raises(errors.LogForkedError, match="rolled back"):
            audited.checkpoints.sign()
        audited.log.append([call(100, audited.now).entry])


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.torture)])
def test_every_mutation_is_detected(audited: Audited, count: int) -> None:
    """Flipped, dropped, swapped, cut, repeated, edited, added, rolled back, and covered up to any degree.

    Without the checkpoint that is held elsewhere some are not found: that is what it is for.
    """
    *_, held = filled(audited)
    head = audited.env.head()
    audited.env.close()
    tables = read(audited.env.path)
    mutator = Mutator(tables, head, f"mutations/{count}")
    missed: list[str] = []
    covered = 0
    for _ in range(count):
        what, mutated = mutator.next()
        write(audited.env.path, mutated)
        if not found_out(audited, held):
            missed.append(what)
        covered += what.endswith("head") and not found_out(audited)
    assert missed == []
    assert covered > count // 20
    write(audited.env.path, tables)
    assert audited.verify(held).findings == []


def found_out(audited: Audited, *held: str) -> bool:
    """Whether verifying finds anything, or says that the log cannot be read."""
    try:
        return bool(audited.verify(*held).findings)
    except errors.AuditDamagedError:
        return True
    finally:
        audited.env.close()


def test_what_was_done_is_named(audited: Audited) -> None:
    """Each way to tamper has its name, and the record that it was done to."""
    *_, held = filled(audited)
    audited.env.close()
    tables = read(audited.env.path)
    rows = sorted(tables[b"records"].items())

    def verified(records: Any, **others: dict[bytes, bytes]) -> Verified:
        more = {name.encode(): rows for name, rows in others.items()}
        write(audited.env.path, {**tables, b"records": dict(records), **more})
        result = audited.verify(held)
        audited.env.close()
        return result

    first = verified([*rows[:3], (rows[3][0], b"x" + rows[3][1][1:]), *rows[4:]]).findings[0]
    assert (first.kind, first.index) == (Kind.CHANGED, 3)
    first = verified([*rows[:3], *rows[5:]]).findings[0]
    assert (first.kind, first.index, first.what) == (Kind.REMOVED, 3, "records 3 to 4 are missing")
    (one, one_raw), (two, two_raw) = rows[3:5]
    swapped = [(one, resealed(b"records", one, two_raw)), (two, resealed(b"records", two, one_raw))]
    assert Kind.REORDERED in verified([*rows[:3], *swapped, *rows[5:]]).kinds
    again = (two, resealed(b"records", two, one_raw))
    assert Kind.REPEATED in verified([*rows[:4], again, *rows[5:]]).kinds
    assert Kind.TRUNCATED in verified(rows[:-1]).kinds
    key = len(rows).to_bytes(8, "big")
    assert Kind.ADDED in verified([*rows, (key, resealed(b"records", key, rows[-1][1]))]).kinds
    assert verified(rows, days={}).kinds == {Kind.CHANGED}
    notes = {
        key: resealed(CHECKPOINTS, key, raw, lambda value: value.replace(b"\n", b"\n1", 1))
        for key, raw in tables[CHECKPOINTS].items()
    }
    assert verified(rows, checkpoints=notes).kinds == {Kind.FORGED}
    with pytest.raises(errors.AuditDamagedError):
        verified(rows, **{META.decode(): {key: b"x" + raw for key, raw in tables[META].items()}})


# --- the commands ---


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with a signing key, a pin and five calls."""
    data = tmp_path / "data"
    with closing(LmdbStore.open(data, create=True)) as store:
        one = Audited(data)
        rebuild(one.world.store, store)
        LicenseePins(store, "acme").create("corpus", one.snapshot, LATER)
        with closing(AuditStore(data)) as env:
            hostile = "=HYPERLINK(1)\x1b[31m"
            calls = [call(number, START + number, project=hostile).entry for number in range(5)]
            AuditLog(store, env).append(calls)
    assert main(["key", "create", NAME, "--data", str(data)]) == 0
    return data


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(["audit", *arguments])
    return status, *capsys.readouterr()


def test_records_are_shown(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a table for people, which nothing in a record steers; as JSON the records themselves."""
    status, out, _ = run(capsys, "show", "--data", str(data), "--licensee", "acme")
    assert status == 0
    assert "pin made" in out
    assert "\x1b" not in out
    status, out, _ = run(capsys, "show", "--data", str(data), "--json", "--limit", "2")
    assert [json.loads(line)["request"] for line in out.splitlines()] == ["r3", "r4"]
    status, out, _ = run(capsys, "show", "--data", str(data), "--json", "--until", "1000-01-01")
    assert (status, out) == (0, "")


def test_records_are_exported(data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The same rows in each form; JSON lines are the leaves; no cell of a table is a formula."""
    for form in FORMS:
        file = tmp_path / f"out.{form}"
        assert run(capsys, "export", str(file), "--format", form, "--data", str(data))[0] == 0
    lines = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert [encode_record(index, json.loads(line)) for index, line in enumerate(lines)] == lines
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as made:
        rows = list(csv.DictReader(made))
    table = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert len(lines) == len(rows) == len(table) == 6
    for row, line, typed in zip(rows, map(json.loads, lines), table, strict=True):
        assert {name: value for name, value in typed.items() if value is not None} == {
            name: line[name] for name in line if name in COLUMNS
        }
        assert row["index"] == str(line["index"])
        assert not any(value.startswith(("=", "+", "-", "@")) for value in row.values())
    assert rows[-1]["project"].startswith("'=HYPERLINK")


def test_parquet_needs_its_library(data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without it the error says what to install, and no file is left; nor of one that cannot be written."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(errors.ExtraMissingError):
        export([], "parquet", tmp_path / "out")
    with pytest.raises(errors.AuditUnusableError):
        export([], "csv", tmp_path / "no" / "out")
    assert list(tmp_path.glob("out*")) == []


def test_a_log_is_verified(data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Against what is there, and against a checkpoint that was kept elsewhere; the exit status tells."""
    status, note, _ = run(capsys, "checkpoint", "--data", str(data))
    assert status == 0
    kept = tmp_path / "kept"
    kept.write_text(note, encoding="utf-8")
    status, _, said = run(capsys, "verify", "--data", str(data))
    assert (status, "kept elsewhere" in said) == (0, True)
    status, out, _ = run(capsys, "verify", "--data", str(data), "--checkpoint", str(kept), "--json")
    told = json.loads(out)
    assert (status, told["findings"], told["size"], told["checkpoints"]) == (0, [], 6, 3)
    tables: Tables = read(data / "audit")
    last = max(tables[b"records"])
    write(data / "audit", {**tables, b"records": {k: v for k, v in tables[b"records"].items() if k != last}})
    status, out, _ = run(capsys, "verify", "--data", str(data), "--checkpoint", str(kept))
    assert status == 1
    assert {line.split("\t")[0] for line in out.splitlines()} == {"truncated"}
    status, out, _ = run(capsys, "checkpoint", "--data", str(data), "--json")
    assert (status, json.loads(out)["size"]) == (0, 6)  # so its head says, and verifying shows that it lies
    key = "example.org/x+00000000+AQ=="
    assert run(capsys, "verify", "--data", str(data), "--key", key)[0] == 3
    assert run(capsys, "verify", "--data", str(data), "--checkpoint", str(tmp_path / "no"))[0] == 3


def test_a_damaged_log_is_named(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands end with an error that has a name; so do those of a store without a log of calls."""
    (data / "audit" / "data.mdb").write_bytes(b"x" * 9_000)
    for command in ("show", "verify", "checkpoint"):
        status, _, said = run(capsys, command, "--data", str(data))
        assert status == 3
        assert "error:" in said
        assert "Traceback" not in said
    shutil.rmtree(data / "audit")
    assert run(capsys, "verify", "--data", str(data))[0] == 3


def test_a_backup_brings_the_log(data: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Backup and restore bring it along; where there is a log already, it is the newer one and stays."""
    _, note, _ = run(capsys, "checkpoint", "--data", str(data))
    (tmp_path / "kept").write_text(note, encoding="utf-8")
    backup, restored = tmp_path / "backup", tmp_path / "restored"
    assert main(["backup", "--data", str(data), str(backup), "--quiet"]) == 0
    assert {path.name for path in (backup / "audit").iterdir()} == {"data.mdb"}
    assert main(["restore", "--data", str(restored), str(backup), "--quiet"]) == 0
    held = ("--checkpoint", str(tmp_path / "kept"))
    assert run(capsys, "verify", "--data", str(restored), *held)[0] == 0
    with closing(LmdbStore.open(data)) as store, closing(AuditStore(data)) as env:
        AuditLog(store, env).append([call(99, START).entry])
    shutil.rmtree(data / "lmdb")
    assert main(["restore", "--data", str(data), str(backup), "--quiet"]) == 0
    _, out, _ = run(capsys, "show", "--data", str(data), "--json", "--limit", "1")
    assert json.loads(out)["request"] == "r99"
    assert run(capsys, "verify", "--data", str(data), *held)[0] == 0


def test_a_damaged_log_is_not_backed_up(data: Path, tmp_path: Path) -> None:
    """A backup holds what was recorded, or there is none; neither is a damaged one restored."""
    backup = tmp_path / "backup"
    assert main(["backup", "--data", str(data), str(backup), "--quiet"]) == 0
    tables: Tables = read(data / "audit")
    key = min(tables[b"records"])
    tables[b"records"][key] = resealed(b"records", key, tables[b"records"][max(tables[b"records"])])
    for path in (data / "audit", backup / "audit"):
        write(path, tables)
    assert main(["backup", "--data", str(data), str(tmp_path / "other"), "--quiet"]) == 3
    assert not (tmp_path / "other").exists()
    assert main(["restore", "--data", str(tmp_path / "restored"), str(backup), "--quiet"]) == 3
    assert not (tmp_path / "restored" / "lmdb").exists()


@given(
    st.dictionaries(
        st.text(st.characters(max_codepoint=127), max_size=9), st.text() | st.integers(0, 2**53 - 1)
    )
)
def test_records_are_written_as_they_are_defined(fields: dict[str, Any]) -> None:
    """The fast way to write a record gives the bytes that the slow one does."""
    assert _encoded(7, fields) == encode_record(7, fields)


@given(st.integers(MIN_INSTANT, MAX_INSTANT))
def test_times_are_written_as_they_are_defined(at: int) -> None:
    """So does the fast way to write a time."""
    assert call(1, at).entry.fields["ended_at"] == format_instant(at)
