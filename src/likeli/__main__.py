"""`python -m likeli`, and the command `likeli`: a signal that comes before anything is imported ends it in one line too."""

import os
import signal
import sys
from types import FrameType


def leave_at_once(number: int, frame: FrameType | None) -> None:
    """Nothing has begun, so there is nothing to save."""
    os.write(2, f"likeli: stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


def command_line() -> int:
    """Run the command line; returns its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, leave_at_once)
    from likeli.cli import main

    return main()


if __name__ == "__main__":
    sys.exit(command_line())
