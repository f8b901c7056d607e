"""All that is fuzzed, by name."""

from __future__ import annotations

from tests.fuzz import documents, messages, sources
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target for target in (*sources.TARGETS, *messages.TARGETS, *documents.TARGETS)
}
