"""Generate the stubs and the saved contract from the protos, or check that what is committed is up to date.

The stubs are committed, so that nobody who installs recension needs a compiler. They are made by the oldest
generators that the project promises: a stub refuses every runtime older than its generator.

The saved contract is the descriptor set of the last protos that were accepted. A proto that loses, renumbers
or retypes something it holds breaks a client that was built earlier, so it is refused here, in both modes.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import grpc_tools
from google.rpc import status_pb2

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path("recension/v1")
CONTRACT = Path("tests/golden/recension_v1.binpb")

# In step with the group "floor" of pyproject.toml: a newer generator would silently raise the runtimes that a
# licensee needs.
GENERATOR_VERSIONS = {"grpcio-tools": "1.71.2", "mypy-protobuf": "3.6.0"}


class GenerationError(Exception):
    """The protos can't be turned into stubs as they are; the message says what to change."""


def check_generators() -> None:
    """Refuse to run with other generators than the pinned ones."""
    for name, wanted in GENERATOR_VERSIONS.items():
        if (found := version(name)) != wanted:
            msg = f"{name} {found} is installed, the stubs are made with {wanted}: run `make stubs`"
            raise GenerationError(msg)


def run(command: list[str]) -> None:
    """Run a compiler; what it complains about goes into the error."""
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        msg = f"{Path(command[0]).name} failed\n{done.stdout.rstrip()}"
        raise GenerationError(msg)


def program(name: str) -> str:
    """Find a program of this environment, wherever it was started from."""
    beside_python = Path(sys.executable).parent / name
    found = str(beside_python) if beside_python.exists() else shutil.which(name)
    if found is None:
        msg = f"{name} is not installed: run `make stubs`"
        raise GenerationError(msg)
    return found


def generate(protos: Path, out: Path) -> None:
    """Write every stub and the descriptor set below `out`, in the places that they have below the root."""
    sources = sorted((protos / PACKAGE).glob("*.proto"))
    if not sources:
        msg = f"no proto in {protos / PACKAGE}"
        raise GenerationError(msg)
    stubs = out / "service"
    stubs.mkdir(parents=True)
    contract = out / CONTRACT
    contract.parent.mkdir(parents=True)
    run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={protos}",
            f"--proto_path={Path(grpc_tools.__file__).parent / '_proto'}",  # google/protobuf
            f"--proto_path={Path(status_pb2.__file__).parents[2]}",  # google/rpc and its neighbours
            f"--plugin=protoc-gen-mypy={program('protoc-gen-mypy')}",
            f"--plugin=protoc-gen-mypy_grpc={program('protoc-gen-mypy_grpc')}",
            f"--python_out={stubs}",
            f"--grpc_python_out={stubs}",
            f"--mypy_out=quiet:{stubs}",
            f"--mypy_grpc_out=quiet:{stubs}",
            f"--descriptor_set_out={contract}",
            "--include_imports",
            *(str(source) for source in sources),
        ]
    )


def check_contract(protos: Path, saved: Path) -> None:
    """Refuse protos that would break a client built from the saved contract."""
    if not saved.exists():
        return
    try:
        run([program("buf"), "breaking", str(protos), "--against", str(saved), "--exclude-imports"])
    except GenerationError as error:
        msg = (
            f"the protos break the saved contract {CONTRACT}\n{error}\n"
            "Reserve and add instead; or, if no released client can notice: gen_protos.py --accept-breaking"
        )
        raise GenerationError(msg) from error


def generated_files(top: Path) -> dict[Path, bytes]:
    """Read every generated file below `top`, by its path relative to it."""

    def paths() -> Iterator[Path]:
        yield from (top / "service" / PACKAGE).glob("*_pb2*.py*")
        if (top / CONTRACT).exists():
            yield top / CONTRACT

    return {path.relative_to(top): path.read_bytes() for path in paths()}


def differences(fresh: Mapping[Path, bytes], committed: Mapping[Path, bytes]) -> list[str]:
    """Say for each file how the committed one differs from the fresh one, in path order."""
    verdicts = {
        **dict.fromkeys(fresh.keys() - committed.keys(), "missing"),
        **dict.fromkeys(committed.keys() - fresh.keys(), "left over"),
        **{path: "out of date" for path in fresh.keys() & committed.keys() if fresh[path] != committed[path]},
    }
    return [f"{path}: {verdict}" for path, verdict in sorted(verdicts.items())]


def write(fresh: Mapping[Path, bytes], root: Path) -> list[str]:
    """Make the files below `root` equal to the fresh ones; return what was changed."""
    committed = generated_files(root)
    changes = differences(fresh, committed)
    for path in committed.keys() - fresh.keys():
        (root / path).unlink()
    for path, content in fresh.items():
        if committed.get(path) != content:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
    package_file = root / "service" / PACKAGE / "__init__.py"
    if not package_file.exists():
        package_file.write_text(
            '"""Generated from protos/recension/v1; nothing here is written by hand."""\n'
        )
    return changes


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; the root can be another tree, which the tests use."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="the tree that holds protos/, service/ and tests/"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when something is out of date"
    )
    mode.add_argument(
        "--accept-breaking", action="store_true", help="replace the saved contract whatever it loses"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Generate or check; return the exit status."""
    options = parse_arguments(arguments)
    root = options.root.resolve()
    protos = root / "protos"
    try:
        check_generators()
        with tempfile.TemporaryDirectory() as scratch:
            generate(protos, Path(scratch))
            fresh = generated_files(Path(scratch))
        if not options.accept_breaking:
            check_contract(protos, root / CONTRACT)
    except GenerationError as error:
        print(f"gen_protos: {error}", file=sys.stderr)
        return 1
    if options.check:
        if stale := differences(fresh, generated_files(root)):
            print(
                "gen_protos: not what the protos say, run `make stubs`:", *stale, sep="\n  ", file=sys.stderr
            )
        return 1 if stale else 0
    print(*(write(fresh, root) or ["gen_protos: nothing changed"]), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
