"""Images of more than 8 bits a sample look like the same image with 8 bits."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from agegender import images
from agegender.errors import Problem
from agegender.images import ImageLimits, decode, read_header, white_level
from embedder_proxy.embedders import upright_rgb
from PIL import Image

LIMITS = ImageLimits()
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's, by samples per pixel


def image8() -> np.ndarray:
    """Return RGB [40, 50, 3] from 0 to 255."""
    y, x = np.mgrid[:40, :50]
    return np.stack([x * 255 / 49, y * 255 / 39, (x + y) * 255 / 88], axis=-1).round().astype(np.uint8)


def png16(samples: np.ndarray, chunks: bytes = b"") -> bytes:
    """Write samples [height, width, 1 to 4] of 16 bits."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    height, width, bands = samples.shape
    header = struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPES[bands], 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in samples)
    if chunks:
        chunks = chunk(chunks[:4], chunks[4:])
    body = chunk(b"IHDR", header) + chunks + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(samples: np.ndarray, **options: Any) -> bytes:
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    options.setdefault("photometric", "rgb" if samples.ndim == 3 else "minisblack")
    tifffile.imwrite(file, samples, **options)
    return file.getvalue()


def significant(image: np.ndarray, bits: int) -> np.ndarray:
    """Return an 8-bit image in samples of 16 bits, of which so many are used."""
    return np.asarray(np.rint(image.astype(np.float64) / 255 * (2**bits - 1)), dtype=np.uint16)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_png_of_any_significant_bits_looks_like_8_bits(bits: int, bands: int) -> None:
    colours = image8() if bands > 2 else image8()[..., :1]
    samples = significant(colours, bits)
    if bands in (2, 4):
        samples = np.concatenate([samples, np.full_like(samples[..., :1], 65535)], axis=2)
    decoded = decode(png16(samples), LIMITS)
    assert np.abs(decoded.astype(int) - colours).max() <= 1


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"compression": "zlib"}, {"tile": (16, 16)}])
@pytest.mark.parametrize("bands", [1, 3])
def test_tiff_of_any_significant_bits_looks_like_8_bits(
    bits: int, options: dict[str, Any], bands: int
) -> None:
    colours = image8() if bands == 3 else image8()[..., 0]
    decoded = decode(tiff(significant(colours, bits), **options), LIMITS)
    assert np.abs(decoded.astype(int) - colours.reshape(40, 50, -1)).max() <= 1


@pytest.mark.parametrize("scale", [1.0, 255.0, 4095.0])
def test_floating_point_and_wide_integers_are_scaled_too(scale: float) -> None:
    grey = image8()[..., 0]
    values = grey / 255 * scale
    for dtype in (np.float32, np.uint32, np.int16):
        if scale > 1 or dtype is np.float32:
            decoded = decode(
                tiff(values.round().astype(dtype) if scale > 1 else values.astype(dtype)), LIMITS
            )
            assert np.abs(decoded[..., 0].astype(int) - grey).max() <= 1


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("bands", [1, 3])
def test_one_hot_pixel_does_not_darken_an_image(bits: int, bands: int) -> None:
    samples = significant(image8()[..., :bands], bits)
    samples[7, 9] = 65535
    decoded = decode(png16(samples), LIMITS).astype(int)
    assert decoded[7, 9].tolist() == [255] * 3
    decoded[7, 9] = image8()[7, 9, :bands]
    assert np.abs(decoded - image8()[..., :bands]).max() <= 1


@pytest.mark.parametrize(("value", "grey"), [(0, 0), (255, 255), (128, 128), (4095, 255), (51400, 200)])
@pytest.mark.parametrize("bands", [1, 3])
def test_constant_images_keep_their_grey(value: int, grey: int, bands: int) -> None:
    decoded = decode(png16(np.full((8, 8, bands), value, np.uint16)), LIMITS)
    assert (decoded == grey).all()


def test_colours_are_scaled_together() -> None:
    samples = np.zeros((16, 16, 3), np.uint16)
    samples[...] = [4000, 2000, 1000]
    assert decode(png16(samples), LIMITS)[0, 0].tolist() == [249, 125, 62]


def test_transparent_samples_are_white() -> None:
    clear = np.zeros((8, 8, 4), np.uint16)
    assert (decode(png16(clear), LIMITS) == 255).all()
    assert (decode(png16(clear[..., :2]), LIMITS) == 255).all()
    keyed = significant(image8(), 12)
    keyed[3, 4] = [5, 6, 7]
    decoded = decode(png16(keyed, b"tRNS" + struct.pack(">HHH", 5, 6, 7)), LIMITS)
    assert decoded[3, 4].tolist() == [255] * 3
    assert decoded[20, 20].tolist() != [255] * 3


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_orientation_of_a_deep_image_is_applied(orientation: int) -> None:
    turns = {3: 2, 6: 1, 8: 3}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = png16(
        np.rot90(significant(image8(), 12), turns), b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    )
    header = read_header(content, LIMITS)
    assert (header.width, header.height) == (50, 40)
    assert np.abs(decode(content, LIMITS).astype(int) - image8()).max() <= 1


def test_values_that_are_not_finite_are_no_samples() -> None:
    values = np.array([np.nan, np.inf, 0.5] + [0.25] * 2000, np.float32)
    assert white_level(values) == 1
    assert white_level(np.array([np.nan], np.float32)) == 1
    assert decode(tiff(values.reshape(1, -1)), LIMITS)[0, :4, 0].tolist() == [0, 255, 128, 64]


def test_truncated_deep_image_is_damaged() -> None:
    noise = np.random.default_rng(0).integers(0, 65535, (100, 100, 3), dtype=np.uint16)
    content = png16(noise)
    with pytest.raises(Problem) as raised:
        decode(content[: len(content) // 2], LIMITS)
    assert raised.value.slug == "damaged-image"


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def test_deep_tiff_with_a_plane_per_colour_is_refused_with_its_reason(options: dict[str, Any]) -> None:
    content = tiff(np.moveaxis(significant(image8(), 16), -1, 0), planarconfig="separate", **options)
    with pytest.raises(Problem, match="plane per colour") as raised:
        decode(content, LIMITS)
    assert raised.value.status == 415


def test_original_container_gets_a_deep_png_as_8_bits() -> None:
    upright = upright_rgb(png16(significant(image8(), 12)), LIMITS)
    with Image.open(io.BytesIO(upright.content)) as image:
        assert np.abs(np.asarray(image).astype(int) - image8()).max() <= 1


def test_white_is_found_in_all_colours_of_a_large_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_SAMPLES", 100)  # every third pixel
    samples = np.full((15, 20, 3), (200 * 16, 2000 * 16, 4000 * 16), np.uint16)
    assert decode(png16(samples), LIMITS)[0, 0].tolist() == [12, 125, 249]
