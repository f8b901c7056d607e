"""Texts: deduplicated by digest, kept in blocks of one page, the newest as tails (docs/storage.md).

Nothing outside this package knows how texts lie: ``reading`` turns a digest into a text, ``writing`` turns
new texts into rows of a commit, ``sealing`` and ``erasing`` change how they lie without a commit.
"""
