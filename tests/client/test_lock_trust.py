"""A lock of a server that signs: its key, and the memory of what was signed, against real servers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from recension.model.errors import LockError
from recension.model.instant import parse_instant
from recension.server.signing import PrivateKey
from recension_client import lockfile, verify
from recension_client.cli.main import main
from recension_client.client import Client
from tests.client.processes import at, make_project, run, serving

NAME = "example.org/recension"
PIN = ("pin", "w", "--at")


def filled(data: Path) -> Path:
    """Make a store with one page, edited each day."""
    make_project("w", data)
    events = data / "events.ndjson"
    lines = []
    for day in range(1, 8):
        slot = {"role": "main", "model": "wikitext", "format": "text/x-wiki", "text": f"text {day}"}
        edit = {"revId": str(day), "title": "T", "contributor": {"name": "Ann"}, "slots": [slot]}
        time = f"2020-01-0{day}T00:00:00Z"
        lines.append({"project": "w", "pageId": "1", "time": time, "sourceId": str(day), "edit": edit})
    events.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    run("recension-server", "ingest", "events", "w", str(events), "--data", str(data))
    return data


def keyed(data: Path, command: str = "create") -> str:
    """Make or rotate a key that lies beside the data; the new one."""
    name = (NAME,) if command == "create" else ()
    place = ("--data", str(data), "--signing-key", str(key_of(data)))
    return run("recension-server", "key", command, *name, *place).split()[-1]


def key_of(data: Path) -> Path:
    return data.with_name(f"{data.name}.key")


@dataclass(frozen=True)
class Servers:
    """What stands when the tests begin."""

    data: Path
    own: str
    """Address of the server that the lock is of."""
    restored: str
    """One that runs from a copy of the first's data and key, from before the lock."""
    stranger: str
    """One with another key of the same name."""
    unsigned: str
    lock: bytes
    memory: Path
    """The state directory as it was when the lock was made."""


Ask = Callable[..., str]


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Ask:
    """Run ``recension`` in the test's folder, with a memory of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def command(*arguments: str, status: int = 0) -> str:
        code = main(arguments)
        shown = b"".join(capfdbinary.readouterr()).decode()
        assert code == status, shown
        return shown

    return command


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("servers")
    data = filled(folder / "own")
    unsigned = shutil.copytree(data, folder / "unsigned")
    stranger = shutil.copytree(data, folder / "stranger")
    keyed(stranger)
    keyed(data)
    restored = shutil.copytree(data, folder / "restored")
    for path in folder.glob("own.key*"):
        shutil.copy(path, folder / path.name.replace("own", "restored"))
    with ExitStack() as stack:
        own, back, other = (
            stack.enter_context(serving(each, "--signing-key", str(key_of(each))))
            for each in (data, restored, stranger)
        )
        none = stack.enter_context(serving(unsigned))
        memory = folder / "state"
        for day in ("2020-01-02", "2020-01-03"):
            done = subprocess.run(
                ["recension", *PIN, day, "--force"],
                check=False,
                cwd=folder,
                env=at(own) | {"XDG_STATE_HOME": str(memory)},
                capture_output=True,
            )
            assert done.returncode == 0, done.stderr
        lock = (folder / "recension.lock").read_bytes()
        yield Servers(data, own, back, other, none, lock, memory)


@pytest.fixture
def locked(servers: Servers, tmp_path: Path) -> Path:
    """A folder with the lock, and a memory as of its making."""
    path = tmp_path / "recension.lock"
    path.write_bytes(servers.lock)
    shutil.copytree(servers.memory, tmp_path / "state")
    return path


def test_the_lock_has_the_key_and_follows_its_rotation(servers: Servers, locked: Path, ask: Ask) -> None:
    """Each command looks anew; ``update`` takes the newest key over."""
    first = lockfile.read(locked).server_key
    assert first.startswith(f"{NAME}+")
    assert first in ask("lock")
    assert f"{first}; the locked snapshot is in its log" in ask("doctor")
    ask("fetch")
    assert "ok: sha256:" in ask("verify")
    assert 0 == verify.main([str(locked), str(locked.parent / "corpus")])
    second = keyed(servers.data, "rotate")
    assert first != second
    assert "nothing newer" in ask("status")
    assert first == lockfile.read(locked).server_key
    assert second in ask("doctor")
    ask("update", "--at", "2020-01-05")
    assert second == lockfile.read(locked).server_key
    ask("status")
    shutil.rmtree(locked.parent / "state")
    locked.write_bytes(servers.lock)
    assert second in ask("doctor"), "the older key leads to the newest without any memory"


COMMANDS = (("fetch",), ("status",), ("update", "--at", "2020-01-06"))


def refused(ask: Ask, address: str, said: str) -> None:
    """Hold each command by the lock to refusing a server, with the reason."""
    for command in COMMANDS:
        told = ask(*command, "--server", address, "--json", status=3)
        error = json.loads(told.splitlines()[-1])["error"]
        assert "VERIFICATION_FAILED" == error["reason"]
        assert said in error["message"]
    found = ask("doctor", "--server", address, "--json", status=1).splitlines()
    amiss = [finding["found"] for finding in map(json.loads, found) if not finding["ok"]]
    assert [True] == [said in each for each in amiss]


def written(folder: Path) -> dict[Path, bytes]:
    """Return the lock, the memory and whatever was fetched."""
    beside = (".json.lock", ".evidence.json")
    files = {path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(beside)}
    return {path: path.read_bytes() for path in files}


def evidence(folder: Path) -> set[Path]:
    """Return the files that show what was refused."""
    return set((folder / "state/recension/logs").glob("*.evidence.json"))


@pytest.mark.parametrize("which", ["stranger", "unsigned"])
def test_another_server_than_the_locks_is_refused(
    servers: Servers, locked: Path, ask: Ask, which: str
) -> None:
    """One with another key of the name, one that signs nothing; nothing is written."""
    before = written(locked.parent)
    refused(ask, getattr(servers, which), "does not know the key")
    assert before == written(locked.parent)


def test_a_restored_backup_is_refused(
    servers: Servers, locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    """At first it lacks what was signed; then its log is longer, and another. A stranger to both takes it."""
    before = written(locked.parent)
    refused(ask, servers.restored, "rolled back")
    assert before == written(locked.parent)
    rolled_back = evidence(locked.parent)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "nobody"))
    for hour in range(1, 9):
        at_ = f"2020-01-06T0{hour}:00:00Z"
        ask(*PIN, at_, "--lock", "other.lock", "--force", "--server", servers.restored)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    before = written(locked.parent)
    refused(ask, servers.restored, "forked")
    (shown,) = evidence(locked.parent) - rolled_back
    refused(ask, servers.restored, f"kept in {shown}")
    assert "forked" in ask(*PIN, "2020-01-02", "--force", "--server", servers.restored, status=3)
    assert before == written(locked.parent)
    assert "nothing newer" in ask("status")


def test_the_pin_is_in_the_log_too(
    servers: Servers, locked: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is made, and whenever the lock is looked at; a proof of something else is refused."""
    pin = (*PIN, "2020-01-03", "--force", "--name", "held", "--until", "2090-01-01", "--server", servers.own)
    ask(*pin)
    assert "held" in ask("status")
    ask("retractions")
    told = ask("retractions", "--server", servers.restored, status=3)
    refusals = ("rolled back", "forked", "does not know the key")  # which: up to the tests that ran before
    assert any(why in told for why in refusals), told
    snapshot = lockfile.read(locked).manifest.snapshot_id
    monkeypatch.setattr(Client, "pin_inclusion", lambda self, _, size: self.inclusion(snapshot, size))
    for command in (pin, ("status",), ("retractions",)):
        assert "proved something else" in ask(*command, status=3)


def test_first_looks(servers: Servers, tmp_path: Path, ask: Ask) -> None:
    """A key that the operator told has to be the server's; a name that is known keeps its key."""
    told = str(PrivateKey.new(NAME).verifier)
    pin = (*PIN, "2020-01-02")
    assert "does not know the key" in ask(*pin, "--server-key", told, "--server", servers.own, status=3)
    assert "not a verifier key" in ask(*pin, "--server-key", "key", "--server", servers.own, status=3)
    assert not list(tmp_path.rglob("*.json"))
    assert not (tmp_path / "recension.lock").exists()
    ask(*pin, "--server", servers.own)
    assert "does not know the key" in ask(*pin, "--server", servers.stranger, "--force", status=3)


def test_a_server_that_signs_nothing(servers: Servers, tmp_path: Path, ask: Ask) -> None:
    """The lock names no key, and nothing is remembered."""
    ask(*PIN, "2020-01-02", "--server", servers.unsigned)
    assert "server_key" not in (tmp_path / "recension.lock").read_text()
    ask("status")
    assert "the server signs nothing" in ask("doctor")
    ask("update", "--at", "2020-01-02", "--server", servers.unsigned)
    assert not lockfile.read(tmp_path / "recension.lock").server_key
    assert not (tmp_path / "state").exists()


def test_update_takes_the_key_of_a_server_that_signs_by_now(servers: Servers, locked: Path, ask: Ask) -> None:
    """A lock from before names none: nothing is asked for until then, and the key stands in its place."""
    key = f'server_key = "{lockfile.read(locked).server_key}"\n'
    locked.write_text(locked.read_text().replace(key, ""))
    assert "the lock names none" in ask("doctor")
    assert "signed with" not in ask("status")
    ask("update", "--at", "2020-01-04")
    assert lockfile.read(locked).server_key.startswith(f"{NAME}+")


def test_a_memory_that_cannot_be_kept(
    servers: Servers, locked: Path, monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    """It is named, and so is a key in the lock that is none."""
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    assert "set XDG_STATE_HOME" in ask("status", status=3)
    with pytest.raises(LockError, match="not a verifier key"):
        lockfile.parse(servers.lock.decode().replace(f'"{NAME}+', f'"{NAME}+0'))
    assert locked.exists()


def test_without_the_extra(servers: Servers, locked: Path) -> None:
    """What to install is said, and nothing is believed."""
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from recension_client.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    for command, status in (("status", 3), ("doctor", 1)):
        done = subprocess.run(
            [sys.executable, "-c", program, command],
            capture_output=True,
            check=False,
            cwd=locked.parent,
            env=at(servers.own) | {"XDG_STATE_HOME": str(locked.parent / "state")},
            text=True,
        )
        assert status == done.returncode
        assert "pip install 'recension[verify]'" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_an_extended_pin_is_in_the_log_that_was_signed(servers: Servers, locked: Path, ask: Ask) -> None:
    """A server whose log is another than the one that is remembered extends nothing unnoticed."""
    assert locked.exists()
    until = ("--until", "2098-01-01T00:00:00Z")
    for address in (servers.own, servers.stranger, servers.unsigned):
        with Client(address) as client:
            snapshot = client.corpus("w").as_of("2020-01-02")
            snapshot.pin("longer", until="2097-01-01")
    for address in (servers.own, servers.unsigned):
        assert "longer holds until 2098" in ask("pins", "extend", "longer", *until, "--server", address)
    before = written(locked.parent)
    told = ask("pins", "extend", "longer", *until, "--server", servers.stranger, "--json", status=3)
    assert "VERIFICATION_FAILED" == json.loads(told)["error"]["reason"]
    assert before == written(locked.parent)
    with Client(servers.stranger) as client:
        assert parse_instant("2097-01-01") == client.pin("longer").readable_until
