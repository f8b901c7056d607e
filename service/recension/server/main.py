"""The command ``recension-server``: the one place that picks the backend and wires everything.

Exit status: 0 well, 1 records were rejected, 2 wrong usage, 3 a named error, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from recension.archive.agreements import Agreements
from recension.archive.ingest import Ingestor
from recension.archive.keyring import Keyring
from recension.archive.ledger import Ledger
from recension.archive.projects import check_definition
from recension.archive.reader import Archive
from recension.model.credit import read_periods
from recension.model.errors import InvalidArgumentError, RecensionError, UnreachableError
from recension.model.reading import ProjectInfo
from recension.server import (
    agreements,
    apikeys,
    checking,
    clocks,
    ingest,
    keying,
    logs,
    operating,
    retracting,
    usage,
)
from recension.server.audit import commands as auditing
from recension.server.build import Service, keep_clock, make_service
from recension.server.config import DEFAULT_LISTEN, ServeConfig
from recension.server.embargo import EmbargoClock
from recension.server.pepper import Pepper
from recension.server.serve import NAMED_ERROR, decode_config, run_worker, serve
from recension.server.signing import Signer
from recension.server.tls import Certificates
from recension.server.tokens import Tokens
from recension.store.directory import PEPPER_FILE
from recension.store.lmdb import LmdbStore
from recension.wire.status import error_of

_INTERRUPTED = 130
_EPILOG = """\
exit codes:
  0    done
  1    records were rejected
  2    wrong usage
  3    an error with a name: see "error:" and "hint:" on stderr
  130  interrupted
"""
_HEALTH_SECONDS = 3.0


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except RecensionError as error:
        ingest.write_error(error)
        return NAMED_ERROR
    except KeyboardInterrupt:
        return _INTERRUPTED


class _Parser(argparse.ArgumentParser):
    """Says the exit statuses at the end of each help."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="recension-server", description="Hold article revisions and serve them.")
    parser.add_argument("--version", action="version", version=f"recension {version('recension')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    project = commands.add_parser("project", help="make and list projects").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    create = project.add_parser("create", help="make a project, and the data directory if there is none")
    create.add_argument("name", metavar="NAME", help="name: enwiki")
    create.add_argument(
        "--base-url", required=True, metavar="URL", help="where articles live: https://en.wikipedia.org"
    )
    create.add_argument("--language", required=True, metavar="L", help="BCP 47 language tag: en")
    _licenses(create, "--license", required=True)
    create.add_argument("--json", action="store_true", help="as JSON")
    _data(create, _create_project)
    license_ = project.add_parser("license", help="say anew which licence holds from when on")
    license_.add_argument("name", metavar="NAME", help="an existing project")
    _licenses(license_, "licenses")
    license_.add_argument("--json", action="store_true", help="as JSON")
    _data(license_, _set_licenses)
    listing = project.add_parser("list", help="list the projects")
    listing.add_argument("--json", action="store_true", help="as JSON")
    _data(listing, _list_projects)

    one = commands.add_parser("ingest", help="read files into a project")
    one.add_argument("kind", choices=("dump", "logging", "events", "enterprise"), help="what the files are")
    one.add_argument("project", metavar="PROJECT", help="an existing project")
    one.add_argument("files", metavar="FILE", nargs="+", type=Path, help="files to read, in this order")
    one.add_argument(
        "--allow-rejected", action="store_true", help="leave with 0 even if records were rejected"
    )
    one.add_argument(
        "--workers",
        type=_workers,
        default=ingest.usable_workers(),
        metavar="N",
        help="processes that parse a dump (%(default)s)",
    )
    one.add_argument("--json", action="store_true", help="report as JSON")
    one.add_argument("--quiet", action="store_true", help="no progress")
    _data(one, _ingest)

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
    _data(served, _serve)

    # Started by ``serve --workers``; not for people, hence without help.
    worker = commands.add_parser("worker", add_help=False)
    worker.add_argument("config")
    worker.set_defaults(run=_worker)

    operating.add_commands(commands, LmdbStore)
    checking.add_commands(commands, LmdbStore.open)
    keying.add_commands(commands, LmdbStore.open)
    apikeys.add_commands(commands, LmdbStore.open)
    clocks.add_commands(commands)
    usage.add_commands(commands, LmdbStore.open)
    agreements.add_commands(commands, LmdbStore.open)
    auditing.add_commands(commands, LmdbStore.open)
    retracting.add_commands(commands, LmdbStore.open)

    health = commands.add_parser("health", help="ask a server whether it serves")
    health.add_argument("--target", default=DEFAULT_LISTEN, metavar="HOST:PORT", help="(%(default)s)")
    health.add_argument("--json", action="store_true", help="as JSON")
    health.set_defaults(run=_health)
    return parser


def _data(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="data directory")
    parser.set_defaults(run=run)


def _licenses(parser: argparse.ArgumentParser, name: str, **options: Any) -> None:
    parser.add_argument(
        name,
        nargs="+",
        metavar="SPDX[@DATE]",
        help="licence, and those that followed with their first day: CC-BY-SA-3.0 CC-BY-SA-4.0@2023-06-07",
        **options,
    )


def _set_licenses(arguments: argparse.Namespace) -> int:
    periods = read_periods(arguments.licenses)
    with closing(LmdbStore.open(arguments.data)) as store:
        changed = Ingestor(store).set_licenses(arguments.name, periods)
    if arguments.json:
        return _write_json({"project": arguments.name, "changed": changed})
    sys.stdout.write(f"{arguments.name}: {'changed' if changed else 'is so already'}\n")
    return 0


def _create_project(arguments: argparse.Namespace) -> int:
    periods = read_periods(arguments.license)
    definition = ProjectInfo(
        arguments.name,
        arguments.base_url,
        arguments.language,
        periods[-1].license,
        licenses=periods if len(periods) > 1 else (),
    )
    check_definition(definition)  # before there is a directory for a project that cannot be
    with closing(LmdbStore.open(arguments.data, create=True)) as store:
        made = Ingestor(store).create_project(definition)
    if arguments.json:
        return _write_json({"project": arguments.name, "created": made})
    sys.stdout.write(f"{arguments.name}: {'created' if made else 'exists already'}\n")
    return 0


def _write_json(value: object) -> int:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    return 0


def _list_projects(arguments: argparse.Namespace) -> int:
    with closing(LmdbStore.open(arguments.data)) as store:
        projects = Archive(store).projects()
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(info) for info in projects], indent=2, ensure_ascii=False) + "\n")
        return 0
    for info in projects:
        sys.stdout.write(f"{info.name}\t{info.revisions} revisions\t{info.pages} pages\t{info.base_url}\n")
    if not projects:
        sys.stderr.write("no projects yet; make one with: recension-server project create\n")
    return 0


def _workers(text: str) -> int:
    """Read a number of processes."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"not a number of processes: {text}")
    return int(text)


def _ingest(arguments: argparse.Namespace) -> int:
    with closing(LmdbStore.open(arguments.data)) as store:
        status: int = ingest.run_ingest(
            store,
            arguments.kind,
            arguments.project,
            arguments.files,
            data=arguments.data,
            allow_rejected=arguments.allow_rejected,
            json_output=arguments.json,
            quiet=arguments.quiet,
            workers=arguments.workers,
        )
    return status


def _serve(arguments: argparse.Namespace) -> int:
    config = ServeConfig(
        data=arguments.data,
        listen=arguments.listen,
        workers=arguments.workers,
        threads=arguments.threads,
        streams=arguments.streams,
        drain_seconds=arguments.drain_seconds,
        stall_seconds=arguments.stall_seconds,
        idle_seconds=arguments.idle_seconds,
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
    _prepare(config.data, sample=arguments.sample)
    with closing(LmdbStore.open(config.data)) as store:
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
    return serve(config, _open_service)


def _prepare(data: Path, *, sample: bool) -> None:
    """Make the store that is to be served, if the directory is empty, or if the sample is asked for."""
    if sample or (data.is_dir() and not any(data.iterdir())):
        with closing(LmdbStore.open(data, create=True)) as store:
            if sample and ingest.lacks_sample(store):
                ingest.ingest_sample(store, data)


def _worker(arguments: argparse.Namespace) -> int:
    logs.configure()
    return run_worker(decode_config(arguments.config), _open_service)


def _health(arguments: argparse.Namespace) -> int:
    # Else gRPC would ask the proxy of the environment, for this very machine too.
    with grpc.insecure_channel(arguments.target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_SECONDS)
        except grpc.RpcError as error:
            raise error_of(error) from None
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise UnreachableError(f"{arguments.target} answers {status}", hint="it is starting or shutting down")
    if arguments.json:
        return _write_json({"target": arguments.target, "status": status})
    sys.stdout.write(f"{status}\n")
    return 0


@contextmanager
def _open_service(config: ServeConfig) -> Iterator[Service]:
    with closing(LmdbStore.open(config.data)) as store:
        yield make_service(Archive(store), Ingestor(store), store, config)


if __name__ == "__main__":
    sys.exit(main())
