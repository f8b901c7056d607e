"""Work in a child process of its own: its death is an answer, too."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

_POLL_SECONDS = 0.0005


class DiedError(Exception):
    """A child was killed or raised something; the message says what."""


def _fork(work: Callable[[], object], closing: list[int]) -> int:
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        for handle in closing:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        work()
        status = 0
    except BaseException:  # noqa: BLE001 - nothing of the parent may go on here
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _ended(child: int) -> int:
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def in_a_child(work: Callable[[], object], seconds: int = 60) -> Any:
    """Do work in a child, and return what it returned, by way of JSON. Raises ``DiedError``."""
    reader, writer = os.pipe()

    def told() -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        signal.alarm(seconds)
        with os.fdopen(writer, "w") as out:
            try:
                answer = {"returned": work()}
            except Exception as error:  # noqa: BLE001 - the parent shall know whatever it was
                where = traceback.extract_tb(error.__traceback__)[-1]
                answer = {"raised": f"{type(error).__name__}: {error}, in {where.name}, line {where.lineno}"}
            json.dump(answer, out)

    child = _fork(told, [reader])
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    code = _ended(child)
    if code:
        raise DiedError(f"died {signal.Signals(-code).name if code < 0 else code}")
    answer = json.loads(said)
    if "raised" in answer:
        raise DiedError(f"unnamed {answer['raised']}")
    return answer["returned"]


def killed(work: Callable[[], object], is_time: Callable[[], bool], seconds: float) -> bool:
    """Do work in a child and kill it some time after ``is_time`` says so; False if it had ended by then."""
    child = _fork(work, [])
    while not is_time():
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0
            return False
        time.sleep(_POLL_SECONDS)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    code = _ended(child)
    assert code in {0, -signal.SIGKILL}, code
    return code != 0
