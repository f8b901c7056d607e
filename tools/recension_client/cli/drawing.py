"""What is drawn with rich: tables, lines in colours, progress bars. Imported when there is any of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

_Item = TypeVar("_Item")
_EVERY_BYTES = 1024 * 1024
_EVERY = 200
"""Items between two updates of a progress bar: drawing must not cost more than reading."""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: set[str]) -> Iterator[str]:
    """Yield the lines of a table; ``numbers`` are the columns that stand at the right.

    No cell is folded, so that an id can be copied off any terminal.
    """
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, justify="right" if column in numbers else "left")
    widths = [len(column) for column in columns]
    for cells in rows:
        widths = [max(width, len(cell)) for width, cell in zip(widths, cells, strict=True)]
        shown.add_row(*map(Text, cells))  # Text: a title may look like markup
    console = Console(highlight=False, width=2 * sum(widths) + 2 * len(widths))
    with console.capture() as drawn:
        console.print(shown)
    yield from (line.rstrip() for line in drawn.get().splitlines())


def styled(lines: Iterable[tuple[str, Sequence[tuple[str, str]]]]) -> Iterator[str]:
    """Yield lines, each a style and (text, style over it), in the colours that the terminal has.

    None is folded or cut; each has its newline.
    """
    console = Console(highlight=False, soft_wrap=True)
    for style, parts in lines:
        with console.capture() as drawn:
            console.print(Text.assemble(*parts, style=style))
        yield drawn.get()


class _Rate(ProgressColumn):
    """Items a second."""

    def render(self, task: Task) -> Text:
        """Draw the rate, once there is one."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="progress.data.speed")


class _Count(ProgressColumn):
    """Items so far, of how many."""

    def render(self, task: Task) -> Text:
        """Draw the count."""
        done = f"{int(task.completed):,}"
        return Text(done if task.total is None else f"{done}/{int(task.total):,}", style="progress.download")


def watched(items: Iterable[_Item], what: str, total: int | None) -> Iterator[_Item]:
    """Yield the items under a progress bar on stderr."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        _Count(),
        _Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=False,
    )
    with progress:
        task: TaskID = progress.add_task(what, total=total)
        done = 0
        for done, item in enumerate(items, 1):
            yield item
            if done % _EVERY == 0:
                progress.update(task, completed=done)
        progress.update(task, completed=done)


@contextmanager
def transfer(what: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar of bytes on stderr; yields what is told of each further piece, from any thread."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        redirect_stdout=False,
    )
    with progress:
        task = progress.add_task(what, total=total_bytes)
        waiting = 0

        def watch(size: int) -> None:
            nonlocal waiting
            waiting += size
            if waiting >= _EVERY_BYTES:  # drawing must not cost more than reading
                progress.advance(task, waiting)
                waiting = 0

        yield watch
        progress.advance(task, waiting)
