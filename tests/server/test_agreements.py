"""The commands ``licensee`` and ``agreement``, and the files that they read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recension.model.agreement import parse_document
from recension.model.errors import InvalidAgreementError
from recension.server.documents import MAX_FILE_BYTES, read_file, read_json
from recension.server.main import main

YAML = """\
# Acme, 2026
grants:
  - projects: [w]
    namespaces: [0, 14]
    freshness: monthly
  - projects:
      - w
    namespaces: [1]
    slots: [main]
    freshness: monthly
    latest: 2026-01-01
valid_from: 2026-01-01
rates: {requests_per_second: 50}
attribution:
  statement: >-
    Name us
    on every page.
"""
TOML = """\
valid_from = 2026-01-01
rates.requests_per_second = 50
attribution.statement = "Name us on every page."
[[grants]]
projects = ["w"]
namespaces = [0, 14]
freshness = "monthly"
[[grants]]
projects = ["w"]
namespaces = [1]
slots = ["main"]
freshness = "monthly"
latest = 2026-01-01T00:00:00Z
"""


@pytest.fixture
def data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A data directory with a project."""
    folder = tmp_path / "data"
    definition = ("--base-url", "https://w.example", "--language", "en", "--license", "CC0-1.0")
    assert 0 == main(["project", "create", "w", *definition, "--data", str(folder)])
    capsys.readouterr()
    return folder


class Commands:
    """Runs commands on a data directory, in this process."""

    def __init__(self, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.data = data
        self._capsys = capsys

    def __call__(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        """Return (stdout, stderr)."""
        found = main([*arguments, "--data", str(self.data)])
        said = self._capsys.readouterr()
        assert status == found, said.err
        return said.out, said.err

    def json(self, *arguments: str, status: int = 0) -> Any:
        """Return what is written as JSON."""
        return json.loads(self(*arguments, "--json", status=status)[0])


@pytest.fixture
def commands(data: Path, capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(data, capsys)


def written(folder: Path, name: str, text: str) -> str:
    """Write a file, and return its path."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


# --- files ----------------------------------------------------------------------------------------


def test_three_ways_to_write_the_same(tmp_path: Path) -> None:
    """YAML, TOML and JSON that say the same are the same document."""
    yaml, toml = (
        read_file(Path(written(tmp_path, name, text)), "acme")
        for name, text in (("a.yaml", YAML), ("a.TOML", TOML))
    )
    assert yaml.encoded == toml.encoded
    json_file = written(tmp_path, "a.json", "\ufeff" + yaml.encoded.decode())
    assert yaml == read_file(Path(json_file), "acme") == read_json(yaml.encoded.decode(), "")
    assert yaml == read_file(Path(written(tmp_path, "b.yml", yaml.encoded.decode())), "acme")
    assert yaml == parse_document(json.loads(yaml.encoded))


def test_the_document_of_the_manual_is_one(tmp_path: Path) -> None:
    """What docs/licence.md shows can be added as it stands, but for what it leaves out of a digest."""
    manual = (Path(__file__).parents[2] / "docs/licence.md").read_text(encoding="utf-8")
    text = manual.split("```yaml\n")[1].split("```")[0].replace("sha256:…", "sha256:" + "0" * 64)
    found = read_file(Path(written(tmp_path, "a.yaml", text)), "acme")
    assert frozenset({"enwiki", "dewiki"}) == found.grants[0].projects
    assert (90, 4) == (found.pin_retention_days, found.rates.concurrent_streams)


SHORT = "grants: [{projects: [w], freshness: daily}]\nvalid_from: 2026-01-01\n"


@pytest.mark.parametrize(
    "name,text,said",
    [
        ("a.txt", SHORT, "not known"),
        ("a.yaml", SHORT + "valid_from: 2026-01-01\n", "twice"),
        ("a.yaml", SHORT + "rates: {burst: 1, burst: 2}\n", "twice"),
        ("a.json", '{"valid_from": "2026-01-01", "valid_from": "2026-01-02"}', "twice"),
        ("a.toml", "valid_from = 1\nvalid_from = 2\n", "overwrite"),
        ("a.yaml", "a: &x [1]\nb: *x\n", "an alias of this is not read (line 1, column 4)"),
        ("a.yaml", "a: &x [*x]\n", "an alias of this is not read"),
        ("a.yaml", "a: !!python/object/apply:os.system [x]\n", "tag is not read"),
        ("a.yaml", "a: !!binary aGk=\n", "tag is not read"),
        ("a.yaml", "? [1, 2]\n: 3\n", "a key is no string"),
        ("a.yaml", "1: 3\n", "a key is no string"),
        ("a.yaml", "a: [\n", "cannot be read"),
        ("a.yaml", "--- {}\n--- {}\n", "cannot be read"),
        ("a.yaml", "", "it is nothing, not a mapping"),
        ("a.yaml", "- 1\n", "it is a list, not a mapping"),
        ("a.yaml", "a: \x07\n", "cannot be read"),
        ("a.yaml", "[" * 5_000, "without end"),
        ("a.json", "[" * 200_000, "without end"),
        ("a.json", '{"a": ' + "9" * 5000 + "}", "cannot be read"),
        ("a.json", "{", "cannot be read"),
        ("a.toml", "a = [", "cannot be read"),
        ("a.yaml", SHORT.replace("daily", "0.5"), "grants[0].freshness: it is a number with a fraction"),
        ("a.yaml", SHORT.replace("[w]", "[no, yes, 010]") + "pin_retention_days: 010\n", "it is a string"),
        ("a.yaml", SHORT.replace("[w]", "[null]"), "grants[0].projects[0]: it is nothing"),
        ("a.yaml", SHORT + "pin_retention_days: '5'\n", "it is a string, not a whole number"),
        ("a.toml", "valid_from = 2026-01-01T00:00:00\ngrants = []", "there is none"),
        ("a.json", '{"licensee": "other"}', "other's, not acme's"),
        ("a.yaml", " " * (MAX_FILE_BYTES + 1), "more than"),
    ],
)
def test_files_that_are_no_agreement(tmp_path: Path, name: str, text: str, said: str) -> None:
    """Each fault has its words, in one line, and nothing is guessed."""
    with pytest.raises(InvalidAgreementError) as caught:
        read_file(Path(written(tmp_path, name, text)), "acme")
    assert said in caught.value.message
    assert all(char.isprintable() for char in caught.value.message)


def test_files_that_are_no_files(tmp_path: Path) -> None:
    """A folder, a file that is not there, and bytes that are no UTF-8."""
    (tmp_path / "b.yaml").write_bytes(b"a: \xff\n")
    (tmp_path / "c.yaml").mkdir()
    for name in ("a.yaml", "b.yaml", "c.yaml"):
        with pytest.raises(InvalidAgreementError, match=name):
            read_file(tmp_path / name, "acme")
    with pytest.raises(InvalidAgreementError, match="more than"):
        read_json(" " * (MAX_FILE_BYTES + 1), "")


def test_names_that_yaml_would_take_for_something_else(tmp_path: Path) -> None:
    """The project ``no`` is a project, and a date is one however it is written."""
    text = SHORT.replace("[w]", "[no, on, 1e3w]").replace("2026-01-01", "2026-01-01T00:00:00+00:00")
    found = read_file(Path(written(tmp_path, "a.yaml", text)), "acme")
    assert frozenset({"no", "on", "1e3w"}) == found.grants[0].projects
    assert b'"valid_from":"2026-01-01T00:00:00Z"' in found.encoded


# --- commands -------------------------------------------------------------------------------------


def test_an_agreement_from_its_file_to_its_end(commands: Commands, tmp_path: Path) -> None:
    """Added, shown, followed by another, compared and ended: each step says what is true then."""
    file = written(tmp_path, "a.yaml", YAML)
    _, said = commands("agreement", "add", "acme", file, status=3)
    assert "no licensee acme" in said
    assert "recension-server licensee add acme" in said
    out, said = commands("licensee", "add", "acme", "--display-name", "Acme Ltd")
    assert "acme: added\n" == out
    assert "nothing is served" in said
    assert "acme: says this already\n" == commands("licensee", "add", "acme", "--display-name", "Acme Ltd")[0]
    assert commands("licensee", "add", "acme", status=3)[1].startswith("error: there is a licensee acme")

    name, said = commands("agreement", "add", "acme", file)
    assert "version 1 of acme\nversion 1 rules from 2026-01-01T00:00:00Z on\n" == said
    again, said = commands("agreement", "add", "acme", file)
    assert name == again
    assert "nothing added: version 1 has this very document\n" == said
    second = commands.json(
        "agreement",
        "add",
        "acme",
        written(tmp_path, "b.yaml", YAML.replace("monthly", "realtime").replace(": 50", ": 60")),
    )
    assert (2, True, "in_force") == (second["ordinal"], second["added"], second["standing"])

    shown = commands.json("agreement", "show", "acme", "1")
    assert (name.strip(), "replaced", 1) == (shown["version"], shown["standing"], shown["ordinal"])
    assert "acme" == shown["document"]["licensee"]
    assert [{"from": "2026-01-01T00:00:00Z", "until": None, "ordinal": 2}] == shown["rules"]
    assert shown | {"document": None} == commands.json("agreement", "show", "acme", name.strip()) | {
        "document": None
    }
    table = commands("agreement", "show", "acme")[0]
    assert "grant 2                      projects w; namespaces 0, 14; slots all; freshness realtime" in table
    assert "version 2 rules from 2026-01-01T00:00:00Z on" in table

    found = commands.json("agreement", "diff", "acme", "1", "2", status=1)
    assert [
        {"field": "grant of w: freshness", "before": "monthly", "after": "realtime"},
        {"field": "grant of w: freshness", "before": "monthly", "after": "realtime"},
        {"field": "rates.burst", "before": "50", "after": "60"},
        {"field": "rates.requests_per_second", "before": "50", "after": "60"},
    ] == found
    assert "  - monthly\n  + realtime\n" in commands("agreement", "diff", "acme", "1", status=1)[0]
    assert commands.json("agreement", "diff", "acme", "2") == []
    assert "say the same" in commands("agreement", "diff", "acme", "2", "2")[1]

    late = "2999-01-01"
    assert "from 2999-01-01T00:00:00Z on" in commands("agreement", "end", "acme", "--at", late)[0]
    assert "in_force" == commands.json("licensee", "show", "acme")["agreement"]["standing"]
    assert {"over"} == {one["standing"] for one in commands.json("agreement", "end", "acme")}
    assert commands("agreement", "end", "acme", status=3)[1].startswith("error: no agreement of acme reaches")
    assert "in the past" in commands("agreement", "end", "acme", "--at", "2026-01-01", status=3)[1]
    assert 2 == len(commands("agreement", "list")[0].splitlines())
    assert 2 == len(commands.json("agreement", "list", "acme"))


def test_licensees(commands: Commands, tmp_path: Path) -> None:
    """Listed with what they may, shown, and ended."""
    assert "no licensees yet" in commands("licensee", "list")[1]
    assert "no agreements yet" in commands("agreement", "list")[1]
    named = ("--certificate-name", "DNS:b.example", "--certificate-name", "DNS:a.example")
    row = commands.json("licensee", "add", "acme", *named, "--jwt-subject", "s", "--contact", "a@b.example")
    assert row["added"]
    assert ["DNS:a.example", "DNS:b.example"] == row["certificate_names"]
    commands("licensee", "add", "other")
    commands("agreement", "add", "other", written(tmp_path, "a.toml", TOML))
    acme, other = commands.json("licensee", "list")
    assert (None, False) == (acme["agreement"], other["ended"])
    assert other["agreement"].startswith("sha256:")
    lines = commands("licensee", "list")[0].splitlines()
    assert "acme\t\tno agreement in force" == lines[0]
    assert lines[1].startswith("other\t\tversion 1, sha256:")
    table = commands("licensee", "show", "acme")[0]
    assert "certificate_names            DNS:a.example, DNS:b.example\n" in table
    assert "agreement                    none in force\n" in table
    assert "is served nothing any more" in commands("licensee", "end", "other")[0]
    assert "ended                        yes\n" in commands("licensee", "show", "other")[0]
    assert commands.json("licensee", "end", "other")["ended"]
    assert "other\t\tended" == commands("licensee", "list")[0].splitlines()[1]
    assert "over" == commands.json("agreement", "list", "other")[0]["standing"]
    _, said = commands("agreement", "add", "other", written(tmp_path, "a.toml", TOML), status=3)
    assert "--replace" in said


@pytest.mark.parametrize(
    "arguments,reason",
    [
        (("licensee", "add", "Acme"), "no name of a licensee"),
        (("licensee", "add", "a", "--display-name", "\u202ea"), "display_name"),
        (("licensee", "add", "a", "--certificate-name", "a.example"), "certificate_names"),
        (("licensee", "show", "nobody"), "no licensee"),
        (("licensee", "end", "nobody"), "no licensee"),
        (("agreement", "show", "nobody"), "no licensee"),
        (("agreement", "show", "none"), "no agreement"),
        (("agreement", "show", "none", "3"), "no agreement 3"),
        (("agreement", "diff", "none", "1", "2"), "no agreement 1"),
        (("agreement", "end", "none"), "no agreement"),
        (("agreement", "list", "nobody"), "no licensee"),
        (("agreement", "add", "none", "/nowhere/a.yaml"), "cannot be read"),
    ],
)
def test_what_is_refused(commands: Commands, arguments: tuple[str, ...], reason: str) -> None:
    """A named error and its hint, and no traceback."""
    commands("licensee", "add", "none")
    out, said = commands(*arguments, status=3)
    assert "" == out
    assert reason in said


def test_a_project_that_does_not_exist(commands: Commands, tmp_path: Path) -> None:
    """It cannot be granted before it is made."""
    commands("licensee", "add", "acme")
    file = written(tmp_path, "a.yaml", SHORT.replace("[w]", "[w, x]"))
    assert "no project 'x'" in commands("agreement", "add", "acme", file, status=3)[1]
