"""Options of commands that ask a wiki for texts: which one, and who asks."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from typing import TYPE_CHECKING

from recension.archive.projects import definition_of, project_number
from recension.store.interface import Store

if TYPE_CHECKING:
    from recension.sources.contents import MediaWikiContent

_SILENCE_SECONDS = 15.0
"""Also the longest that a follower takes to end."""


def add_wiki(parser: argparse.ArgumentParser) -> None:
    """Add what says who has the texts of EventStreams, and who asks for them."""
    parser.add_argument(
        "--content",
        default="",
        metavar="URL",
        help="origin of the wiki that has the texts (the project's own)",
    )
    parser.add_argument(
        "--contact", default="", metavar="TEXT", help="who asks: an address that upstream can write to"
    )


def wiki_of(arguments: argparse.Namespace, store: Store, project: str) -> MediaWikiContent:
    """Return who has the texts of a project. Raises ``ProjectNotFoundError``, ``InvalidArgumentError``."""
    # Imported late: they bring an HTTP client, for which the other kinds of ``ingest`` need not wait.
    from recension.server.eventstreams import FETCHERS  # noqa: PLC0415
    from recension.sources.contents import MediaWikiContent  # noqa: PLC0415
    from recension.sources.http import Http, Patience  # noqa: PLC0415

    with store.view() as view:
        origin = arguments.content or definition_of(view, project_number(view, project)).base_url
    patience = Patience(idle_seconds=_SILENCE_SECONDS)
    return MediaWikiContent(Http(origin, patience=patience, agent=agent_of(arguments), connections=FETCHERS))


def agent_of(arguments: argparse.Namespace) -> str:
    """Return what a server upstream is told of who asks."""
    contact = f" ({arguments.contact})" if arguments.contact else ""
    return f"recension/{version('recension')}{contact}"
