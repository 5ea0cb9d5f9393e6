"""API keys: what a caller may do, and how a key is verified without being stored."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

_NAME = re.compile(r"[A-Za-z0-9._-]{1,40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Scope(StrEnum):
    """A permission of a key; `admin` permits everything."""

    PREDICT = "predict"
    TRAIN = "train"
    ADMIN = "admin"


@dataclass(frozen=True)
class ApiKey:
    """A key as the services store it: its hash. A random key of 256 bits needs no salt and no slow hash.

    Examples
    --------
    >>> key, secret = ApiKey.new("camera", [Scope.PREDICT])
    >>> ApiKey.parse(str(key)) == key and key.opens(secret)
    True
    """

    name: str
    scopes: frozenset[Scope]
    sha256: str

    @classmethod
    def new(cls, name: str, scopes: Iterable[Scope]) -> tuple["ApiKey", str]:
        """Return a new key and its secret, which cannot be recovered later."""
        secret = "agk_" + secrets.token_urlsafe(32)
        return cls.of(secret, name, scopes), secret

    @classmethod
    def of(cls, secret: str, name: str, scopes: Iterable[Scope]) -> "ApiKey":
        return cls(name, frozenset(scopes), _sha256(secret))

    @classmethod
    def parse(cls, entry: str) -> "ApiKey":
        """Parse `name:scope+scope:sha256`, as `str(key)` writes it. Raises `ValueError`."""
        name, _, rest = entry.partition(":")
        scopes, _, digest = rest.partition(":")
        if not _NAME.fullmatch(name) or not _SHA256.fullmatch(digest):
            # The entry is not repeated, because it may contain a secret by mistake.
            raise ValueError("expected an API key as name:scope+scope:sha256; `agegender key NAME` makes one")
        return cls(name, frozenset(Scope(scope) for scope in scopes.split("+")), digest)

    def __str__(self) -> str:
        return f"{self.name}:{'+'.join(sorted(self.scopes))}:{self.sha256}"

    def opens(self, secret: str) -> bool:
        return hmac.compare_digest(self.sha256, _sha256(secret))

    def allows(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes


def key_of(secret: str, keys: Iterable[ApiKey]) -> ApiKey | None:
    """Return the key with this secret, or None. Compares every key, so the time reveals nothing."""
    opened = [key for key in keys if key.opens(secret)]
    return opened[0] if opened else None


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
