"""The audit log of real servers: several processes append to one, a drain leaves it whole and signed."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from recension.server.main import main
from recension.v1 import catalog_service_pb2 as catalog_pb
from recension.v1.catalog_service_pb2_grpc import CatalogServiceStub
from recension.wire.status import error_of
from tests.client.processes import serving

CALLS = 60


Say = Callable[..., str]
"""Runs a command of the server here, since to start another Python takes a second; returns what it wrote."""


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    def command(*arguments: str, status: int = 0) -> str:
        capsys.readouterr()
        assert status == main([*map(str, arguments)])
        return capsys.readouterr().out

    return command


def made(data: Path, say: Say) -> tuple[str, str]:
    """Make a data directory with a signing key; the keys of a licensee and of an operator."""
    url = ("--base-url", "https://w.example", "--language", "en", "--license", "CC0-1.0")
    say("project", "create", "w", *url, "--data", data)
    say("key", "create", "example.org/w", "--data", data)
    keys = []
    for owner, role in (("acme", "licensee"), ("jane", "operator")):
        said = say("apikey", "create", owner, "--role", role, "--data", data, "--json")
        keys.append(json.loads(said)["key"])
    return keys[0], keys[1]


def ask(address: str, key: str) -> str:
    """Ask a server what it is, on a connection of its own; what it answers."""
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            CatalogServiceStub(channel).GetServerInfo(
                catalog_pb.GetServerInfoRequest(), metadata=(("authorization", f"Bearer {key}"),), timeout=60
            )
        except grpc.RpcError as error:
            return error_of(error).reason
    return "OK"


def test_several_processes_append_to_one_log(tmp_path: Path, say: Say) -> None:
    """After a drain each call is there once, behind the statements before it, and all of it is signed."""
    data = tmp_path / "data"
    licensee, operator = made(data, say)
    with serving(data, "--workers", "2") as address, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda at: ask(address, (licensee, operator)[at % 2]), range(CALLS)))
        assert say("audit", "show", "--data", data, "--json", "--limit", "0")
    assert set(answers) == {"OK"}
    lines = say("audit", "show", "--data", data, "--json", "--limit", "0").splitlines()
    records = list(map(json.loads, lines))
    calls = [one for one in records if one["kind"] == "call"]
    assert len({one["request"] for one in calls}) == len(calls) == CALLS
    assert [one["statement"] for one in records[:2]] == ["api-key", "api-key"]
    verified = json.loads(say("audit", "verify", "--data", data, "--json"))
    assert (verified["findings"], verified["size"]) == ([], CALLS + 2)
    assert verified["checkpoints"] >= 2  # in the log, and beside the key
    assert (data / "signing.key.audit").read_text(encoding="utf-8").split("\n")[1] == str(CALLS + 2)


def test_a_damaged_log_stops_licensees_alone(tmp_path: Path, say: Say) -> None:
    """A server over it starts, answers operators, and refuses licensees by name; no traceback anywhere."""
    data = tmp_path / "data"
    licensee, operator = made(data, say)
    say("audit", "show", "--data", data)
    (data / "audit" / "data.mdb").write_bytes(b"x" * 12_000)
    with serving(data) as address:
        assert ask(address, licensee) == "AUDIT_UNUSABLE"
        assert ask(address, operator) == "OK"
        assert ask(address, licensee) == "AUDIT_UNUSABLE"
    say("audit", "verify", "--data", data, status=3)
    say("stats", "--data", data, "--json")
