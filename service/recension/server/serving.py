"""The command ``serve``, and the worker that serves in a process of its own."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import structlog

from recension.archive.agreements import Agreements
from recension.archive.ingest import Ingestor
from recension.archive.keyring import Keyring
from recension.archive.ledger import Ledger
from recension.archive.reader import Archive
from recension.archive.texts.hot import HotTexts
from recension.model.errors import InvalidArgumentError
from recension.server import logs
from recension.server.build import Service, keep_clock, make_service
from recension.server.config import DEFAULT_FRAME_CACHE_BYTES, DEFAULT_LISTEN, ServeConfig
from recension.server.embargo import EmbargoClock
from recension.server.opening import OpenStore, take_data
from recension.server.pepper import Pepper
from recension.server.sample_project import ingest_sample, lacks_sample
from recension.server.serve import decode_config, run_worker, serve
from recension.server.signing import Signer
from recension.server.tls import Certificates
from recension.server.tokens import Tokens
from recension.store.directory import PEPPER_FILE
from recension.store.frames import FrameCache
from recension.store.interface import Store


def add_commands(commands: Any, open_store: OpenStore) -> None:
    """Add the commands to the subparsers of ``recension-server``."""
    served = commands.add_parser("serve", help="serve a data directory")
    served.add_argument(
        "--listen",
        default=DEFAULT_LISTEN,
        metavar="HOST:PORT",
        help="loopback, unless there are a certificate and API keys (%(default)s)",
    )
    served.add_argument(
        "--health-listen", default="", metavar="HOST:PORT", help="health apart (the next port)"
    )
    served.add_argument("--workers", type=int, default=1, metavar="N", help="processes (%(default)s)")
    served.add_argument("--threads", type=int, default=32, metavar="N", help="of each process (%(default)s)")
    served.add_argument(
        "--streams", type=int, default=0, metavar="N", help="bulk streams at once (half the threads)"
    )
    served.add_argument(
        "--followers",
        type=int,
        default=500,
        metavar="N",
        help="streams of changes at once, of each process (%(default)s)",
    )
    served.add_argument(
        "--drain-seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="for calls to finish at the end (%(default)s)",
    )
    served.add_argument(
        "--stall-seconds",
        type=float,
        default=30.0,
        metavar="S",
        help="that a stream waits for its client to take a message (%(default)s)",
    )
    served.add_argument(
        "--idle-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="that an append stream waits for the next batch (%(default)s)",
    )
    served.add_argument(
        "--frame-cache",
        type=int,
        default=DEFAULT_FRAME_CACHE_BYTES,
        metavar="BYTES",
        help="for texts that are read in bulk again and again, in DIR/frames; 0 for none (%(default)s)",
    )
    served.add_argument(
        "--signing-key",
        default="",
        metavar="FILE",
        help="where the signing key lies (DIR/signing.key)",
    )
    served.add_argument(
        "--tls-cert", default="", metavar="FILE", help="certificate and what leads to its root, PEM"
    )
    served.add_argument("--tls-key", default="", metavar="FILE", help="its private key, PEM, of mode 600")
    served.add_argument(
        "--tls-client-ca",
        default="",
        metavar="FILE",
        help="roots of the certificates that clients have to show, PEM",
    )
    served.add_argument(
        "--jwt-keys", default="", metavar="FILE", help="issuers whose tokens are taken, and their keys, JSON"
    )
    served.add_argument(
        "--channelz", action="store_true", help="let operators look into gRPC's channels and sockets"
    )
    served.add_argument(
        "--pepper",
        default="",
        metavar="FILE",
        help=f"the secret that API keys are kept under (DIR/{PEPPER_FILE})",
    )
    served.add_argument(
        "--no-reflection", action="store_true", help="do not describe the services to clients"
    )
    served.add_argument(
        "--sample", action="store_true", help="fill an empty data directory with the sample first"
    )
    take_data(served, lambda arguments: _serve(arguments, open_store))

    # Started by ``serve --workers``; not for people, hence without help.
    worker = commands.add_parser("worker", add_help=False)
    worker.add_argument("config")
    worker.set_defaults(run=lambda arguments: _worker(arguments, open_store))


def _serve(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    config = ServeConfig(
        data=arguments.data,
        listen=arguments.listen,
        workers=arguments.workers,
        threads=arguments.threads,
        streams=arguments.streams,
        followers=arguments.followers,
        drain_seconds=arguments.drain_seconds,
        stall_seconds=arguments.stall_seconds,
        idle_seconds=arguments.idle_seconds,
        frame_cache_bytes=arguments.frame_cache,
        reflection=not arguments.no_reflection,
        health_listen=arguments.health_listen,
        signing_key=arguments.signing_key,
        pepper=arguments.pepper,
        tls_cert=arguments.tls_cert,
        tls_key=arguments.tls_key,
        tls_client_ca=arguments.tls_client_ca,
        jwt_keys=arguments.jwt_keys,
        channelz=arguments.channelz,
    )
    logs.configure()
    _prepare(config.data, open_store, sample=arguments.sample)
    with closing(open_store(config.data)) as store:
        Signer(store, Ledger(store), config.key_path).check()  # better now than at the first question
        pepper = Pepper(config.pepper_path)
        keep_clock(Agreements(store), EmbargoClock(config.clock_path))
        if (
            config.tls_client_ca or config.jwt_keys
        ):  # then there are licensees without keys, and their cursors
            pepper.make()
        if not Keyring(store, pepper).is_empty():
            pepper()
        elif config.is_open:
            raise InvalidArgumentError(
                f"listen: others reach {config.listen}, and no key is asked of them",
                hint="make one first: recension-server apikey create OWNER",
                field="listen",
            )
        if config.tls_cert:
            Certificates.of(config).credentials()
        if config.jwt_keys:
            Tokens(Path(config.jwt_keys))
    return serve(config, _opener(open_store))


def _prepare(data: Path, open_store: OpenStore, *, sample: bool) -> None:
    """Make the store that is to be served, if the directory is empty, or if the sample is asked for."""
    if sample or (data.is_dir() and not any(data.iterdir())):
        with closing(open_store(data, create=True)) as store:
            if sample and lacks_sample(store):
                ingest_sample(store, data)


def _worker(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    logs.configure()
    return run_worker(decode_config(arguments.config), _opener(open_store))


def _frames(config: ServeConfig, store: Store) -> FrameCache | None:
    """Return where texts are kept as frames; nobody waits for it, whatever is wrong there."""
    if not config.frame_cache_bytes:
        return None

    def failed(error: Exception) -> None:
        structlog.get_logger().warning(logs.FRAMES_UNUSABLE, error=str(error))

    return FrameCache(config.data, store, config.frame_cache_bytes, failed)


def _opener(open_store: OpenStore) -> Callable[[ServeConfig], AbstractContextManager[Service]]:
    """Return what opens a data directory as a service."""

    @contextmanager
    def opened(config: ServeConfig) -> Iterator[Service]:
        with closing(open_store(config.data)) as store:
            frames = _frames(config, store)
            archive = Archive(store, hot=None if frames is None else HotTexts(frames))
            yield make_service(archive, Ingestor(store), store, config, frames)

    return opened
