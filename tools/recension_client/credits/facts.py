"""What both descriptions of a dataset say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recension.model.agreement import Version
from recension.model.instant import format_instant
from recension.model.reading import ProjectInfo
from recension_client.credits.writing import Credits
from recension_client.export.layout import Index


@dataclass(frozen=True, slots=True)
class Facts:
    """An export, its credits, and where it comes from."""

    index: Index
    credits: Credits
    projects: Mapping[str, ProjectInfo]
    server: str
    """``host:port``."""
    server_key: str
    """Verifier key that the server signs with; empty if it signs nothing."""
    agreement: Version | None
    """Under which it was served; ``None`` for who may read all."""

    @property
    def name(self) -> str:
        """The dataset's name: its projects and the day that it is of."""
        return f"{'-'.join(self.index.job.manifest.selector.projects)}-{self.day}"

    @property
    def day(self) -> str:
        """The day of its valid time."""
        return format_instant(self.index.job.manifest.as_of.valid_at)[:10]

    @property
    def pages(self) -> int:
        """Pages of all projects."""
        return sum(part.count for part in self.index.job.manifest.parts)

    @property
    def languages(self) -> list[str]:
        """Languages of its projects, each once."""
        return sorted({project.language for project in self.projects.values()})
