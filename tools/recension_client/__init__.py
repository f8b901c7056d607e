"""The licensee's side: clients, corpora and snapshots to read, verifier, lockfile."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recension_client.async_client import AsyncClient
    from recension_client.async_corpus import AsyncCorpus, AsyncSnapshot
    from recension_client.client import Client
    from recension_client.corpus import Corpus, Snapshot
    from recension_client.pages import Page, PageBatch, PageChange
    from recension_client.retrying import Retry

__all__ = [
    "AsyncClient",
    "AsyncCorpus",
    "AsyncSnapshot",
    "Client",
    "Corpus",
    "Page",
    "PageBatch",
    "PageChange",
    "Retry",
    "Snapshot",
]

_HOMES = {
    "AsyncClient": "async_client",
    "AsyncCorpus": "async_corpus",
    "AsyncSnapshot": "async_corpus",
    "Client": "client",
    "Corpus": "corpus",
    "Snapshot": "corpus",
    "Page": "pages",
    "PageBatch": "pages",
    "PageChange": "pages",
    "Retry": "retrying",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: the verifier and most commands need no gRPC."""
    from importlib import import_module  # noqa: PLC0415

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
