"""How long each part of a run has taken."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator


@dataclasses.dataclass
class Clock:
    """Seconds spent in each part of the run, those before a resume included, up to the last `tick`."""

    seconds: dict[str, float]
    part: str = ""
    since: float = 0.0

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time of a block to a part."""
        self.part, self.since = part, time.monotonic()
        try:
            yield
        finally:
            self.tick()

    def tick(self) -> None:
        """Add the time since the last tick to the present part."""
        now = time.monotonic()
        self.seconds[self.part] = self.seconds.get(self.part, 0.0) + now - self.since
        self.since = now
