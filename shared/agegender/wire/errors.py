"""What the readers of the original's wire formats raise, whatever the message does."""

from agegender.errors import Problem


class WireError(Problem):
    """A message is not of the original's format, or holds more than plain values and arrays of numbers."""

    def __init__(self, detail: str) -> None:
        super().__init__("unreadable-message", 400, detail)
