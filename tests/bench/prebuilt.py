"""A server that streams the same bytes again and again: ``python -m tests.bench.prebuilt SIZE COUNT``.

It is what a server written in Python can reach that has nothing to do. Writes its port, serves until its
input ends.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

METHOD = "/recension.bench.Prebuilt/Read"


def main(size: int, count: int) -> None:
    """Serve ``count`` messages of ``size`` bytes a call."""
    message = os.urandom(size)

    def read(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        for _ in range(count):
            yield message

    service, method = METHOD.strip("/").split("/")
    handler = grpc.method_handlers_generic_handler(
        service, {method: grpc.unary_stream_rpc_method_handler(read)}
    )
    server = grpc.server(ThreadPoolExecutor(2), handlers=[handler])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(0).wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
