"""The page itself: a template that escapes everything, and a policy that lets only its own script run."""

from __future__ import annotations

import base64
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from recension_client.report.drawing import draw
from recension_client.report.gather import Report


def render(report: Report, version: str) -> str:
    """Return a report as one HTML page; ``version``: of what made it."""
    folder = files("recension_client.report")
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((folder / "report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        drawing=draw(report),
        policy=_policy(style, script),
        # Ours, not data: the policy names them by their digests.
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        version=version,
    )


def _policy(style: str, script: str) -> str:
    """Return the content security policy: nothing is loaded, and nothing runs but what is named here."""
    return (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; "
        "base-uri 'none'; form-action 'none'"
    )


def _source(content: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(content.encode()).digest()).decode()}'"
