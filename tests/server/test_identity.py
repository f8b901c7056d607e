"""Who calls, on real servers: by certificates and tokens besides keys; and nothing of it is written down."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc  # type: ignore[import-untyped]
from jwt.utils import base64url_encode

from recension.archive.agreements import Agreements
from recension.archive.ingest import Ingestor
from recension.archive.keyring import Keyring
from recension.archive.reader import Archive
from recension.model import errors
from recension.model.access import Role
from recension.model.instant import parse_instant
from recension.model.licensee import make_licensee
from recension.server import door, logs, tokens
from recension.server.build import make_service
from recension.server.config import ServeConfig
from recension.server.identity import Identification
from recension.server.limits.quotas import keys_seen
from recension.server.pepper import Pepper
from recension.server.tls import Certificates
from recension.server.tokens import Tokens
from recension.store.directory import PEPPER_FILE
from recension.store.memory import MemoryStore
from recension.v1 import catalog_service_pb2 as catalog_pb
from recension_client.client import Client
from tests.server.helpers import Served, fill, refused, serving, until
from tests.server.test_door import shown
from tests.server.test_tls import ONCE, Root, _builder, asks, issue, make_root, pem, put

LATER = parse_instant("2999-01-01")
URI = "spiffe://example.org/acme"


class Idp:
    """A licensee's issuer of tokens."""

    def __init__(self, name: str = "https://login.example", *, licensees: tuple[str, ...] = ()) -> None:
        self.name = name
        self.key = Ed25519PrivateKey.generate()
        self.licensees = licensees

    def trusted(self) -> dict[str, Any]:
        """Its entry in the file of keys."""
        public = jwt.algorithms.OKPAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        entry = {"iss": self.name, "aud": "recension", "keys": [public | {"kid": "1"}]}
        return entry | ({"licensees": list(self.licensees)} if self.licensees else {})

    def token(self, subject: object = "acme@login", *, without: str = "", **claims: Any) -> str:
        now = int(time.time())
        said = {"iss": self.name, "aud": "recension", "sub": subject, "iat": now, "exp": now + 600} | claims
        said.pop(without, None)
        return self.sign(said)

    def sign(self, said: object, **header: object) -> str:
        """Return a token that may say anything; a library for honest issuers would refuse to make it."""
        parts = [{"alg": "EdDSA", "typ": "JWT", "kid": "1"} | header, said]
        text = b".".join(base64url_encode(json.dumps(part).encode()) for part in parts)
        return f"{text.decode()}.{base64url_encode(self.key.sign(text)).decode()}"


def trust(path: Path, *idps: Idp) -> Path:
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"issuers": [idp.trusted() for idp in idps]}))
    part.replace(path)
    return path


class World:
    """A server that takes tokens, its licensees and its keys."""

    def __init__(self, served: Served, store: MemoryStore, keyring: Keyring, idp: Idp) -> None:
        self.served = served
        self.agreements = Agreements(store)
        self.keyring = keyring
        self.idp = idp

    def ask(self, metadata: Any = ()) -> Any:
        return self.served.catalog.GetServerInfo(catalog_pb.GetServerInfoRequest(), metadata=metadata)


@pytest.fixture
def idp() -> Idp:
    return Idp()


@pytest.fixture
def world(tmp_path: Path, idp: Idp) -> Iterator[World]:
    store = MemoryStore()
    fill(store)
    pepper = Pepper(tmp_path / PEPPER_FILE)
    pepper.make()
    keyring = Keyring(store, pepper)
    keys = trust(tmp_path / "issuers.json", idp)
    with serving(store, tmp_path, jwt_keys=str(keys), channelz=True) as served:
        world = World(served, store, keyring, idp)
        world.agreements.add_licensee(make_licensee("acme", 1, jwt_subject="acme@login"))
        world.agreements.add_licensee(make_licensee("other", 1, jwt_subject="other@login"))
        yield world
        served.service.limits.close()


def test_a_good_token_is_its_licensee(world: World) -> None:
    """By the subject that the operator has written down; everyone else shows a key from the first key on."""
    operator = world.keyring.make("jane", Role.OPERATOR, LATER)
    assert world.ask(shown(world.idp.token())).version
    assert world.ask(shown(operator)).version
    stub = world.served.ingest.Append(iter(()), metadata=shown(world.idp.token()))
    assert isinstance(refused(lambda: list(stub)), errors.PermissionDeniedError)


def test_no_other_token_is_good(world: World) -> None:
    """Whatever is wrong, the answer is that of a key that is not known."""
    world.keyring.make("jane", Role.OPERATOR, LATER)
    idp, now = world.idp, int(time.time())
    forged = Idp()
    public = idp.key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    said = jwt.decode(idp.token(), options={"verify_signature": False})
    mixed = jwt.encode(said, public.hex(), "HS256", headers={"kid": "1"})
    wrong = [
        *(idp.token(without=claim) for claim in ("exp", "iat", "aud", "sub", "iss")),
        idp.token(exp=now - 60),
        idp.token(iat=now + 600),
        idp.token(nbf=now + 600),
        idp.token(exp=now + 2 * 86_400),
        idp.token(aud="others"),
        idp.token(iss="https://elsewhere.example"),
        idp.token(iss=["https://login.example"]),
        idp.token("nobody@login"),
        idp.token(""),
        idp.token("a" * 8_000)[:7_000],
        forged.token(),
        mixed,
        jwt.encode(said, "", "none", headers={"kid": "1"}),
        idp.sign(said, kid="2"),
        idp.sign(said, kid=["1"]),
        idp.sign(said, crit=["x"], x=1),
        idp.sign(said, alg="ES256"),
        idp.sign([said]),
        idp.token()[:-4] + "AAAA",
        "a.b.c",
        "..",
    ]
    answers = {
        (type(error), error.message, error.hint)
        for error in (refused(partial(world.ask, shown(token))) for token in wrong)
    }
    assert [errors.UnauthenticatedError] == [each[0] for each in answers]


def test_an_issuer_speaks_for_its_licensees_alone(world: World, tmp_path: Path) -> None:
    """The file is read again; what cannot be used is not taken, and that before stays."""
    world.keyring.make("jane", Role.OPERATOR, LATER)
    acme, other = Idp(licensees=("acme",)), Idp("https://other.example", licensees=("other",))
    path = trust(tmp_path / "issuers.json", acme, other)
    assert world.ask(shown(acme.token())).version
    assert world.ask(shown(other.token("other@login"))).version
    for token in (other.token("acme@login"), acme.token("other@login"), world.idp.token()):
        assert isinstance(refused(partial(world.ask, shown(token))), errors.UnauthenticatedError)
    path.write_text("{")
    assert world.ask(shown(acme.token())).version
    trust(path, world.idp)
    assert world.ask(shown(world.idp.token())).version
    assert isinstance(refused(partial(world.ask, shown(acme.token()))), errors.UnauthenticatedError)


def test_a_stream_ends_with_its_token(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the operator takes the subject away, as when a key is revoked."""
    monkeypatch.setattr(door, "LOOK_SECONDS", 0.0)
    identity = Identification(world.keyring, world.agreements, Tokens(_keys_of(world)))
    known = identity.find(shown(world.idp.token()), {})
    assert ("acme", Role.LICENSEE, b"") == (known.caller.owner, known.caller.role, known.caller.key_id)
    assert known.still()
    world.agreements.add_licensee(make_licensee("acme", 1), replace=True)
    assert not known.still()


def _keys_of(world: World) -> Path:
    return Path(world.served.target.removeprefix("unix://")).parent / "issuers.json"


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "no list of issuers"),
        ("[]", "no list of issuers"),
        ('{"issuers": []}', "at least one"),
        ('{"issuers": [{"iss": "i", "aud": "a", "keys": []}]}', "at least one"),
        ('{"issuers": [{"iss": "i", "aud": "a", "keys": [{"kty": "oct", "k": "AA"}]}]}', "Ed25519"),
        ('{"issuers": [{"iss": "", "aud": "a", "keys": []}]}', "text"),
        ('{"issuers": [{"iss": "i", "aud": "a", "keys": [], "more": 1}]}', "no field 'more'"),
        ('{"issuers": [{"iss": "i", "aud": "a", "licensees": ["Ä"], "keys": []}]}', "no name of a licensee"),
    ],
)
def test_a_file_of_keys_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    """It is named, with what is wrong."""
    path = tmp_path / "issuers.json"
    path.write_text(text)
    with pytest.raises(errors.TokenKeysUnusableError, match=said):
        Tokens(path)


def test_files_of_keys_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not there, two issuers of which one speaks for all, a private key, and no PyJWT."""
    with pytest.raises(errors.TokenKeysUnusableError, match="No such file"):
        Tokens(tmp_path / "none")
    with pytest.raises(errors.TokenKeysUnusableError, match="name the licensees"):
        Tokens(trust(tmp_path / "two", Idp(licensees=("acme",)), Idp("https://other.example")))
    idp = Idp()
    entry = idp.trusted()
    entry["keys"] = [jwt.algorithms.OKPAlgorithm.to_jwk(idp.key, as_dict=True)]
    (tmp_path / "private").write_text(json.dumps({"issuers": [entry]}))
    with pytest.raises(errors.TokenKeysUnusableError, match="no d"):
        Tokens(tmp_path / "private")
    monkeypatch.setattr(tokens, "jwt", None)
    with pytest.raises(errors.ExtraMissingError):
        Tokens(tmp_path / "two")


# --- keys in wrong places, and what is written down ------------------------------------------------


def test_a_key_in_another_place_is_refused(world: World) -> None:
    """Though a good one stands where it should: who logs headers has it now."""
    key = world.keyring.make("acme", Role.LICENSEE, LATER)
    assert world.ask(shown(key)).version
    for extra in (
        ("x-api-key", key.written),
        ("cookie", f"key={key.written}"),
        ("authorization-bin", f"Bearer {key.written}".encode()),
    ):
        error = refused(partial(world.ask, (*shown(key), extra)))
        assert isinstance(error, errors.UnauthenticatedError)
        assert "another place" in error.message
    raw: Any = world.served.channel.unary_unary(
        f"/recension.v1.CatalogService/GetServerInfo?key={key.written}"
    )
    with pytest.raises(grpc.RpcError) as caught:
        raw(b"")
    assert grpc.StatusCode.UNIMPLEMENTED is caught.value.code()


def test_no_secret_is_ever_logged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of keys and tokens in any place, nor of exceptions that repeat them; the key's id is."""
    key = world.keyring.make("acme", Role.LICENSEE, LATER)
    token = world.idp.token()
    private = world.idp.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    out = StringIO()
    logs.configure(out)

    def explode(_: object) -> Any:
        raise RuntimeError(f"with {key.written}, {token} and\n{private}")

    monkeypatch.setattr(type(world.served.archive), "projects", explode)
    try:
        world.ask(shown(key))
        world.ask(shown(token))
        for metadata in ((("x-api-key", key.written),), shown(key.written + "0"), shown("Basic " + token)):
            refused(partial(world.ask, metadata))
        request = catalog_pb.ListProjectsRequest(page_token=key.written)
        for one in (request, catalog_pb.ListProjectsRequest()):
            refused(partial(world.served.catalog.ListProjects, one, metadata=shown(key)))
        until(lambda: out.getvalue().count('"event": "request"') >= 7)
        structlog.get_logger().info(
            logs.REQUEST,
            told=[{"authorization": f"Bearer {token}"}],
            raw=f"bearer {key.secret.hex()}".encode(),
        )
    finally:
        logs.configure()
    written = out.getvalue()
    assert key.id.hex() in written
    assert "[redacted]" in written
    for secret in (key.secret.hex(), key.written[21:60], token, token.split(".")[2], private.splitlines()[1]):
        assert secret not in written


def test_when_a_key_was_used_last(world: World, tmp_path: Path) -> None:
    """Remembered some seconds later, and never in the log of commits."""
    key, idle = (world.keyring.make("acme", Role.LICENSEE, LATER) for _ in range(2))
    before = time.time_ns() // 1000
    world.ask(shown(key))
    assert not keys_seen(tmp_path)
    world.served.service.limits.close()
    seen = keys_seen(tmp_path)
    assert before <= seen[key.id] <= time.time_ns() // 1000
    assert idle.id not in seen


def test_channelz_is_for_operators(world: World) -> None:
    """It tells who is connected; where it is not asked for there is none."""
    stub = channelz_pb2_grpc.ChannelzStub(world.served.channel)
    operator = world.keyring.make("jane", Role.OPERATOR, LATER)
    licensee = world.keyring.make("acme", Role.LICENSEE, LATER)
    request = channelz_pb2.GetServersRequest()
    assert stub.GetServers(request, metadata=shown(operator)).server
    assert isinstance(
        refused(lambda: stub.GetServers(request, metadata=shown(licensee))), errors.PermissionDeniedError
    )
    assert isinstance(refused(lambda: stub.GetServers(request)), errors.UnauthenticatedError)


def test_without_being_asked_for_there_is_no_channelz(tmp_path: Path) -> None:
    with serving(MemoryStore(), tmp_path) as served, pytest.raises(grpc.RpcError) as caught:
        channelz_pb2_grpc.ChannelzStub(served.channel).GetServers(channelz_pb2.GetServersRequest())
    assert grpc.StatusCode.UNIMPLEMENTED is caught.value.code()


# --- certificates ---------------------------------------------------------------------------------


def own(root: Root, path: Path, *names: x509.GeneralName) -> str:
    """Put a client's certificate and its key into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = _builder("client", "root", key).add_extension(x509.SubjectAlternativeName(names), critical=False)
    raw = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    put(path, raw + pem(made.sign(root.key, SHA256())))
    return str(path)


def test_certificates_of_clients(tmp_path: Path) -> None:
    """One is asked of each client; its name is a licensee's until the operator takes it away."""
    root = make_root("root")
    issue(root, tmp_path)
    put(tmp_path / "root.pem", pem(root.certificate))
    put(tmp_path / "roots.pem", pem(root.certificate))
    acme = own(root, tmp_path / "acme.pem", x509.UniformResourceIdentifier(URI))
    nobody = own(root, tmp_path / "nobody.pem", x509.DNSName("nobody.example"))
    both = own(
        root, tmp_path / "both.pem", x509.DNSName("other.example"), x509.UniformResourceIdentifier(URI)
    )
    later = make_root("root")
    stolen = own(later, tmp_path / "stolen.pem", x509.UniformResourceIdentifier(URI))
    store = MemoryStore()
    fill(store)
    agreements = Agreements(store)
    agreements.add_licensee(make_licensee("acme", 1, certificate_names=[f"URI:{URI}"]))
    agreements.add_licensee(make_licensee("other", 1, certificate_names=["DNS:other.example"]))
    config = ServeConfig(
        data=tmp_path,
        tls_cert=str(tmp_path / "cert.pem"),
        tls_key=str(tmp_path / "key.pem"),
        tls_client_ca=str(tmp_path / "roots.pem"),
    )
    pepper = Pepper(config.pepper_path)
    pepper.make()
    operator = Keyring(store, pepper).make("jane", Role.OPERATOR, LATER).written
    service = make_service(Archive(store), Ingestor(store), store, config)
    port = service.server.add_secure_port("127.0.0.1:0", Certificates.of(config).credentials())
    service.start()
    address, ca = f"127.0.0.1:{port}", str(tmp_path / "root.pem")

    def told(certificate: str, key: str = "") -> str:
        with Client(address, key=key, tls_ca=ca, tls_cert=certificate, retry=ONCE) as client:
            try:
                client.server_info()
            except errors.RecensionError as error:
                return error.reason
        return "OK"

    try:
        assert "OK" == told(acme)
        assert "UNAUTHENTICATED" == told(nobody)
        assert "OK" == told(nobody, operator)
        assert "UNAUTHENTICATED" == told(acme, operator)
        assert "UNAUTHENTICATED" == told(both)
        assert "UNREACHABLE" == told(stolen)
        assert not asks(address, ca)
        agreements.add_licensee(make_licensee("acme", 1), replace=True)
        assert "UNAUTHENTICATED" == told(acme)
        put(
            tmp_path / "roots.pem", pem(later.certificate)
        )  # and other roots bind from the next connection on
        assert "UNAUTHENTICATED" == told(stolen)
        assert "UNREACHABLE" == told(nobody, operator)
    finally:
        service.drain(0)


def test_what_is_asked_of_clients_is_checked(tmp_path: Path) -> None:
    """At the start: roots that are none, and certificates asked for without TLS."""
    issue(make_root("root"), tmp_path)
    (tmp_path / "none.pem").write_text("none")
    pair = tmp_path / "cert.pem", tmp_path / "key.pem"
    with pytest.raises(errors.CertificateUnusableError, match="no certificate"):
        Certificates(*pair, tmp_path / "none.pem").credentials()
    with pytest.raises(errors.CertificateUnusableError, match="No such file"):
        Certificates(*pair, tmp_path / "nowhere.pem").credentials()
    with pytest.raises(errors.InvalidArgumentError, match="only where the server does"):
        ServeConfig(data=tmp_path, tls_client_ca="roots.pem")


def test_a_clients_certificate_that_cannot_be_used(tmp_path: Path) -> None:
    """It is named before anything is sent."""
    root = make_root("root")
    put(tmp_path / "root.pem", pem(root.certificate))
    whole = own(root, tmp_path / "whole.pem", x509.DNSName("a.example"))
    put(tmp_path / "half.pem", pem(root.certificate))
    open_ = own(root, tmp_path / "open.pem", x509.DNSName("a.example"))
    Path(open_).chmod(0o644)
    ca = str(tmp_path / "root.pem")
    for tls_ca, tls_cert, said in (
        ("", whole, "over TLS alone"),
        (ca, str(tmp_path / "half.pem"), "0 private keys and 1 certificates"),
        (ca, open_, "others may read"),
        (ca, str(tmp_path / "none.pem"), "cannot be read"),
    ):
        with pytest.raises(errors.InvalidArgumentError, match=said):
            Client("127.0.0.1:1", tls_ca=tls_ca, tls_cert=tls_cert)
    Client("127.0.0.1:1", tls_ca="system", tls_cert=whole).close()


def test_certificates_in_process(world: World) -> None:
    """A certificate of a licensee makes its owner a licensee, though no key was ever made."""
    world.agreements.add_licensee(make_licensee("third", 1, certificate_names=["email:a@example.org"]))
    identity = Identification(world.keyring, world.agreements)
    certificate = {"peer_email": [b"a@example.org"], "peer_dns": [b"\xff"]}
    known = identity.find((), certificate)
    assert ("third", Role.LICENSEE) == (known.caller.owner, known.caller.role)
    assert known.still()
    world.agreements.end_licensee("third")
    assert not known.still()
    assert Role.OPERATOR is identity.find((), certificate).caller.role
