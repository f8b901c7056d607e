"""Wikitext as plain text, in a process of its own: ``python -m recension_client.export.plaintext``.

What is in a wiki's pages was written by anybody, and mwparserfromhell, like every parser of wikitext, takes
minutes over some short texts (`<a b=` five thousand times: 28 s for 25 KB). So it runs where a limit of
processor time and memory ends it, and nothing else. Needs the extra ``plain``.

``plain_pipe`` has what it is asked and answers.
"""

from __future__ import annotations

import re
import resource
import signal
import sys
from collections.abc import Iterable

import mwparserfromhell
from mwparserfromhell.nodes import Node, Tag, Wikilink
from mwparserfromhell.wikicode import Wikicode

from recension_client.export.plain_pipe import DONE, FAILED, HEAD, NO_MEMORY

CPU_SECONDS = 20.0
"""Processor time for one page. The longest pages of Wikipedia, 2 MB, take about 3 s."""
MEMORY_BYTES = 2 * 1024**3
"""Address space of the process; a text of 2 MB takes 0.4 GB."""

_LEFT_OUT = {"table", "ref", "references", "style", "script"}
_EMBEDDED = re.compile(r"\s*(?:file|image|media|category)\s*:", re.IGNORECASE)
_SWITCHES = re.compile(r"__[A-Z]+__")
_BLANK_LINES = re.compile(r"\n{3,}")


def render(wikitext: str) -> str:
    """Return what a reader sees as running text.

    Left out: templates, references, tables, comments, the embedding of files, categories, and switches like
    ``__TOC__``. Headings, list items and the labels of links stay, each on its line.
    """
    code = mwparserfromhell.parse(wikitext, skip_style_tags=False)
    _prune(code)
    text = code.strip_code(normalize=True, collapse=False)
    return _BLANK_LINES.sub("\n\n", _SWITCHES.sub("", text)).strip()


def _prune(code: Wikicode) -> None:
    code.nodes = [node for node in code.nodes if not _is_left_out(node)]
    for inner in _contents(code.nodes):
        _prune(inner)


def _is_left_out(node: Node) -> bool:
    if isinstance(node, Wikilink):
        return _EMBEDDED.match(str(node.title)) is not None
    return isinstance(node, Tag) and str(node.tag).strip().lower() in _LEFT_OUT


def _contents(nodes: Iterable[Node]) -> Iterable[Wikicode]:
    for node in nodes:
        if isinstance(node, Tag) and node.contents is not None:
            yield node.contents


def main() -> None:
    """Answer requests until there are no more. A text that takes too long ends it by ``SIGVTALRM``."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks is told, and ends this process
    source, target = sys.stdin.buffer, sys.stdout.buffer
    while head := source.read(HEAD.size):
        _, length = HEAD.unpack(head)
        wikitext = source.read(length).decode()
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
        try:
            status, answer = DONE, render(wikitext).encode()
        except MemoryError:
            status, answer = NO_MEMORY, b""
        except Exception:  # noqa: BLE001 - a parser of what anybody wrote may fail in any way
            status, answer = FAILED, b""
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        target.write(HEAD.pack(status, len(answer)) + answer)
        target.flush()


if __name__ == "__main__":
    main()
