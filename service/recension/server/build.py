"""One process's gRPC server: services, limits, health, reflection. It binds no port by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import grpc
import structlog
from grpc_channelz.v1 import channelz  # type: ignore[import-untyped]
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection, reflection_pb2  # type: ignore[import-untyped]

from recension.archive.agreements import Agreements
from recension.archive.changes import Changes
from recension.archive.clock import system_clock
from recension.archive.duties import LicenseeDuties
from recension.archive.horizons import Horizons
from recension.archive.ingest import Ingestor
from recension.archive.keyring import Keyring
from recension.archive.ledger import Ledger
from recension.archive.marks import freshness
from recension.archive.pins import LicenseePins
from recension.archive.projects import Numbers
from recension.model.instant import format_instant
from recension.model.reading import StoredReader
from recension.server import logs
from recension.server.audit.checkpoints import AuditCheckpoints
from recension.server.audit.log import AuditLog
from recension.server.audit.writer import Audit
from recension.server.config import ServeConfig
from recension.server.cursors import Cursors
from recension.server.door import Door, caller
from recension.server.embargo import PERSIST_SECONDS, EmbargoClock
from recension.server.fanout import LOOK_SECONDS, Fanout
from recension.server.gate import Gate, Watchdog
from recension.server.identity import Identification
from recension.server.interceptors import Outermost
from recension.server.licensed import Licensed
from recension.server.limits.desk import TEND_SECONDS, Limits
from recension.server.pepper import Pepper
from recension.server.rpc.admin import AdminRpc
from recension.server.rpc.agreement import AgreementRpc
from recension.server.rpc.catalog import CatalogRpc
from recension.server.rpc.change import ChangeRpc
from recension.server.rpc.checkpoint import CheckpointRpc
from recension.server.rpc.ingest import MAX_BATCH_BYTES, IngestRpc
from recension.server.rpc.pin import PinRpc
from recension.server.rpc.revision import RevisionRpc
from recension.server.rpc.snapshot import SnapshotRpc
from recension.server.rpc.usage import UsageRpc
from recension.server.signing import Signer
from recension.server.tokens import Tokens
from recension.store.auditing import AuditStore
from recension.store.frames import FrameCache
from recension.store.interface import Store
from recension.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    agreement_service_pb2,
    agreement_service_pb2_grpc,
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    change_service_pb2,
    change_service_pb2_grpc,
    checkpoint_service_pb2,
    checkpoint_service_pb2_grpc,
    ingest_service_pb2,
    ingest_service_pb2_grpc,
    pin_service_pb2,
    pin_service_pb2_grpc,
    revision_service_pb2,
    revision_service_pb2_grpc,
    snapshot_service_pb2,
    snapshot_service_pb2_grpc,
    usage_service_pb2,
    usage_service_pb2_grpc,
)

_HEALTH_THREADS = 4
_FRESHNESS_SECONDS = 60.0
_TEND_FRAMES_SECONDS = 1.0
"""For so long an erasure's files may stay open, under no name."""
_THREADS_FOR_EACH_MAKER = 4
"""Of as many threads one may make a snapshot, and another compare texts: both keep a core busy."""
_CALLS_FOR_EACH_THREAD = 4
"""Calls beyond this many are refused at once rather than left waiting."""
_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"

SERVICES = tuple(
    service.full_name
    for module in (
        catalog_service_pb2,
        revision_service_pb2,
        snapshot_service_pb2,
        pin_service_pb2,
        checkpoint_service_pb2,
        change_service_pb2,
        ingest_service_pb2,
        agreement_service_pb2,
        admin_service_pb2,
        usage_service_pb2,
    )
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
    makers: Gate
    comparers: Gate
    watchdog: Watchdog
    fanout: Fanout
    outermost: Outermost
    audit: Audit
    limits: Limits
    chores: tuple[Chore, ...]

    def start(self) -> None:
        """Answer on every port that was added."""
        for chore in self.chores:
            chore.start()
        self.health_server.start()
        self.server.start()

    def drain(self, grace_seconds: float) -> None:
        """Say that it is stopping, let streams end themselves, then stop. Returns when all is over.

        Until the last stream has ended, connections are taken and new streams are told that it drains.
        """
        until = time.monotonic() + grace_seconds
        self.health.enter_graceful_shutdown()
        self.gate.drain()
        self.makers.drain()
        self.comparers.drain()
        self.fanout.drain()
        self.gate.wait_empty(grace_seconds)
        self.fanout.wait_empty(max(until - time.monotonic(), 0.0))
        self.outermost.end_watches()
        self.server.stop(max(until - time.monotonic(), min(grace_seconds, 1.0))).wait()
        for chore in self.chores:
            chore.stop()
        self.fanout.close()
        self.audit.stop()
        self.limits.close()
        self.health_server.stop(None).wait()


class Chore:
    """Work that is done again and again beside the calls, in a thread of its own."""

    def __init__(self, work: Callable[[], None], every_seconds: float) -> None:
        """``work``: what to do; an error of it is logged, and it is tried again."""
        self._work = work
        self._every = every_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what is being done, and end."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            try:
                self._work()
            except Exception as error:  # noqa: BLE001 - the next time may be better
                structlog.get_logger().error(logs.CHORE_FAILED, exc_info=error)


@runtime_checkable
class _HasReaders(Protocol):
    """A store whose readers are processes that may be killed."""

    def free_dead_readers(self) -> int: ...


def make_server(reader: StoredReader, ingestor: Ingestor, store: Store, config: ServeConfig) -> grpc.Server:
    """Return the server alone; add a port and start it."""
    return make_service(reader, ingestor, store, config).server


def make_service(
    reader: StoredReader,
    ingestor: Ingestor,
    store: Store,
    config: ServeConfig,
    frames: FrameCache | None = None,
) -> Service:
    """Return a server with everything it serves, not started and without a port.

    ``frames``: those that ``reader`` answers with, to be tended.
    """
    pepper = Pepper(config.pepper_path)
    agreements = Agreements(store)
    embargo = EmbargoClock(config.clock_path)

    def pinned(owner: str, snapshot_id: bytes, before: int) -> bool:
        return LicenseePins(store, owner).held(snapshot_id, before)

    def wall() -> int:  # goes back as little as the log does: what has ended stays so
        return max(system_clock(), store.log.head().recorded_at)

    licensed = Licensed(reader, agreements, Horizons(store), pinned=pinned, wall=wall, embargo=embargo.now)
    cursors = Cursors(pepper, licensed.standing)
    gate = Gate(config.stream_limit)
    makers = Gate(max(config.threads // _THREADS_FOR_EACH_MAKER, 1), "places to make a snapshot")
    comparers = Gate(max(config.threads // _THREADS_FOR_EACH_MAKER, 1), "places to compare texts")
    watchdog = Watchdog(config.stall_seconds)
    chores = [Chore(watchdog.look, min(config.stall_seconds / 4, 1.0))]
    if isinstance(store, _HasReaders):
        chores.append(Chore(partial(_free_readers, store), config.reader_check_seconds))
    if frames is not None:
        chores.append(Chore(frames.tend, _TEND_FRAMES_SECONDS))
    chores.append(Chore(partial(keep_clock, agreements, embargo), PERSIST_SECONDS))
    builders = max(config.threads // _THREADS_FOR_EACH_MAKER, 1)
    fanout = Fanout(Changes(store, system_clock, Numbers()), config.followers, builders)
    chores.append(Chore(fanout.look, LOOK_SECONDS))
    chores.append(Chore(partial(tell_freshness, store), _FRESHNESS_SECONDS))
    tokens = Tokens(Path(config.jwt_keys)) if config.jwt_keys else None
    identity = Identification(Keyring(store, pepper), agreements, tokens)
    door = Door(identity, licensed.standing, asks_certificates=bool(config.tls_client_ca))
    ledger = Ledger(store)
    signer = Signer(store, ledger, config.key_path)
    audited = AuditStore(config.data)
    checkpoints = AuditCheckpoints(audited, signer)
    audit = Audit(AuditLog(store, audited), checkpoints)
    limits = Limits(config.data, store, wall=wall)
    chores.append(Chore(limits.tend, TEND_SECONDS))
    outermost = Outermost(gate, watchdog, config.idle_seconds, door, audit, limits)
    server = grpc.server(
        ThreadPoolExecutor(config.threads, thread_name_prefix="rpc"),
        interceptors=[outermost],
        options=_limits(config),
        maximum_concurrent_rpcs=config.threads * _CALLS_FOR_EACH_THREAD,
    )
    catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(CatalogRpc(licensed, cursors), server)
    revision_service_pb2_grpc.add_RevisionServiceServicer_to_server(
        RevisionRpc(licensed, gate, comparers, cursors), server
    )
    snapshot_service_pb2_grpc.add_SnapshotServiceServicer_to_server(
        SnapshotRpc(licensed, gate, makers, cursors), server
    )

    def pins() -> LicenseePins:
        return LicenseePins(store, caller().owner, agreement=licensed.pinnable)

    def duties() -> LicenseeDuties:
        return LicenseeDuties(store, caller().owner, caller().key_id)

    pin_service_pb2_grpc.add_PinServiceServicer_to_server(PinRpc(pins, duties, licensed, cursors), server)
    checkpoint_service_pb2_grpc.add_CheckpointServiceServicer_to_server(
        CheckpointRpc(licensed, pins, ledger, signer), server
    )
    change_service_pb2_grpc.add_ChangeServiceServicer_to_server(ChangeRpc(licensed, fanout), server)
    ingest_service_pb2_grpc.add_IngestServiceServicer_to_server(IngestRpc(ingestor, store, gate), server)
    agreement_service_pb2_grpc.add_AgreementServiceServicer_to_server(
        AgreementRpc(agreements, cursors), server
    )
    admin_service_pb2_grpc.add_AdminServiceServicer_to_server(
        AdminRpc(agreements, audit.log, checkpoints, cursors, store, config.data), server
    )
    usage_service_pb2_grpc.add_UsageServiceServicer_to_server(UsageRpc(limits, agreements), server)

    condition = health.HealthServicer()
    for name in ("", *SERVICES):
        condition.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(condition, server)
    # With threads of its own it answers while all others are busy.
    health_server = grpc.server(
        ThreadPoolExecutor(_HEALTH_THREADS, thread_name_prefix="health"),
        interceptors=[outermost],
        options=_limits(config),
    )
    health_pb2_grpc.add_HealthServicer_to_server(condition, health_server)

    if config.channelz:
        channelz.add_channelz_servicer(server)
    if config.reflection:
        _add_reflection(server)
    return Service(
        server,
        health_server,
        condition,
        gate,
        makers,
        comparers,
        watchdog,
        fanout,
        outermost,
        audit,
        limits,
        tuple(chores),
    )


def keep_clock(agreements: Agreements, clock: EmbargoClock) -> None:
    """Write down what time it is, where there are licensees, and say so if it is not known."""
    if not agreements.licensees():
        return
    clock.persist()
    state = clock.state()
    if state.held:
        structlog.get_logger().warning(
            logs.CLOCK_HELD,
            now=format_instant(state.now),
            wall=format_instant(state.wall),
            hint="if the machine's time is right: recension-server clock confirm",
        )


def tell_freshness(store: Store) -> None:
    """Say how far what is served of each stream is behind it."""
    for one in freshness(store, streams_alone=True):
        if one.upstream_at is not None and one.served_at is not None:
            structlog.get_logger().info(
                logs.FRESHNESS,
                project=one.project,
                source=one.source,
                position=one.position,
                upstream_at=format_instant(one.upstream_at),
                served_at=format_instant(one.served_at),
                lag_seconds=one.lag_seconds,
            )


def _free_readers(store: _HasReaders) -> None:
    freed = store.free_dead_readers()
    if freed:
        structlog.get_logger().info(logs.READERS_FREED, count=freed)


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
        ("grpc.enable_channelz", int(config.channelz)),
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
