"""SIGTERM and SIGINT ask the loop to save and stop; a second SIGINT stops at once."""

from __future__ import annotations

import signal
from typing import Any


class StopSignals:
    """In a `with`; `asked` turns true."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        def ask(number, frame):
            if self.asked and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.asked = True

        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, ask)
        except ValueError:  # not in the main thread: whoever runs us handles signals
            pass
        return self

    def __exit__(self, *exc) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
