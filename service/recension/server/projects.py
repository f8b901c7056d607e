"""The commands ``project``: make and list projects, and say what licence holds from when on."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from dataclasses import asdict
from typing import Any

from recension.archive.ingest import Ingestor
from recension.archive.projects import check_definition
from recension.archive.reader import Archive
from recension.model.credit import read_periods
from recension.model.reading import ProjectInfo
from recension.server.opening import OpenStore, take_data
from recension.server.telling import write_json


def add_commands(commands: Any, open_store: OpenStore) -> None:
    """Add the commands to the subparsers of ``recension-server``."""
    project = commands.add_parser("project", help="make and list projects").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    create = project.add_parser("create", help="make a project, and the data directory if there is none")
    create.add_argument("name", metavar="NAME", help="name: enwiki")
    create.add_argument(
        "--base-url", required=True, metavar="URL", help="where articles live: https://en.wikipedia.org"
    )
    create.add_argument("--language", required=True, metavar="L", help="BCP 47 language tag: en")
    _licenses(create, "--license", required=True)
    create.add_argument("--json", action="store_true", help="as JSON")
    take_data(create, lambda arguments: _create(arguments, open_store))
    license_ = project.add_parser("license", help="say anew which licence holds from when on")
    license_.add_argument("name", metavar="NAME", help="an existing project")
    _licenses(license_, "licenses")
    license_.add_argument("--json", action="store_true", help="as JSON")
    take_data(license_, lambda arguments: _set_licenses(arguments, open_store))
    listing = project.add_parser("list", help="list the projects")
    listing.add_argument("--json", action="store_true", help="as JSON")
    take_data(listing, lambda arguments: _list(arguments, open_store))


def _licenses(parser: argparse.ArgumentParser, name: str, **options: Any) -> None:
    parser.add_argument(
        name,
        nargs="+",
        metavar="SPDX[@DATE]",
        help="licence, and those that followed with their first day: CC-BY-SA-3.0 CC-BY-SA-4.0@2023-06-07",
        **options,
    )


def _set_licenses(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    periods = read_periods(arguments.licenses)
    with closing(open_store(arguments.data)) as store:
        changed = Ingestor(store).set_licenses(arguments.name, periods)
    if arguments.json:
        return write_json({"project": arguments.name, "changed": changed})
    sys.stdout.write(f"{arguments.name}: {'changed' if changed else 'is so already'}\n")
    return 0


def _create(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    periods = read_periods(arguments.license)
    definition = ProjectInfo(
        arguments.name,
        arguments.base_url,
        arguments.language,
        periods[-1].license,
        licenses=periods if len(periods) > 1 else (),
    )
    check_definition(definition)  # before there is a directory for a project that cannot be
    with closing(open_store(arguments.data, create=True)) as store:
        made = Ingestor(store).create_project(definition)
    if arguments.json:
        return write_json({"project": arguments.name, "created": made})
    sys.stdout.write(f"{arguments.name}: {'created' if made else 'exists already'}\n")
    return 0


def _list(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    with closing(open_store(arguments.data)) as store:
        projects = Archive(store).projects()
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(info) for info in projects], indent=2, ensure_ascii=False) + "\n")
        return 0
    for info in projects:
        sys.stdout.write(f"{info.name}\t{info.revisions} revisions\t{info.pages} pages\t{info.base_url}\n")
    if not projects:
        sys.stderr.write("no projects yet; make one with: recension-server project create\n")
    return 0
