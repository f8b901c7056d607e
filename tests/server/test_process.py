from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import lmdb
import pytest

from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.model.errors import DrainingError, InvalidArgumentError, UnreachableError
from recension.server.build import SERVICES, make_service
from recension.server.config import ServeConfig
from recension.server.serve import decode_config, encode_config
from recension.store.lmdb import LmdbStore
from recension.store.memory import MemoryStore
from recension.v1 import snapshot_service_pb2 as snapshot_pb
from recension.v1.snapshot_service_pb2_grpc import SnapshotServiceStub
from recension.wire.status import error_of
from tests.client.processes import BIN, free_port, make_project, run
from tests.server.helpers import PAGES, fill, until

_BUF = str(Path(sys.executable).with_name("buf"))


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    store = MemoryStore()
    service = make_service(Archive(store), Ingestor(store), store, ServeConfig(data=Path("unused")))
    port = service.server.add_insecure_port("127.0.0.1:0")
    service.start()
    yield port
    service.drain(1)


def _curl(*arguments: str) -> str:
    command = [_BUF, "curl", "--http2-prior-knowledge", "--protocol", "grpc", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("protocol", ["grpc-v1", "grpc-v1alpha"])
def test_reflection_in_both_versions(port: int, protocol: str) -> None:
    """A client without our protos lists the services and calls them."""
    url = f"http://127.0.0.1:{port}"
    listed = _curl("--reflect-protocol", protocol, "--list-services", url).split()
    assert set(SERVICES) <= set(listed)
    answer = _curl("--reflect-protocol", protocol, f"{url}/recension.v1.CatalogService/GetServerInfo")
    assert 100 == json.loads(answer)["maxBatchSize"]


def test_health_names_each_service(port: int) -> None:
    """Health is served on the main listener, for the whole and for each service."""
    for name in ("", *SERVICES):
        answer = _curl(
            "--data", json.dumps({"service": name}), f"http://127.0.0.1:{port}/grpc.health.v1.Health/Check"
        )
        assert {"status": "SERVING"} == json.loads(answer)


@pytest.mark.parametrize("listen", ["0.0.0.0:7777", "[::]:7777", "example.org:7777", "10.0.0.1:1"])
def test_only_loopback(listen: str) -> None:
    """Without authentication nothing else may reach the server."""
    with pytest.raises(InvalidArgumentError, match="what is sent is not encrypted"):
        ServeConfig(data=Path("d"), listen=listen)


@pytest.mark.parametrize("listen", ["", "7777", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:x"])
def test_malformed_addresses(listen: str) -> None:
    """An address is a host and a port."""
    with pytest.raises(InvalidArgumentError):
        ServeConfig(data=Path("d"), listen=listen)


def test_health_has_a_port() -> None:
    """The last port has none behind it; the hint is the option that helps."""
    with pytest.raises(InvalidArgumentError) as caught:
        ServeConfig(data=Path("d"), listen="127.0.0.1:65535")
    assert "--health-listen" in caught.value.hint
    assert "65536" not in caught.value.message
    ServeConfig(data=Path("d"), listen="127.0.0.1:65535", health_listen="127.0.0.1:1")


def test_the_image_asks_the_port_that_is_never_full() -> None:
    """The check of the Dockerfile asks where health is answered apart from everything else."""
    image = (Path(__file__).parents[2] / "Dockerfile").read_text()
    (listen,) = re.findall(r'^CMD \[.*"--listen", "(.+)"\]', image, re.MULTILINE)
    config = ServeConfig(data=Path("d"), listen=listen)
    assert [config.health_address] == re.findall(r'"health", "--target", "(.+)"\]', image)


@pytest.mark.parametrize("option", ["--listen", "--health-listen"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_taken_port(tmp_path: Path, workers: str, option: str) -> None:
    """It is a named error, and the only thing said, whatever the number of processes."""
    (tmp_path / "data").mkdir()
    free = {"--listen": free_port(), "--health-listen": free_port()}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free[option] = taken.getsockname()[1]
        addresses = [word for name, port in free.items() for word in (name, f"127.0.0.1:{port}")]
        said = run(
            "recension-server",
            *("serve", "--data", str(tmp_path / "data"), "--workers", workers, *addresses),
            status=3,
        )
    lines = [line for line in said.splitlines() if "draining" not in line and "stopped" not in line]
    assert ["error:", "hint:"] == [line.split()[0] for line in lines]


def test_a_worker_gets_the_whole_configuration() -> None:
    """What the supervisor was told reaches its workers."""
    config = ServeConfig(data=Path("d"), listen="[::1]:5000", workers=3, streams=4, reflection=False)
    assert config == decode_config(encode_config(config))
    assert "[::1]:5001" == config.health_address


@contextmanager
def _worker(config: ServeConfig) -> Iterator[subprocess.Popen[bytes]]:
    """A serving process, once it is ready. It has to end by itself, and well."""
    process = subprocess.Popen(
        [sys.executable, "-m", "recension.server.main", "worker", encode_config(config)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert 0 == process.returncode
    assert b"Traceback" not in errors


def _config(data: Path, **options: float) -> ServeConfig:
    listen, health = (f"127.0.0.1:{free_port()}" for _ in range(2))
    return ServeConfig(data=data, listen=listen, health_listen=health, **options)  # type: ignore[arg-type]


def test_a_drain_loses_nothing(tmp_path: Path) -> None:
    """SIGTERM: a running stream ends with a cursor, a new one is refused by name, exit 0; then it goes on."""
    with closing(LmdbStore.open(tmp_path / "data", create=True)) as store:
        snapshot = fill(store)
    config = _config(tmp_path / "data", drain_seconds=60)
    request = snapshot_pb.ReadSnapshotRequest(snapshot=snapshot)
    refusals: list[Exception] = []
    with _worker(config) as process, grpc.insecure_channel(config.listen) as channel:
        stub = SnapshotServiceStub(channel)
        stream = stub.ReadSnapshot(request)
        assert next(stream).HasField("batch")
        process.send_signal(signal.SIGTERM)

        def try_another() -> None:
            another = stub.ReadSnapshot(request, timeout=5)
            try:
                next(another)
            except grpc.RpcError as error:
                # One that comes while the listener closes may find nobody: it is asked again.
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    refusals.append(error_of(error))
            another.cancel()

        until(lambda: refusals, try_another)
        # By name while it still listens, by the lack of a listener once nothing runs any more.
        assert type(refusals[0]) in {DrainingError, UnreachableError}
        *_, last = stream
        assert not last.end.complete
        assert 0 == process.wait(60)
    with _worker(config), grpc.insecure_channel(config.listen) as channel:
        request.cursor = last.end.cursor
        rest = list(SnapshotServiceStub(channel).ReadSnapshot(request))
        assert rest[-1].end.complete
        assert PAGES == last.end.entries + rest[-1].end.entries


def test_modules_where_one_stands_are_not_run(tmp_path: Path) -> None:
    """The operator may stand in a folder with a ``signal.py`` of its own; workers do not take it."""
    make_project("made", tmp_path / "data")
    (tmp_path / "grpc.py").write_text("raise SystemExit('run')")
    server = subprocess.Popen(
        [BIN / "recension-server", "serve", "--data", "data", "--workers", "2", "--listen", "127.0.0.1:0"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    )
    assert server.stderr
    assert any(b"serving" in line for line in server.stderr)
    server.terminate()
    server.communicate(timeout=60)
    assert 0 == server.returncode


_READER = """
import sys
from pathlib import Path
from recension.store.lmdb import LmdbStore
transaction = LmdbStore.open(Path(sys.argv[1])).begin()
print("reading", flush=True)
sys.stdin.read()
"""


def _killed_reader(data: Path) -> str:
    """Kill a process that reads the store; its pid, as LMDB lists it."""
    with subprocess.Popen(
        [sys.executable, "-c", _READER, data], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"reading\n"
        process.kill()
    return f"{process.pid} "


def test_a_serving_process_frees_the_slots_of_killed_readers(tmp_path: Path) -> None:
    """Nobody else does, and old pages would never be used again."""
    LmdbStore.open(tmp_path / "data", create=True).close()
    with closing(lmdb.open(str(tmp_path / "data" / "lmdb"), readonly=True)) as env:
        assert _killed_reader(tmp_path / "data") in env.readers()
        with _worker(_config(tmp_path / "data", reader_check_seconds=0.1)):
            pid = _killed_reader(tmp_path / "data")
            until(lambda: pid not in env.readers())


def test_chores_end_with_the_drain(tmp_path: Path) -> None:
    """Nothing touches the store once the service has stopped."""
    with closing(LmdbStore.open(tmp_path / "data", create=True)) as store:
        service = make_service(Archive(store), Ingestor(store), store, ServeConfig(data=tmp_path))
        service.start()
        assert service.chores
        assert all(chore._thread.is_alive() for chore in service.chores)
        service.drain(1)
        assert not any(chore._thread.is_alive() for chore in service.chores)


@pytest.mark.parametrize("field", ["stall_seconds", "idle_seconds", "reader_check_seconds"])
def test_patience_is_not_nothing(field: str) -> None:
    """A limit of 0 would end every call."""
    with pytest.raises(InvalidArgumentError, match=field):
        ServeConfig(**{"data": Path("d"), field: 0})  # type: ignore[arg-type]
