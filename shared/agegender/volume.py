"""The shared volume where it cannot be written: full, or mounted read-only."""

import errno
import os
from pathlib import Path

from agegender.errors import Problem

_LEAST_ROOM = 1024 * 1024  # bytes
_RETRY_AFTER = 30
_REASONS = {
    errno.ENOSPC: "The volume is full.",
    errno.EDQUOT: "The volume's quota is used up.",
    errno.EROFS: "The volume is read-only.",
}
_CURE = "Nothing stored before was lost; make room, or mount it writable, and do the same again."


def volume_problem(error: OSError) -> Problem | None:
    """``volume-not-writable`` 503 for a write that failed for the volume; None for another error."""
    reason = _REASONS.get(error.errno or 0)
    if reason is None:
        return None
    return Problem("volume-not-writable", 503, f"{reason} {_CURE}", retry_after=_RETRY_AFTER)


def why_not_writable(directory: Path) -> str | None:
    """What stands in the way of writing there, without writing; None where nothing does."""
    try:
        volume = os.statvfs(directory)
    except OSError as error:
        return f"{directory} cannot be looked at: {error.strerror}."
    if volume.f_flag & os.ST_RDONLY:
        return f"The volume of {directory} is read-only; work goes on by itself once it can be written."
    if volume.f_bavail * volume.f_frsize < _LEAST_ROOM:
        return f"The volume of {directory} is full; work goes on by itself once there is room."
    return None
