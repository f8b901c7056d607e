"""Every foreseeable fault, named once; the wire and the command line only translate.

``reason`` is stable: it is ``ErrorInfo.reason`` on the wire (AIP-193) and the ``reason`` of ``--json``
output, so it may be added to but never renamed. ``hint`` says what the reader of the message can do.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar


class Fault(Enum):
    """Who must act, in the terms of the gRPC status codes (the value is the canonical code's name)."""

    INVALID = "INVALID_ARGUMENT"
    ABSENT = "NOT_FOUND"
    EXISTS = "ALREADY_EXISTS"
    PRECONDITION = "FAILED_PRECONDITION"
    RANGE = "OUT_OF_RANGE"
    STRANGER = "UNAUTHENTICATED"
    FORBIDDEN = "PERMISSION_DENIED"
    BUSY = "UNAVAILABLE"
    EXHAUSTED = "RESOURCE_EXHAUSTED"
    DAMAGED = "DATA_LOSS"
    LATE = "DEADLINE_EXCEEDED"
    INTERNAL = "INTERNAL"


class RecensionError(Exception):
    """Base of every named error: a reason, the variables of the message, and a hint."""

    fault: ClassVar[Fault] = Fault.INTERNAL
    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, hint: str = "", **metadata: object) -> None:
        """``metadata`` carries each variable of ``message`` under a lowerCamelCase key (AIP-193)."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.metadata = {key: str(value) for key, value in metadata.items()}

    def __reduce__(self) -> tuple[object, ...]:
        """Survive a process boundary: workers hand their errors to the supervisor."""
        return (_rebuild, (type(self), self.message, self.hint, self.metadata))


def _rebuild(
    cls: type[RecensionError], message: str, hint: str, metadata: dict[str, object]
) -> RecensionError:
    return cls(message, hint=hint, **metadata)


# --- what the caller asked for does not exist ---------------------------------------------------


class ProjectNotFoundError(RecensionError):
    """No project of that name."""

    fault = Fault.ABSENT
    reason = "PROJECT_NOT_FOUND"


class PageNotFoundError(RecensionError):
    """No page with that id or title at that as-of."""

    fault = Fault.ABSENT
    reason = "PAGE_NOT_FOUND"


class RevisionNotFoundError(RecensionError):
    """No revision with that id in the project at that known-at."""

    fault = Fault.ABSENT
    reason = "REVISION_NOT_FOUND"


class ContributorNotFoundError(RecensionError):
    """No revision of the project names that contributor."""

    fault = Fault.ABSENT
    reason = "CONTRIBUTOR_NOT_FOUND"


class CaseNotFoundError(RecensionError):
    """No retraction of that case, or none that can be taken back."""

    fault = Fault.ABSENT
    reason = "CASE_NOT_FOUND"


class SnapshotNotFoundError(RecensionError):
    """No snapshot with that id on this server."""

    fault = Fault.ABSENT
    reason = "SNAPSHOT_NOT_FOUND"


class ApiKeyNotFoundError(RecensionError):
    """No API key with that id."""

    fault = Fault.ABSENT
    reason = "API_KEY_NOT_FOUND"


class LicenseeNotFoundError(RecensionError):
    """No licensee of that name."""

    fault = Fault.ABSENT
    reason = "LICENSEE_NOT_FOUND"


class AgreementNotFoundError(RecensionError):
    """The licensee has no such agreement, or none at all."""

    fault = Fault.ABSENT
    reason = "AGREEMENT_NOT_FOUND"


class PinNotFoundError(RecensionError):
    """The caller has no pin of that name."""

    fault = Fault.ABSENT
    reason = "PIN_NOT_FOUND"


class TextUnavailableError(RecensionError):
    """The text of a slot is hidden, lost upstream, or the revision has no such slot."""

    fault = Fault.ABSENT
    reason = "TEXT_UNAVAILABLE"


# --- who the caller is --------------------------------------------------------------------------


class UnauthenticatedError(RecensionError):
    """The call shows no key that is good now: none, an unknown, an expired or a revoked one alike."""

    fault = Fault.STRANGER
    reason = "UNAUTHENTICATED"


class PermissionDeniedError(RecensionError):
    """The role of the caller's key does not include this method."""

    fault = Fault.FORBIDDEN
    reason = "PERMISSION_DENIED"


class ApiKeysExhaustedError(RecensionError):
    """The owner has as many live API keys as one may have."""

    fault = Fault.PRECONDITION
    reason = "API_KEYS_EXHAUSTED"


class NoAgreementError(RecensionError):
    """No agreement of the caller is in force: not yet, not any more, or there never was one."""

    fault = Fault.FORBIDDEN
    reason = "NO_AGREEMENT"


class AgreementChangedError(RecensionError):
    """Another version of the caller's agreement is in force than when the stream began."""

    fault = Fault.BUSY
    reason = "AGREEMENT_CHANGED"


class OutsideAgreementError(RecensionError):
    """A selector takes more than the caller's agreement grants; the message says what it grants."""

    fault = Fault.FORBIDDEN
    reason = "OUTSIDE_AGREEMENT"


class CertificateUnusableError(RecensionError):
    """The certificate or its key cannot be read, do not belong together, or are open to others."""

    fault = Fault.PRECONDITION
    reason = "CERTIFICATE_UNUSABLE"


class TokenKeysUnusableError(RecensionError):
    """The file of the keys that tokens are checked with cannot be read, or is no such file."""

    fault = Fault.PRECONDITION
    reason = "TOKEN_KEYS_UNUSABLE"


class PepperUnusableError(RecensionError):
    """The secret under which API keys are kept is missing, damaged, or open to others."""

    fault = Fault.PRECONDITION
    reason = "PEPPER_UNUSABLE"


# --- what the caller sent is not valid ----------------------------------------------------------


class InvalidArgumentError(RecensionError):
    """A request field is malformed; ``field`` in the metadata names it."""

    fault = Fault.INVALID
    reason = "INVALID_ARGUMENT"


class InvalidTimeError(InvalidArgumentError):
    """A time is neither an RFC 3339 date nor an RFC 3339 date-time, or is outside years 1 to 9999."""

    reason = "INVALID_TIME"


class InvalidCursorError(InvalidArgumentError):
    """A cursor or page token is damaged or belongs to another request."""

    reason = "INVALID_CURSOR"


class StaleCursorError(InvalidCursorError):
    """A cursor or page token was made under another version of the caller's agreement."""

    reason = "STALE_CURSOR"


class InvalidEventError(InvalidArgumentError):
    """An event breaks a rule of the model."""

    reason = "INVALID_EVENT"


class InvalidAgreementError(InvalidArgumentError):
    """An agreement breaks a rule; ``field`` in the metadata is the place in the document."""

    reason = "INVALID_AGREEMENT"


class AsOfOutOfRangeError(RecensionError):
    """The as-of lies before the first or after the last thing that is known."""

    fault = Fault.RANGE
    reason = "AS_OF_OUT_OF_RANGE"


class ProjectExistsError(RecensionError):
    """A project of that name exists with another definition."""

    fault = Fault.EXISTS
    reason = "PROJECT_EXISTS"


class LicenseeExistsError(RecensionError):
    """A licensee of that name says other things of itself, or another one has its certificate or token."""

    fault = Fault.EXISTS
    reason = "LICENSEE_EXISTS"


class LicenseeEndedError(RecensionError):
    """The licensee was ended: it is served nothing, and makes no agreements."""

    fault = Fault.PRECONDITION
    reason = "LICENSEE_ENDED"


class AgreementEndedError(RecensionError):
    """No agreement of the licensee reaches beyond that time, so there is nothing to end."""

    fault = Fault.PRECONDITION
    reason = "AGREEMENT_ENDED"


class PinExistsError(RecensionError):
    """A live pin of that name has other content."""

    fault = Fault.EXISTS
    reason = "PIN_EXISTS"


class PinExpiredError(RecensionError):
    """The time until which the pin held its snapshot is over."""

    fault = Fault.PRECONDITION
    reason = "PIN_EXPIRED"


class SnapshotReleasedError(RecensionError):
    """No pin held the snapshot and its tree was removed; its manifest is kept, and it can be made again."""

    fault = Fault.PRECONDITION
    reason = "SNAPSHOT_RELEASED"


class RootMismatchError(RecensionError):
    """A followed scope has another root at that position than its follower: something was missed."""

    fault = Fault.PRECONDITION
    reason = "ROOT_MISMATCH"


class CheckpointOutOfRangeError(RecensionError):
    """A size that the checkpoint log does not have, or one that does not reach what is to be proved."""

    fault = Fault.RANGE
    reason = "CHECKPOINT_OUT_OF_RANGE"


class NoSigningKeyError(RecensionError):
    """The server signs nothing: it was never given a key."""

    fault = Fault.PRECONDITION
    reason = "NO_SIGNING_KEY"


class SigningKeyExistsError(RecensionError):
    """There is a signing key already."""

    fault = Fault.EXISTS
    reason = "SIGNING_KEY_EXISTS"


class SigningKeyUnusableError(RecensionError):
    """The signing key's file is missing, readable by others, damaged, or of another key than the log's."""

    fault = Fault.PRECONDITION
    reason = "SIGNING_KEY_UNUSABLE"


class LogForkedError(RecensionError):
    """The store does not contain what was signed before, so nothing more is signed."""

    fault = Fault.PRECONDITION
    reason = "LOG_FORKED"


class RetractedError(RecensionError):
    """What comes was withdrawn from that revision, and is not taken again."""

    fault = Fault.PRECONDITION
    reason = "RETRACTED"


class ErasureUnprovenError(RecensionError):
    """Something of what was to be erased is still there, so nothing is signed."""

    fault = Fault.PRECONDITION
    reason = "ERASURE_UNPROVEN"


class RevisionConflictError(RecensionError):
    """A revision id arrived again with another text, page or time; revisions are immutable."""

    fault = Fault.PRECONDITION
    reason = "REVISION_CONFLICT"


# --- the input of an ingest cannot be read ------------------------------------------------------


class SourceError(RecensionError):
    """An input file as a whole cannot be read; single records go to the quarantine instead."""

    fault = Fault.INVALID
    reason = "SOURCE_UNREADABLE"


class TooManyRejectedError(RecensionError):
    """More records of a run were rejected than its operator allows; what was stored before stays."""

    fault = Fault.PRECONDITION
    reason = "TOO_MANY_REJECTED"


class SourceTruncatedError(SourceError):
    """The input ends in the middle of a record or an archive member."""

    reason = "SOURCE_TRUNCATED"


class SourceCorruptError(SourceError):
    """The archive or the markup is damaged."""

    reason = "SOURCE_CORRUPT"


class SourceFormatError(SourceError):
    """The input is not of the expected format: wrong root element, DOCTYPE, unknown container."""

    reason = "SOURCE_FORMAT"


class SourceLimitError(SourceError):
    """The input asks for more memory, time or nesting than the limits allow."""

    reason = "SOURCE_LIMIT"


class SourceDigestError(SourceError):
    """A file is not the one that the listing of its set names."""

    reason = "SOURCE_DIGEST"


class SourceIncompleteError(SourceError):
    """A set of files is not whole, or what was read of it is not all that it holds."""

    reason = "SOURCE_INCOMPLETE"


class UpstreamUnreachableError(SourceError):
    """Upstream cannot be reached, breaks off, or is busy (``retryAfter``: for how many seconds)."""

    fault = Fault.BUSY
    reason = "UPSTREAM_UNREACHABLE"


class UpstreamRefusedError(SourceError):
    """Upstream answers, and will not give what was asked for: asking again changes nothing."""

    fault = Fault.PRECONDITION
    reason = "UPSTREAM_REFUSED"


# --- the store ----------------------------------------------------------------------------------


class StoreError(RecensionError):
    """The data directory cannot be used."""

    fault = Fault.PRECONDITION
    reason = "STORE_UNUSABLE"


class NotAStoreError(StoreError):
    """The directory exists and is not a recension data directory."""

    reason = "NOT_A_STORE"


class StoreVersionError(StoreError):
    """The store was written by a newer version."""

    reason = "STORE_VERSION"


class StoreMountError(StoreError):
    """The data directory lies on a mount that LMDB cannot be trusted on."""

    reason = "STORE_MOUNT"


class WriterBusyError(StoreError):
    """Another process is ingesting into this data directory."""

    fault = Fault.BUSY
    reason = "WRITER_BUSY"


class FollowerBusyError(StoreError):
    """Another process follows the same stream into this data directory."""

    fault = Fault.BUSY
    reason = "FOLLOWER_BUSY"


class StoreForkedError(StoreError):
    """The store object was carried over a fork, which LMDB forbids."""

    reason = "STORE_FORKED"


class StoreFullError(StoreError):
    """The disk or the map is full; nothing of the batch was stored."""

    fault = Fault.EXHAUSTED
    reason = "STORE_FULL"


class StoreFailedError(StoreError):
    """A write failed in a way that leaves its outcome unknown; restart and read the head."""

    fault = Fault.BUSY
    reason = "STORE_FAILED"


class AuditUnusableError(StoreError):
    """The audit log cannot be written, so nothing is delivered to licensees."""

    fault = Fault.BUSY
    reason = "AUDIT_UNUSABLE"


class AuditDamagedError(StoreError):
    """The audit log is not what was recorded; the message says how."""

    fault = Fault.DAMAGED
    reason = "AUDIT_DAMAGED"


class CountersDamagedError(StoreError):
    """What was counted of rates or quotas does not match its digest, so nobody can be told what is left."""

    fault = Fault.DAMAGED
    reason = "COUNTERS_DAMAGED"


class ClockUnusableError(StoreError):
    """What the server wrote down of the time cannot be read, so nothing under embargo is served."""

    reason = "CLOCK_UNUSABLE"


class DataLossError(RecensionError):
    """Stored bytes do not match their digest; they are not served."""

    fault = Fault.DAMAGED
    reason = "DATA_LOSS"


# --- the service --------------------------------------------------------------------------------


class OverloadedError(RecensionError):
    """A limit on concurrent streams is reached; retry after the delay in the metadata."""

    fault = Fault.EXHAUSTED
    reason = "OVERLOADED"


class RateLimitedError(OverloadedError):
    """The caller asks more often than its agreement allows; retry after the delay in the metadata."""

    reason = "RATE_LIMITED"


class StreamsExhaustedError(OverloadedError):
    """The caller has as many streams open as its agreement allows; retry when one has ended."""

    reason = "STREAMS_EXHAUSTED"


class QuotaExhaustedError(OverloadedError):
    """What the caller's agreement allows for this day or month is used up; retry after it renews."""

    reason = "QUOTA_EXHAUSTED"


class DrainingError(RecensionError):
    """The server is shutting down; retry on a new connection."""

    fault = Fault.BUSY
    reason = "DRAINING"


class UnreachableError(RecensionError):
    """The client could not reach the server."""

    fault = Fault.BUSY
    reason = "UNREACHABLE"


class DeadlineError(RecensionError):
    """The call did not finish within its deadline."""

    fault = Fault.LATE
    reason = "DEADLINE"


class VerificationError(RecensionError):
    """What the server sent does not match the identity that was asked for."""

    fault = Fault.DAMAGED
    reason = "VERIFICATION_FAILED"


# --- the licensee's files -----------------------------------------------------------------------


class FollowStateError(RecensionError):
    """The file in which ``recension follow`` remembers how far it is cannot be used."""

    fault = Fault.PRECONDITION
    reason = "FOLLOW_STATE_UNUSABLE"


class ExportError(RecensionError):
    """A folder of fetched files cannot be used: it is in use, not ours, or may not be written."""

    fault = Fault.PRECONDITION
    reason = "EXPORT_UNUSABLE"


class ExportFormatError(ExportError):
    """The files are of a format that this version does not know, or their list is damaged."""

    reason = "EXPORT_FORMAT"


class ExportDiffersError(ExportError):
    """What was fetched is the snapshot, but not the very files that the lock names."""

    reason = "EXPORT_DIFFERS"


class LockError(RecensionError):
    """A lock file is missing, damaged or was edited."""

    fault = Fault.INVALID
    reason = "LOCK_INVALID"


class LockVersionError(LockError):
    """A lock file was written by a newer version."""

    reason = "LOCK_VERSION"


class DiskFullError(RecensionError):
    """The licensee's disk has no room; what was fetched stays, and the next fetch goes on from there."""

    fault = Fault.EXHAUSTED
    reason = "DISK_FULL"


class LoaderForkedError(RecensionError):
    """A process that was forked reads with what belongs to its parent."""

    fault = Fault.PRECONDITION
    reason = "LOADER_FORKED"


class ForeignStateError(RecensionError):
    """A state of the training order belongs to another corpus."""

    fault = Fault.PRECONDITION
    reason = "FOREIGN_STATE"


class ExtraMissingError(RecensionError):
    """An optional part of the package is not installed."""

    fault = Fault.PRECONDITION
    reason = "EXTRA_MISSING"


def _all(cls: type[RecensionError]) -> list[type[RecensionError]]:
    return [cls, *(sub for child in cls.__subclasses__() for sub in _all(child))]


BY_REASON: dict[str, type[RecensionError]] = {cls.reason: cls for cls in _all(RecensionError)}
"""Each error class by its reason, so that a client raises the class that the server meant."""
