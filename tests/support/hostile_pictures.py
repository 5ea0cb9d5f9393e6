"""Image files made to break a decoder, from their formats' specifications; nothing here is random."""

import io
import random
import re
import struct
import zlib
from typing import Any

import agegender.images  # noqa: F401  with which Pillow writes HEIF
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF")
CONTAINERS = ("HEIF", "AVIF")  # whose stated size is apart from that of the coded pixels
_FAST: dict[str, dict[str, Any]] = {"HEIF": {"enc_params": {"preset": "ultrafast"}}, "AVIF": {"speed": 10}}


def picture(form: str, size: tuple[int, int] = (64, 64), mode: str = "RGB", **options: Any) -> bytes:
    """Return a grey image with a few shades, so that every format has something to compress."""
    file = io.BytesIO()
    shades = Image.linear_gradient("L").resize(size) if min(size) > 1 else Image.new("L", size, 128)
    shades.convert("RGB" if mode == "CMYK" else "L").convert(mode).save(file, form, **options)
    return file.getvalue()


def flat(form: str, size: tuple[int, int], mode: str = "RGB", **options: Any) -> bytes:
    """One colour: many pixels in few bytes."""
    file = io.BytesIO()
    Image.new(mode, size).save(file, form, **{**_FAST.get(form, {}), **options})
    return file.getvalue()


def crowd(photograph: bytes, bbox: list[float], side: int, rows: int) -> bytes:
    """A square JPEG in which one face of a photograph stands `rows` times in each row, and as many rows."""
    x1, y1, x2, y2 = bbox
    margin = 0.35 * (x2 - x1)
    picture = Image.open(io.BytesIO(photograph)).crop(
        (int(x1 - margin), int(y1 - margin), int(x2 + margin), int(y2 + margin))
    )
    face = picture.resize((side // rows, side // rows))
    crowd = Image.new("RGB", (side, side))
    for row in range(rows):
        for column in range(rows):
            crowd.paste(face, (column * face.width, row * face.height))
    file = io.BytesIO()
    crowd.save(file, "JPEG")
    return file.getvalue()


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_stating(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(1000)))


def png_with_text_bomb(megabytes: int) -> bytes:
    """Compressed comments of a megabyte each in front of the pixels."""
    whole = picture("PNG")
    comment = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**20 - 1), 9))
    return whole[:33] + comment * megabytes + whole[33:]


def jpeg_stating(width: int, height: int) -> bytes:
    content = bytearray(picture("JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def jpeg_with_scans(count: int, side: int) -> bytes:
    """A progressive JPEG whose last scan is repeated: each costs a pass over all its pixels."""
    content = flat("JPEG", (side, side), progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * count + b"\xff\xd9"


def webp_stating(width: int, height: int) -> bytes:
    whole = picture("WEBP", lossless=True)
    size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + size + whole[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif_stating(width: int, height: int) -> bytes:
    content = bytearray(picture("GIF"))
    content[6:10] = struct.pack("<HH", width, height)
    return bytes(content)


def bmp_stating(width: int, height: int) -> bytes:
    content = bytearray(picture("BMP"))
    content[18:26] = struct.pack("<ii", width, height)
    return bytes(content)


def tiff_with(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
    """One directory at byte 8; `following` is where the next one is said to be."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", following) + bytes(64)


def tiff_stating(width: int, height: int) -> bytes:
    return tiff_with(
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 16),
    )  # fmt: skip


def container_stating(form: str, stated: tuple[int, int], coded: tuple[int, int]) -> bytes:
    """A HEIF or AVIF file with another size in its container than in its pixels."""
    content = bytearray(flat(form, coded))
    for at in (match.end() + 4 for match in re.finditer(b"ispe", content)):
        content[at : at + 8] = struct.pack(">II", *stated)
    return bytes(content)


def lying_containers(form: str) -> list[bytes]:
    """Pixels beyond the limit behind a small size, and the other way round."""
    sides = (20_000, 2**31 - 1)
    return [
        container_stating(form, (64, 64), (8000, 7000)),
        *(container_stating(form, (side, side), (64, 64)) for side in sides),
    ]


def frames(form: str, count: int, side: int = 64) -> bytes:
    """An animation, or a file of so many images."""
    one = Image.new("RGB", (side, side), "grey")
    file = io.BytesIO()
    one.save(file, form, save_all=True, append_images=[one] * (count - 1), **_FAST.get(form, {}))
    return file.getvalue()


def jpeg_with_exif(directory: bytes) -> bytes:
    whole = picture("JPEG")
    body = b"Exif\0\0" + directory
    return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + whole[2:]


EXIF_LOOPS = {
    "a directory followed by itself": tiff_with((0x0112, 3, 1, 6), following=8),
    "sub-directories that are their parent": tiff_with((0x8769, 4, 1, 8), (0x8825, 4, 1, 8)),
    "a value of four gigabytes": tiff_with((0x010E, 2, 0xFFFFFFFF, 8)),
    "an orientation that is none": tiff_with((0x0112, 3, 1, 99)),
    "5,000 entries": tiff_with(*[(0x0112, 3, 1, 6)] * 5000),
}  # fmt: skip


def polyglots() -> list[bytes]:
    """Return images that are programs, pages or archives as well."""
    script = b"<script>alert(1)</script>"
    gif = bytearray(picture("GIF"))
    png = picture("PNG")
    jpeg = picture("JPEG")
    return [
        bytes(gif) + b"/*" + script + b"*/",
        png[:33] + png_chunk(b"tEXt", b"Comment\0" + script) + png[33:],
        jpeg + b"PK\x05\x06" + bytes(18),
        jpeg[:2] + b"\xff\xfe" + struct.pack(">H", 40) + b"%PDF-1.7 1 0 obj <<>> endobj".ljust(38) + jpeg[2:],
    ]


def not_pictures() -> list[bytes]:
    return [
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
        b"push graphic-context\nimage over 0,0 0,0 'https://example.org/x.png'\npop graphic-context\n",
        b"#!/bin/sh\ntrue\n",
        b"%PDF-1.7\n",
        b"P6 60000 60000 255\n",
        b"\0\0\0\x20ftypheic" + bytes(100),
    ]


def flipped(content: bytes, count: int, seed: int) -> list[bytes]:
    """Copies with up to eight bits turned, most of them in the first part, where headers are."""
    chance = random.Random(seed)
    copies = []
    for _ in range(count):
        copy = bytearray(content)
        for _ in range(chance.randint(1, 8)):
            end = len(copy) if chance.random() < 0.5 else min(100, len(copy))
            copy[chance.randrange(end)] ^= 1 << chance.randrange(8)
        copies.append(bytes(copy))
    return copies


def truncated(content: bytes, count: int) -> list[bytes]:
    return [content[: 1 + len(content) * part // (count + 1)] for part in range(count)]
