"""Videos: decode frames, track faces, and answer once per person.

`decoding` reads files and live sources, `tracks` follows faces from frame to frame, `persons` combines the
faces of a track into one answer and joins tracks, `analysis` does all of these for one video, and `drawing`
writes the annotated video and the summary. Nothing here opens a connection to a service: whoever analyses a
video passes a function that answers images (`analysis.Observe`). Times are read here, from the numbers
that a container states.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_BACK: Final = 0.5  # seconds for which time stamps step back, or stand still, until time continues
_LEAST_STILL: Final = 3  # frames; a single time stamp may be repeated
_FORWARD: Final = 60.0  # the same for a step beyond what the container states
_DURATION = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")


@dataclass
class Clock:
    """Seconds since the first frame, from time stamps that may be missing, repeated, damaged or restarted.

    Recorders and cameras that restart begin again at 0. Time continues then by the usual step.

    origin : time stamp of 0 seconds. farthest : seconds up to which a gap is taken for one.
    restarts : how often time continued without its stamps.
    """

    step: float
    origin: float | None
    farthest: float
    last: float | None = None
    restarts: int = 0
    _still: int = 0  # frames since time stamps were later than all before

    def of(self, time: float | None) -> float:
        """Return the seconds of the next frame, from its time stamp or None."""
        following = 0.0 if self.last is None else self.last + self.step
        if time is None or not math.isfinite(time):
            self.last = following
            return following
        if self.origin is None:
            self.origin = time - following
        seconds = max(0.0, time - self.origin) if self.last is None else time - self.origin
        change = 0.0 if self.last is None else seconds - self.last
        self._still = self._still + 1 if self.last is not None and change < 1e-6 else 0
        too_late = change > _FORWARD and seconds > self.farthest + _FORWARD
        stands_still = self._still >= _LEAST_STILL and self._still * self.step > _BACK
        if too_late or change < -_BACK or stands_still:
            self.restarts += 1
            self.origin, self.last = time - following, following
        else:
            self.last = seconds if self.last is None else max(self.last, seconds)
        return self.last


def tagged_duration(metadata: Mapping[str, str]) -> float:
    """Return the seconds of the tag `DURATION`, such as 00:01:02.5 (or with a language); 0 without it."""
    for key, value in metadata.items():
        if key.startswith("DURATION") and (found := _DURATION.fullmatch(value)):
            hours, minutes, seconds = map(float, found.groups())
            return 3600 * hours + 60 * minutes + seconds
    return 0.0
