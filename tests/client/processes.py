"""The two commands and a real server, as processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

BIN = Path(sys.executable).parent


def run(command: str, *arguments: str, status: int = 0) -> str:
    """Run one of the two commands and return its output; no traceback, ever."""
    done = subprocess.run(
        [BIN / command, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert status == done.returncode, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if status in {0, 1} and done.stdout else done.stdout + done.stderr


def free_port() -> int:
    """Return a port that nobody has."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def serving(data: Path, *options: str) -> Iterator[str]:
    """Serve a directory; the address, once it answers. It has to end well."""
    address = f"127.0.0.1:{free_port()}"
    health = f"127.0.0.1:{free_port()}"
    # A file: a pipe that nobody reads is full after some hundred lines of log, and the server waits for it.
    with tempfile.TemporaryFile() as log:
        yield from _serving(data, address, health, options, log)


def _serving(
    data: Path, address: str, health: str, options: tuple[str, ...], log: IO[bytes]
) -> Iterator[str]:
    server = subprocess.Popen(
        [
            *(BIN / "recension-server", "serve", "--data", data, "--listen", address),
            *("--health-listen", health, *options),
        ],
        stderr=log,
    )
    try:
        for _ in range(300):
            done = subprocess.run(
                [BIN / "recension-server", "health", "--target", health], capture_output=True, check=False
            )
            if done.returncode == 0:
                break
            assert server.poll() is None
            time.sleep(0.1)
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)
    log.seek(0)
    errors = log.read()
    assert server.returncode == 0
    assert b"Traceback" not in errors
    assert b"Fatal" not in errors


def at(address: str) -> dict[str, str]:
    """Return an environment in which the commands are found and ask that server."""
    return os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "RECENSION_SERVER": address}


def make_project(name: str, data: Path) -> None:
    """Make a project, and the data directory if there is none."""
    run(
        "recension-server",
        *("project", "create", name, "--base-url", "https://w.example", "--language", "en"),
        *("--license", "CC0-1.0", "--data", str(data)),
    )
