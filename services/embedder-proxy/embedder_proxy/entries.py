"""A cache entry: a seal and the number of faces, then their JSON, which a hit answers as it is.

The seal is an HMAC of the entry and its key. So what is damaged, of another image or space, or not written
with this secret is no entry, and no number of the JSON need be read to know.
"""

import hmac
import struct

from embedder_proxy.encoded import EncodedFaces

_SEAL = 32  # bytes of SHA-256
_COUNT = struct.Struct(">I")
_HEADER = _SEAL + _COUNT.size


def sealed(key: str, faces: EncodedFaces, secret: bytes) -> bytes:
    """The entry for `key`."""
    count = _COUNT.pack(faces.count)
    return b"".join((_seal(key, count, faces.json, secret), count, faces.json))


def opened(key: str, entry: bytes, secret: bytes) -> EncodedFaces | None:
    """The faces; None where `sealed` did not write this entry for this key with this secret."""
    seal, count, json = entry[:_SEAL], entry[_SEAL:_HEADER], entry[_HEADER:]
    if not hmac.compare_digest(seal, _seal(key, count, json, secret)):
        return None
    return EncodedFaces(json, *_COUNT.unpack(count))


def _seal(key: str, count: bytes, json: bytes, secret: bytes) -> bytes:
    seal = hmac.new(secret, b"%b\0%b" % (key.encode(), count), "sha256")
    seal.update(json)
    return seal.digest()
