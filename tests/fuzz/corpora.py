"""The committed inputs: a small corpus for each target, and what was found once and must not come back."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def files_of(name: str) -> list[Path]:
    """Return a target's inputs: its corpus, then its regressions."""
    return [path for kind in ("corpus", "regressions") for path in sorted((_HERE / kind / name).glob("*"))]
