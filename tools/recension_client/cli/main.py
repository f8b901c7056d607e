"""The entry point of ``recension``: options, dispatch, and what each fault becomes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from recension.model.errors import InvalidArgumentError, RecensionError, UnreachableError
from recension_client.cli import (
    agreements,
    corpora,
    crediting,
    differences,
    exports,
    following,
    holds,
    locks,
    output,
    pages,
    proofs,
    retractions,
    shell,
    usage,
)
from recension_client.cli.arguments import Commands

_NAMED_ERROR = 3
_INTERRUPTED = 130
_PIPE_CLOSED = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    as_json = "--json" in argv
    _open_closed()
    try:
        options = _parser().parse_args(_utf8(argv))
        if options.quiet:
            output.be_quiet()
        code: int = options.run(options)
        sys.stdout.flush()
    except RecensionError as error:
        if isinstance(error, UnreachableError):
            error.hint = (
                "start it with: recension-server serve; name another with --server or RECENSION_SERVER"
            )
        _flush()
        output.complain(error, as_json=as_json)
        return _NAMED_ERROR
    except BrokenPipeError:
        _drop_stdout()
        return _PIPE_CLOSED
    except KeyboardInterrupt:
        _drop_stdout()  # a flush would wait for a reader that stopped reading, such as a pager
        return _INTERRUPTED
    except OSError as error:
        _drop_stdout()
        print(f"error: cannot write the output: {error.strerror or error}", file=sys.stderr)
        return _NAMED_ERROR
    return code


def _open_closed() -> None:
    """Give a command that was started without stdout or stderr one that leads nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until the end
            setattr(sys, name, nowhere)


def _utf8(argv: Sequence[str]) -> Sequence[str]:
    """Refuse what is no UTF-8: neither the wire nor the output could carry it."""
    for argument in argv:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InvalidArgumentError(
                f"not UTF-8: {argument!a}", hint="set the terminal and its locale to UTF-8"
            ) from None
    return argv


def _flush() -> None:
    """Write out what came before the fault; a second fault would hide the first."""
    try:
        sys.stdout.flush()
    except OSError:
        _drop_stdout()


def _drop_stdout() -> None:
    """Send what is left to nowhere, so that the interpreter's last flush says nothing."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _parser() -> argparse.ArgumentParser:
    commands = Commands()
    groups = (
        *(pages, corpora, differences, following, exports, crediting, proofs),
        *(locks, holds, agreements, retractions, usage, shell),
    )
    for group in groups:
        group.register(commands)
    return commands.parser


if __name__ == "__main__":
    sys.exit(main())
