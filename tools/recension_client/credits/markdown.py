"""Credits as pages of Markdown (CommonMark): no title and no name is anything but text."""

from __future__ import annotations

import re

from recension.model.credit import NOTICE
from recension_client.credits import shown
from recension_client.credits.rows import CreditRow
from recension_client.credits.writing import Credits, Part
from recension_client.visible import visible

_MARKS = re.compile(r"([!-/:-@\[-`{-~])")
"""Any of these may be escaped, and means nothing then."""


class MarkdownBook:
    """Makes the pages."""

    folder = "markdown"
    suffix = "md"

    def page(self, part: Part, rows: list[CreditRow]) -> str:
        """Return one part."""
        lines = [
            f"# Credits of {escaped(part.project)}, part {part.number}",
            "",
            f"[all parts](index.md). {NOTICE}",
            "",
            *(f"- {_line(shown.shown(row))}" for row in rows),
        ]
        return "\n".join(lines) + "\n"

    def index(self, parts: list[Part], made: Credits) -> str:
        """Return the index."""
        lines = [f"# {escaped(shown.heading(made))}", ""]
        for fact in shown.facts(made):
            lines += [fact, ""]
        lines += ["| licence | pages |", "|---|---:|"]
        lines += [f"| {linked(name, url)} | {pages} |" for name, url, pages in shown.licenses(made)]
        lines += ["", "| part | project | from | to | pages |", "|---|---|---|---|---:|"]
        for part in parts:
            titles = " | ".join(escaped(visible(title)) for title in (part.project, part.first, part.last))
            lines.append(f"| [{part.number}]({part.number:05}.md) | {titles} | {part.pages:,} |")
        return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Return a text in which nothing is a mark."""
    return _MARKS.sub(r"\\\1", text)


def linked(text: str, url: str | None) -> str:
    """Return a link, if there is an address; it has neither angles nor white space."""
    return f"[{escaped(text)}](<{url}>)" if url else escaped(text)


def _line(page: shown.Shown) -> str:
    parts = [linked(page.title, page.url), page.about, linked(page.license, page.license_url)]
    parts += page.notes
    people = ", ".join(map(_named, page.people))
    return "; ".join([", ".join(parts), *filter(None, (people, page.others))])


def _named(one: tuple[str, str]) -> str:
    name, edits = one
    return escaped(name) if edits == "1" else f"{escaped(name)} ({edits})"
