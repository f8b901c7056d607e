"""Run a server until it is told to stop: in this process, or as a supervisor of several.

Workers are started as fresh programs before anything of gRPC or LMDB exists here, because neither survives a
fork. They share the port (SO_REUSEPORT), which the supervisor keeps reserved without listening on it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import structlog

from recension.model.errors import InvalidArgumentError
from recension.server import logs
from recension.server.build import Service
from recension.server.collecting import fewer_collections
from recension.server.config import ServeConfig, join_address, split_address
from recension.server.stopping import stop_signals
from recension.server.telling import NAMED_ERROR
from recension.server.tls import Certificates

OpenService = Callable[[ServeConfig], AbstractContextManager[Service]]
"""Opens the data directory and builds the service; closes the directory again."""

READY = b"ready\n"
_MAX_BACKOFF_SECONDS = 10.0
_STABLE_SECONDS = 30.0
_MAX_FALSE_STARTS = 5
_POLL_SECONDS = 0.2


def serve(config: ServeConfig, open_service: OpenService) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    with stop_signals() as stop:
        if config.workers == 1:
            return _serve_here(config, open_service, stop)
        return _Supervisor(config, stop).run()


def run_worker(config: ServeConfig, open_service: OpenService) -> int:
    """Serve as one of several processes: say when ready, and stop when the supervisor is gone."""
    with stop_signals() as stop, fewer_collections(), open_service(config) as service:
        _listen(service, config)
        service.start()
        threading.Thread(target=_wait_for_end_of_input, args=(stop,), daemon=True).start()
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()
        stop.wait()
        service.drain(config.drain_seconds)
    return 0


def encode_config(config: ServeConfig) -> str:
    """Write a configuration as one argument of a worker's command line."""
    return json.dumps({**asdict(config), "data": str(config.data)})


def decode_config(text: str) -> ServeConfig:
    """Read what ``encode_config`` wrote."""
    fields = json.loads(text)
    return ServeConfig(**{**fields, "data": Path(fields["data"])})


def _serve_here(config: ServeConfig, open_service: OpenService, stop: threading.Event) -> int:
    for address, field in ((config.listen, "listen"), (config.health_address, "health_listen")):
        with _probe(address, field):
            pass  # gRPC would say in lines of its own that the port is taken
    with fewer_collections(), open_service(config) as service:
        log = structlog.get_logger()
        bound, health = _listen(service, config)
        service.start()
        log.info(logs.SERVING, listen=bound, health=health, workers=1)
        _greet(bound, config)
        stop.wait()
        log.info(logs.DRAINING, seconds=config.drain_seconds)
        service.drain(config.drain_seconds)
        log.info(logs.STOPPED)
    return 0


def _listen(service: Service, config: ServeConfig) -> tuple[str, str]:
    # Health tells nobody anything, and who watches a server has no certificates.
    add = service.server.add_insecure_port
    if config.tls_cert:
        credentials = Certificates.of(config).credentials()
        add = partial(service.server.add_secure_port, server_credentials=credentials)
    pairs = (
        (add, config.listen, "listen"),
        (service.health_server.add_insecure_port, config.health_address, "health_listen"),
    )
    bound = []
    for listen, address, field in pairs:
        try:
            port = listen(address)
        except RuntimeError:
            port = 0
        if not port:
            raise _taken(address, field)
        bound.append(join_address(split_address(address, field)[0], port))
    return bound[0], bound[1]


_OPEN = (
    "until a key is made, whoever reaches the port may do everything; to make one:",
    "  recension-server apikey create OWNER --data DIR",
)


def _greet(address: str, config: ServeConfig) -> None:
    lines = (
        f"recension serves {config.data} on {address}",
        *(() if config.is_open else _OPEN),
        "try next:",
        f"  recension --server {address} show PROJECT TITLE",
        f"  recension --server {address} snapshot PROJECT --at 2015-01-01",
        f"  buf curl --protocol grpc --http2-prior-knowledge --list-methods http://{address}",
        f"  grpcurl -plaintext {address} list",
    )
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()


def _wait_for_end_of_input(stop: threading.Event) -> None:
    # Not through sys.stdin: its lock, held here at the interpreter's end, would abort the process.
    while os.read(0, 4096):
        pass
    stop.set()


def _taken(address: str, field: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{field}: cannot listen on {address}",
        hint="another program has the port; stop it or choose another address",
        field=field,
        value=address,
    )


@contextmanager
def _probe(address: str, field: str) -> Iterator[socket.socket]:
    """Hold a port without listening on it. Raises ``InvalidArgumentError`` if anyone has it."""
    host, port = split_address(address, field)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:  # without SO_REUSEPORT, so that it fails
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            raise _taken(address, field) from None
        yield probe


def _reserve(address: str, field: str, stack: ExitStack) -> str:
    """Keep a port for the workers and return its address. Raises unless nobody has it."""
    host, _ = split_address(address, field)
    with _probe(address, field) as probe:
        family, port = probe.family, probe.getsockname()[1]
    kept = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        kept.bind((host, port))
    except OSError:
        raise _taken(address, field) from None
    return join_address(host, port)


class _Worker:
    """One child process."""

    def __init__(self, config: ServeConfig) -> None:
        self.ready = threading.Event()
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(  # noqa: S603 - this very program
            # Not with modules of the folder that the operator happens to be in.
            [sys.executable, "-P", "-m", "recension.server.main", "worker", encode_config(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        if self.process.stdout and self.process.stdout.readline() == READY:
            self.ready.set()

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()


class _Supervisor:
    """Keeps ``workers`` processes alive."""

    def __init__(self, config: ServeConfig, stop: threading.Event) -> None:
        self._config = config
        self._stop = stop
        self._log = structlog.get_logger()
        self._workers: dict[int, _Worker] = {}
        self._due: dict[int, float] = {}
        self._failures: dict[int, int] = {}

    def run(self) -> int:
        with ExitStack() as stack:
            listen = _reserve(self._config.listen, "listen", stack)
            health = _reserve(self._config.health_address, "health_listen", stack)
            config = replace(self._config, listen=listen, health_listen=health)
            greeted = False
            self._due = dict.fromkeys(range(config.workers), 0.0)
            try:
                while not self._stop.is_set():
                    if self._bury():
                        return NAMED_ERROR
                    self._start(config)
                    if not greeted and self._all_ready():
                        greeted = True
                        self._log.info(logs.SERVING, listen=listen, health=health, workers=config.workers)
                        _greet(listen, config)
                    self._stop.wait(_POLL_SECONDS)
            finally:
                self._end()
        return 0

    def _start(self, config: ServeConfig) -> None:
        for index, due in list(self._due.items()):
            if time.monotonic() >= due:
                del self._due[index]
                self._workers[index] = worker = _Worker(config)
                self._log.info(logs.WORKER_STARTED, worker=index, pid=worker.process.pid)

    def _bury(self) -> bool:
        """Plan the restart of what died; True when restarting is hopeless."""
        hopeless = False
        for index, worker in list(self._workers.items()):
            status = worker.process.poll()
            if status is None:
                continue
            del self._workers[index]
            worker.close()
            stable = time.monotonic() - worker.started_at > _STABLE_SECONDS
            failures = 1 if stable else self._failures.get(index, 0) + 1
            self._failures[index] = failures
            delay = min(2.0 ** (failures - 2), _MAX_BACKOFF_SECONDS)
            self._due[index] = time.monotonic() + delay
            self._log.error(logs.WORKER_DIED, worker=index, status=status, restart_seconds=delay)
            # A worker that names its error has printed it; one that never gets ready never will.
            never = not worker.ready.is_set()
            hopeless |= never and (status == NAMED_ERROR or failures >= _MAX_FALSE_STARTS)
        return hopeless

    def _all_ready(self) -> bool:
        return not self._due and all(worker.ready.is_set() for worker in self._workers.values())

    def _end(self) -> None:
        self._log.info(logs.DRAINING, seconds=self._config.drain_seconds)
        for worker in self._workers.values():
            worker.process.terminate()
        until = time.monotonic() + self._config.drain_seconds + 5
        for worker in self._workers.values():
            try:
                worker.process.wait(max(until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.close()
        self._log.info(logs.STOPPED)
