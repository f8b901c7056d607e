"""TLS of a real server: who trusts its root reads, certificates are replaced in use, faults are named."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import time
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from recension.model.errors import CertificateUnusableError, InvalidArgumentError, UnreachableError
from recension.server.config import ServeConfig
from recension.server.tls import Certificates
from recension.store.lmdb import LmdbStore
from recension_client.client import Client
from recension_client.retrying import Retry
from tests.client.processes import BIN, at, free_port, make_project, run, serving
from tests.server.helpers import agree

ONCE = Retry(first_tries=1)
PATIENT = Retry(first_tries=1_000)


class Root(NamedTuple):
    """Who signs certificates."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
    )


def make_root(name: str) -> Root:
    key = ec.generate_private_key(ec.SECP256R1())
    basic = x509.BasicConstraints(ca=True, path_length=None)
    return Root(key, _builder(name, name, key).add_extension(basic, critical=True).sign(key, hashes.SHA256()))


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def issue(root: Root, folder: Path) -> None:
    """Put a certificate for 127.0.0.1 and its key into a folder, each in one step."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    issuer = root.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    made = _builder("server", str(issuer), key).add_extension(names, critical=False)
    put(folder / "cert.pem", pem(made.sign(root.key, hashes.SHA256())))
    raw = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    put(folder / "key.pem", raw)


def put(path: Path, content: bytes) -> None:
    part = path.with_suffix(".part")
    part.write_bytes(content)
    part.chmod(0o600)
    part.replace(path)


@pytest.fixture(scope="module")
def root() -> Root:
    return make_root("root")


@pytest.fixture
def folder(root: Root, tmp_path: Path) -> Path:
    """A folder with a certificate, its key and its root."""
    issue(root, tmp_path)
    put(tmp_path / "root.pem", pem(root.certificate))
    return tmp_path


def options(folder: Path) -> tuple[str, ...]:
    return ("--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem"))


def asks(address: str, ca: Path | str) -> bool:
    """Say whether the server answers who trusts a root."""
    with Client(address, tls_ca=str(ca), timeout_seconds=10, retry=ONCE) as client:
        try:
            client.projects()
        except UnreachableError:
            return False
    return True


def test_who_trusts_its_root_reads(folder: Path) -> None:
    """By command too; another root, the usual ones and no TLS at all reach nothing."""
    make_project("made", folder / "data")
    other = folder / "other.pem"
    put(other, pem(make_root("other").certificate))
    with serving(folder / "data", *options(folder)) as address:
        ca = str(folder / "root.pem")
        command = [str(BIN / "recension"), "projects"]
        for more in ({"RECENSION_TLS_CA": ca}, {}):
            given = command if more else [*command, "--tls-ca", ca]
            done = subprocess.run(given, capture_output=True, check=False, env=at(address) | more, text=True)
            assert "made" in done.stdout, done.stderr
        assert asks(address, ca)
        assert not asks(address, other)
        assert not asks(address, "system")
        assert not asks(address, "")


def test_certificates_are_replaced_while_it_runs(folder: Path) -> None:
    """New connections see the new one, open ones go on; a damaged one leaves that before in place."""
    make_project("made", folder / "data")
    later = make_root("later")
    new = folder / "later.pem"
    put(new, pem(later.certificate))
    with serving(folder / "data", *options(folder)) as address:
        with Client(address, tls_ca=str(folder / "root.pem")) as open_client:
            assert open_client.projects()
            issue(later, folder)
            assert asks(address, new)
            assert not asks(address, folder / "root.pem")
            assert open_client.projects()
        put(folder / "cert.pem", b"damaged")
        assert asks(address, new)


def test_others_are_let_in_with_keys_alone(folder: Path) -> None:
    """Where others reach it, the server starts with a certificate and a caller's key, not before."""
    make_project("made", folder / "data")
    port = free_port()
    listen = f"[::]:{port}"
    serve = [str(BIN / "recension-server"), "serve", "--data", str(folder / "data"), "--listen", listen]
    for given, said in (((), "not encrypted"), (options(folder), "no key is asked of them")):
        done = subprocess.run([*serve, *given], capture_output=True, check=False, text=True)
        assert 3 == done.returncode
        assert said in done.stderr
    key = run("recension-server", "apikey", "create", "acme", "--data", str(folder / "data")).strip()
    with closing(LmdbStore.open(folder / "data")) as store:
        agree(store, "acme")
    health = f"127.0.0.1:{free_port()}"
    with subprocess.Popen([*serve, *options(folder), "--health-listen", health]) as server:
        try:
            with Client(
                f"127.0.0.1:{port}", key=key, tls_ca=str(folder / "root.pem"), retry=PATIENT
            ) as client:
                assert ["made"] == [project.name for project in client.projects()]
            assert "SERVING" in run("recension-server", "health", "--target", health)
        finally:
            server.terminate()
    assert 0 == server.returncode


def test_what_cannot_be_used_is_named(folder: Path, root: Root) -> None:
    """At the start, with the file and what is wrong with it."""
    chain, key = folder / "cert.pem", folder / "key.pem"
    Certificates(chain, key).credentials()
    good = key.read_bytes()
    key.chmod(0o644)
    with pytest.raises(CertificateUnusableError, match="others may read"):
        Certificates(chain, key).credentials()
    put(key, b"none")
    with pytest.raises(CertificateUnusableError, match="no private key"):
        Certificates(chain, key).credentials()
    issue(root, folder)
    put(key, good)
    with pytest.raises(CertificateUnusableError, match="not the key of the certificate"):
        Certificates(chain, key).credentials()
    put(chain, b"none")
    with pytest.raises(CertificateUnusableError, match="no certificate"):
        Certificates(chain, key).credentials()
    with pytest.raises(CertificateUnusableError, match="No such file"):
        Certificates(folder / "none", key).credentials()
    with pytest.raises(InvalidArgumentError, match="needs its key"):
        ServeConfig(data=folder, tls_cert=str(chain))
    for ca in (folder / "none", key):
        with pytest.raises(InvalidArgumentError, match=r"cannot be read|holds no certificate"):
            Client("127.0.0.1:1", tls_ca=str(ca))


def test_a_file_that_changes_is_read_again_once(folder: Path, root: Root) -> None:
    """Handshakes cost a look at the files; what did not change is not read."""
    held = Certificates(folder / "cert.pem", folder / "key.pem")
    held.credentials()
    assert held._newer() is None
    time.sleep(0.01)
    issue(root, folder)
    assert held._newer() is not None
    assert held._newer() is None
    os.utime(folder / "cert.pem", ns=(1, 1))
    assert held._newer() is not None


def test_a_key_whose_mode_is_put_right_is_read(folder: Path, root: Root) -> None:
    """The hint says chmod, which changes neither what is in the file nor when that was written."""
    held = Certificates(folder / "cert.pem", folder / "key.pem")
    held.credentials()
    issue(root, folder)
    (folder / "key.pem").chmod(0o644)
    assert held._newer() is None
    time.sleep(0.01)
    (folder / "key.pem").chmod(0o600)
    assert held._newer() is not None
