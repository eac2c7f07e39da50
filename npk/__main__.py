"""`python -m npk` is the `npk` command; both begin here, where Ctrl-C is answered before anything is imported."""

import importlib
import os
import signal
from typing import Any, NoReturn

_INTERRUPTED = 130


def main() -> None:
    """Run the command; once its packages are there, `npk.cli` says what an interruption leaves."""
    if interruptible := signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    app = importlib.import_module("npk.cli").app
    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    app()


def _leave(number: int, frame: Any) -> NoReturn:
    # At once: packages that are being imported swallow the exception, or turn it into others.
    os.write(2, b"\nInterrupted before anything was begun.\n")
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
