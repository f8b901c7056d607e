"""One process's gRPC server: services, limits, health, reflection. It binds no port by itself."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection, reflection_pb2  # type: ignore[import-untyped]

from recension.archive.ingest import Ingestor
from recension.model.reading import Reader
from recension.server.config import ServeConfig
from recension.server.gate import Gate
from recension.server.interceptors import Outermost
from recension.server.rpc.catalog import CatalogRpc
from recension.server.rpc.ingest import MAX_BATCH_BYTES, IngestRpc
from recension.server.rpc.revision import RevisionRpc
from recension.server.rpc.snapshot import SnapshotRpc
from recension.store.interface import Store
from recension.v1 import (
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    ingest_service_pb2,
    ingest_service_pb2_grpc,
    revision_service_pb2,
    revision_service_pb2_grpc,
    snapshot_service_pb2,
    snapshot_service_pb2_grpc,
)

_HEALTH_THREADS = 4
_CALLS_FOR_EACH_THREAD = 4
"""Calls beyond this many are refused at once rather than left waiting."""
_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"

SERVICES = tuple(
    service.full_name
    for module in (catalog_service_pb2, revision_service_pb2, snapshot_service_pb2, ingest_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
)
"""Full names of the services."""


@dataclass(frozen=True, slots=True)
class Service:
    """A server and what stops it."""

    server: grpc.Server
    health_server: grpc.Server
    health: health.HealthServicer
    gate: Gate

    def start(self) -> None:
        """Answer on every port that was added."""
        self.health_server.start()
        self.server.start()

    def drain(self, grace_seconds: float) -> None:
        """Say that it is stopping, let streams end themselves, then stop. Returns when all is over."""
        self.health.enter_graceful_shutdown()
        self.gate.drain()
        self.server.stop(grace_seconds).wait()
        self.health_server.stop(None).wait()


def make_server(reader: Reader, ingestor: Ingestor, store: Store, config: ServeConfig) -> grpc.Server:
    """Return the server alone; add a port and start it."""
    return make_service(reader, ingestor, store, config).server


def make_service(reader: Reader, ingestor: Ingestor, store: Store, config: ServeConfig) -> Service:
    """Return a server with everything it serves, not started and without a port."""
    gate = Gate(config.stream_limit)
    server = grpc.server(
        ThreadPoolExecutor(config.threads, thread_name_prefix="rpc"),
        interceptors=[Outermost()],
        options=_limits(config),
        maximum_concurrent_rpcs=config.threads * _CALLS_FOR_EACH_THREAD,
    )
    catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(CatalogRpc(reader), server)
    revision_service_pb2_grpc.add_RevisionServiceServicer_to_server(RevisionRpc(reader, gate), server)
    snapshot_service_pb2_grpc.add_SnapshotServiceServicer_to_server(SnapshotRpc(reader, gate), server)
    ingest_service_pb2_grpc.add_IngestServiceServicer_to_server(IngestRpc(ingestor, store, gate), server)

    condition = health.HealthServicer()
    for name in ("", *SERVICES):
        condition.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(condition, server)
    # With threads of its own it answers while all others are busy.
    health_server = grpc.server(
        ThreadPoolExecutor(_HEALTH_THREADS, thread_name_prefix="health"), options=_limits(config)
    )
    health_pb2_grpc.add_HealthServicer_to_server(condition, health_server)

    if config.reflection:
        _add_reflection(server)
    return Service(server, health_server, condition, gate)


def _add_reflection(server: grpc.Server) -> None:
    """Serve reflection as v1alpha, which grpcio has, and as v1, which differs by nothing but its name."""
    names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    servicer: Any = reflection.ReflectionServicer(names)
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    generic = grpc.method_handlers_generic_handler(_REFLECTION_V1, {"ServerReflectionInfo": handler})
    server.add_generic_rpc_handlers((generic,))


def _limits(config: ServeConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", int(config.workers > 1)),
        # Beyond this a connection's calls wait at the client; without it a flood of resets starves others.
        ("grpc.max_concurrent_streams", 100),
        # Room for a full batch and its frame: what is a little too large is answered with its reason.
        ("grpc.max_receive_message_length", MAX_BATCH_BYTES + 64 * 1024),
        ("grpc.max_send_message_length", 4 * 1024 * 1024),
        # Between a soft and a hard limit gRPC refuses at random; equal limits refuse by size alone.
        ("grpc.max_metadata_size", 8 * 1024),
        ("grpc.absolute_max_metadata_size", 8 * 1024),
        ("grpc.server_handshake_timeout_ms", 10_000),
        ("grpc.max_connection_idle_ms", 600_000),
        ("grpc.max_connection_age_ms", 1_800_000),
        ("grpc.max_connection_age_grace_ms", 60_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Clients ping every 30 to 60 s; the default of 5 minutes would send them away.
        ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
        ("grpc.http2.max_ping_strikes", 2),
    ]
