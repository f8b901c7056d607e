from __future__ import annotations

import contextlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from recension.sources.php_values import MAX_BYTES, PhpFormatError, PhpValue, unserialize


def serialize(value: PhpValue) -> bytes:
    """What PHP writes for the value."""
    match value:
        case None:
            return b"N;"
        case bool():
            return b"b:%d;" % value
        case int():
            return b"i:%d;" % value
        case bytes():
            return b's:%d:"%s";' % (len(value), value)
        case dict():
            inner = b"".join(serialize(key) + serialize(item) for key, item in value.items())
            return b"a:%d:{%s}" % (len(value), inner)


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=20)
keys = st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=20)
values = st.recursive(scalars, lambda inner: st.dictionaries(keys, inner, max_size=5), max_leaves=20)


def depth(value: PhpValue) -> int:
    return 1 + max(map(depth, value.values()), default=0) if isinstance(value, dict) else 0


@given(values)
def test_round_trip(value: PhpValue) -> None:
    """What PHP writes is read back, unless it is nested too deep."""
    assume(depth(value) <= 8)
    assert value == unserialize(serialize(value))


def test_lengths_are_bytes() -> None:
    """The length of a string counts its bytes: the real parameter of a Mongolian page."""
    text = "RPR болон DPT –н ойлголт".encode()
    assert text == unserialize(b's:39:"%s";' % text)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"i:1",
        b"i:;",
        b"i:1;i:2;",
        b"i:0x1;",
        b"b:2;",
        b"d:1.5;",
        b'O:8:"stdClass":0:{}',
        b"R:1;",
        b's:5:"abc";',
        b's:2:"abc";',
        b's:-1:"";',
        b's:99999999:"";',
        b"a:1:{i:0;}",
        b"a:2:{i:0;i:1;}",
        b"a:1:{N;i:1;}",
        b"a:1:{b:1;i:1;}",
        b"a:1:{a:0:{}i:1;}",
        b"a:2:{i:0;i:1;i:0;i:2;}",
        b"a:60000:{}",
        b"a:1:{i:0;" * 100_000,
        b"x" * (MAX_BYTES + 1),
    ],
)
def test_everything_else_is_refused(data: bytes) -> None:
    """Objects, references, floats, wrong lengths, deep nesting and more bytes are refused."""
    with pytest.raises(PhpFormatError):
        unserialize(data)


@given(st.binary(max_size=60))
def test_no_other_error(data: bytes) -> None:
    """Any bytes give a value or the one named error."""
    with contextlib.suppress(PhpFormatError):
        unserialize(b"a:" + data)
