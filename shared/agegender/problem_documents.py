"""The problem document of another service's response."""

import httpx

from agegender.errors import Problem
from agegender.retry_after import retry_after_seconds


def problem_in(response: httpx.Response) -> Problem | None:
    """What a response that is no success tells (RFC 9457), with its `Retry-After`; None without one."""
    try:
        document = response.json()
    except ValueError:
        return None
    if not isinstance(document, dict) or "type" not in document:
        return None
    retry_after = retry_after_seconds(response.headers.get("retry-after"))
    return Problem.from_document({**document, "status": response.status_code}, retry_after=retry_after)
