"""Tokens of Wikimedia Enterprise: a login, and refreshes before a token ends or when it is refused.

What is secret stays in this object: it is in no message, no representation and no file.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recension.model.errors import InvalidArgumentError, SourceFormatError, UpstreamRefusedError
from recension.model.private import OpenToOthersError, read_private
from recension.sources.http import Http

AUTH = "https://auth.enterprise.wikimedia.com"
USERNAME, PASSWORD, REFRESH_TOKEN = "WME_USERNAME", "WME_PASSWORD", "WME_REFRESH_TOKEN"
"""Names in the environment; those of the upstream's own kits."""

_LIFE_SECONDS = 24 * 3600.0
"""Of a token that does not say how long it is good."""
_EARLY_SECONDS = 300.0
"""A token is renewed so long before it ends; or, if it is good for less than ten times that, a tenth."""
_HINT = 'write {"username": "…", "password": "…"}, or "refresh_token" in place of the password'


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks; at least one of password and refresh token."""

    username: str
    password: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)


def read_credentials(path: Path | None, environment: Mapping[str, str] | None = None) -> Credentials:
    """Read credentials from a file of mode 600, JSON in ASCII, or from the environment without one.

    Raises ``InvalidArgumentError``, which repeats nothing of what was read.
    """
    if path is None:
        said = os.environ if environment is None else environment
        names = {"username": USERNAME, "password": PASSWORD, "refresh_token": REFRESH_TOKEN}
        stated: Any = {name: said.get(variable, "") for name, variable in names.items()}
        where = f"{USERNAME}, {PASSWORD} or {REFRESH_TOKEN} in the environment"
    else:
        where = str(path)
        try:
            stated = json.loads(read_private(path))
        except OpenToOthersError as error:
            raise _unusable(
                where, str(error), f"chmod 600 {path}, and change the password if anybody did"
            ) from None
        except OSError as error:
            raise _unusable(where, os.strerror(error.errno or 0), _HINT) from None
        except ValueError:
            raise _unusable(where, "it is no JSON in ASCII", _HINT) from None
    fields = ("username", "password", "refresh_token")
    if not isinstance(stated, dict) or not all(isinstance(stated.get(name, ""), str) for name in fields):
        raise _unusable(where, "it is no object of strings", _HINT)
    credentials = Credentials(*(stated.get(name, "") for name in fields))
    if not credentials.username or not (credentials.password or credentials.refresh_token):
        raise _unusable(where, "there is no user name, or neither a password nor a refresh token", _HINT)
    return credentials


class Login:
    """Has a token of an account. A ``Bearer``; safe for concurrent use."""

    def __init__(self, http: Http, credentials: Credentials, clock: Callable[[], float] = time.time) -> None:
        """``http``: of the server that makes tokens; ``clock``: seconds since the epoch."""
        self._http = http
        self._credentials = credentials
        self._clock = clock
        self._lock = threading.Lock()
        self._refresh = credentials.refresh_token
        self._token = ""
        self._renew_at = 0.0

    def token(self) -> str:
        """Return a token; a new one shortly before the last one ends. Raises as ``Http.ask`` does."""
        with self._lock:
            if self._clock() >= self._renew_at:
                self._get()
            return self._token

    def renew(self, refused: str) -> bool:
        """Get another token than the one that was refused. Raises as ``Http.ask`` does."""
        with self._lock:
            if self._token in ("", refused):
                self._get()
            return True

    def _get(self) -> None:
        """Refresh, or log in where there is no refresh token or it is good no more."""
        who = {"username": self._credentials.username}
        if self._refresh:
            try:
                self._keep(self._ask("/v1/token-refresh", who | {"refresh_token": self._refresh}))
            except UpstreamRefusedError:
                if not self._credentials.password:
                    raise
                self._refresh = ""
            else:
                return
        self._keep(self._ask("/v1/login", who | {"password": self._credentials.password}))

    def _ask(self, path: str, said: dict[str, str]) -> dict[str, Any]:
        answer = self._http.document("POST", path, said)
        if not isinstance(answer, dict) or not isinstance(answer.get("access_token"), str):
            raise SourceFormatError(
                f"{self._http.origin}{path}: the answer has no token",
                hint="look whether the address is right",
            )
        return answer

    def _keep(self, answer: dict[str, Any]) -> None:
        self._token = answer["access_token"]
        refresh = answer.get("refresh_token")
        if isinstance(refresh, str) and refresh:
            self._refresh = refresh
        now = self._clock()
        life = _life(answer, now)
        self._renew_at = now + life - min(_EARLY_SECONDS, life / 10)


def _life(answer: Mapping[str, Any], now: float) -> float:
    """Return for how many seconds a token is good, as it is said or as the token itself says."""
    stated = answer.get("expires_in")
    if type(stated) is int and stated > 0:
        return float(stated)
    parts = answer["access_token"].split(".")
    with contextlib.suppress(ValueError, TypeError, KeyError, IndexError):
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return max(float(claims["exp"]) - now, 0.0)
    return _LIFE_SECONDS


def _unusable(where: str, what: str, hint: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"credentials: {where}: {what}", hint=hint, field="credentials")
