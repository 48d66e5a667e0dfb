"""Where the time of a call went."""

from __future__ import annotations

import time
from typing import Any, Callable


class Stages(dict):
    """Seconds by the name of a stage."""

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        """Run `work` and add its time to stage `name`."""
        begin = time.perf_counter()
        try:
            return work()
        finally:
            self[name] = self.get(name, 0.0) + time.perf_counter() - begin
