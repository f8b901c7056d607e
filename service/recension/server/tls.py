"""Certificates of the server, read again when their files change: no restart, and no connection is cut."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from recension.model.errors import CertificateUnusableError
from recension.model.private import OpenToOthersError, read_private
from recension.server import logs

_Stamp = tuple[tuple[int, int, int, int], ...]
"""Inode, size and times of change of each file: of what is in it, and of its mode too."""


class Certificates:
    """A chain of certificates and its private key, PEM, in two files. Safe for concurrent use."""

    def __init__(self, chain: Path, key: Path) -> None:
        """``chain``: the server's certificate, then those that lead to a root; ``key``: its private key."""
        self._chain = chain
        self._key = key
        self._lock = threading.Lock()
        self._seen: _Stamp = ()

    def credentials(self) -> grpc.ServerCredentials:
        """Return what a port is secured with. Raises ``CertificateUnusableError``."""
        self._seen = self._stamp()
        credentials: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            self._read(),
            self._newer,  # type: ignore[arg-type] # the stub forgets that None is "no other"
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
            found = [path.stat() for path in (self._chain, self._key)]
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
            [(key.encode(), chain)]
        )
        return configuration


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
