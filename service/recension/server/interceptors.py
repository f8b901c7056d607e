"""The outermost layer of every call: each exception becomes a status, each call one line in the log.

Exceptions are mapped here and nowhere else, those raised inside a generator or by its second message too.
The text of an exception without a name never reaches a client; its id does, and the log has both.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc
import structlog

from recension.model.errors import RecensionError, StoreError
from recension.server import logs
from recension.wire.status import call_status

Behaviour = Callable[[Any, grpc.ServicerContext], Any]


class Outermost(grpc.ServerInterceptor):
    """Wraps every handler of the server, health and reflection included."""

    def __init__(self) -> None:
        """Log to the process's log."""
        self._log = structlog.get_logger()

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
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(self._single(method, handler.unary_unary), **codec)
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(self._single(method, handler.stream_unary), **codec)
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(self._stream(method, handler.unary_stream), **codec)
        return grpc.stream_stream_rpc_method_handler(self._stream(method, handler.stream_stream), **codec)

    def _single(self, method: str, behaviour: Behaviour) -> Behaviour:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            entry = _Call(self._log, method, context)
            try:
                response = behaviour(request, context)
            except Exception as error:  # noqa: BLE001 - this is the one place that sees them all
                entry.refuse(error)
            entry.sent(response)
            entry.finish()
            return response

        return call

    def _stream(self, method: str, behaviour: Behaviour) -> Behaviour:
        def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            entry = _Call(self._log, method, context)
            try:
                for response in behaviour(request, context):
                    entry.sent(response)
                    yield response
            except Exception as error:  # noqa: BLE001 - see above
                entry.refuse(error)
            entry.finish()

        return call


class _Call:
    """One call, as its line in the log will tell it."""

    def __init__(self, log: Any, method: str, context: grpc.ServicerContext) -> None:
        self._log = log
        self._method = method
        self._context = context
        self._id = secrets.token_hex(8)
        self._started = time.monotonic()
        self._messages = 0
        self._bytes = 0
        # What is true when nobody says otherwise: the client left, or its deadline passed.
        self._code = grpc.StatusCode.CANCELLED.name
        self._reason = ""
        if not context.add_callback(self._write):
            self._write()

    def sent(self, response: Any) -> None:
        self._messages += 1
        self._bytes += response.ByteSize() if hasattr(response, "ByteSize") else 0

    def finish(self) -> None:
        code = self._context.code()  # type: ignore[attr-defined]
        self._code = code.name if isinstance(code, grpc.StatusCode) else "OK"

    def refuse(self, error: Exception) -> NoReturn:
        """End the call with the status of ``error``."""
        if isinstance(error, grpc.RpcError) and not self._context.is_active():
            raise error  # the request stream broke off because the client left
        public = self._public(error)
        status = call_status(public)
        self._code, self._reason = status.code.name, public.reason
        self._context.abort_with_status(status)  # type: ignore[arg-type]
        raise AssertionError  # abort raises; its stub does not say so

    def _public(self, error: Exception) -> RecensionError:
        """Return what the client may see of ``error``."""
        if isinstance(error, StoreError):
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

    def _write(self) -> None:
        self._log.info(
            logs.REQUEST,
            request_id=self._id,
            method=self._method,
            peer=self._context.peer(),
            code=self._code,
            reason=self._reason,
            duration_ms=round((time.monotonic() - self._started) * 1000, 3),
            messages=self._messages,
            bytes=self._bytes,
        )
