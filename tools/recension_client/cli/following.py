"""The command ``follow``: every change of a project as it is committed, proved to be all there is."""

from __future__ import annotations

import fcntl
import json
import os
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from recension.model.digest import format_digest, parse_digest
from recension.model.errors import FollowStateError, InvalidArgumentError
from recension.model.instant import format_instant
from recension.model.manifest import Selector
from recension.model.step import Record
from recension_client import lockfile
from recension_client.cli import arguments, forms, output
from recension_client.cli.arguments import OK, Commands, connect
from recension_client.watching import Commit, Heartbeat, PageChanged, Since, Standing

_FORMAT = "recension/follow/v1"


def register(commands: Commands) -> None:
    """Add the command."""
    one = commands.add(
        "follow", "write every change of a project, a commit a line, as it is committed", _follow
    )
    one.description = (
        "Write every change of a project, a commit a line of JSON: those that there are, then each as it is"
        " committed. Each is checked: its root follows from the one before. With --state what was written is"
        " remembered, and the next run goes on behind it."
    )
    arguments.selector(one)
    one.add_argument(
        "--from",
        dest="since",
        metavar="POSITION|LOCK",
        type=_since,
        default=0,
        help="behind which log position, or from the snapshot of a lock, if no state says (default: 0)",
    )
    one.add_argument("--state", metavar="FILE", type=Path, help="where it is remembered how far it is")
    one.add_argument("--text", action="store_true", help="with the texts of changed pages, up to 1 MiB")
    one.add_argument(
        "--exit-when-caught-up", action="store_true", help="leave once all that there is was written"
    )


def _since(text: str) -> int | Path:
    if text.isdecimal():
        return arguments.position(text)
    if not Path(text).exists():
        raise ArgumentTypeError(f"{text!r} is neither a log position nor a lock")
    return Path(text)


def _follow(options: Namespace) -> int:
    selector = arguments.selected(options)
    since: Since = 0
    locked = ""
    if isinstance(options.since, Path):
        lock = lockfile.read(options.since)
        since, locked = lock.manifest, lock.server
        wanted = replace(lock.manifest.selector, projects=selector.projects, min_age_seconds=0)
        if selector not in (Selector.of(list(selector.projects)), wanted):
            raise InvalidArgumentError(
                "the lock is of another selector", hint="leave the options out that say which", field="from"
            )
        selector = wanted
    else:
        since = options.since
    with ExitStack() as held:
        state = None
        if options.state:
            held.enter_context(_alone(options.state))
            state = _State(options.state, selector)
            since = state.standing or since
        client = held.enter_context(connect(options, locked=locked))
        for told in client.watch(selector, since, text=options.text):
            if isinstance(told, Commit):
                output.write_json(commit_row(told))
                sys.stdout.flush()
            if state:
                state.keep(told.standing)
            if isinstance(told, Heartbeat):
                output.note(f"nothing more up to position {told.standing.position}")
                if options.exit_when_caught_up and not told.more:
                    break
    return OK


def commit_row(commit: Commit) -> forms.Row:
    """Describe a commit."""
    row: forms.Row = {
        "position": commit.position,
        "recorded_at": format_instant(commit.recorded_at),
        "previous_root": format_digest(commit.previous_root),
        "root": format_digest(commit.root),
        "events": list(map(forms.timeline_row, commit.events)),
        "pages": list(map(_page_row, commit.pages)),
    }
    if commit.bridge:
        row["bridge"] = True
    if commit.reason:
        row["reason"] = commit.reason
    if commit.retraction:
        row["retraction"] = commit.retraction
    return row


def _page_row(page: PageChanged) -> forms.Row:
    entry = page.entry
    shown = None
    if entry is not None:
        with_text = any(slot.text is not None for slot in entry.slots)
        shown = forms.article_row(entry) if with_text else forms.entry_row(entry)
    return {
        "page_id": page.step.page_id,
        "before": _record_row(page.step.before),
        "after": _record_row(page.step.after),
        "entry": shown,
    }


def _record_row(record: Record | None) -> forms.Row | None:
    return None if record is None else {"rev_id": record.rev_id, "leaf": record.leaf.hex()}


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a state file against other runs, which would write over what this one remembers.

    The lock is on a file beside it, as the state itself is replaced. Raises ``FollowStateError``.
    """
    try:
        lock = path.with_name(f".{path.name}.lock")
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise FollowStateError(f"{path} cannot be held against other runs: {said}") from None
    try:
        _lock(path, descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FollowStateError(
            f"{path} is used by another run",
            hint="end that one first, or follow with a state file of your own",
        ) from None


class _State:
    """How far a run has come, in a file that is replaced as a whole."""

    def __init__(self, path: Path, selector: Selector) -> None:
        self._path = path
        self._scope = {
            "projects": list(selector.projects),
            "namespaces": list(selector.namespaces),
            "models": list(selector.models),
            "redirects": selector.redirects.value,
            "on_hidden": selector.on_hidden.value,
        }
        self.standing = self._read()

    def _read(self) -> Standing | None:
        try:
            said = json.loads(self._path.read_bytes())
            if said["format"] != _FORMAT or said["selector"] != self._scope:
                raise FollowStateError(
                    f"{self._path} is of another selector, or of another version",
                    hint="follow each scope with a state file of its own",
                )
            return Standing(int(said["position"]), parse_digest(said["root"], "root"))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FollowStateError(f"{self._path} cannot be read: {error.strerror}") from None
        except (ValueError, LookupError, TypeError):
            raise FollowStateError(
                f"{self._path} is damaged", hint="remove it, and say with --from where to go on"
            ) from None

    def keep(self, standing: Standing) -> None:
        """Remember where the run is. Raises ``FollowStateError``."""
        document = {
            "format": _FORMAT,
            "selector": self._scope,
            "position": standing.position,
            "root": format_digest(standing.root),
        }
        try:
            output.replace_file(self._path, json.dumps(document, indent=2).encode() + b"\n")
        except OSError as error:
            raise FollowStateError(f"{self._path} cannot be written: {error.strerror}") from None
