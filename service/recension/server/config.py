"""How a server runs, checked once at the door."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from recension.model.errors import InvalidArgumentError
from recension.store.directory import CLOCK_FILE, KEY_FILE, PEPPER_FILE

DEFAULT_LISTEN = "127.0.0.1:7777"
DEFAULT_HEALTH = "127.0.0.1:7778"
"""Where health is answered if nothing else is chosen."""
DEFAULT_FRAME_CACHE_BYTES = 1 << 30
_MAX_PORT = 65_535


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """Everything that can be chosen about a server."""

    data: Path
    listen: str = DEFAULT_LISTEN
    """``host:port``, on loopback unless there is a certificate; port 0 takes a free one."""
    workers: int = 1
    """Processes that share the port."""
    threads: int = 32
    """Threads of each process: one for each running call."""
    streams: int = 0
    """Bulk streams that each process runs at once; 0 means half of ``threads``."""
    followers: int = 500
    """Streams of changes that each process has open at once; they cost none of ``threads``."""
    drain_seconds: float = 30.0
    """How long running calls may take to finish when the server stops."""
    stall_seconds: float = 30.0
    """How long a call waits for its client to take a message, or to send its request."""
    idle_seconds: float = 60.0
    """How long a stream waits for the next message that its client may send, such as a batch of events."""
    reader_check_seconds: float = 30.0
    """How often reader slots of processes that were killed are freed."""
    frame_cache_bytes: int = DEFAULT_FRAME_CACHE_BYTES
    """What texts may take that are kept as frames beside the store, of all processes; 0 for none."""
    reflection: bool = True
    signing_key: str = ""
    """Path of the signing key's file; empty means ``signing.key`` in the data directory."""
    pepper: str = ""
    """Path of the file with the secret that API keys are kept under; empty means the data directory's."""
    tls_cert: str = ""
    """Path of the certificate and what leads to its root, PEM; empty means that nothing is encrypted."""
    tls_key: str = ""
    """Path of the certificate's private key, PEM."""
    tls_client_ca: str = ""
    """Path of the roots that certificates of clients have to lead to, PEM; empty means that none is asked."""
    jwt_keys: str = ""
    """Path of the keys of issuers whose tokens are taken; empty means that none is."""
    channelz: bool = False
    """Whether operators may look into gRPC's channels and sockets."""
    health_listen: str = ""
    """Where health is answered with threads of its own; empty means the port after ``listen``'s."""

    def __post_init__(self) -> None:
        """Refuse what cannot work. Raises ``InvalidArgumentError`` naming the field."""
        for field in ("workers", "threads", "followers"):
            if getattr(self, field) < 1:
                raise InvalidArgumentError(f"{field}: at least 1", field=field)
        if not 0 <= self.streams < max(self.threads, 2):
            raise InvalidArgumentError(
                "streams: fewer than threads, so that other calls find one", field="streams"
            )
        for field in ("drain_seconds", "frame_cache_bytes"):
            if getattr(self, field) < 0:
                raise InvalidArgumentError(f"{field}: not negative", field=field)
        for field in ("stall_seconds", "idle_seconds", "reader_check_seconds"):
            if getattr(self, field) <= 0:
                raise InvalidArgumentError(f"{field}: more than 0", field=field)
        if bool(self.tls_cert) is not bool(self.tls_key):
            raise InvalidArgumentError(
                "tls_cert, tls_key: a certificate needs its key, and a key its certificate",
                hint="give both --tls-cert and --tls-key, or none",
                field="tls_cert",
            )
        if self.tls_client_ca and not self.tls_cert:
            raise InvalidArgumentError(
                "tls_client_ca: clients show certificates only where the server does",
                hint="give --tls-cert and --tls-key too",
                field="tls_client_ca",
            )
        host, port = split_address(self.listen, "listen")
        if not self.tls_cert:
            check_loopback(host, "listen", self.listen)
        if port == _MAX_PORT and not self.health_listen:
            raise InvalidArgumentError(
                f"health_listen: no port follows {port}, so health has none",
                hint=f"say where health is answered: --health-listen {DEFAULT_HEALTH}",
                field="health_listen",
            )
        host, _ = split_address(self.health_address, "health_listen")
        if not self.tls_cert:
            check_loopback(host, "health_listen", self.health_address)

    @property
    def is_open(self) -> bool:
        """Whether others than this machine reach it."""
        return not is_loopback(split_address(self.listen, "listen")[0])

    @property
    def key_path(self) -> Path:
        """Where the signing key lies."""
        return Path(self.signing_key) if self.signing_key else self.data / KEY_FILE

    @property
    def pepper_path(self) -> Path:
        """Where the secret lies that API keys are kept under."""
        return Path(self.pepper) if self.pepper else self.data / PEPPER_FILE

    @property
    def clock_path(self) -> Path:
        """Where it is written down what time it is."""
        return self.data / CLOCK_FILE

    @property
    def stream_limit(self) -> int:
        """Bulk streams at once."""
        return self.streams or max(self.threads // 2, 1)

    @property
    def health_address(self) -> str:
        """Where health is answered apart from everything else."""
        if self.health_listen:
            return self.health_listen
        host, port = split_address(self.listen, "listen")
        return join_address("127.0.0.1" if self.is_open else host, port + 1 if port else 0)


def split_address(address: str, field: str) -> tuple[str, int]:
    """Read ``host:port`` (IPv6 in brackets). Raises ``InvalidArgumentError``."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > _MAX_PORT:
        raise InvalidArgumentError(
            f"{field}: not an address: {address!r}",
            hint=f"write it as {DEFAULT_LISTEN}",
            field=field,
            value=address,
        )
    return host, int(port)


def check_loopback(host: str, field: str, address: str) -> None:
    """Refuse an address that others reach. Raises ``InvalidArgumentError``."""
    if not is_loopback(host):
        raise InvalidArgumentError(
            f"{field}: {host} is not a loopback address, and what is sent is not encrypted",
            hint=f"listen on {DEFAULT_LISTEN}, or give --tls-cert and --tls-key",
            field=field,
            value=address,
        )


def join_address(host: str, port: int) -> str:
    """Write ``host:port``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Say whether a host is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
