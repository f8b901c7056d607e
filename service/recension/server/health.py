"""The command ``health``. A container asks it every few seconds, so it has to start quickly."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from recension.model.errors import UnreachableError
from recension.server.config import DEFAULT_LISTEN
from recension.wire.status import error_of

_SECONDS = 3.0


def add_commands(commands: Any) -> None:
    """Add the command to the subparsers of ``recension-server``."""
    health = commands.add_parser("health", help="ask a server whether it serves")
    health.add_argument("--target", default=DEFAULT_LISTEN, metavar="HOST:PORT", help="(%(default)s)")
    health.add_argument("--json", action="store_true", help="as JSON")
    health.set_defaults(run=_health)


def _health(arguments: argparse.Namespace) -> int:
    # Else gRPC would ask the proxy of the environment, for this very machine too.
    with grpc.insecure_channel(arguments.target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=_SECONDS)
        except grpc.RpcError as error:
            raise error_of(error) from None
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise UnreachableError(f"{arguments.target} answers {status}", hint="it is starting or shutting down")
    if arguments.json:
        sys.stdout.write(json.dumps({"target": arguments.target, "status": status}) + "\n")
        return 0
    sys.stdout.write(f"{status}\n")
    return 0
