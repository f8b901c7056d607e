"""Certificates of the server, read again when their files change: no restart, and no connection is cut."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Self

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from recension.model.errors import CertificateUnusableError
from recension.model.private import OpenToOthersError, read_private
from recension.server import logs
from recension.server.config import ServeConfig

_Stamp = tuple[tuple[int, int, int, int], ...]
"""Inode, size and times of change of each file: of what is in it, and of its mode too."""


class Certificates:
    """A chain of certificates and its private key, PEM, in two files. Safe for concurrent use."""

    def __init__(self, chain: Path, key: Path, client_roots: Path | None = None) -> None:
        """``chain``: the server's certificate, then those that lead to a root; ``key``: its private key.

        ``client_roots``: the roots that certificates of clients have to lead to, PEM; with it each client has
        to show one.
        """
        self._chain = chain
        self._key = key
        self._client_roots = client_roots
        self._lock = threading.Lock()
        self._seen: _Stamp = ()

    @classmethod
    def of(cls, config: ServeConfig) -> Self:
        """Return those that a server is told to show, and to ask of its clients."""
        roots = Path(config.tls_client_ca) if config.tls_client_ca else None
        return cls(Path(config.tls_cert), Path(config.tls_key), roots)

    def credentials(self) -> grpc.ServerCredentials:
        """Return what a port is secured with. Raises ``CertificateUnusableError``."""
        self._seen = self._stamp()
        credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            self._read(),
            self._newer,  # type: ignore[arg-type] # the stub forgets that None is "no other"
            require_client_authentication=self._client_roots is not None,
        )
        return credentials

    def _newer(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what is in the files if they have changed; asked at each handshake.

        What cannot be used is told in the log, and the certificate before stays.
        """
        with self._lock:
            try:
                stamp = self._stamp()
                if stamp == self._seen:
                    return None
                self._seen = stamp
                return self._read()
            except CertificateUnusableError as error:
                structlog.get_logger().error(logs.CERTIFICATE_UNUSABLE, message=error.message)
                return None

    def _stamp(self) -> _Stamp:
        try:
            found = [path.stat() for path in (self._chain, self._key, self._client_roots) if path]
        except OSError as error:
            raise _unusable(self._chain, os.strerror(error.errno or 0)) from None
        return tuple((one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in found)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        try:
            key = read_private(self._key)
        except OpenToOthersError as error:
            hint = f"if nobody did, chmod 600 {self._key}; else take another key and certificate"
            raise CertificateUnusableError(f"{self._key}: {error}", hint=hint) from None
        except (OSError, ValueError) as error:
            raise _unusable(self._key, f"it cannot be read: {error}") from None
        try:
            chain = self._chain.read_bytes()
        except OSError as error:
            raise _unusable(self._chain, os.strerror(error.errno or 0)) from None
        check_pair(self._chain, chain, self._key, key.encode())
        configuration: grpc.ServerCertificateConfiguration = grpc.ssl_server_certificate_configuration(
            [(key.encode(), chain)], root_certificates=self._roots()
        )
        return configuration

    def _roots(self) -> bytes | None:
        if self._client_roots is None:
            return None
        try:
            roots = self._client_roots.read_bytes()
            x509.load_pem_x509_certificates(roots)
        except OSError as error:
            raise _unusable(self._client_roots, os.strerror(error.errno or 0)) from None
        except ValueError:
            raise _unusable(self._client_roots, "it holds no certificate in PEM") from None
        return roots


def check_pair(chain_path: Path, chain: bytes, key_path: Path, key: bytes) -> None:
    """Refuse what gRPC would take and then fail every handshake with. Raises ``CertificateUnusableError``."""
    try:
        certificate = x509.load_pem_x509_certificates(chain)[0]
    except (ValueError, IndexError):
        raise _unusable(chain_path, "it holds no certificate in PEM") from None
    try:
        private = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _unusable(key_path, "it holds no private key in PEM, or one with a password") from None
    if private.public_key() != certificate.public_key():
        raise _unusable(key_path, f"it is not the key of the certificate in {chain_path}")


def _unusable(path: Path, what: str) -> CertificateUnusableError:
    return CertificateUnusableError(
        f"{path}: {what}", hint="see docs/operations.md, TLS; the certificate and its key are PEM files"
    )
