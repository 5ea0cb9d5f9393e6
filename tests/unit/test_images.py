"""Images are decoded to upright RGB; hostile files are rejected before they cost anything."""

import contextlib
import io
import random
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from agegender.avif_size import coded_pixels
from agegender.errors import Problem
from agegender.images import FORMATS, ImageLimits, decode, read_header
from PIL import Image

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow warns about damaged files

LIMITS = ImageLimits()


def pixels(width: int = 40, height: int = 30) -> np.ndarray:
    """Smooth, so that lossy formats keep it; no two corners alike."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 128 + 0 * x], axis=-1).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int = 8, colour: int = 2, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_decoded(kind: str) -> None:
    content = saved(Image.fromarray(pixels()), kind)
    header = read_header(content, LIMITS)
    assert (header.format, header.width, header.height) == (kind, 40, 30)
    decoded = decode(content, LIMITS)
    assert decoded.shape == (30, 40, 3)
    assert decoded.dtype == np.uint8
    tolerance = 40 if kind == "GIF" else 12  # of 256 colours, and of JPEG
    assert np.abs(decoded.astype(int) - pixels()).mean() < tolerance


@pytest.mark.parametrize(("kind", "tolerance"), [("PNG", 0), ("HEIF", 4), ("AVIF", 4)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, kind: str, tolerance: int) -> None:
    upright = Image.fromarray(pixels())
    lying = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(lying, kind, exif=exif.tobytes(), **({} if kind == "PNG" else {"quality": 95}))
    header = read_header(content, LIMITS)
    assert (header.width, header.height) == (40, 30)
    decoded = decode(content, LIMITS).astype(int)
    assert decoded.shape == (30, 40, 3) and np.abs(decoded - pixels()).mean() <= tolerance


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_size_in_the_header_of_a_phone_s_image_is_limited_and_may_not_lie(kind: str) -> None:
    content = saved(Image.new("RGB", (2000, 1500), "grey"), kind)
    small = ImageLimits(max_pixels=1_000_000)
    with pytest.raises(Problem) as caught:
        decode(content, small)
    assert caught.value.slug == "too-many-pixels"
    false = content.replace(struct.pack(">II", 2000, 1500), struct.pack(">II", 64, 48))
    assert false != content
    for read in (read_header, decode) if kind == "AVIF" else (decode,):  # libheif compares the sizes itself
        with pytest.raises(Problem) as caught:
            read(false, small)
        assert caught.value.slug == ("too-many-pixels" if kind == "AVIF" else "damaged-image")


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (333, 77), (1200, 900)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_size_of_the_frames_of_an_avif_is_read(size: tuple[int, int], mode: str) -> None:
    image = Image.new(mode, size, 99 if mode == "L" else (9, 99, 200))
    exif = Image.Exif()
    exif[0x0112] = 6
    for options in ({}, {"subsampling": "4:4:4", "exif": exif}, {"save_all": True, "append_images": [image]}):
        assert coded_pixels(saved(image, "AVIF", **options)) == size[0] * size[1]


def test_size_of_the_first_frame_of_an_animated_avif_may_not_lie() -> None:
    image = Image.new("RGB", (2000, 1500), "grey")
    content = saved(image, "AVIF", save_all=True, append_images=[image])
    false = content.replace(struct.pack(">II", 2000, 1500), struct.pack(">II", 64, 48))
    false = false.replace(struct.pack(">II", 2000 << 16, 1500 << 16), struct.pack(">II", 64 << 16, 48 << 16))
    with pytest.raises(Problem) as caught:
        decode(false, ImageLimits(max_pixels=1_000_000))
    assert caught.value.slug == "too-many-pixels"


def test_avif_that_is_cut_short_or_changed_has_a_size_or_none() -> None:
    content = saved(Image.new("RGBA", (64, 48), "grey"), "AVIF")
    changed = [content[:end] for end in range(len(content))]
    for at in range(len(content)):
        for value in (0, 1, 127, 255):
            changed.append(content[:at] + bytes([value]) + content[at + 1 :])
    sizes = set()
    for one in changed:
        with contextlib.suppress(ValueError):
            sizes.add(coded_pixels(one))
    assert 64 * 48 in sizes and len(sizes) > 1


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        lossless = {"lossless": True} if kind == "WEBP" else {}
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
        assert decode(content, LIMITS)[4, 4].tolist() == [255, 0, 0]


MODES = {
    "1": (saved(Image.new("1", (4, 4), 1), "PNG"), 255),
    "grey": (saved(Image.new("L", (4, 4), 200), "JPEG"), 200),
    "16-bit grey": (saved(Image.fromarray(np.full((4, 4), 200 * 257, np.uint16)), "PNG"), 200),
    "16-bit TIFF": (saved(Image.fromarray(np.full((4, 4), 200 * 257, np.uint16)), "TIFF"), 200),
    "16-bit RGB": (png(4, 4, 16, 2, zlib.compress((b"\0" + b"\xc8\xc8" * 12) * 4)), 200),
    "palette": (saved(Image.new("RGB", (4, 4), (200,) * 3).convert("P"), "PNG"), 200),
    "opaque RGBA": (saved(Image.new("RGBA", (4, 4), (200, 200, 200, 255)), "PNG"), 200),
    "clear RGBA is white": (saved(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG"), 255),
    "clear grey is white": (saved(Image.new("LA", (4, 4), (0, 0)), "PNG"), 255),
    "clear palette is white": (saved(Image.new("P", (4, 4), 0), "GIF", transparency=0), 255),
    "CMYK": (saved(Image.new("CMYK", (4, 4), (0, 0, 0, 55)), "JPEG"), 200),
}


@pytest.mark.parametrize("name", MODES)
def test_every_kind_of_pixel_becomes_rgb(name: str) -> None:
    content, grey = MODES[name]
    decoded = decode(content, LIMITS)
    assert decoded.shape == (4, 4, 3)
    assert np.abs(decoded.astype(int) - grey).max() <= 4


@pytest.mark.parametrize("size", [(1, 1), (1, 30_000), (30_000, 1)])
def test_odd_sizes_are_decoded(size: tuple[int, int]) -> None:
    assert decode(saved(Image.new("RGB", size), "PNG"), LIMITS).shape == (size[1], size[0], 3)


def jpeg_header(width: int, height: int) -> bytes:
    small = saved(Image.new("RGB", (8, 8)), "JPEG")
    at = small.index(b"\xff\xc0") + 5
    return small[:at] + struct.pack(">HH", height, width) + small[at + 4 :]


def webp_header(width: int, height: int) -> bytes:
    canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas
    frame = saved(Image.new("RGB", (8, 8)), "WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body) + len(frame)) + body + frame


REFUSED = {
    "0 bytes": (b"", 400, "empty-image"),
    "text": (b"Dear sir or madam", 415, "unreadable-image"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415, "unreadable-image"),
    "PDF": (b"%PDF-1.7\n", 415, "unreadable-image"),
    "EPS, which Pillow would give to Ghostscript": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        415,
        "unreadable-image",
    ),
    "JPEG's first bytes": (b"\xff\xd8\xff\xe0", 415, "unreadable-image"),
    "PNG of 20,000 x 20,000": (png(20_000, 20_000, data=zlib.compress(bytes(9))), 413, "too-many-pixels"),
    "PNG of 2^31 x 2^31": (png(2**31 - 1, 2**31 - 1), 413, "too-many-pixels"),
    "PNG of 0 x 0": (png(0, 0), 415, "unreadable-image"),
    "JPEG of 65,000 x 65,000": (jpeg_header(65_000, 65_000), 413, "too-many-pixels"),
    "JPEG of 9,000 x 9,000": (jpeg_header(9_000, 9_000), 413, "too-many-pixels"),
    "BMP of 60,000 x 60,000": (
        b"BM" + bytes(8) + struct.pack("<IIiiHHIIiiII", 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
        413,
        "too-many-pixels",
    ),
    "21 MB": (png(8, 8) + bytes(21 * 1024 * 1024), 413, "image-too-large"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bombs_and_files_that_are_no_pictures_are_refused_by_their_header(name: str) -> None:
    content, status, slug = REFUSED[name]
    tracemalloc.start()
    for read in (read_header, decode):
        with pytest.raises(Problem) as caught:
            read(content, LIMITS)
        assert (caught.value.status, caught.value.slug) == (status, slug)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000_000


def test_a_webp_with_a_huge_canvas_is_refused() -> None:
    with pytest.raises(Problem) as caught:
        decode(webp_header(16_000, 16_000), LIMITS)
    assert caught.value.status in (413, 415)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_truncated_files_are_reported_as_such(kind: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    content = saved(Image.fromarray(noise), kind)
    with pytest.raises(Problem) as caught:
        decode(content[: int(len(content) * part)], LIMITS)
    # Formats that keep their index at the end, or one chunk for all, cannot even be opened.
    assert caught.value.status in ((415, 422) if kind in ("TIFF", "WEBP", "AVIF") else (422,))


@pytest.mark.parametrize("kind", FORMATS)
def test_flipped_bits_give_a_picture_or_a_problem(kind: str) -> None:
    generator = random.Random(kind)
    content = saved(Image.fromarray(pixels()), kind)
    limits = ImageLimits(max_pixels=1_000_000)
    for _ in range(300):
        flipped = bytearray(content)
        for _ in range(generator.randint(1, 6)):
            flipped[generator.randrange(min(len(flipped), 400))] ^= 1 << generator.randrange(8)
        with contextlib.suppress(Problem):
            assert decode(bytes(flipped), limits).ndim == 3


def test_an_exif_directory_that_points_to_itself_ends() -> None:
    loop = b"II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHII", 0x8769, 4, 1, 8) + struct.pack("<I", 8)
    content = saved(Image.fromarray(pixels()), "JPEG", exif=b"Exif\0\0" + loop)
    assert read_header(content, LIMITS).width == 40
    assert decode(content, LIMITS).shape == (30, 40, 3)


def test_a_picture_that_is_also_an_archive_is_only_a_picture() -> None:
    content = saved(Image.fromarray(pixels()), "PNG") + b"PK\x03\x04" + bytes(100)
    np.testing.assert_array_equal(decode(content, LIMITS), pixels())


def test_a_small_text_chunk_that_unpacks_to_much_is_no_bomb() -> None:
    content = saved(Image.fromarray(pixels()), "PNG")
    text = b"k\0\0" + zlib.compress(bytes(100_000_000))
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    tracemalloc.start()
    with contextlib.suppress(Problem):
        decode(content[:33] + chunk + content[33:], LIMITS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000
