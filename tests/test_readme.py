"""README.md and docs/client.md say what happens: what they show is run against a server of the sample.

In a ``console`` block a line that starts with ``$`` is a command, which goes on after a backslash at the
end of a line; what follows is its output. There ``...`` stands for what differs from one store or run to the
next: inside a line for a part of it, alone on a line for one or more lines.
"""

from __future__ import annotations

import re
import subprocess
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

from tests.client.processes import at, serving

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
SHOWN = [README, ROOT / "docs" / "client.md"]
ADDRESS = "127.0.0.1:7777"
_END = "end of the output of one command:"


class Shell:
    """One bash for all blocks, so that a variable set in one is known in the next."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self._bash = subprocess.Popen(
            ["bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=env,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bash.communicate()

    def run(self, command: str) -> tuple[str, int]:
        """Return what a command writes, on both of its outputs, and its exit code."""
        assert self._bash.stdin
        assert self._bash.stdout
        self._bash.stdin.write(f"{command}\nprintf '\\n{_END} %s\\n' $?\n")
        self._bash.stdin.flush()
        shown = ""
        for line in self._bash.stdout:
            if line.startswith(_END):
                return shown.rstrip("\n"), int(line.removeprefix(_END))
            shown += line
        raise AssertionError(f"the shell is gone after {command!r}")


def steps(block: str) -> list[tuple[str, str]]:
    """Return each command of a console block with the output shown."""
    found = re.findall(r"^\$ ((?:.*\\\n)*.*\n)((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    assert "".join(f"$ {command}{shown}" for command, shown in found) == block
    return [(command.rstrip("\n"), shown.rstrip("\n")) for command, shown in found]


def fits(shown: str, actual: str) -> bool:
    """Say whether an output is the one shown."""
    lines = (
        r"(?:.*\n)*?.*" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*")
        for line in shown.split("\n")
    )
    return re.fullmatch("\n".join(lines), actual) is not None


@pytest.mark.timeout(300)
def test_what_is_shown_happens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command shown writes what is shown, in order, in one shell, and so does every program."""

    def console(example: Example) -> None:
        for command, shown in steps(example.parsed):
            actual, status = shell.run(command)
            where = f"{Path(example.path).name}:{example.line}: $ {command}"
            assert fits(shown, actual), f"{where}\n--- shown\n{shown}\n--- actual\n{actual}"
            assert status == (3 if shown.startswith("error:") else 0), where

    def printed(example: Example) -> None:
        actual = capsys.readouterr().out
        assert fits(example.parsed.rstrip("\n"), actual.rstrip("\n")), actual

    dump = files("recension.server") / "sample" / "aawiki-20260101-pages-meta-history.xml.7z"
    (tmp_path / "mywiki-pages-meta-history.xml.7z").write_bytes(dump.read_bytes())
    blocks = Sybil(
        [CodeBlockParser("console", console), PythonCodeBlockParser(), CodeBlockParser("text", printed)]
    )
    with serving(tmp_path / "data", "--sample") as address, Shell(tmp_path, at(address)) as shell:
        for document in SHOWN:
            page = tmp_path / document.name
            page.write_text(document.read_text().replace(ADDRESS, address))
            for example in blocks.parse(page):
                example.evaluate()


def test_both_grpc_tools_are_shown_the_same_call() -> None:
    """No package index has grpcurl, so its line is held to the one of buf, which is run."""
    readme = README.read_text()
    match = re.search(r"^grpcurl -plaintext -d ('.+') \\\n +(\S+) (\S+)$", readme, re.MULTILINE)
    assert match is not None
    data, address, method = match.groups()
    assert f"-d {data} \\\n  http://{address}/{method}\n" in readme
    assert ADDRESS == address
