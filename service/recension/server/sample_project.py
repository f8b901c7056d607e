"""The bundled sample: what a server serves whose data directory is empty."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from recension.archive.ingest import Ingestor
from recension.archive.reader import Archive
from recension.model.credit import read_periods
from recension.model.errors import SourceError
from recension.model.reading import ProjectInfo
from recension.server import logs
from recension.server.ingest import ingest_files
from recension.server.telling import plain
from recension.store.interface import Store

_SAMPLE = "aawiki-20260101-pages-meta-history.xml.7z"
_SAMPLE_PROJECT = ProjectInfo(
    "aawiki",
    "https://aa.wikipedia.org",
    "aa",
    "CC-BY-SA-4.0",
    licenses=read_periods(["CC-BY-SA-3.0", "CC-BY-SA-4.0@2023-06-07"]),
)
_SAMPLE_REVISIONS = 1307


def ingest_sample(store: Store, data: Path) -> None:
    """Create project ``aawiki`` and ingest the bundled sample; its README states origin and licence.

    Logs one line. Raises the ``StoreError`` that ended it, ``SourceError`` when the sample is damaged.
    """
    Ingestor(store).create_project(_SAMPLE_PROJECT)
    with as_file(files("recension.server") / "sample" / _SAMPLE) as path:
        summary = ingest_files(store, "dump", _SAMPLE_PROJECT.name, [path], data=data, quiet=True)
    for fault in summary.faults:
        if not isinstance(fault, SourceError):
            raise fault
    if summary.faults or summary.accepted + summary.known != _SAMPLE_REVISIONS:
        cause = plain(summary.faults[0].message) if summary.faults else "revisions are missing"
        raise SourceError(f"the bundled sample cannot be used: {cause}", hint="install recension again")
    logs.logger().info(
        "sample_ingested",
        project=_SAMPLE_PROJECT.name,
        revisions=summary.accepted,
        seconds=round(summary.seconds, 3),
    )


def lacks_sample(store: Store) -> bool:
    """True while a store that is to hold the sample holds nothing, or a part: the ingest of it was ended."""
    projects = Archive(store).projects()
    return not projects or (
        [_definition(info) for info in projects] == [_SAMPLE_PROJECT]
        and projects[0].revisions < _SAMPLE_REVISIONS
    )


def _definition(info: ProjectInfo) -> ProjectInfo:
    return ProjectInfo(info.name, info.base_url, info.language, info.license, licenses=info.licenses)
