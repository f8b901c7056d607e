"""The outermost layer of every call: each exception becomes a status, each call one line in the log.

Exceptions are mapped here and nowhere else, those raised inside a generator or by its second message too.
The text of an exception without a name never reaches a client; its id does, and the log has both.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from contextvars import Context, copy_context
from typing import Any, NoReturn

import grpc
import structlog
from google.protobuf.message import DecodeError

from recension.archive.clock import system_clock
from recension.model.audit import Call
from recension.model.errors import (
    DeadlineError,
    InvalidArgumentError,
    PepperUnusableError,
    RecensionError,
    StoreError,
    UnauthenticatedError,
)
from recension.model.reading import wanted
from recension.server import logs
from recension.server.audit.asked import asked_of
from recension.server.audit.writer import Audit
from recension.server.door import Admission, Caller, Door, act_for
from recension.server.gate import Gate, Watchdog, draining
from recension.server.limits.desk import Limits
from recension.server.metering import Meter, measure
from recension.wire.agreements import TRAILER as AGREEMENT_TRAILER
from recension.wire.status import call_status

Behaviour = Callable[..., Any]

_NON_BLOCKING = "experimental_non_blocking"
"""What grpc.health calls a stream handler that sends by a function and holds no thread."""
_OURS = "/recension.v1."
"""Methods of which the audit log has records; those of health and reflection tell nothing."""
_END = object()
_LOOK_SECONDS = 0.25
"""How long it takes a silent stream to notice that the server drains."""


class Outermost(grpc.ServerInterceptor):
    """Wraps every handler of the server, health and reflection included.

    Each handler is registered as one that takes a stream of bytes: gRPC waits for the request of any other in
    a thread of the pool, for as long as a client likes, and answers a malformed one without a reason.
    """

    def __init__(
        self,
        gate: Gate,
        watchdog: Watchdog,
        idle_seconds: float,
        door: Door,
        audit: Audit,
        limits: Limits,
    ) -> None:
        """``idle_seconds``: how long a client that may send more may be silent."""
        self._log = structlog.get_logger()
        self._door = door
        self._audit = audit
        self._limits = limits
        self._gate = gate
        self._watchdog = watchdog
        self._idle_seconds = idle_seconds
        self._watches: set[grpc.ServicerContext] = set()

    def end_watches(self) -> None:
        """End the streams that would go on for ever, so that a server can stop."""
        for context in list(self._watches):
            context.cancel()

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler, wrapped."""
        handler: Any = continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        if not handler.response_streaming:
            return grpc.stream_unary_rpc_method_handler(self._single(method, handler))
        wrap = self._stream
        if hasattr(handler.unary_stream, _NON_BLOCKING):
            wrap = self._follow if method.startswith(_OURS) else self._watch
        return grpc.stream_stream_rpc_method_handler(wrap(method, handler))

    def _single(self, method: str, handler: Any) -> Behaviour:
        def call(raw: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            entry = _Call(self._log, method, context, self._watchdog, self._audit)
            try:
                admitted = entry.admit(self._door, lasts=handler.request_streaming)
                with self._limits.admitting(admitted.caller, entry.meter, streaming=False):
                    own = _context_of(admitted, entry.meter)
                    own.run(wanted.set, context.is_active)
                    answer = own.run(self._answer, entry, admitted, handler, raw, context)
                    response = _encoded(answer, handler)
                    entry.sent(response)
            except Exception as error:  # noqa: BLE001 - this is the one place that sees them all
                entry.refuse(error)
            entry.finish()
            return response

        return call

    def _stream(self, method: str, handler: Any) -> Behaviour:
        def call(raw: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[Any]:
            entry = _Call(self._log, method, context, self._watchdog, self._audit)
            try:
                admitted = entry.admit(self._door)
                with self._limits.admitting(admitted.caller, entry.meter, streaming=True):
                    own = _context_of(admitted, entry.meter)
                    answers = own.run(self._answer, entry, admitted, handler, raw, context)
                    for response in _within(own, answers):
                        entry.check(admitted)
                        encoded = _encoded(response, handler)
                        # Counted first: a client may leave with it before we are told that it has it.
                        entry.sent(encoded)
                        with entry.patience.waiting():
                            yield encoded
            except Exception as error:  # noqa: BLE001 - see above
                entry.refuse(error)
            entry.finish()

        return call

    def _watch(self, method: str, handler: Any) -> Behaviour:
        """Wrap a handler that holds no thread while its stream is open: it is given a function that sends."""

        def call(
            raw: Iterator[bytes], context: grpc.ServicerContext, send: Callable[[bytes | None], None]
        ) -> None:
            entry = _Call(self._log, method, context, self._watchdog, self._audit)

            def send_counted(response: Any) -> None:
                encoded = None if response is None else _encoded(response, handler)
                send(encoded)
                if encoded is not None:
                    entry.sent(encoded)

            self._watches.add(context)
            context.add_callback(lambda: self._watches.discard(context))
            try:
                entry.admit(self._door)
                handler.unary_stream(_only(entry, raw, handler), context, send_counted)
            except Exception as error:  # noqa: BLE001 - see above
                entry.refuse(error)

        setattr(call, _NON_BLOCKING, True)
        return call

    def _follow(self, method: str, handler: Any) -> Behaviour:
        """Wrap a handler of ours that holds no thread: it is given an outlet, and sends when it likes."""

        def call(
            raw: Iterator[bytes], context: grpc.ServicerContext, send: Callable[[bytes | None], None]
        ) -> None:
            entry = _Call(self._log, method, context, self._watchdog, self._audit)
            held = ExitStack()
            try:
                admitted = entry.admit(self._door)
                held.enter_context(self._limits.admitting(admitted.caller, entry.meter, streaming=True))
                own = _context_of(admitted, entry.meter)
                outlet = _CallOutlet(entry, admitted, own, context, send)
                own.run(handler.unary_stream, _only(entry, raw, handler), context, outlet)
                # From here on another thread may end the call; what it holds is given back then.
                if not context.add_callback(held.close):
                    held.close()
            except Exception as error:  # noqa: BLE001 - see above
                held.close()
                entry.refuse(error)

        setattr(call, _NON_BLOCKING, True)
        return call

    def _answer(
        self, entry: _Call, admitted: Admission, handler: Any, raw: Iterator[bytes], context: Any
    ) -> Any:
        if not handler.request_streaming:
            behaviour = handler.unary_stream or handler.unary_unary
            return behaviour(_only(entry, raw, handler), context)
        behaviour = handler.stream_stream or handler.stream_unary
        return behaviour(self._requests(raw, admitted, handler), context)

    def _requests(self, raw: Iterator[bytes], admitted: Admission, handler: Any) -> Iterator[Any]:
        """Yield what a client sends, as long as it is not silent for too long.

        gRPC's iterator can't be woken, so another thread waits in it: until the call is over, at the latest.
        """
        with closing(_Puller(raw)) as puller:
            while True:
                since = time.monotonic()
                while not puller.ready(_LOOK_SECONDS):
                    if self._gate.draining:
                        raise draining()
                    if time.monotonic() - since > self._idle_seconds:
                        raise DeadlineError(
                            f"nothing was sent for {self._idle_seconds:g} s",
                            hint="send on over a new stream; what was answered is done",
                            idleSeconds=f"{self._idle_seconds:g}",
                        )
                    admitted.check()
                message = puller.take()
                if message is None:
                    return
                admitted.check()
                yield _parsed(message, handler)


class _CallOutlet:
    """Sends the messages of a call from any thread, one at a time: the ``Outlet`` of a handler of ours."""

    def __init__(
        self,
        entry: _Call,
        admitted: Admission,
        own: Context,
        context: grpc.ServicerContext,
        send: Callable[[bytes | None], None],
    ) -> None:
        self._entry = entry
        self._admitted = admitted
        self._own = own
        self._context = context
        self._send = send

    def check(self) -> None:
        """Look whether the call may go on. Raises as ``Admission.check`` does, ``AuditUnusableError``."""
        self._entry.check(self._admitted)

    def take(self, articles: int, text_bytes: int) -> None:
        """Take what is about to leave from the caller's quota. Raises ``QuotaExhaustedError``."""
        self._entry.meter.take(articles, text_bytes)

    def send(self, message: bytes) -> None:
        """Send a message; returns when gRPC took it, or when the client is gone."""
        self._entry.sent(message)
        with self._entry.patience.waiting():
            self._send(message)

    def end(self, error: Exception | None = None) -> None:
        """End the call, with the status of an error if there is one."""
        if error is None:
            self._entry.finish()
        else:
            self._entry.tell(error)
        self._send(None)

    def when_over(self, then: Callable[[], None]) -> None:
        """Have something done when the call is over; at once if it is."""
        if not self._context.add_callback(then):
            then()


class _Puller:
    """Waits for the next item of an iterator in a thread of its own."""

    def __init__(self, items: Iterator[bytes]) -> None:
        self._items = items
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="requests")
        self._next: Future[bytes | None] | None = None

    def ready(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for the next item; say whether it is there."""
        if self._next is None:
            self._next = self._pool.submit(next, self._items, None)
        return bool(wait([self._next], seconds).done)

    def take(self) -> bytes | None:
        """Return the item that is there; ``None`` at the end."""
        assert self._next is not None  # noqa: S101 - asked after ``ready``
        item, self._next = self._next.result(), None
        return item

    def close(self) -> None:
        """Leave the thread to its end."""
        self._pool.shutdown(wait=False)


def _context_of(admitted: Admission, meter: Meter) -> Context:
    """Return the context that a call is answered in: who calls, and what counts what they get."""
    own = copy_context()
    own.run(act_for, admitted.caller)
    own.run(measure, meter)
    return own


def _within(own: Context, items: Iterator[Any]) -> Iterator[Any]:
    """Yield the items of an iterator all of whose steps are taken in one context."""
    items = iter(items)
    try:
        while (item := own.run(next, items, _END)) is not _END:
            yield item
    finally:
        if isinstance(items, Generator):
            own.run(items.close)


def _only(entry: _Call, raw: Iterator[bytes], handler: Any) -> Any:
    """Return the one request of a call."""
    with entry.patience.waiting():
        message = next(raw, None)
    if message is None:
        raise InvalidArgumentError("the call has no request", hint="send exactly one message")
    request = _parsed(message, handler)
    entry.ask(request)
    return request


def _parsed(message: bytes, handler: Any) -> Any:
    try:
        return handler.request_deserializer(message)
    except DecodeError:
        raise InvalidArgumentError(
            "the request is not a message of this method",
            hint="make clients from this server's protos; reflection has them",
        ) from None


def _encoded(response: Any, handler: Any) -> bytes:
    """Return the bytes of a response, which are counted here; some handlers make them themselves."""
    return response if isinstance(response, bytes) else bytes(handler.response_serializer(response))


class _Call:
    """One call, as its line in the log and its record in the audit log will tell it."""

    def __init__(
        self, log: Any, method: str, context: grpc.ServicerContext, watchdog: Watchdog, audit: Audit
    ) -> None:
        self.patience = watchdog.watch(self._stall)
        self.meter = Meter()
        self._watchdog = watchdog
        self._log = log
        self._method = method
        self._context = context
        self._id = secrets.token_hex(8)
        self._started = time.monotonic()
        self._audit = audit
        self._audited: list[tuple[Caller, bool]] = []
        """Whose record is due, and whether it has a place; taken out by whoever hands it over."""
        self._asked: dict[str, str] = {}
        self._is_over = False
        self._who: dict[str, str] = {}
        self._messages = 0
        self._bytes = 0
        # What is true when nobody says otherwise: the client left, or its deadline passed.
        self._code = grpc.StatusCode.CANCELLED.name
        self._reason = ""
        if not context.add_callback(self._write):
            self._write()

    def admit(self, door: Door, *, lasts: bool = True) -> Admission:
        """Let the call in; its line in the log says whose it is. ``lasts``: as ``Door.admit``.

        Raises as ``Door.admit`` does, ``AuditUnusableError``, ``OverloadedError``.
        """
        try:
            # What TLS tells of a peer is of no use without a certificate, and takes some time to ask for.
            certificate: Any = self._context.auth_context() if door.asks_certificates else {}
            return door.admit(
                self._method, self._context.invocation_metadata(), certificate, self._know, lasts=lasts
            )
        except UnauthenticatedError:
            self._audit.stranger()
            raise

    def _know(self, who: Caller) -> None:
        """Take note of who calls, before it is known whether they may."""
        if who.owner:
            self._who = {"caller": who.owner} | ({"key": who.key_id.hex()} if who.key_id else {})
        if who.owner and self._method.startswith(_OURS):
            self._audited.append((who, self._audit.admit(who.role)))
            if self._is_over:
                self._record()

    def check(self, admitted: Admission) -> None:
        """Look whether the call may go on. Raises as ``Admission.check`` does, ``AuditUnusableError``."""
        admitted.check()
        if self._audited:
            self._audit.check(admitted.caller.role)

    def ask(self, request: Any) -> None:
        """Take note of what is asked."""
        if self._audited:
            self._asked = asked_of(request)

    def sent(self, response: bytes) -> None:
        """Count a message that is handed to gRPC."""
        self._messages += 1
        self._bytes += len(response)
        self.meter.delivered()

    def finish(self) -> None:
        code = self._context.code()  # type: ignore[attr-defined]
        self._code = code.name if isinstance(code, grpc.StatusCode) else "OK"
        agreement = self.meter.notes.get("agreement")
        if agreement:
            self._context.set_trailing_metadata(((AGREEMENT_TRAILER, agreement),))

    def refuse(self, error: Exception) -> NoReturn:
        """End the call with the status of ``error``."""
        if isinstance(error, grpc.RpcError) and not self._context.is_active():
            raise error  # the request stream broke off because the client left
        public = self._public(error)
        status = call_status(public)
        self._code, self._reason = status.code.name, public.reason
        self._context.abort_with_status(status)  # type: ignore[arg-type]
        raise AssertionError  # abort raises; its stub does not say so

    def tell(self, error: Exception) -> None:
        """Let the call end with the status of ``error``, when it is ended."""
        public = self._public(error)
        status = call_status(public)
        self._code, self._reason = status.code.name, public.reason
        self._context.set_code(status.code)
        self._context.set_details(status.details)
        self._context.set_trailing_metadata(status.trailing_metadata)

    def _public(self, error: Exception) -> RecensionError:
        """Return what the client may see of ``error``."""
        if isinstance(error, (StoreError, PepperUnusableError)):
            # Its message names directories; its kind says enough to a client.
            self._log.error(
                logs.REQUEST_FAILED, request_id=self._id, reason=error.reason, message=error.message
            )
            kind = type(error)
            about = (kind.__doc__ or "The data directory cannot be used.").splitlines()[0]
            return kind(about, hint="the operator finds more in the server's log", requestId=self._id)
        if isinstance(error, RecensionError):
            return error
        self._log.error(logs.REQUEST_FAILED, request_id=self._id, method=self._method, exc_info=error)
        return RecensionError(
            f"internal error {self._id}",
            hint="report this id to the operator; the server's log has the cause",
            requestId=self._id,
        )

    def _stall(self) -> None:
        # A client that does not read is beyond a status: it finds CANCELLED behind what it has not read.
        self._reason = logs.STALLED
        self._context.cancel()

    def _record(self) -> None:
        """Hand the call's record to the audit log, once."""
        try:
            who, has_place = self._audited.pop()
        except IndexError:
            return
        notes, asked = self.meter.notes, self._asked
        call = Call(
            ended_at=system_clock(),
            request=self._id,
            caller=who.owner,
            role=who.role.value,
            key=who.key_id.hex(),
            method=self._method.removeprefix(_OURS),
            outcome=self._code,
            duration_us=int((time.monotonic() - self._started) * 1_000_000),
            agreement=notes.get("agreement", ""),
            project=asked.get("project", ""),
            snapshot=notes.get("snapshot") or asked.get("snapshot", ""),
            pin=asked.get("pin", ""),
            articles=self.meter.articles,
            text_bytes=self.meter.text_bytes,
            messages=self._messages,
            bytes=self._bytes,
            reason=self._reason,
            true_reason=notes.get("reason", ""),
        )
        self._audit.append(call, has_place=has_place)

    def _write(self) -> None:
        self._watchdog.forget(self.patience)
        self._is_over = True
        self._record()
        self._log.info(
            logs.REQUEST,
            request_id=self._id,
            **self._who,
            method=self._method,
            peer=self._context.peer(),
            code=self._code,
            reason=self._reason,
            duration_ms=round((time.monotonic() - self._started) * 1000, 3),
            messages=self._messages,
            bytes=self._bytes,
        )
