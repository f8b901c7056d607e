import threading
from collections.abc import Callable

import pytest

from recension.model.errors import (
    InvalidArgumentError,
    SourceFormatError,
    UpstreamRefusedError,
    UpstreamUnreachableError,
)
from recension.sources.http import RETRY_AFTER, Http, Patience
from tests.upstream import Asked, Upstream

QUICK = Patience(connect_seconds=2.0, idle_seconds=0.2)
SECRET = "eyJ-canary-of-a-token"


class Tokens:
    """A bearer whose tokens are counted out."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = list(tokens)
        self.refused: list[str] = []

    def token(self) -> str:
        return self._tokens[0]

    def renew(self, refused: str) -> bool:
        self.refused.append(refused)
        if len(self._tokens) > 1:
            del self._tokens[0]
            return True
        return False


def test_a_document_is_sent_and_read() -> None:
    """What is asked goes as JSON, with the token, and the answer is a value."""

    def answer(asked: Asked) -> None:
        asked.reply(200, {"said": asked.document, "as": asked.headers["Authorization"]})

    with Upstream(answer) as upstream:
        http = Http(upstream.origin, bearer=Tokens(SECRET))
        assert {"said": {"a": 1}, "as": f"Bearer {SECRET}"} == http.document("POST", "/v2/x", {"a": 1})


def test_a_stream_is_read_as_it_comes() -> None:
    """A line is there before the next one is sent."""
    more = threading.Event()

    def answer(asked: Asked) -> None:
        with asked.chunked() as write:
            write(b"one\n")
            assert more.wait(10)
            write(b"two\n")

    with Upstream(answer) as upstream, Http(upstream.origin).ask("GET", "/") as got:
        assert b"one\n" == got.read(1 << 20)
        more.set()
        assert b"two\n" == got.read(1 << 20)
        assert b"" == got.read(1 << 20)


@pytest.mark.parametrize(
    "rude",
    [
        pytest.param(lambda asked: asked.cut(), id="no answer"),
        pytest.param(lambda asked: asked.cut(reset=True), id="reset"),
        pytest.param(
            lambda asked: (asked.head(200, Content_Length="9"), asked.raw(b"ab"), asked.cut()), id="short"
        ),
        pytest.param(
            lambda asked: (asked.head(200, Transfer_Encoding="chunked"), asked.raw(b"5\r\nab"), asked.cut()),
            id="in a chunk",
        ),
        pytest.param(
            lambda asked: (
                asked.head(200, Transfer_Encoding="chunked"),
                asked.raw(b"2\r\nab\r\n"),
                asked.cut(),
            ),
            id="between chunks",
        ),
        pytest.param(
            lambda asked: (asked.head(200, Transfer_Encoding="chunked"), asked.raw(b"zz\r\nab\r\n")),
            id="nonsense",
        ),
        pytest.param(
            lambda asked: (asked.head(200, Content_Length="9"), threading.Event().wait(1)), id="silent"
        ),
        pytest.param(lambda asked: asked.reply(500, {"message": SECRET}), id="500"),
        pytest.param(lambda asked: asked.reply(429, b"", Retry_After="7"), id="429"),
    ],
)
def test_what_may_go_away_is_unreachable(rude: Callable[[Asked], None]) -> None:
    """Each way to break off is the error after which it is asked again, and it tells no secret."""
    with Upstream(rude) as upstream:
        http = Http(upstream.origin, bearer=Tokens(SECRET), patience=QUICK)
        with pytest.raises(UpstreamUnreachableError) as caught, http.ask("GET", f"/a?sig={SECRET}") as got:
            while got.read(1 << 16):
                pass
    assert SECRET not in f"{caught.value!r} {caught.value.hint} {caught.value.metadata}"
    assert upstream.origin in caught.value.message


def test_upstream_says_when_to_come_back() -> None:
    """Retry-After is in the metadata, in seconds, and bounded."""
    for said, expected in [("7", "7.0"), ("999999", "3600.0"), ("Thu, 01 Jan 1970 00:00:00 GMT", "0.0")]:
        with Upstream(lambda asked, said=said: asked.reply(429, b"", Retry_After=said)) as upstream:  # type: ignore[misc]
            with pytest.raises(UpstreamUnreachableError) as caught:
                Http(upstream.origin).ask("GET", "/")
            assert expected == caught.value.metadata[RETRY_AFTER]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 418, 422, 206, 204])
def test_what_stays_is_refused(status: int) -> None:
    """Other answers are the error that ends it; what upstream says with it is not repeated."""
    with Upstream(lambda asked: asked.reply(status, SECRET.encode() if status != 204 else b"")) as upstream:
        with pytest.raises(UpstreamRefusedError) as caught:
            Http(upstream.origin, bearer=Tokens(SECRET)).ask("GET", "/v2/articles")
        assert f"{upstream.origin}/v2/articles: GET is answered with {status}" in caught.value.message
        assert SECRET not in f"{caught.value!r} {caught.value.hint}"


def test_nobody_listens() -> None:
    """A server that is not there is unreachable."""
    with Upstream(lambda asked: asked.reply(200)) as upstream:
        origin = upstream.origin
    with pytest.raises(UpstreamUnreachableError, match="no connection can be made"):
        Http(origin, patience=QUICK).ask("GET", "/")


def test_what_no_header_holds() -> None:
    """Neither a name nor a token that cannot be sent is a fault of the library's, which would repeat it."""
    with Upstream(lambda asked: asked.reply(200)) as upstream:
        for agent in ("Łukasz", "a\nb"):
            with pytest.raises(InvalidArgumentError, match="who asks"):
                Http(upstream.origin, agent=agent)
        for token in (f"{SECRET}\n", f"{SECRET}ł"):
            with pytest.raises(UpstreamRefusedError, match="cannot be sent") as caught:
                Http(upstream.origin, bearer=Tokens(token)).ask("GET", "/")
            assert SECRET not in f"{caught.value!r} {caught.value.hint}"


def test_a_refused_token_is_renewed_once() -> None:
    """After 401 the next token is tried; if that is refused too, it ends."""
    good = "second"

    def answer(asked: Asked) -> None:
        asked.reply(200 if asked.headers["Authorization"] == f"Bearer {good}" else 401)

    with Upstream(answer) as upstream:
        tokens = Tokens("first", good)
        with Http(upstream.origin, bearer=tokens).ask("GET", "/") as got:
            assert 200 == got.status
        assert ["first"] == tokens.refused
        with pytest.raises(UpstreamRefusedError):
            Http(upstream.origin, bearer=Tokens("bad", "worse", good)).ask("GET", "/")


def test_redirects_stay_at_home_unless_told() -> None:
    """Elsewhere a redirect leads only where that is allowed, and never with the token."""
    seen: list[str | None] = []

    def there(asked: Asked) -> None:
        seen.append(asked.headers["Authorization"])
        asked.reply(200, b"there")

    with Upstream(there) as other:

        def here(asked: Asked) -> None:
            match asked.path:
                case "/near":
                    asked.reply(302, b"", Location="/end")
                case "/circle":
                    asked.reply(307, b"", Location="/circle")
                case "/plain":
                    asked.reply(307, b"", Location="http://example.org/")
                case "/far":
                    asked.reply(307, b"", Location=f"{other.origin}/x?sig={SECRET}")
                case _:
                    asked.reply(200, asked.headers["Authorization"].encode())

        with Upstream(here) as upstream:
            http = Http(upstream.origin, bearer=Tokens(SECRET))
            with http.ask("GET", "/near") as got:
                assert f"Bearer {SECRET}".encode() == got.whole()
            for path in ("/circle", "/far", "/plain"):
                with pytest.raises(UpstreamRefusedError) as caught:
                    http.ask("GET", path)
                assert SECRET not in caught.value.message
            assert [] == seen
            with http.ask("GET", "/far", elsewhere=True) as got:
                assert b"there" == got.whole()
            assert [None] == seen
            with pytest.raises(UpstreamRefusedError):
                http.ask("GET", "/plain", elsewhere=True)


def test_an_answer_has_a_bound_and_a_form() -> None:
    """Too long an answer is refused, and one that is no JSON has its own error."""
    with Upstream(lambda asked: asked.reply(200, b"x" * 1000)) as upstream:
        with (
            pytest.raises(UpstreamRefusedError, match="more than 999 bytes"),
            Http(upstream.origin).ask("GET", "/") as got,
        ):
            got.whole(999)
        with pytest.raises(SourceFormatError):
            Http(upstream.origin).document("GET", "/")


def test_a_read_that_waits_can_be_stopped() -> None:
    """Another thread ends a read at once, whatever its patience."""
    begun, end = threading.Event(), threading.Event()

    def answer(asked: Asked) -> None:
        with asked.chunked() as write:
            write(b"x")
            end.wait(60)

    with Upstream(answer) as upstream, Http(upstream.origin).ask("GET", "/") as got:

        def read() -> None:
            got.read(1)
            begun.set()
            with pytest.raises(UpstreamUnreachableError):
                while got.read(1):
                    pass
                raise UpstreamUnreachableError("ended")

        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(30)
        got.stop()
        reader.join(30)
        end.set()
        assert not reader.is_alive()


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "ftp://a",
        "http://example.org",
        "https://",
        "https://u:p@a",
        "https://a/b",
        "https://a?b",
        "https://a:x",
        "a",
    ],
)
def test_origins_are_checked(origin: str) -> None:
    """What is no origin, holds a password or would be read on the way is refused, and not repeated."""
    with pytest.raises(InvalidArgumentError) as caught:
        Http(origin)
    assert "u:p" not in f"{caught.value!r}{caught.value.hint}"


def test_the_same_origin_has_one_name() -> None:
    """Case and the usual port make no difference."""
    assert "https://a.example" == Http("https://A.example:443/").origin
    assert "http://[::1]:80" != Http("http://[::1]:80").origin == "http://[::1]"
