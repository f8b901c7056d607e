"""What a renderer and the process that renders say to each other.

Requests and answers are ``u8 status ‖ u32 length ‖ UTF-8``, big-endian; the status of a request is 0.
"""

from __future__ import annotations

from struct import Struct

HEAD = Struct(">BI")
DONE, FAILED, NO_MEMORY = range(3)
