"""The secret under which API keys are kept.

It is a file beside the store and not in it: a copy of the store alone helps nobody to try keys.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recension.model.errors import PepperUnusableError
from recension.model.private import MODE, OpenToOthersError, read_private, write_private

_BYTES = 32


class Pepper:
    """32 bytes in a file, 64 hex digits on a line. Read once. Safe for concurrent use."""

    def __init__(self, path: Path) -> None:
        """``path``: the file; it may not exist yet."""
        self._path = path
        self._held: bytes | None = None

    def __call__(self) -> bytes:
        """Return the secret. Raises ``PepperUnusableError``."""
        if self._held is None:
            self._held = self._read()
        return self._held

    def make(self) -> None:
        """Make the file if there is none. Raises ``PepperUnusableError``."""
        with self._locked():
            if not self._path.exists():
                try:
                    write_private(self._path, secrets.token_hex(_BYTES) + "\n")
                except OSError as error:
                    raise _unusable(self._path, f"it cannot be written: {_said(error)}") from None

    def _read(self) -> bytes:
        try:
            text = read_private(self._path)
            held = bytes.fromhex(text.removesuffix("\n"))
        except FileNotFoundError:
            raise _unusable(self._path, "it is missing") from None
        except OpenToOthersError as error:
            hint = f"if nobody did, chmod 600 {self._path}; else make all keys anew"
            raise PepperUnusableError(f"{self._path}: {error}", hint=hint) from None
        except OSError as error:
            raise _unusable(self._path, _said(error)) from None
        except ValueError:
            held = b""
        if len(held) != _BYTES:
            raise _unusable(self._path, "it does not hold 64 hex digits")
        return held

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self._path.with_name(self._path.name + ".lock")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
        except OSError as error:
            raise _unusable(path, f"it cannot be opened: {_said(error)}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _said(error: OSError) -> str:
    return os.strerror(error.errno or 0)


def _unusable(path: Path, what: str) -> PepperUnusableError:
    return PepperUnusableError(
        f"{path}: {what}",
        hint="put the file back from where secrets are kept; without it no key opens anything",
    )
