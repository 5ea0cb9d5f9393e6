"""ICC profiles (ICC.1:2001-04, version 2) of RGB spaces, and images in these spaces."""

import io
import struct

import numpy as np
from PIL import Image, ImageCms

# Red, green and blue as XYZ under D50, rounded from the values that the spaces define; and their exponent.
SPACES = {
    "Adobe RGB": ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446), 2.2),
    "Display P3": ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841), 2.2),
    "ProPhoto RGB": ((0.7977, 0.2880, 0.0000), (0.1352, 0.7119, 0.0000), (0.0313, 0.0001, 0.8249), 1.8),
}


def rgb_profile(space: str) -> bytes:
    """Return the profile of a space of `SPACES`."""
    *primaries, exponent = SPACES[space]

    def xyz(values: tuple[float, float, float]) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))

    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(exponent * 256))
    name = space.encode() + b"\0"
    described = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78)
    tags = {b"desc": described, b"cprt": b"text\0\0\0\0none\0", b"wtpt": xyz((0.9642, 1.0, 0.8249))}
    for letter, primary in zip(b"rgb", primaries, strict=True):
        tags[bytes([letter]) + b"XYZ"] = xyz(primary)
        tags[bytes([letter]) + b"TRC"] = curve
    place = 128 + 4 + 12 * len(tags)
    table, content = struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        table += tag + struct.pack(">II", place + len(content), len(value))
        content += value + bytes(-len(value) % 4)
    header = struct.pack(">I4xI12s", place + len(content), 0x02100000, b"mntrRGB XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + content


def in_space(space: str, image: Image.Image) -> Image.Image:
    """Return an sRGB image as it is written in another space, without the profile."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(rgb_profile(space)))
    converted = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), profile)
    assert converted is not None
    return Image.fromarray(np.asarray(converted))
