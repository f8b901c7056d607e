"""Whom to credit for a snapshot: files beside an export, pages for people, and what describes a dataset.

``docs/attribution.md`` has the files.
"""
