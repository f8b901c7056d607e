"""Credits as pages of HTML: each by itself, nothing is loaded, nothing runs, and it prints well."""

from __future__ import annotations

import base64
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from recension.model.credit import NOTICE
from recension_client.credits import shown
from recension_client.credits.rows import CreditRow
from recension_client.credits.writing import Credits, Part
from recension_client.visible import visible


class HtmlBook:
    """Makes the pages."""

    folder = "html"
    suffix = "html"

    def __init__(self) -> None:
        """Read the templates, which escape everything."""
        held = files("recension_client.credits")
        style = (held / "credits.css").read_text(encoding="utf-8")
        environment = Environment(
            autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.globals.update(
            notice=NOTICE,
            style=Markup(style),  # noqa: S704 - ours, not data: the policy names it by its digest
            policy=_policy(style),
        )
        self._part, self._index = (
            environment.from_string((held / name).read_text(encoding="utf-8"))
            for name in ("part.html.jinja", "index.html.jinja")
        )

    def page(self, part: Part, rows: list[CreditRow]) -> str:
        """Return one part."""
        return self._part.render(part=part, pages=map(shown.shown, rows))

    def index(self, parts: list[Part], made: Credits) -> str:
        """Return the index."""
        seen = [part._replace(first=visible(part.first), last=visible(part.last)) for part in parts]
        return self._index.render(
            heading=shown.heading(made), facts=shown.facts(made), licenses=shown.licenses(made), parts=seen
        )


def _policy(style: str) -> str:
    digest = base64.b64encode(sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
