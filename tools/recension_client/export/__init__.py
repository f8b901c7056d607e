"""A snapshot as files: how they lie, how they are fetched, and how they are checked without a server.

``docs/export.md`` says the same for whoever reads the files with other tools.
"""
