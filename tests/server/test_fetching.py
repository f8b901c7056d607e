import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from recension.archive.reader import Archive
from recension.server.main import main
from recension.store.lmdb import LmdbStore
from tests.enterprise import PASSWORD, USER, Enterprise, record
from tests.sources.test_enterprise_files import md5


def archive_of(*lines: object) -> bytes:
    """Return an archive as upstream makes it."""
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        head = tarfile.TarInfo("p_namespace_0_0.ndjson")
        head.size = len(data)
        archive.addfile(head, io.BytesIO(data))
    return gzip.compress(raw.getvalue())


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    path = tmp_path / "account.json"
    path.write_text(json.dumps({"username": USER, "password": PASSWORD}))
    path.chmod(0o600)
    return path


def test_fetch_and_ingest(tmp_path: Path, credentials: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A snapshot, a batch and an article are fetched by commands and ingested as files are."""
    service = Enterprise()
    kinds = {
        "/v2/snapshots/p_namespace_0": archive_of(record(1, "update", "A", 1, 11)),
        "/v2/batches/2026-01-31/07/p_namespace_0": archive_of(record(2, "update", "A", 1, 12)),
    }
    for path, packed in kinds.items():
        service.files |= {path: json.dumps({"version": md5(packed)}).encode(), f"{path}/download": packed}
    service.handlers["/v2/articles/B"] = lambda asked: asked.reply(200, [record(3, "update", "B", 2, 13)])
    with service.serve() as upstream:
        common = ["--url", upstream.origin, "--auth-url", upstream.origin, "--credentials", str(credentials)]
        common += ["--into", str(tmp_path / "files")]
        assert 0 == main(["fetch", "snapshot", "p", *common])
        assert 0 == main(["fetch", "batch", "p", "2026-01-31", "7", *common])
        files = capfd.readouterr().out.split()
        assert 0 == main(["fetch", "article", "p", "B", "--json", *common])
        files += json.loads(capfd.readouterr().out)
    assert 3 == len(files)
    data = str(tmp_path / "data")
    made = "project create p --base-url https://t.example --language en --license CC0-1.0 --data"
    assert 0 == main([*made.split(), data])
    capfd.readouterr()
    assert 0 == main(["ingest", "enterprise", "p", *files, "--data", data, "--json"])
    assert {"CC-BY-SA-4.0 where the project has CC0-1.0": 3} == json.loads(capfd.readouterr().out)["licenses"]
    store = LmdbStore.open(tmp_path / "data")
    assert [11, 12, 13] == [Archive(store).revision("p", rev).revision.rev_id for rev in (11, 12, 13)]
    assert ["CC-BY-SA-4.0"] * 3 == [
        Archive(store).provenance("p", rev).stated_license for rev in (11, 12, 13)
    ]
    store.close()


@pytest.mark.parametrize("why", ["password", "mode", "missing", "upstream"])
def test_what_is_secret_is_not_told(
    tmp_path: Path, credentials: Path, capfd: pytest.CaptureFixture[str], why: str
) -> None:
    """A refusal is a named error and exit status 3, without a word of what is secret."""
    service = Enterprise()
    if why == "password":
        credentials.write_text(json.dumps({"username": USER, "password": "canary-of-another"}))
    elif why == "mode":
        credentials.chmod(0o644)
    elif why == "missing":
        credentials.unlink()
    with service.serve() as upstream:
        common = ["--url", upstream.origin, "--auth-url", upstream.origin, "--credentials", str(credentials)]
        assert 3 == main(["fetch", "snapshot", "p", "--into", str(tmp_path), *common])
    told = capfd.readouterr()
    assert "error:" in told.err
    assert "canary" not in (told.out + told.err)
