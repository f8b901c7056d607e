"""A page for people about what differs between two snapshots: one HTML file that needs nothing else.

``gather`` asks a reader and keeps what is bounded, ``drawing`` says what is shown of it, ``page`` writes it.
Whatever titles and texts hold is text there: no script but the page's own runs.
"""
