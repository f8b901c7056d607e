"""Signed checkpoints of the audit log, with the key of the server and an origin of their own.

``KEY.audit`` lies beside the signing key: the last checkpoint that was signed. It is written before a
checkpoint leaves, and none is signed for a log that does not have it: one that was rolled back signs no more.
"""

from __future__ import annotations

from base64 import b64encode
from contextlib import suppress
from pathlib import Path

from recension.archive.clock import Clock, system_clock
from recension.model.audit import ORIGIN_SUFFIX
from recension.model.errors import AuditUnusableError, LogForkedError
from recension.model.note import VerifierKey, checkpoint_text, signed_note
from recension.model.private import write_private
from recension.server.signing import PrivateKey, Signer
from recension.store.auditing import AuditHead, AuditStore, Change, SignedNote

_ID_CHARACTERS = 5
"""Of a signature's base64, those that its key's id alone decides."""


class AuditCheckpoints:
    """Signs checkpoints. Safe for concurrent use, by several processes too."""

    def __init__(self, env: AuditStore, signer: Signer, *, clock: Clock = system_clock) -> None:
        self._env = env
        self._signer = signer
        self._clock = clock

    def signed_at(self) -> int:
        """Return when the newest was signed, microseconds since the epoch; 0 before the first."""
        newest = self._env.newest_checkpoint()
        return 0 if newest is None else newest.signed_at

    def sign(self) -> SignedNote:
        """Return a checkpoint of now: the newest, if nothing came after it. Raises as ``sign_with`` does."""
        return self.sign_with()[0]

    def sign_with(self) -> tuple[SignedNote, VerifierKey]:
        """Return the same, and the key of it.

        Raises ``NoSigningKeyError``, ``SigningKeyUnusableError``, ``LogForkedError``, ``AuditUnusableError``.
        """
        with self._signer.lent() as (key, path):
            last = last_path(path)
            self._check_kept(last)
            made: list[SignedNote] = []

            def make(head: AuditHead) -> Change:
                made[:] = [self._note(key, head)]
                return Change(head, checkpoint=made[0])

            newest, head = self._env.newest_checkpoint(), self._env.head()
            if newest is None or newest.size != head.size or not _is_of(newest, key):
                self._env.update(make)
                newest = made[0]
            try:
                if not last.exists() or last.read_text(encoding="utf-8") != newest.note:
                    write_private(last, newest.note)
            except OSError as error:
                raise AuditUnusableError(
                    f"{last} cannot be written: {error}", hint="look at the disk"
                ) from None
            return newest, audit_key(key.verifier)

    def _note(self, key: PrivateKey, head: AuditHead) -> SignedNote:
        verifier = audit_key(key.verifier)
        text = checkpoint_text(verifier.name, head.size, head.root)
        return SignedNote(head.size, self._clock(), signed_note(text, verifier, key.sign(text.encode())))

    def _check_kept(self, last: Path) -> None:
        """Refuse a log that does not have the checkpoint that was signed last."""
        with suppress(FileNotFoundError):
            note = last.read_text(encoding="utf-8")
            if note not in {one.note for one in self._env.checkpoints()}:
                raise LogForkedError(
                    "the audit log does not have the checkpoint that was signed last: it was rolled back",
                    hint=f"put the newest back from a backup. If the loss is final, move {last} away and keep"
                    " it, as the proof: what is signed from then on is another log",
                )


def last_path(key: Path) -> Path:
    """Return where the checkpoint lies that was signed last, from where the key does."""
    return key.with_name(key.name + ".audit")


def audit_key(key: VerifierKey) -> VerifierKey:
    """Return the key by which a checkpoint of the audit log is known: the same, under the log's own name."""
    return VerifierKey(key.name + ORIGIN_SUFFIX, key.public)


def _is_of(one: SignedNote, key: PrivateKey) -> bool:
    verifier = audit_key(key.verifier)
    line = one.note.rstrip("\n").rpartition("\n")[2]
    raw = b64encode(verifier.id).decode()[:_ID_CHARACTERS]
    return line.startswith(f"— {verifier.name} {raw}")
