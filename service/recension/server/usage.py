"""The command ``usage``: what licensees have used of what they may be served."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from recension.archive.agreements import Agreements
from recension.model.instant import format_instant
from recension.model.usage import Usage
from recension.server.limits.desk import Limits
from recension.server.opening import OpenStore


def add_commands(commands: Any, open_store: OpenStore) -> None:
    """Add the command to the subparsers of ``recension-server``."""
    usage = commands.add_parser("usage", help="say what licensees have used of their quotas")
    usage.add_argument("licensee", metavar="LICENSEE", nargs="?", default="", help="one of them (all)")
    usage.add_argument("--data", required=True, type=Path, metavar="DIR", help="data directory")
    usage.add_argument("--json", action="store_true", help="as JSON")
    usage.set_defaults(run=lambda arguments: _usage(arguments, open_store))


def _usage(arguments: argparse.Namespace, open_store: OpenStore) -> int:
    with closing(open_store(arguments.data)) as store, closing(Limits(arguments.data, store)) as limits:
        agreements = Agreements(store)
        if arguments.licensee:
            names = [agreements.licensee(arguments.licensee).name]
        else:
            names = sorted({one.name for one in agreements.licensees()} | set(limits.licensees()))
        found = [limits.usage(name) for name in names]
    if arguments.json:
        sys.stdout.write(json.dumps([document_of(usage) for usage in found]) + "\n")
        return 0
    if not found:
        sys.stderr.write("no licensees yet; add one with: recension-server licensee add\n")
        return 0
    table = Table("licensee", "period", "articles", "of", "bytes", "of", "lost", "renews at")
    for usage in found:
        for period in usage.periods if arguments.licensee else usage.periods[:2]:
            table.add_row(
                usage.licensee,
                period.name,
                f"{period.articles:,}",
                _limit(period.articles_limit),
                f"{period.text_bytes:,}",
                _limit(period.text_bytes_limit),
                f"{period.lost_articles:,}" if period.lost_articles or period.lost_text_bytes else "",
                format_instant(period.renews_at),
            )
    Console(highlight=False, markup=False).print(table)
    return 0


def document_of(usage: Usage) -> dict[str, Any]:
    """Return a usage as JSON has it."""
    periods = [asdict(one) | {"renews_at": format_instant(one.renews_at)} for one in usage.periods]
    return asdict(usage) | {"periods": periods}


def _limit(amount: int | None) -> str:
    return "-" if amount is None else f"{amount:,}"
