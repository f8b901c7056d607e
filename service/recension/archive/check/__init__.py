"""Check a store: every text, commitment, hash, leaf, root anew, every reference both ways. Repairs nothing.

Eight phases follow one another, each a walk in small steps with a view of its own, so a check may be ended
after any step and go on later. What was appended after it began is left for the next one; to what is sealed
meanwhile it adapts, while a garbage collection at the same time may be told as a fault.

``log``
    The chain of records, each event's sealed values against ``sealed``, and every index row that they make.
``rows``
    Every index row has its event in the log.
``pages``
    Each page's blocks against their rows, each text against its digest's row, each revision's content.
``texts``
    Every row of a text, of its holders and of block users leads somewhere.
``blobs``
    Every blob is named by a row or by a commit.
``snapshots``
    Each tree node on the way, each entry against the history, and the counts of the manifest.
``nodes``
    Every node of a tree has its digest and its children.
``columns``
    Event columns say what the log does, without a gap.

No damage: a purged field, whose commitment is kept; a text that was erased, empty in its block; tree nodes
that no manifest names, which a killed ``CreateSnapshot`` leaves (``archive.garbage`` finds them).
"""
