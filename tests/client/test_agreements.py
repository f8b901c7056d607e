"""An agreement from the operator's file to the licensee's lock, by both commands and a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recension.model.agreement import Standing
from recension.model.errors import LockError
from recension.server.main import main as operate
from recension_client import lockfile, verify
from recension_client.async_client import AsyncClient
from recension_client.cli.main import main
from recension_client.client import Client
from tests.client.processes import serving
from tests.client.test_lock_trust import filled

DOCUMENT = """\
grants: [{projects: [w], freshness: realtime}]
valid_from: 2020-01-01
rates: {requests_per_second: 1000}
attribution: {statement: Name us.}
"""
Command = Callable[..., str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("agreed") / "data")


@pytest.fixture(scope="module")
def address(data: Path) -> Iterator[str]:
    with serving(data) as served:
        yield served


@pytest.fixture
def said(capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[[int, int], str]:
    def shown(code: int, status: int) -> str:
        out, err = (stream.decode() for stream in capfdbinary.readouterr())
        assert status == code, out + err
        return out or err

    return shown


@pytest.fixture
def ask(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[int, int], str]
) -> Command:
    """Run ``recension`` in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("RECENSION_SERVER", address)
    return lambda *arguments, status=0: said(main(arguments), status)


@pytest.fixture
def manage(data: Path, said: Callable[[int, int], str]) -> Command:
    """Run ``recension-server`` on the data."""
    return lambda *arguments, status=0: said(operate([*arguments, "--data", str(data)]), status)


async def awaited(address: str, key: str) -> list[int]:
    async with AsyncClient(address, key=key) as client:
        found = await client.own_agreement("1")
        assert found is not None
        assert Standing.REPLACED is found.standing
        return [info.version.ordinal async for info in client.own_agreements()]


def test_from_the_operator_to_the_lock(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Command, manage: Command
) -> None:
    """What was agreed the licensee sees, also in its lock and its pins; a newer version is told."""
    assert "without an agreement" in ask("agreement")
    assert {"unrestricted": True} == json.loads(ask("agreement", "--json"))
    ask("pin", "w", "--at", "2020-01-03")
    assert lockfile.read(tmp_path / "recension.lock").agreement is None

    key = manage("apikey", "create", "acme").strip()
    monkeypatch.setenv("RECENSION_KEY", key)
    assert "no agreement of yours is in force" in ask("agreement", status=3)
    manage("licensee", "add", "acme")
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(DOCUMENT)
    second.write_text(DOCUMENT.replace("Name us.", "Name us twice."))
    version = manage("agreement", "add", "acme", str(first)).strip()

    shown = json.loads(ask("agreement", "--json"))
    assert (version, 1, "in_force") == (shown["version"], shown["ordinal"], shown["standing"])
    assert "Name us." == shown["document"]["attribution"]["statement"]
    table = ask("agreement")
    assert f"version                       {version}\n" in table
    assert "attribution.statement         Name us.\n" in table

    ask("pin", "w", "--at", "2020-01-04", "--force", "--name", "p", "--until", "2999-01-01")
    lock = lockfile.read(tmp_path / "recension.lock")
    assert lockfile.AgreementRecord(version, 1) == lock.agreement
    assert version == json.loads(ask("pins", "--json"))["agreement"]
    assert f"version 1, {version}\n" in ask("lock")
    assert f"under agreement version 1, {version}\n" in ask("lock", "--check")
    checked = json.loads(ask("lock", "--check", "--json"))
    assert {"version": version, "ordinal": 1} == checked["agreement"]
    assert "in force now" not in ask("status")

    newer = manage("agreement", "add", "acme", str(second)).strip()
    assert f"in force now    version 2, {newer}\n" in ask("status")
    assert {"version": newer, "ordinal": 2} == json.loads(ask("status", "--json"))["agreement"]
    assert ["1", "2"] == [line.split("\t")[0] for line in ask("agreement", "--all", "--tsv").splitlines()]
    assert 2 == len([json.loads(line) for line in ask("agreement", "--all", "--json").splitlines()])
    assert "replaced" in ask("agreement", "--all")
    assert version in ask("agreement", "1")
    assert "you have no agreement 3" in ask("agreement", "3", status=3)
    with Client(address, key=key) as client:
        info = client.own_agreement()
        assert info is not None
        assert newer == info.version.name
        assert [1, 2] == [one.version.ordinal for one in client.own_agreements()]
    assert [1, 2] == asyncio.run(awaited(address, key))
    ask("update", "--at", "2020-01-05")
    assert lockfile.AgreementRecord(newer, 2) == lockfile.read(tmp_path / "recension.lock").agreement

    ask("fetch")
    text = (tmp_path / "recension.lock").read_text()
    assert {"ordinal": 2, "version": newer} == verify.read_lock(text)["agreement"]
    for bad in (
        text.replace("ordinal = 2", "ordinal = 0"),
        text.replace("ordinal = 2", 'ordinal = "2"'),
        text.replace("ordinal = 2", "ordinal = true"),
        text.replace(newer, newer.upper()),
        text.replace("ordinal = 2", "ordinal = 2\nx = 1"),
        text.replace("ordinal = 2\n", ""),
    ):
        assert bad != text
        for reader, error in ((lockfile.parse, LockError), (verify.read_lock, ValueError)):
            with pytest.raises(error):
                reader(bad)
    assert lockfile.parse(text).agreement == lockfile.AgreementRecord(newer, 2)


def test_an_answer_is_owed_after_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[int, int], str]
) -> None:
    """Nothing can be read any more, and what was withdrawn is told and answered for all the same."""
    data = filled(tmp_path / "data")

    def manage(*arguments: str) -> str:
        return said(operate([*arguments, "--data", str(data)]), 0)

    manage("key", "create", "example.org/recension")
    monkeypatch.setenv("RECENSION_KEY", manage("apikey", "create", "acme").strip())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    manage("licensee", "add", "acme")
    Path("a.yaml").write_text(DOCUMENT)
    manage("agreement", "add", "acme", "a.yaml")
    with serving(data) as address:
        monkeypatch.setenv("RECENSION_SERVER", address)
        said(main(["pin", "w", "--at", "2020-01-04", "--name", "p", "--until", "2999-01-01"]), 0)
        assert lockfile.read(tmp_path / "recension.lock").server_key
        said(main(["fetch"]), 0)
        manage("retract", "w", "--page", "1", "--reason", "privacy", "--case", "c", "--yes")
        manage("agreement", "end", "acme")
        assert "no agreement of acme is in force" in said(main(["fetch"]), 3)
        assert "privacy" in said(main(["retractions"]), 1)
        assert "retracted since: page 1" in said(main(["verify", "--online"]), 1)
        said(main(["retractions", "apply"]), 0)
        assert "answered for 1 entries of p" in said(main(["retractions", "acknowledge"]), 0)
        said(main(["retractions"]), 0)
