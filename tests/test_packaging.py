"""The wheel as a licensee gets it: what is in it, and that it works in a bare environment."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VECTORS = ROOT / "tests/golden/vectors.json"
PACKAGES = {"recension": ROOT / "service", "recension_client": ROOT / "tools"}

# The two ends of what the base dependencies allow. Both must import the same committed stubs.
RUNTIMES = {
    "floor": ("grpcio==1.71.*", "protobuf==5.29.*"),
    "newest": ("grpcio", "protobuf>=7"),
}

# Installing from an index that answers slowly takes longer than any other test.
INSTALL_TIMEOUT_SECONDS = 300

# What uv says when it reached no index: a reason to skip. Anything else that goes wrong is a failure.
UNREACHABLE = re.compile(
    r"dns error|error sending request|[Cc]onnection (refused|reset|timed out)|network is unreachable|"
    r"operation timed out|(network|internet) was disabled|not found in the cache",
    re.IGNORECASE,
)

# Run in the bare environment, where nothing of the test suite exists. Fills the scalar fields of every
# message and sends it through its bytes; imports the services too. Prints how many were not empty.
ROUND_TRIP = """
import importlib, pkgutil
from google.protobuf.message_factory import GetMessageClass
import recension.v1
import recension_client

values = {"string": "x", "bytes": b"x", "bool": True, "int": 7}
kinds = {9: "string", 12: "bytes", 8: "bool", 3: "int", 4: "int", 5: "int", 13: "int"}
travelled = 0
for module in pkgutil.iter_modules(recension.v1.__path__, "recension.v1."):
    stub = importlib.import_module(module.name)
    if not module.name.endswith("_pb2"):
        continue
    for descriptor in stub.DESCRIPTOR.message_types_by_name.values():
        sent = GetMessageClass(descriptor)()
        for field in descriptor.fields:
            if field.type in kinds:
                value = values[kinds[field.type]]
                try:
                    setattr(sent, field.name, value)
                except (AttributeError, TypeError):  # a repeated field
                    getattr(sent, field.name).append(value)
        assert type(sent).FromString(sent.SerializeToString()) == sent, descriptor.full_name
        travelled += bool(sent.ByteSize())
print(travelled)
"""


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    # Settings of the caller's environment must not reach the bare one.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "COVERAGE", "COV_", "VIRTUAL_ENV"))
    }
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def run_or_fail(*command: str | Path) -> str:
    done = run(*command)
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run_or_fail(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module", params=RUNTIMES)
def bare_python(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Give the Python of an environment that holds the wheel, its base dependencies, and nothing else."""
    venv = tmp_path_factory.mktemp(request.param) / "venv"
    python = venv / "bin" / "python"
    uv = Path(sys.executable).parent / "uv"
    run_or_fail(uv, "venv", "--quiet", "--python", sys.executable, venv)
    install = (uv, "pip", "install", "--quiet", "--only-binary", ":all:", "--python", python)
    done = run(*install, wheel, *RUNTIMES[request.param])
    if done.returncode != 0 and UNREACHABLE.search(done.stderr):
        pytest.skip(
            f"THE WHEEL IS NOT TESTED on the {request.param} runtime: no index in reach: {done.stderr}"
        )
    assert 0 == done.returncode, done.stderr
    return python


def test_wheel_holds_the_two_packages_and_nothing_else(wheel: Path) -> None:
    """The wheel holds every file of the two packages, its metadata, and no test, script or loose module."""
    expected = {
        path.relative_to(folder).as_posix()
        for name, folder in PACKAGES.items()
        for path in (folder / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    metadata = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert expected == names - metadata


def test_wheel_says_that_it_is_typed_and_licensed(wheel: Path) -> None:
    """Type checkers find both markers, and the licence travels with the code."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {"recension/py.typed", "recension_client/py.typed"} <= set(names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.timeout(INSTALL_TIMEOUT_SECONDS)
def test_stubs_work_on_the_installed_runtime(bare_python: Path) -> None:
    """The client and every stub import without a warning, and messages survive their bytes."""
    travelled = run_or_fail(bare_python, "-W", "error", "-c", ROUND_TRIP)
    assert int(travelled) > 0


@pytest.mark.timeout(INSTALL_TIMEOUT_SECONDS)
@pytest.mark.parametrize(
    "module",
    [
        "cryptography",
        "datasets",
        "grpc_health",
        "jinja2",
        "lmdb",
        "mwparserfromhell",
        "py7zr",
        "pyarrow",
        "rapidfuzz",
        "structlog",
        "torch",
        "urllib3",
        "yaml",
    ],
)
def test_extras_are_absent(bare_python: Path, module: str) -> None:
    """A licensee's environment holds nothing that only the server needs, and no extra unasked."""
    done = run(bare_python, "-c", f"import {module}")
    assert 1 == done.returncode
    assert "ModuleNotFoundError" in done.stderr


@pytest.mark.timeout(INSTALL_TIMEOUT_SECONDS)
def test_without_its_extra_a_signature_is_not_taken_for_good(bare_python: Path) -> None:
    """The error names what to install; nothing passes unchecked."""
    vector = json.loads(VECTORS.read_text(encoding="utf-8"))["checkpoints"][1]["out"]
    code = (
        "from recension_client.checkpoints import open_checkpoint\n"
        "from recension.model.errors import ExtraMissingError\n"
        f"try:\n    open_checkpoint({vector['note']!r}, {vector['key']!r})\n"
        "except ExtraMissingError as error:\n    print(error.hint)\n"
    )
    assert "recension[verify]" in run_or_fail(bare_python, "-c", code)


@pytest.mark.timeout(INSTALL_TIMEOUT_SECONDS)
@pytest.mark.parametrize("extra", ["datasets", "torch"])
def test_without_its_extra_a_loader_says_what_to_install(bare_python: Path, extra: str) -> None:
    """The order and its sources need none; an adapter names its own."""
    code = (
        "import recension_client.loaders\n"
        "from recension.model.errors import ExtraMissingError\n"
        f"try:\n    import recension_client.loaders.{extra}\n"
        "except ExtraMissingError as error:\n    print(error.hint)\n"
    )
    assert f"recension[{extra}]" in run_or_fail(bare_python, "-c", code)


@pytest.mark.timeout(INSTALL_TIMEOUT_SECONDS)
def test_command_explains_itself(bare_python: Path) -> None:
    """`recension --help` works with the base dependencies alone."""
    assert "usage" in run_or_fail(bare_python.parent / "recension", "--help").lower()
