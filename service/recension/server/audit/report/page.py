"""The page of a report: a template that escapes everything, and a policy by which nothing runs."""

from __future__ import annotations

import base64
import unicodedata
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
_TURNING = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Categories of characters that are not seen, or change what is seen of others."""


def render(document: dict[str, Any], version: str) -> str:
    """Return a report (``gather``) as one HTML page; ``version``: of what made it."""
    folder = files("recension.server.audit.report")
    style = (folder / "report.css").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"seen": seen, "amount": amount, "short": short}
    template = environment.from_string((folder / "report.html.jinja").read_text(encoding="utf-8"))
    delivered = document["delivered"]
    sizes = [day["text_bytes"] or day["bytes"] for day in delivered["by_day"]]
    most = max(sizes, default=0) or 1
    return template.render(
        report=document,
        days=[
            (day, round(100 * size / most, 2)) for day, size in zip(delivered["by_day"], sizes, strict=True)
        ],
        refused=sum(one["calls"] for one in document["refused"]),
        open_answers=sum(
            pin["answered_at"] is None for one in document["retractions"] for pin in one["pins"]
        ),
        policy=_policy(style),
        style=Markup(style),  # noqa: S704 - ours, not data: the policy names it by its digest
        version=version,
    )


def seen(text: object) -> str:
    """Return a text in which each character is seen as it is, and none turns the line."""
    return "".join("\ufffd" if unicodedata.category(one) in _TURNING else one for one in str(text))


def amount(size: int) -> str:
    """Return a number of bytes for people."""
    value, unit = float(size), _UNITS[0]
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:  # noqa: PLR2004 - a KiB
            break
        value /= 1024
    return f"{size:,} bytes" if unit == _UNITS[0] else f"{value:,.1f} {unit}"


def short(digest: str) -> str:
    """Return the beginning of a digest, enough to tell it from others on a page."""
    return f"{digest[:19]}…" if digest.startswith("sha256:") else digest


def _policy(style: str) -> str:
    """Return the content security policy: nothing is loaded, nothing runs, and the style is ours."""
    digest = base64.b64encode(sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
