import json
from pathlib import Path

import pytest

from recension.model.errors import InvalidArgumentError, SourceFormatError, UpstreamRefusedError
from recension.sources.enterprise_login import Credentials, Login, read_credentials
from recension.sources.http import Http
from tests.enterprise import PASSWORD, USER, Enterprise
from tests.upstream import Asked


class Clock:
    """Seconds since the epoch, set by hand."""

    def __init__(self) -> None:
        import time  # noqa: PLC0415

        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def private(path: Path, value: object, mode: int = 0o600) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    path.chmod(mode)
    return path


def test_one_login_is_enough_for_a_day() -> None:
    """A token is kept until shortly before its end, then the refresh token gives the next one."""
    service, clock = Enterprise(), Clock()
    with service.serve() as upstream:
        login = Login(Http(upstream.origin), Credentials(USER, PASSWORD), clock)
        first = login.token()
        clock.now += 86_000
        assert (first, 1, 0) == (login.token(), service.logins, service.refreshes)
        clock.now += 200
        assert first != login.token()
        assert (1, 1) == (service.logins, service.refreshes)


def test_a_refused_token_is_replaced_once() -> None:
    """However many threads had it refused."""
    service = Enterprise()
    with service.serve() as upstream:
        login = Login(Http(upstream.origin), Credentials(USER, PASSWORD))
        first = login.token()
        assert login.renew(first)
        assert login.renew(first)
        assert (1, 1) == (service.logins, service.refreshes)


def test_a_refresh_token_alone() -> None:
    """No password is needed; once the refresh token is good no more, it ends."""
    service, clock = Enterprise(), Clock()
    with service.serve() as upstream:
        http = Http(upstream.origin)
        login = Login(http, Credentials(USER, refresh_token="canary-of-a-refresh-token"), clock)
        assert login.token() == service.tokens[-1]
        assert (0, 1) == (service.logins, service.refreshes)
        with pytest.raises(UpstreamRefusedError):
            Login(http, Credentials(USER, refresh_token="old-canary")).token()
        both = Login(http, Credentials(USER, PASSWORD, "old-canary"))
        assert both.token() == service.tokens[-1]
        assert 1 == service.logins


@pytest.mark.parametrize(
    "answer,life",
    [
        ({"access_token": "opaque"}, 86_400),
        ({"access_token": "opaque", "expires_in": 100}, 100),
        ({"access_token": "eyJ.eyJleHAiOiAxfQ.x"}, 0),
        ({"access_token": "a.b.c", "expires_in": "soon"}, 86_400),
    ],
)
def test_how_long_a_token_is_good(answer: object, life: int) -> None:
    """As it is said, as the token says, or a day."""
    service, clock = Enterprise(), Clock()
    service.handlers["/v1/login"] = lambda asked: asked.reply(200, answer)
    with service.serve() as upstream:
        login = Login(Http(upstream.origin), Credentials(USER, PASSWORD), clock)
        login.token()
        clock.now += max(life * 0.9 - 1, 0)
        before = len(upstream.asked)
        login.token()
        assert (1 if life == 0 else 0) == len(upstream.asked) - before
        clock.now += life * 0.1 + 1
        login.token()
        assert len(upstream.asked) > before


@pytest.mark.parametrize("answer", [[], {}, {"access_token": 7}])
def test_an_answer_without_a_token(answer: object) -> None:
    """It is a named error."""
    service = Enterprise()
    service.handlers["/v1/login"] = lambda asked: asked.reply(200, answer)
    with service.serve() as upstream, pytest.raises(SourceFormatError, match="no token"):
        Login(Http(upstream.origin), Credentials(USER, PASSWORD)).token()


def test_nothing_of_it_is_told() -> None:
    """Upstream repeats what it was sent; no message does, and no representation."""
    service = Enterprise()

    def echo(asked: Asked) -> None:
        asked.reply(403, {"message": f"{asked.document}"})

    service.handlers["/v1/login"] = echo
    credentials = Credentials(USER, "canary-1", "")
    with service.serve() as upstream, pytest.raises(UpstreamRefusedError) as caught:
        Login(Http(upstream.origin), credentials).token()
    told = f"{caught.value!r} {caught.value.hint} {caught.value.metadata} {credentials}"
    assert "canary-1" not in told


def test_credentials_of_a_file(tmp_path: Path) -> None:
    """A JSON object with a user name, and a password or a refresh token."""
    path = private(tmp_path / "wme.json", {"username": "a", "password": "b"})
    assert Credentials("a", "b") == read_credentials(path)
    private(path, {"username": "a", "refresh_token": "c", "note": 7})
    assert Credentials("a", "", "c") == read_credentials(path)


def test_credentials_of_the_environment() -> None:
    """Under the names that upstream's own kits use."""
    assert Credentials("a", "b", "") == read_credentials(None, {"WME_USERNAME": "a", "WME_PASSWORD": "b"})
    with pytest.raises(InvalidArgumentError, match="WME_PASSWORD"):
        read_credentials(None, {"WME_USERNAME": "a"})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"username": 7, "password": "canary"}',
        '{"password": "canary"}',
        '{"username": "a"}',
        '"ä"',
    ],
)
def test_credentials_that_are_none(tmp_path: Path, content: str) -> None:
    """Each is refused, and not repeated."""
    with pytest.raises(InvalidArgumentError) as caught:
        read_credentials(private(tmp_path / "wme.json", content))
    assert "canary" not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_credentials_that_others_may_read(tmp_path: Path, mode: int) -> None:
    """They are refused, whatever is in them; a file that is not there is too."""
    path = private(tmp_path / "wme.json", {"username": "a", "password": "b"}, mode)
    with pytest.raises(InvalidArgumentError, match="others may read"):
        read_credentials(path)
    with pytest.raises(InvalidArgumentError, match="No such file"):
        read_credentials(tmp_path / "none.json")
