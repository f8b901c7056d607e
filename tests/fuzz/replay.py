"""Read inputs under a target's invariant: ``replay TARGET=FILE…``; prints 1 for each that is accepted, or 0.

Ends with a traceback at the first that is a finding. Needs no atheris: this is how what was found once is
looked at again, on every machine.
"""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Sequence
from pathlib import Path

from recension.archive.intake.child import limit_resources
from tests.fuzz.controls import CONTROLS
from tests.fuzz.targets import TARGETS

_SECONDS = 60


def main(arguments: Sequence[str]) -> None:
    """Read each input."""
    limit_resources()
    for argument in arguments:
        name, _, path = argument.partition("=")
        faulthandler.dump_traceback_later(_SECONDS, exit=True)
        try:
            print(int((TARGETS | CONTROLS)[name].accepts(Path(path).read_bytes())), flush=True)
        except BaseException:
            print(f"{argument} is a finding", file=sys.stderr)
            raise


if __name__ == "__main__":
    main(sys.argv[1:])
