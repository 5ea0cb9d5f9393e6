"""Check AWS Signature Version 4, with which the AWS SDKs sign each request instead of sending a key.

Specification: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from agegender.errors import Problem
from agegender.keys import ApiKey
from agegender_service.settings import listed
from starlette.datastructures import Headers
from starlette.types import Scope

_ALGORITHM = "AWS4-HMAC-SHA256"
_MAX_SKEW = timedelta(minutes=5)
_MAX_HEADER = 4096  # characters of `Authorization`
_MAX_SIGNED = 64  # headers
_ACCESS_KEY_ID = re.compile(r"[A-Za-z0-9_-]{4,128}")
_KEY_NAME = re.compile(r"[A-Za-z0-9._-]{1,40}")
_LEAST_SECRET = 20
_AUTHORIZATION = re.compile(
    _ALGORITHM + r"\s+Credential=(?P<id>[^/,\s]+)/(?P<day>\d{8})/(?P<region>[\w-]+)/(?P<service>[\w-]+)"
    r"/aws4_request\s*,\s*SignedHeaders=(?P<headers>[a-z0-9;-]+)\s*,\s*Signature=(?P<signature>[0-9a-f]{64})"
)
_NEEDED = {"host", "x-amz-date"}  # headers that must be signed


@dataclass(frozen=True)
class AwsCredential:
    """An access key of an AWS SDK, and the name of the API key whose scopes it has."""

    access_key_id: str
    secret: str
    key_name: str

    @classmethod
    def parse(cls, entry: str) -> "AwsCredential":
        """Parse `access-key-id:secret:name`. Raises `ValueError`, which does not repeat the secret."""
        access_key_id, _, rest = entry.partition(":")
        secret, _, name = rest.rpartition(":")
        if not (_ACCESS_KEY_ID.fullmatch(access_key_id) and _KEY_NAME.fullmatch(name)):
            raise ValueError(
                "expected access-key-id:secret:name, where name is that of a key in API_KEYS, such as "
                "AGEGENDER1:SECRET:camera"
            )
        if len(secret) < _LEAST_SECRET:
            raise ValueError(
                f"the secret of access key {access_key_id} has {len(secret)} characters; use at least "
                f"{_LEAST_SECRET}, such as the output of `openssl rand -hex 20`"
            )
        return cls(access_key_id, secret, name)

    @classmethod
    def parse_all(cls, entries: str) -> tuple["AwsCredential", ...]:
        return tuple(cls.parse(entry) for entry in listed(entries))

    def __repr__(self) -> str:
        return f"AwsCredential({self.access_key_id!r}, key_name={self.key_name!r})"


@dataclass(frozen=True)
class _Authorization:
    """The header `Authorization` of a signed request."""

    access_key_id: str
    day: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str

    @property
    def scope(self) -> str:
        return f"{self.day}/{self.region}/{self.service}/aws4_request"


class AwsSignatures:
    """Identify callers by their access keys, and verify their signatures.

    service : name that the SDK signs for, such as ``rekognition``.
    """

    def __init__(self, credentials: Iterable[AwsCredential], keys: Sequence[ApiKey], service: str) -> None:
        names = {key.name: key for key in keys}
        self._credentials = [(one, names[one.key_name]) for one in credentials]
        self._service = service

    def key_of(self, scope: Scope) -> ApiKey | None:
        """Return the key that a request claims, before its body is read; None if it is not signed.

        Raises `Problem`: ``bad-signature``, ``unknown-access-key`` and ``clock-skew`` 403.
        """
        headers = Headers(scope=scope)
        if not headers.get("authorization", "").startswith("AWS4-"):
            return None
        authorization = self._authorization(headers)
        _, key = self._known(authorization)
        _check_time(headers, authorization)
        return key

    def verify(self, scope: Scope, body: bytes) -> None:
        """Verify the signature of a signed request over its head and body; requests without one pass.

        Raises ``bad-signature`` 403.
        """
        headers = Headers(scope=scope)
        if not headers.get("authorization", "").startswith("AWS4-"):
            return
        authorization = self._authorization(headers)
        credential, _ = self._known(authorization)
        canonical = _canonical_request(scope, headers, authorization.signed_headers, body)
        signed = "\n".join(
            (_ALGORITHM, headers["x-amz-date"], authorization.scope, hashlib.sha256(canonical).hexdigest())
        )
        key = f"AWS4{credential.secret}".encode()
        for part in authorization.scope.split("/"):
            key = _hmac(key, part)
        if not hmac.compare_digest(_hmac(key, signed).hex(), authorization.signature):
            raise _bad_signature(
                "The signature does not match the request. Check the secret access key, and that proxies "
                "between client and service keep the path and the header Host."
            )

    def _authorization(self, headers: Headers) -> _Authorization:
        found = _AUTHORIZATION.fullmatch(headers["authorization"][:_MAX_HEADER].strip())
        if found is None:
            raise _bad_signature(
                f"The header Authorization is not a signature of version 4 ({_ALGORITHM} Credential=…, "
                "SignedHeaders=…, Signature=…)."
            )
        names = tuple(found["headers"].split(";"))
        if not _NEEDED.issubset(names) or len(names) > _MAX_SIGNED:
            raise _bad_signature(f"A signature must cover the headers {' and '.join(sorted(_NEEDED))}.")
        if found["service"] != self._service:
            raise _bad_signature(
                f"The signature is for the service {found['service'][:50]!r}, expected {self._service!r}."
            )
        return _Authorization(
            found["id"], found["day"], found["region"], found["service"], names, found["signature"]
        )

    def _known(self, authorization: _Authorization) -> tuple[AwsCredential, ApiKey]:
        """Return the credential of an access key id. Compares with each, so the time reveals nothing."""
        given = authorization.access_key_id.encode()
        known = [
            entry
            for entry in self._credentials
            if hmac.compare_digest(entry[0].access_key_id.encode(), given)
        ]
        if not known:
            raise Problem(
                "unknown-access-key",
                403,
                "The access key id is not one of REKOGNITION_CREDENTIALS. Add it there, or correct it.",
            )
        return known[0]


def _check_time(headers: Headers, authorization: _Authorization) -> None:
    given = headers.get("x-amz-date", "")[:50]
    try:
        at = datetime.strptime(given, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise _bad_signature(
            f"The header X-Amz-Date is {given!r}, expected a time such as 20260131T235959Z."
        ) from None
    if not given.startswith(authorization.day):
        raise _bad_signature(f"The signature is of {authorization.day}, but X-Amz-Date is {given}.")
    now = datetime.now(UTC)
    if abs(now - at) > _MAX_SKEW:
        what = "expired" if at < now else "not yet current"
        raise Problem(
            "clock-skew",
            403,
            f"Signature {what}: it was made at {given}, and the time here is {now:%Y%m%dT%H%M%SZ}; at most "
            "5 minutes of difference are allowed. Set the client's clock.",
        )


def _canonical_request(scope: Scope, headers: Headers, signed: Sequence[str], body: bytes) -> bytes:
    path = (scope.get("raw_path") or scope["path"].encode()).decode("ascii", "replace")
    query = "&".join(sorted(filter(None, scope["query_string"].decode("ascii", "replace").split("&"))))
    values = (",".join(" ".join(value.split()) for value in headers.getlist(name)) for name in signed)
    lines = (
        scope["method"],
        quote(path, safe="/-_.~"),
        query,
        *(f"{name}:{value}" for name, value in zip(signed, values, strict=True)),
        "",
        ";".join(signed),
        hashlib.sha256(body).hexdigest(),
    )
    return "\n".join(lines).encode()


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _bad_signature(detail: str) -> Problem:
    return Problem("bad-signature", 403, detail)
