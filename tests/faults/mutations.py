"""Random damage to bytes."""

from __future__ import annotations

import random

_TOKENS = (
    *(b"<page>", b"</page>", b"<revision>", b"</revision>", b"<text>", b"</text>", b"<id>"),
    *(b"<!DOCTYPE a [", b"<![CDATA[", b"]]>", b"<!--", b"-->", b"&lt;", b"&#0;", b"&#xD800;", b"&x;"),
    *(b"{", b"}", b"[", b"]", b'"', b"\\", b"\\ud800", b"\n", b",", b":", b"null", b"true", b"NaN", b"1e999"),
    *(b"\x00", b"\xff", b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbf\xbe", b"-1", b"0", b"9223372036854775808"),
    *(b" deleted='deleted'", b" bytes='-5'", b"0000-00-00T00:00:00Z", b"a:1:{i:0;s:9:"),
)  # fmt: skip


def mutated(data: bytes, moments: random.Random) -> bytes:
    """Change ``data`` in one to a few places."""
    out = bytearray(data)
    for _ in range(moments.choice((1, 1, 1, 2, 4, 16))):
        at = moments.randrange(len(out) + 1)
        size = moments.choice((1, 1, 2, 8, 64, 4096))
        match moments.randrange(7):
            case 0:
                out[at : at + 1] = bytes([moments.randrange(256)])
            case 1:
                del out[at : at + size]
            case 2:
                out[at:at] = moments.choice(_TOKENS) * moments.choice((1, 1, 1, 50, 5000))
            case 3:
                out[at:at] = out[at : at + size]
            case 4:
                other = moments.randrange(len(out) + 1)
                out[at : at + size] = out[other : other + size]
            case 5:
                out[at : at + size] = moments.randbytes(size)
            case _:
                del out[max(at, 1) :]
    return bytes(out)
