"""What docs/loaders.md shows is what happens."""

from __future__ import annotations

from doctest import NORMALIZE_WHITESPACE
from importlib.util import find_spec
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from tests.loaders.conftest import Corpus

DOCS = Path(__file__).parents[2] / "docs" / "loaders.md"


def test_the_examples_give_what_they_show(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block is run where a corpus was fetched; those for torch where there is torch."""
    (tmp_path / "corpus").symlink_to(corpus.folder)
    monkeypatch.chdir(tmp_path)
    text = DOCS.read_text()
    (page := tmp_path / DOCS.name).write_text(text)
    of_torch = range(text.index("\n## torch"), text.index("\n## datasets"))
    examples = list(Sybil([PythonCodeBlockParser(doctest_optionflags=NORMALIZE_WHITESPACE)]).parse(page))
    assert any(example.start in of_torch for example in examples)
    for example in examples:
        if example.start not in of_torch or find_spec("torch"):
            example.evaluate()
    if not find_spec("torch"):
        pytest.skip("THE EXAMPLE FOR TORCH IS NOT TESTED: no CPU build of torch in reach")
