from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.model.errors import InvalidArgumentError
from recension.server.build import SERVICES, make_service
from recension.server.config import ServeConfig
from recension.server.serve import decode_config, encode_config
from recension.store.memory import MemoryStore

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
    with pytest.raises(InvalidArgumentError, match="authentication does not exist yet"):
        ServeConfig(data=Path("d"), listen=listen)


@pytest.mark.parametrize("listen", ["", "7777", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:x"])
def test_malformed_addresses(listen: str) -> None:
    """An address is a host and a port."""
    with pytest.raises(InvalidArgumentError):
        ServeConfig(data=Path("d"), listen=listen)


def test_a_worker_gets_the_whole_configuration() -> None:
    """What the supervisor was told reaches its workers."""
    config = ServeConfig(data=Path("d"), listen="[::1]:5000", workers=3, streams=4, reflection=False)
    assert config == decode_config(encode_config(config))
    assert "[::1]:5001" == config.health_address
