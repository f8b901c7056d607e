"""The commands ``licensee`` and ``agreement``: who may be served what, said for good."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from recension.archive.agreements import Agreements
from recension.model.agreement import Standing, Version, VersionInfo, spans
from recension.model.agreement_words import differences, row_of, shown
from recension.model.instant import format_instant, parse_instant
from recension.model.licensee import Licensee, make_licensee
from recension.server.documents import read_file
from recension.server.opening import OpenStore, take_data_and_json
from recension.server.telling import write_json

_DIFFERENT = 1
_WIDTH = 28


def add_commands(commands: Any, open_store: OpenStore) -> None:
    """Add the commands to the subparsers of ``recension-server``."""
    _add_licensee(commands, open_store)
    group = commands.add_parser("agreement", help="say what a licensee may be served")
    chosen = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    add = chosen.add_parser("add", help="add a version of a licensee's agreement, from a file")
    add.description = (
        "Add a version of a licensee's agreement. From its valid_from on it rules instead of those before it."
        " The same document as the newest version's adds nothing."
    )
    add.add_argument("licensee", metavar="LICENSEE", help="a licensee that there is: acme")
    add.add_argument("file", metavar="FILE", type=Path, help="the document: YAML, TOML or JSON")
    _finish(add, open_store, _add)

    show = chosen.add_parser("show", help="show a version, and when which version rules")
    show.add_argument("licensee", metavar="LICENSEE")
    show.add_argument(
        "version", metavar="VERSION", nargs="?", default="", help="2 or sha256:... (the newest)"
    )
    _finish(show, open_store, _show)

    listing = chosen.add_parser("list", help="list the versions of a licensee, or of all")
    listing.add_argument("licensee", metavar="LICENSEE", nargs="?", default="")
    _finish(listing, open_store, _list)

    diff = chosen.add_parser("diff", help="say in what two versions differ; leave with 1 if they do")
    diff.add_argument("licensee", metavar="LICENSEE")
    diff.add_argument("before", metavar="A", help="2 or sha256:...")
    diff.add_argument("after", metavar="B", nargs="?", default="", help="(the newest)")
    _finish(diff, open_store, _diff)

    end = chosen.add_parser("end", help="end all versions of a licensee; open streams end within seconds")
    end.add_argument("licensee", metavar="LICENSEE")
    end.add_argument("--at", metavar="T", type=parse_instant, help="2027-01-31 (at once)")
    _finish(end, open_store, _end)


def _add_licensee(commands: Any, open_store: OpenStore) -> None:
    group = commands.add_parser("licensee", help="say who is served")
    chosen = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    add = chosen.add_parser("add", help="add a licensee, or say other things of one")
    add.add_argument("name", metavar="NAME", help="the name that owns its keys and pins: acme")
    add.add_argument("--display-name", default="", metavar="TEXT", help="its name in full")
    add.add_argument("--contact", default="", metavar="TEXT", help="whom to write to")
    add.add_argument(
        "--certificate-name",
        action="append",
        default=[],
        metavar="SAN",
        help="a name in its client certificates: DNS:client.acme.example (more than one may be given)",
    )
    add.add_argument("--jwt-subject", default="", metavar="SUB", help="the subject of its tokens")
    add.add_argument(
        "--replace", action="store_true", help="say all of it anew of a licensee that there is, ended or not"
    )
    _finish(add, open_store, _licensee_add)

    show = chosen.add_parser("show", help="show a licensee and its agreement")
    show.add_argument("name", metavar="NAME")
    _finish(show, open_store, _licensee_show)

    listing = chosen.add_parser("list", help="list the licensees")
    _finish(listing, open_store, _licensee_list)

    end = chosen.add_parser("end", help="serve a licensee nothing any more, whatever was agreed")
    end.add_argument("name", metavar="NAME")
    _finish(end, open_store, _licensee_end)


_Run = Callable[[Agreements, argparse.Namespace], int]


def _finish(parser: argparse.ArgumentParser, open_store: OpenStore, run: _Run) -> None:
    def command(arguments: argparse.Namespace) -> int:
        with _agreements(arguments.data, open_store) as agreements:
            return run(agreements, arguments)

    take_data_and_json(parser, command)


@contextmanager
def _agreements(data: Path, open_store: OpenStore) -> Iterator[Agreements]:
    with closing(open_store(data)) as store:
        yield Agreements(store)


# --- licensees ------------------------------------------------------------------------------------


def _licensee_add(agreements: Agreements, arguments: argparse.Namespace) -> int:
    new = make_licensee(
        arguments.name,
        1,
        display_name=arguments.display_name,
        contact=arguments.contact,
        certificate_names=arguments.certificate_name,
        jwt_subject=arguments.jwt_subject,
    )
    licensee, added = agreements.add_licensee(new, replace=arguments.replace)
    if arguments.json:
        return write_json(licensee_row(licensee) | {"added": added})
    sys.stdout.write(f"{licensee.name}: {'added' if added else 'says this already'}\n")
    if added and not agreements.versions(licensee.name):
        sys.stderr.write(
            f"nothing is served to it yet; say what with: recension-server agreement add {licensee.name}\n"
        )
    return 0


def _licensee_show(agreements: Agreements, arguments: argparse.Namespace) -> int:
    licensee = agreements.licensee(arguments.name)
    told = agreements.told(licensee.name)
    rules = next((one for one in told if one.standing is Standing.IN_FORCE), None)
    row = licensee_row(licensee)
    if arguments.json:
        return write_json(row | {"agreement": None if rules is None else row_of(rules)})
    for name, value in row.items():
        text = ", ".join(value) if isinstance(value, list) else str(value)
        if value or name == "ended":
            _line(name, {"True": "yes", "False": "no"}.get(text, text))
    _line("agreement", "none in force" if rules is None else _name(rules.version))
    _line("versions", str(len(told)))
    return 0


def _licensee_list(agreements: Agreements, arguments: argparse.Namespace) -> int:
    licensees = agreements.licensees()
    rows = []
    for licensee in licensees:
        told = agreements.told(licensee.name)
        rules = next((one.version for one in told if one.standing is Standing.IN_FORCE), None)
        rows.append((licensee, rules))
    if arguments.json:
        return write_json(
            [
                licensee_row(licensee) | {"agreement": None if rules is None else rules.name}
                for licensee, rules in rows
            ]
        )
    for licensee, rules in rows:
        state = "ended" if licensee.ended else "no agreement in force" if rules is None else _name(rules)
        sys.stdout.write(f"{licensee.name}\t{licensee.display_name}\t{state}\n")
    if not licensees:
        sys.stderr.write("no licensees yet; add one with: recension-server licensee add\n")
    return 0


def _licensee_end(agreements: Agreements, arguments: argparse.Namespace) -> int:
    licensee = agreements.end_licensee(arguments.name)
    if arguments.json:
        return write_json(licensee_row(licensee))
    sys.stdout.write(f"{licensee.name} is served nothing any more\n")
    return 0


# --- agreements -----------------------------------------------------------------------------------


def _add(agreements: Agreements, arguments: argparse.Namespace) -> int:
    agreement = read_file(arguments.file, arguments.licensee)
    version, added = agreements.add(agreement)
    if arguments.json:
        return write_json(row_of(_told(agreements, version)) | {"added": added})
    if not added:
        sys.stdout.write(f"{version.name}\n")
        sys.stderr.write(f"nothing added: version {version.ordinal} has this very document\n")
        return 0
    sys.stdout.write(f"{version.name}\n")
    sys.stderr.write(f"version {version.ordinal} of {arguments.licensee}\n")
    for line in _rules(agreements.versions(arguments.licensee)):
        sys.stderr.write(f"{line}\n")
    return 0


def _told(agreements: Agreements, version: Version) -> VersionInfo:
    told = agreements.told(version.agreement.licensee)
    return next(one for one in told if one.version.ordinal == version.ordinal)


def _show(agreements: Agreements, arguments: argparse.Namespace) -> int:
    info = _told(agreements, agreements.version(arguments.licensee, arguments.version))
    versions = agreements.versions(arguments.licensee)
    if arguments.json:
        return write_json(
            row_of(info)
            | {
                "document": json.loads(info.version.agreement.encoded),
                "rules": [
                    {"from": format_instant(start), "until": _instant(stop), "ordinal": version.ordinal}
                    for start, stop, version in spans(versions)
                ],
            }
        )
    for name, value in shown(info):
        _line(name, value)
    for line in _rules(versions):
        sys.stdout.write(f"{line}\n")
    return 0


def _rules(versions: Sequence[Version]) -> Iterator[str]:
    """Say when which version rules: the newest that holds."""
    for start, stop, version in spans(versions):
        until = "on" if stop is None else f"until {format_instant(stop)}"
        yield f"version {version.ordinal} rules from {format_instant(start)} {until}"


def _list(agreements: Agreements, arguments: argparse.Namespace) -> int:
    names = [arguments.licensee] if arguments.licensee else [one.name for one in agreements.licensees()]
    rows = [row_of(info) for name in names for info in agreements.told(name)]
    if arguments.json:
        return write_json(rows)
    for row in rows:
        sys.stdout.write("\t".join("" if value is None else str(value) for value in row.values()) + "\n")
    if not rows:
        sys.stderr.write("no agreements yet; add one with: recension-server agreement add\n")
    return 0


def _diff(agreements: Agreements, arguments: argparse.Namespace) -> int:
    before = agreements.version(arguments.licensee, arguments.before)
    after = agreements.version(arguments.licensee, arguments.after)
    found = differences(before.agreement, after.agreement)
    if arguments.json:
        write_json([{"field": one.field, "before": one.before, "after": one.after} for one in found])
        return _DIFFERENT if found else 0
    for one in found:
        sys.stdout.write(f"{one.field}\n")
        sys.stdout.writelines(
            f"  {sign} {said}\n" for sign, said in (("-", one.before), ("+", one.after)) if said
        )
    if not found:
        sys.stderr.write(f"version {before.ordinal} and version {after.ordinal} say the same\n")
    return _DIFFERENT if found else 0


def _end(agreements: Agreements, arguments: argparse.Namespace) -> int:
    agreements.end(arguments.licensee, arguments.at)
    told = agreements.told(arguments.licensee)
    if arguments.json:
        return write_json([row_of(info) for info in told])
    ends_at = max(at for info in told if (at := info.version.over_at) is not None)
    sys.stdout.write(f"{arguments.licensee} is served nothing from {format_instant(ends_at)} on\n")
    return 0


# --- rows -----------------------------------------------------------------------------------------


def licensee_row(licensee: Licensee) -> dict[str, Any]:
    """Describe a licensee."""
    return {
        "name": licensee.name,
        "display_name": licensee.display_name,
        "contact": licensee.contact,
        "certificate_names": list(licensee.certificate_names),
        "jwt_subject": licensee.jwt_subject,
        "ended": licensee.ended,
        "position": licensee.made_at,
    }


def _instant(at: int | None) -> str | None:
    return None if at is None else format_instant(at)


def _name(version: Version) -> str:
    return f"version {version.ordinal}, {version.name}"


def _line(name: str, value: str) -> None:
    sys.stdout.write(f"{name:<{_WIDTH}} {value}\n")
