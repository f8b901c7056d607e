"""A server as a process of its own, and a client that asks it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recension.model.errors import RecensionError
from recension_client.client import Client

SERVER = (sys.executable, "-m", "recension.server.main")
NO_FRAMES = "--frame-cache", "0"
"""Each read is as the first of its texts."""
_START_SECONDS = 30


@contextmanager
def served(data: Path, key: str = "", *options: str) -> Iterator[tuple[int, Client]]:
    """Serve a directory; the id of the process, and a client to which it answers, with ``key``.

    ``options``: of ``serve``, such as ``*NO_FRAMES``.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    target = f"127.0.0.1:{port}"
    command = [*SERVER, "serve", "--data", str(data), "--listen", target, "--health-listen", ""]
    command += options
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with Client(target, key=key) as client:
                _wait(client)
                yield process.pid, client
        finally:
            process.terminate()


def processor_seconds(pid: int) -> float:
    """Return what a process that runs has spent of the processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _wait(client: Client) -> None:
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            client.server_info()
        except RecensionError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            return
