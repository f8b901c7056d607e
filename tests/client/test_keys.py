"""Keys as people use them: made by the operator's command, shown by the licensee's."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from zlib import crc32

import pytest

from recension.model.access import Secret
from recension.model.digest import format_digest
from recension.model.errors import (
    InvalidArgumentError,
    SnapshotNotFoundError,
    UnauthenticatedError,
    UnreachableError,
)
from recension.store.lmdb import LmdbStore
from recension_client.async_client import AsyncClient
from recension_client.channel import way_to
from recension_client.client import Client
from recension_client.loaders import Served
from recension_client.retrying import Retry
from tests.client.processes import BIN, at, make_project, run, serving
from tests.server.helpers import agree

ONCE = Retry(first_tries=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    held = tmp_path_factory.mktemp("keys") / "data"
    make_project("made", held)
    return held


@pytest.fixture(scope="module")
def address(data: Path) -> Iterator[str]:
    with serving(data) as served:
        yield served


def asked(address: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in at(address).items() if not name.startswith("RECENSION_KEY")}
    command = [str(BIN / "recension"), *arguments]
    return subprocess.run(command, capture_output=True, check=False, env=environment | more, text=True)


async def awaited(address: str, key: str) -> list[str]:
    async with AsyncClient(address, key=key) as client:
        return [project.name for project in await client.projects()]


def test_from_the_operator_to_the_licensee(data: Path, address: str, tmp_path: Path) -> None:
    """The whole way: open, closed by the first key, shown by variable and by file, revoked."""
    apikey = ("--data", str(data))
    assert "made" in asked(address, "projects").stdout
    made = json.loads(run("recension-server", "apikey", "create", "acme", "--json", *apikey))
    assert ("acme", "licensee") == (made["owner"], made["role"])
    assert 0o600 == (data / "apikey.pepper").stat().st_mode & 0o777

    none = asked(address, "projects", RECENSION_KEY=made["key"])
    assert "no agreement of acme is in force" in none.stderr
    with closing(LmdbStore.open(data)) as store:
        agree(store, "acme")

    none = asked(address, "projects")
    assert 3 == none.returncode
    assert "error: this server answers callers with a key alone" in none.stderr
    assert "RECENSION_KEY" in none.stderr
    assert "made" in asked(address, "projects", RECENSION_KEY=made["key"]).stdout
    file = tmp_path / "key"
    file.write_text(made["key"] + "\n")
    file.chmod(0o600)
    assert "made" in asked(address, "projects", "--key-file", str(file)).stdout
    assert "made" in asked(address, "projects", RECENSION_KEY_FILE=str(file)).stdout
    with Client(address, key=made["key"]) as client:
        assert ["made"] == [project.name for project in client.projects()]
    with pytest.raises(SnapshotNotFoundError):
        Served(address, format_digest(bytes(32)), key=made["key"])
    with pytest.raises(UnauthenticatedError):
        Served(address, format_digest(bytes(32)))
    assert ["made"] == asyncio.run(awaited(address, made["key"]))

    file.chmod(0o644)
    said = asked(address, "projects", "--key-file", str(file))
    assert 3 == said.returncode
    assert f"chmod 600 {file}" in said.stderr
    said = asked(address, "projects", "--key-file", str(tmp_path / "none"))
    assert "cannot be read" in said.stderr
    typo = made["key"][:-1] + ("0" if made["key"][-1] != "0" else "1")
    said = asked(address, "projects", RECENSION_KEY=typo)
    assert "it has a typo" in said.stderr
    assert made["key"][30:50] not in said.stderr

    second = run("recension-server", "apikey", "create", "acme", "--role", "auditor", *apikey).strip()
    third = subprocess.run(
        [BIN / "recension-server", "apikey", "create", "acme", *apikey],
        capture_output=True,
        check=False,
        text=True,
    )
    assert 3 == third.returncode
    assert made["id"] in third.stderr
    assert "does not open ReadSnapshot" not in asked(address, "projects", RECENSION_KEY=second).stderr
    assert "role auditor does not open" in asked(address, "show", "made", "A", RECENSION_KEY=second).stderr

    run("recension-server", "apikey", "revoke", made["id"], *apikey)
    with Client(address, key=made["key"]) as client, pytest.raises(UnauthenticatedError):
        client.projects()
    with pytest.raises(UnauthenticatedError):
        asyncio.run(awaited(address, made["key"]))
    listed = json.loads(run("recension-server", "apikey", "list", "--json", *apikey))
    assert {"revoked", "live"} == {key["state"] for key in listed}
    table = run("recension-server", "apikey", "list", *apikey)
    assert made["key"][21:] not in table + json.dumps(listed)


def test_what_is_no_key_id(data: Path) -> None:
    """Whole keys belong on no command line, so they are not repeated either."""
    secret = "rcn_" + "0" * 16 + "_" + "1" * 72
    done = subprocess.run(
        [BIN / "recension-server", "apikey", "revoke", secret, "--data", str(data)],
        capture_output=True,
        check=False,
        text=True,
    )
    assert 2 == done.returncode
    assert "16 hex digits" in done.stderr
    assert "1" * 72 not in done.stderr


def test_serving_without_the_pepper(tmp_path: Path) -> None:
    """A server that could let nobody in does not start."""
    data = tmp_path / "data"
    make_project("made", data)
    run("recension-server", "apikey", "create", "acme", "--data", str(data))
    (data / "apikey.pepper").unlink()
    done = subprocess.run(
        [BIN / "recension-server", "serve", "--data", str(data), "--listen", "127.0.0.1:0"],
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        text=True,
    )
    assert 3 == done.returncode
    assert "apikey.pepper: it is missing" in done.stderr


@pytest.mark.parametrize(
    "target, sent",
    [
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/run/recension", True),
        ("10.0.0.1:1", False),
        ("recension.example:443", False),
        ("localhost.example:1", False),
        ("dns:///127.0.0.1.example:1", False),
        ("127.0.0.1", False),
    ],
)
def test_a_key_is_not_sent_where_others_read_it(target: str, sent: bool) -> None:  # noqa: FBT001
    """The way to another machine is not encrypted, so no key goes there."""
    key = "rcn_" + "31" * 8 + "_" + "00" * 32
    whole = f"{key}{crc32(key.encode()):08x}"
    if sent:
        assert (("authorization", f"Bearer {whole}"),) == way_to(target, whole).metadata
        return
    with pytest.raises(InvalidArgumentError, match="not encrypted"):
        way_to(target, whole)


@contextmanager
def proxied(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Set a proxy in the environment; what it was asked is in the list. It connects nobody."""
    asked: list[bytes] = []

    class Asked(BaseRequestHandler):
        def handle(self) -> None:
            asked.append(self.request.recv(4096))

    with ThreadingTCPServer(("127.0.0.1", 0), Asked) as proxy:
        Thread(target=proxy.serve_forever, daemon=True).start()
        for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("grpc_proxy", f"http://127.0.0.1:{proxy.server_address[1]}")
        yield asked
        proxy.shutdown()


def test_a_key_to_this_machine_goes_to_no_proxy(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would read the key; the way to another machine, which is encrypted, may lead through one."""
    key = Secret.new().written
    with proxied(monkeypatch) as asked:
        for host in ("127.0.0.1", "localhost"):
            target = f"{host}:{address.rpartition(':')[2]}"
            with Client(target, key=key, retry=ONCE) as client, suppress(UnauthenticatedError):
                client.projects()
        with suppress(UnauthenticatedError):
            asyncio.run(awaited(address, key))
        assert [] == asked
        elsewhere = Client("recension.invalid:1", key=key, tls_ca="system", retry=ONCE)
        with elsewhere as client, pytest.raises(UnreachableError):
            client.projects()
        assert asked[0].startswith(b"CONNECT recension.invalid:1 ")
        assert key.encode() not in b"".join(asked)
