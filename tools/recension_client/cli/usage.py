"""The command ``usage``: what one has used of what one's agreement allows."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict

from recension.model.instant import format_instant
from recension.model.usage import Period, Usage
from recension_client.cli import output
from recension_client.cli.arguments import OK, Commands, asking
from recension_client.client import Client

_COLUMNS = ["period", "articles", "of", "bytes", "of", "renews at"]


def register(commands: Commands) -> None:
    """Add the command."""
    one = commands.add("usage", "say what you have used of your agreement", asking(_usage))
    one.add_argument("licensee", metavar="LICENSEE", nargs="?", default="", help="another's, for operators")
    one.add_argument("--all", action="store_true", help="days and months before too")


def _usage(client: Client, options: Namespace) -> int:
    found = client.usage(options.licensee)
    if options.json:
        periods = [asdict(one) | {"renews_at": format_instant(one.renews_at)} for one in found.periods]
        output.write_json(asdict(found) | {"periods": periods})
        return OK
    shown = found.periods if options.all else found.periods[:2]
    output.write_table(_COLUMNS, map(_cells, shown))
    for line in _remarks(found):
        output.note(line)
    return OK


def _cells(period: Period) -> tuple[str, ...]:
    return (
        period.name,
        f"{period.articles:,}",
        _limit(period.articles_limit),
        f"{period.text_bytes:,}",
        _limit(period.text_bytes_limit),
        format_instant(period.renews_at),
    )


def _limit(amount: int | None) -> str:
    return "-" if amount is None else f"{amount:,}"


def _remarks(usage: Usage) -> list[str]:
    """Return what else there is to say of it."""
    said = []
    if usage.reserved_articles:
        said.append(f"of the articles, {usage.reserved_articles:,} are reserved and may come back")
    if usage.requests_per_second is not None:
        said.append(f"{usage.requests_per_second:,} requests a second, {usage.burst:,} at once")
    if usage.concurrent_streams is not None:
        said.append(f"{usage.open_streams:,} of {usage.concurrent_streams:,} streams are open")
    return said
