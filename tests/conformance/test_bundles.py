"""The two verifiers, which share no line, agree on the same bundles, and on mutations of them.

The bundles are committed: they are the format's examples for whoever writes a third verifier. The single file
needs the program ``zstd`` below Python 3.14; without it these tests skip, and say so.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from recension.model.errors import RecensionError
from recension_client import lockfile, verify
from recension_client.export.checking import check
from recension_client.export.folder import Folder
from recension_client.export.layout import Index
from recension_client.export.rendition import PlainFile, Rendition
from tests.conformance.make_bundles import BUNDLES, leaves, make, shard

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NAMES = sorted(path.name for path in BUNDLES.iterdir())
needs_zstd = pytest.mark.skipif(
    sys.version_info < (3, 14) and shutil.which("zstd") is None,
    reason="NOT TESTED: the single-file verifier on .zst, for want of the program zstd",
)


def by_client(bundle: Path) -> bool:
    """Say what the client finds."""
    try:
        lock = lockfile.read(bundle / "recension.lock")
        assert lock.index is not None
        with Folder.at(bundle / "corpus") as root:
            return check(root, lock.index).ok
    except RecensionError:
        return False


def by_single_file(bundle: Path) -> bool:
    """Say what the single file finds."""
    return verify.main([str(bundle / "recension.lock"), str(bundle / "corpus")]) == 0


def test_there_are_enough() -> None:
    """Good ones to accept, and at least 60 bad ones."""
    assert 5 <= sum(name.startswith("good") for name in NAMES)
    assert 60 <= sum(name.startswith("bad") for name in NAMES)
    assert 1_000_000 > sum(path.stat().st_size for path in BUNDLES.rglob("*") if path.is_file())


@needs_zstd
@pytest.mark.parametrize("name", NAMES)
def test_both_verifiers_agree(name: str) -> None:
    """Good bundles are accepted by both, bad ones refused by both, without a traceback."""
    expected = name.startswith("good")
    assert expected == by_client(BUNDLES / name)
    assert expected == by_single_file(BUNDLES / name)


def test_the_script_makes_these_bundles(tmp_path: Path) -> None:
    """What is committed is what the script says, but for the bytes of another zstd."""
    make(tmp_path)
    assert NAMES == sorted(path.name for path in tmp_path.iterdir())
    for name in NAMES:
        if name.startswith("good"):
            assert by_client(tmp_path / name)
            assert leaves_of(BUNDLES / name) == leaves_of(tmp_path / name)


def leaves_of(bundle: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(bundle.rglob("*.leaves"))]


@needs_zstd
def test_the_single_file_runs_alone(tmp_path: Path) -> None:
    """Copied somewhere and run by a Python that sees nothing of ours."""
    program = shutil.copy(verify.__file__, tmp_path / "verify.py")
    for name, status, said in (("good", 0, "ok\n"), ("bad-page-added", 1, "another root")):
        command = [
            sys.executable,
            "-I",
            "-S",
            program,
            BUNDLES / name / "recension.lock",
            BUNDLES / name / "corpus",
        ]
        done = subprocess.run(command, capture_output=True, check=False, text=True)
        assert (status, "") == (done.returncode, done.stderr)
        assert said in done.stdout
    assert 2 == subprocess.run([sys.executable, program], capture_output=True, check=False).returncode


@pytest.mark.parametrize("packed", [False, True])
def test_the_single_file_reads_what_was_unpacked(tmp_path: Path, packed: bool) -> None:  # noqa: FBT001
    """Without any zstd an auditor unpacks the shards elsewhere, to plain lines or gzip."""
    bundle = Path(shutil.copytree(BUNDLES / "good", tmp_path / "good"))
    for path in list(bundle.rglob("*.zst")):
        lines = zstd.decompress(path.read_bytes())
        path.unlink()
        plain = path.with_suffix("")
        plain.write_bytes(lines)
        if packed:
            subprocess.run(["gzip", plain], check=True)
    assert by_single_file(bundle)


def test_the_client_names_the_pages(tmp_path: Path) -> None:
    """What differs, is missing, is extra or was withdrawn is said by page."""
    for name, kind, expected in (
        ("bad-page-dropped-first", "missing", [1]),
        ("bad-page-added-inside", "extra", [41]),
        ("bad-text-other", "differ", [1]),
        ("bad-texts-swapped", "differ", [1, 2]),
        ("good", "retracted", [40, 300]),
    ):
        bundle = Path(shutil.copytree(BUNDLES / name, tmp_path / name))
        leaves(bundle).write_bytes(leaves(BUNDLES / "good").read_bytes())
        lock = lockfile.read(bundle / "recension.lock")
        assert lock.index is not None
        with Folder.at(bundle / "corpus") as root:
            found = next(each for each in check(root, lock.index).projects if each.project == "w")
        assert expected == getattr(found, kind).named, name


class Mutant:
    """The good bundle with one byte of its lines changed, its list of files true to that."""

    def __init__(self, folder: Path) -> None:
        self.bundle = Path(shutil.copytree(BUNDLES / "good", folder / "good"))
        self.packed = shard(self.bundle)
        self.plain = self.packed.with_suffix("")
        self.lines = zstd.decompress(self.packed.read_bytes())
        index = lockfile.read(self.bundle / "recension.lock").index
        assert index is not None
        self.index = index
        self.lock = verify.read_lock((self.bundle / "recension.lock").read_text())

    def refused(self, lines: bytes) -> tuple[bool, bool]:
        """Say whether the client, and the single file, refuse these lines."""
        raw = zstd.compress(lines, 1)
        self.plain.unlink(missing_ok=True)
        self.packed.write_bytes(raw)
        record = replace(self.index.files[1], sha256=sha256(raw).hexdigest(), size_bytes=len(raw))
        with Folder.at(self.bundle / "corpus") as root:
            mine = check(root, Index(self.index.job, (self.index.files[0], record))).ok
        self.packed.unlink()
        self.plain.write_bytes(lines)
        return not mine, bool(verify.check_export(self.lock, self.bundle / "corpus"))


def mutate(folder: Path, seed: int, count: int) -> None:
    """Change bytes, one at a time; nobody accepts it, and the unchanged is accepted by both."""
    mutant, chance = Mutant(folder), random.Random(seed)
    lines = bytearray(mutant.lines)
    for _ in range(count):
        at, flip = chance.randrange(len(lines)), chance.randrange(1, 256)
        lines[at] ^= flip
        assert (True, True) == mutant.refused(bytes(lines)), (seed, at, flip)
        lines[at] ^= flip
    assert (False, False) == mutant.refused(bytes(lines))


@needs_zstd
def test_any_changed_byte_is_refused(tmp_path: Path) -> None:
    mutate(tmp_path, seed=1, count=150)


@needs_zstd
@pytest.mark.torture
def test_a_hundred_thousand_changed_bytes_are_refused(tmp_path: Path) -> None:
    mutate(tmp_path, seed=2, count=100_000)


@needs_zstd
def test_both_read_locks_alike(tmp_path: Path) -> None:
    """A byte changed in a lock is refused by both, or by neither where it says nothing that is bound."""
    text, chance = (BUNDLES / "good" / "recension.lock").read_bytes(), random.Random(3)
    accepted = alike(text, 0, 3_000, chance)
    assert 0 < accepted < 1_500
    rendered = with_plain(text.decode())
    begin = rendered.index("[plain]")
    accepted = alike(rendered.encode(), len(rendered[:begin].encode()), 1_500, chance)
    assert 0 < accepted < 1_500


def with_plain(text: str) -> str:
    """Return a lock with a list of plain text, which nobody made."""
    lock = lockfile.parse(text)
    assert lock.export is not None
    files = [PlainFile(one.path, 1, 0, 5, 9, "0" * 64, one.sha256) for one in lock.export.files]
    made = Rendition("mwparserfromhell 0.7", lock.export.form, lock.export.writer, tuple(files))
    return lockfile.render(replace(lock, rendition=made), text)


def alike(text: bytes, begin: int, times: int, chance: random.Random) -> int:
    """Change a bit behind ``begin`` that often; return how often both accepted a lock. They have to agree."""
    accepted = 0
    for _ in range(times):
        changed = bytearray(text)
        at = chance.randrange(begin, len(text))
        changed[at] ^= 1 << chance.randrange(8)
        found = []
        for read in (lockfile.parse, verify.read_lock):
            try:
                read(changed.decode())
                found.append(True)
            except (ValueError, LookupError, TypeError, AttributeError, RecensionError):
                found.append(False)
        assert found[0] == found[1], changed.decode(errors="replace").splitlines()[changed[:at].count(b"\n")]
        accepted += found[0]
    return accepted


@needs_zstd
def test_plain_text_is_checked_by_its_digests(tmp_path: Path) -> None:
    """Files that are others or missing, that were made of others, or that are not made yet."""
    bundle = Path(shutil.copytree(BUNDLES / "good", tmp_path / "good"))
    text = with_plain((bundle / "recension.lock").read_text())

    def found() -> list[str]:
        return verify.check_export(verify.read_lock(text), bundle / "corpus")

    files = lockfile.parse(text).rendition
    assert files is not None
    assert len(found()) == len(files.files)
    for file in files.files:
        path = bundle / "corpus" / "plain" / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.path.encode())
        text = text.replace("0" * 64, sha256(path.read_bytes()).hexdigest(), 1)
    assert found() == []
    path = bundle / "corpus" / "plain" / files.files[-1].path
    path.write_bytes(b"other")
    assert [f"plain text: {path.name}: its digest is another"] == found()
    path.write_bytes(files.files[-1].path.encode())
    good, source = text, files.files[0].source_sha256
    text = good[::-1].replace(source[::-1], "1" * 64, 1)[::-1]  # the last of both: in [plain]
    assert ["was made of another file"] == [problem[-24:] for problem in found()]
    lock = lockfile.parse(good)
    assert lock.rendition is not None
    waiting = replace(lock, rendition=lock.rendition.unmade(lock.rendition.form))
    text = lockfile.render(waiting, good)
    assert waiting == lockfile.parse(text)
    assert ["the plain text was not made yet"] == found()
