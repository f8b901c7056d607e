"""What is fuzzed: a parser, what it may raise, and what has to be true of all that it accepts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recension.model.errors import RecensionError
from tests.fuzz.mutators import Mutator


@dataclass(frozen=True, slots=True)
class Target:
    """A parser under its invariant."""

    name: str
    read: Callable[[bytes], object]
    """Parses an input and checks what came of it; something true if any of it was accepted.

    Whatever it raises but ``named`` is a finding.
    """
    named: tuple[type[Exception], ...] = (RecensionError,)
    words: tuple[bytes, ...] = ()
    """What inputs of this kind are made of, for whoever mutates them."""
    most_bytes: int = 4096
    """Longest input that is made up; files of the corpus may be longer."""
    examples: tuple[bytes, ...] = ()
    """Inputs beside those of the corpus, of a form that is ours alone and may change: they are made anew."""
    mutate: Mutator | None = None
    """Changes an input so that it stays of its form; else bytes are changed blindly."""

    def accepts(self, data: bytes) -> bool:
        """Say whether anything of an input was accepted."""
        try:
            return bool(self.read(data))
        except self.named:
            return False
