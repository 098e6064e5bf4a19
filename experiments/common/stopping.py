"""Ctrl-C and SIGTERM as a request to stop."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Stopped(Exception):
    """A training ended early because the user asked to stop."""


class StopRequest:
    """Whether the user asked the run to stop; see `stop_on_signal`."""

    def __init__(self) -> None:
        self.requested = False


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turns the first Ctrl-C or SIGTERM into a request to stop at the next chunk.

    The second one raises KeyboardInterrupt at once. The previous handlers are back
    when the block ends. Outside the main thread, where Python takes no handlers, the
    request never comes.

    Example::

        with stop_on_signal() as stop:
            while step < num_steps and not stop.requested:
                ...

    Yields:
      The request, to be looked at between chunks.
    """
    stop = StopRequest()

    def handle(signal_number: int, frame: Any) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True
        # print is not safe here: the signal may have interrupted another print.
        os.write(2, b"\nStopping after this chunk; once more to stop at once.\n")

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {
        number: signal.signal(number, handle)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
