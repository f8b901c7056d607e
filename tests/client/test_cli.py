"""The command ``recension`` against real servers: what it writes, where, and how it leaves."""

from __future__ import annotations

import hashlib
import json
import pty
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import pytest

from recension.server import main as server
from recension_client.cli import main as client
from tests.client.processes import BIN, at, free_port, make_project, run, serving

COMMANDS = {
    "recension": [
        "",
        "projects",
        "show",
        "log",
        "snapshot",
        "snapshots",
        "ls",
        "diff",
        "follow",
        "cat",
        "completion",
        "fetch",
        "verify",
        "pin",
        "pins",
        "lock",
        "status",
        "update",
        "quote",
        "doctor",
        "attribution",
        "credits",
        "proof",
        "retractions",
        "agreement",
        "usage",
    ],
    "recension-server": [
        "",
        "project",
        "project create",
        "project license",
        "project list",
        "project license",
        "ingest",
        "quarantine",
        "quarantine list",
        "quarantine show",
        "quarantine export",
        "quarantine retry",
        "fetch",
        "fetch snapshot",
        "fetch batch",
        "fetch article",
        "follow",
        "follow enterprise",
        "follow eventstreams",
        "pending",
        "serve",
        "compact",
        "backup",
        "restore",
        "retract",
        "retractions",
        "retractions list",
        "retractions outstanding",
        "receipts",
        "receipts show",
        "receipts export",
        "stats",
        "fsck",
        "rebuild",
        "gc",
        "apikey",
        "apikey create",
        "apikey revoke",
        "apikey list",
        "usage",
        "audit",
        "audit verify",
        "audit show",
        "audit export",
        "audit checkpoint",
        "report",
        "report licensee",
        "licensee",
        "licensee add",
        "licensee show",
        "licensee list",
        "licensee end",
        "agreement",
        "agreement add",
        "agreement show",
        "agreement list",
        "agreement diff",
        "agreement end",
        "clock",
        "clock show",
        "clock confirm",
        "key",
        "key create",
        "key rotate",
        "key list",
        "health",
    ],
}
# Odd on purpose; the model refuses titles with tabs and newlines, so those come from ``output`` below.
TITLES = [
    "back\\slash \\t",
    "next\x85line",
    "para\u2028graph\u2029s",
    "\u202eright to left",
    "<b>[red]",
    "Ünï ж 中 \U0001f600",
]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of the commands beside a server of the bundled sample."""
    with serving(tmp_path_factory.mktemp("sample") / "data", "--sample") as address:
        yield at(address)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of the commands beside a server of pages with odd titles and large texts."""
    folder = tmp_path_factory.mktemp("odd")
    make_project("odd", folder / "data")
    with (folder / "events.ndjson").open("w") as events:
        for number, title in enumerate(TITLES, 1):
            text = f"{title}\n" * 40_000
            slot = {"role": "main", "model": "wikitext", "format": "text/x-wiki", "text": text}
            edit = {"revId": str(number), "title": title, "contributor": {"name": "Ann"}, "slots": [slot]}
            event = {"project": "odd", "pageId": str(number), "time": "2020-01-01T00:00:00Z", "edit": edit}
            events.write(json.dumps(event | {"sourceId": f"s{number}"}) + "\n")
    run("recension-server", "ingest", "events", "odd", str(events.name), "--data", str(folder / "data"))
    with serving(folder / "data") as address:
        yield at(address)


def ask(world: dict[str, str], *arguments: str) -> str:
    """Run ``recension``; nothing but its answer is written."""
    done = subprocess.run([BIN / "recension", *arguments], capture_output=True, check=True, env=world)
    assert done.stderr == b""
    return done.stdout.decode()


def snapshot(world: dict[str, str], project: str, time: str) -> str:
    return ask(world, "snapshot", project, "--at", time).strip()


def watched(world: dict[str, str], *arguments: str, stream: str = "stdout") -> str:
    """Run ``recension`` with one stream on a terminal of 80 columns and return what that shows."""
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as screen, open(theirs, "wb", buffering=0) as terminal:  # noqa: PTH123 - descriptors
        streams = {"stdout": subprocess.DEVNULL, stream: terminal}
        env = world | {"TERM": "xterm", "COLUMNS": "80"}
        subprocess.run([BIN / "recension", *arguments], check=True, env=env, **streams)  # type: ignore[call-overload]
        terminal.write(b"\0")  # what is read ends here, also where nothing was shown
        shown = b""
        while not shown.endswith(b"\0"):
            shown += screen.read(65_536)
        return shown[:-1].decode()


MAINS = {"recension": client.main, "recension-server": server.main}


@pytest.mark.parametrize("command,names", COMMANDS.items())
def test_help_of_everything(
    command: str, names: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command explains itself and leaves well; what each exit code means is listed."""
    monkeypatch.setenv("COLUMNS", "80")
    for name in names:
        with pytest.raises(SystemExit) as left:
            MAINS[command]([*name.split(), "--help"])
        assert left.value.code == 0
        helped = capsys.readouterr().out
        assert helped.startswith(f"usage: {command} {name}".rstrip())
        codes = ["0", "1", "2", "3", "130"] + ["141"] * (command == "recension")
        if name == "fsck":  # as other checkers have it: clean, findings, could not look
            codes = ["0", "1", "2", "130"]
        assert codes == re.findall(r"^  (\d+) ", helped, re.MULTILINE)
    listed = re.findall(r"^    ([a-z]+)(?: |$)", run(command, "--help"), re.MULTILINE)  # as it is installed
    assert set(listed) - {"worker"} == {name.split()[0] for name in names if name}


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("show",),
        ("show", "aawiki"),
        ("snapshot", "aawiki"),
        ("snapshot", "aawiki", "--at", "2020-01-01", "--namespace", "99999999999"),
        ("snapshot", "aawiki", "--at", "2020-01-01", "--min-age", "-1"),
        ("snapshot", "aawiki", "--at", "2020-01-01", "--redirects", "some"),
        ("show", "aawiki", "Main Page", "--known-at", "1" * 30),
        ("cat", "sha256:" + "0" * 64, "--shard", "2/2"),
        ("cat", "sha256:" + "0" * 64, "--shard", "0/99999999999"),
        ("projects", "--timeout", "nan"),
        ("projects", "--server", ""),
        ("projects", "--server", "127.0.0.1"),
        ("projects", "--server", "127.0.0.1:99999"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    """Wrong usage is told from wrong questions by its status, and says where help is."""
    said = run("recension", *arguments, status=2)
    assert re.search(r"^error: .+\nhint: recension.* --help\n\Z", said, re.MULTILINE)


def test_a_project_that_cannot_be_leaves_nothing(tmp_path: Path) -> None:
    """Its definition is checked before there is a directory for it; with --json the answer is JSON."""
    data = tmp_path / "data"
    rest = (
        "--base-url",
        "https://w.example",
        "--language",
        "en",
        "--license",
        "CC0-1.0",
        "--data",
        str(data),
    )
    create = ("project", "create")
    said = run("recension-server", *create, "Bad Name", *rest, status=3)
    assert said.startswith("error: not a project name")
    assert not data.exists()
    for made in (True, False):
        answer = json.loads(run("recension-server", *create, "good", *rest, "--json"))
        assert answer == {"project": "good", "created": made}


def test_health_as_json(tmp_path: Path) -> None:
    """A program reads the answer as it does all others."""
    make_project("w", tmp_path / "data")
    with serving(tmp_path / "data") as address:
        answer = json.loads(run("recension-server", "health", "--target", address, "--json"))
    assert answer == {"target": address, "status": "SERVING"}


def test_no_server() -> None:
    """A server that does not run, and something that is none, are said to be so."""
    for arguments in (("projects",), ("ls", "sha256:" + "0" * 64)):
        said = run("recension", *arguments, "--server", f"127.0.0.1:{free_port()}", status=3)
        assert re.fullmatch(r"error: the server cannot be reached: .+\nhint: start it with: .+\n", said)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = "{}:{}".format(*silent.getsockname())
        said = run("recension", "projects", "--server", address, "--timeout", "0.5", status=3)
    assert said.startswith("error: the call did not finish in time")


@pytest.mark.parametrize("command", ["ls", "ls --tsv", "ls --json", "cat", "snapshots", "log odd id:1"])
def test_a_reader_that_leaves(odd: dict[str, str], command: str) -> None:
    """``| head -1`` ends the command quietly, however much is still to come."""
    of = "" if command.startswith(("snapshots", "log")) else snapshot(odd, "odd", "2021-01-01")
    piped = f"recension {command} {of} | head -c 1 >&2; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", piped], capture_output=True, check=True, env=odd, timeout=60)
    assert len(done.stderr) == 1
    assert done.stdout in {b"0\n", b"141\n"}  # 0 when all of it fitted into the pipe before
    if command == "cat":
        assert done.stdout == b"141\n"


def test_a_full_disk_and_no_output_at_all(sample: dict[str, str]) -> None:
    """Output that cannot be written is an error with a name; output that nobody wants is none."""
    full = subprocess.run(
        ["bash", "-c", "recension log aawiki 'Main Page' > /dev/full"],
        capture_output=True,
        check=False,
        env=sample,
    )
    assert (3, b"error: cannot write the output: No space left on device\n") == (full.returncode, full.stderr)
    closed = (
        "recension projects >&- && recension projects 2>&- && recension snapshot aawiki --at 2010-01-01 2>&-"
    )
    assert subprocess.run(["bash", "-c", closed], check=True, env=sample, capture_output=True).stderr == b""


def test_interrupted(odd: dict[str, str]) -> None:
    """Ctrl-C ends a command with 130 and no word, even when its output is stuck in a full pipe."""
    command = subprocess.Popen(
        [BIN / "recension", "cat", snapshot(odd, "odd", "2021-01-01")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=odd,
    )
    assert command.stdout is not None
    command.stdout.read(1)  # it runs; nobody reads the rest
    command.send_signal(signal.SIGINT)
    assert command.wait(timeout=30) == 130
    assert command.communicate()[1] == b""


def test_tsv_is_one_line_an_item(odd: dict[str, str]) -> None:
    """Titles of any kind stay in their field and can be read back."""
    first, last = snapshot(odd, "odd", "2020-01-01"), snapshot(odd, "odd", "2021-01-01")
    lines = ask(odd, "ls", last, "--tsv").splitlines()
    assert [
        "back\\\\slash \\\\t",
        "next\\u0085line",
        "para\\u2028graph\\u2029s",
        *TITLES[3:],
    ] == [line.split("\t")[1] for line in lines]
    assert all(
        re.fullmatch(rf"{n}\t[^\t]+\t{n}\tsha256:[0-9a-f]{{64}}", line) for n, line in enumerate(lines, 1)
    )
    assert "" == ask(odd, "diff", first, last, "--tsv")
    listed = [line.split("\t") for line in ask(odd, "snapshots", "--tsv").splitlines()]
    assert {(first, "2020-01-01T00:00:00Z", "6"), (last, "2021-01-01T00:00:00Z", "6")} <= {
        (line[0], line[1], line[4]) for line in listed
    }


def test_tsv_of_what_the_model_refuses() -> None:
    """A server's word is not relied on: tabs and line ends of every kind are escaped."""
    code = (
        "from recension_client.cli.output import write_tsv; write_tsv(['a\\tb\\nc\\rd\\\\e\\x1b\\0', 1, ''])"
    )
    done = subprocess.run([BIN / "python", "-c", code], capture_output=True, check=True)
    assert b"a\\tb\\nc\\rd\\\\e\\u001b\\u0000\t1\t\n" == done.stdout


@pytest.mark.parametrize("world,project,page", [("odd", "odd", "id:4"), ("sample", "aawiki", "Main Page")])
def test_json_is_lines_of_objects(
    request: pytest.FixtureRequest, world: str, project: str, page: str
) -> None:
    """Every command writes one object a line with ``--json``, and nothing else."""
    env: dict[str, str] = request.getfixturevalue(world)
    first = "2020-01-01" if world == "odd" else "2006-01-01"
    a, b = snapshot(env, project, first), snapshot(env, project, "2021-01-01")
    counts = {
        "projects": ("projects",),
        "show": ("show", project, page),
        "log": ("log", project, page),
        "snapshot": ("snapshot", project, "--at", "2021-01-01"),
        "snapshots": ("snapshots",),
        "ls": ("ls", b),
        "cat": ("cat", b),
        "diff": ("diff", a, b),
    }
    for name, arguments in counts.items():
        lines = [json.loads(line) for line in ask(env, *arguments, "--json").splitlines()]
        assert all(isinstance(line, dict) for line in lines)
        assert lines or (name, world) == ("diff", "odd")
    assert json.loads(ask(env, "--json", "projects")) == json.loads(ask(env, "projects", "--json"))


@pytest.mark.parametrize("form", [(), ("--tsv",), ("--json",)])
def test_a_title_does_not_steer_a_terminal(odd: dict[str, str], form: tuple[str, ...]) -> None:
    """On a terminal no title moves the cursor or turns the direction of a line."""
    of = snapshot(odd, "odd", "2021-01-01")
    shown = watched(odd, "ls", of, *form)
    assert "right to left" in shown
    assert not re.search("[\x1b\x85\u202e]", shown)
    if form == ("--json",):
        assert TITLES == [json.loads(line)["title"] for line in shown.splitlines()]


def test_a_narrow_terminal_shows_ids_whole(sample: dict[str, str]) -> None:
    """What a person copies off the screen is what was meant, however narrow it is."""
    assert snapshot(sample, "aawiki", "2010-01-01") in watched(sample, "snapshots")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_program_of_its_shell(shell: str) -> None:
    """Each shell that is here reads its completion without complaint, and all know every command."""
    script = run("recension", "completion", shell)
    assert all(name in script for name in COMMANDS["recension"])
    if which(shell):
        checked = subprocess.run([shell, "-n"], input=script.encode(), capture_output=True, check=True)
        assert b"" == checked.stderr


def test_bash_completes() -> None:
    """In a bash that has sourced it, a prefix of a command finds the command."""
    ask_bash = (
        'eval "$(recension completion bash)"; COMP_WORDS=(recension snap); COMP_CWORD=1; '
        '$(complete -p recension | sed "s/.*-F //; s/ .*//") recension snap; printf "%s\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", ask_bash], capture_output=True, check=True, env=at("127.0.0.1:1"))
    assert {b"snapshot", b"snapshots"} == set(done.stdout.split())


def test_quiet_says_nothing_but_results(sample: dict[str, str]) -> None:
    """``--quiet`` leaves out what is said to a person on the terminal, and errors stay."""
    asked = ("snapshot", "aawiki", "--at", "2010-01-01")
    assert "279 entries" in watched(sample, *asked, stream="stderr")
    assert "" == watched(sample, *asked, "--quiet", stream="stderr")
    listed = ("ls", snapshot(sample, "aawiki", "2010-01-01"), "--quiet")
    assert "" == watched(sample, *listed, stream="stderr")
    assert run("recension", "projects", "--quiet", "--server", f"127.0.0.1:{free_port()}", status=3)


def test_show_says_what_a_revision_was_read_from(sample: dict[str, str]) -> None:
    """The file by name and digest; on a server without keys everybody is its operator."""

    def asked(*more: str) -> str:
        command = [str(BIN / "recension"), "show", "aawiki", "Main Page", "--provenance", *more]
        return subprocess.run(command, capture_output=True, check=True, text=True, env=sample).stdout

    told = json.loads(asked("--json"))["provenance"]
    name = "aawiki-20260101-pages-meta-history.xml.7z"
    path = Path(server.__file__).parent / "sample" / name
    digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert ("dump", name, digest) == (told["form"], told["source"], told["digest"])
    assert told["events"][0] < told["events"][1] <= 1_307
    table = asked()
    assert name in table
    assert digest in table


def test_diff_says_by_its_status_what_it_found(sample: dict[str, str]) -> None:
    """``--exit-code`` leaves with 1 for a difference and 0 for none."""
    a, b = snapshot(sample, "aawiki", "2005-10-01"), snapshot(sample, "aawiki", "2005-11-01")
    for before, after, status in ((a, b, 1), (a, a, 0)):
        done = subprocess.run(
            [BIN / "recension", "diff", before, after, "--exit-code"],
            capture_output=True,
            check=False,
            env=sample,
        )
        assert (status, b"") == (done.returncode, done.stderr)


def test_progress_shows_how_many_where_that_is_known(sample: dict[str, str]) -> None:
    """With stderr on a terminal a listing counts against its total, a comparison only from or to nothing."""
    full = snapshot(sample, "aawiki", "2010-01-01")
    empty = ask(sample, "snapshot", "aawiki", "--at", "2010-01-01", "--namespace", "99").strip()
    for arguments, shown in (
        (("ls", full), "279/279"),
        (("diff", empty, full), "279/279"),
        (("diff", full, empty), "279/279"),
        (("diff", full, snapshot(sample, "aawiki", "2006-01-01")), None),
    ):
        drawn = watched(sample, *arguments, stream="stderr")
        assert shown in drawn if shown else not re.search(r"\d/\d", drawn)
