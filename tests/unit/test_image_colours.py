"""Read one image alike in any colour space, as a negative, and with a film behind it."""

import io
import random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from agegender.errors import Problem
from agegender.images import ImageLimits, decode
from embedder_proxy.embedders import upright_rgb
from PIL import Image, ImageCms

from tests.support.colour_profiles import SPACES, in_space, rgb_profile
from tests.support.hostile_pictures import frames, jpeg_with_scans

LIMITS = ImageLimits()


def sample() -> Image.Image:
    """Return colours of skin, hair and cloth [48, 64], within sRGB."""
    y, x = np.mgrid[:48, :64]
    colours = np.stack([90 + 2 * x, 60 + 1.5 * x + y / 2, 50 + x + y], axis=-1)
    return Image.fromarray(colours.round().astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def difference(content: bytes) -> float:
    """Return how much the pixels differ from the sample's, on average."""
    return float(np.abs(decode(content, LIMITS).astype(int) - np.asarray(sample(), int)).mean())


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(
    ("kind", "options", "most"),
    [
        ("PNG", {}, 1),
        ("TIFF", {}, 1),
        ("WEBP", {"lossless": True}, 1),
        ("JPEG", {"quality": 95, "subsampling": 0}, 2),
        ("HEIF", {"quality": 95}, 2),
        ("AVIF", {"quality": 95}, 2),
    ],
)
def test_image_in_another_colour_space_is_the_same(
    space: str, kind: str, options: dict[str, Any], most: float
) -> None:
    other = in_space(space, sample())
    assert difference(saved(other, kind, icc_profile=rgb_profile(space), **options)) < most
    assert difference(saved(other, "PNG")) > 2


def test_transparent_and_palette_images_have_their_profile_too() -> None:
    profile = rgb_profile("Adobe RGB")
    other = in_space("Adobe RGB", sample())
    other.putalpha(255)
    assert difference(saved(other, "PNG", icc_profile=profile)) < 1
    few = other.convert("RGB").quantize(256)
    assert difference(saved(few, "PNG", icc_profile=profile)) < 4


def test_profile_of_srgb_changes_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = saved(sample(), "PNG", icc_profile=profile)
    assert np.array_equal(decode(content, LIMITS), np.asarray(sample()))
    assert upright_rgb(content, LIMITS).content == content


def test_original_container_gets_srgb_too() -> None:
    content = saved(in_space("Display P3", sample()), "PNG", icc_profile=rgb_profile("Display P3"))
    assert difference(upright_rgb(content, LIMITS).content) < 1


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile",
        rgb_profile("Adobe RGB")[:200],
        rgb_profile("Adobe RGB").replace(b"RGB XYZ ", b"GRAYXYZ "),
        rgb_profile("Adobe RGB").ljust(2 * 1024**2, b"\0"),
    ],
    ids=["text", "cut", "grey", "large"],
)
def test_image_is_read_without_a_profile_that_cannot_be_used(profile: bytes) -> None:
    assert difference(saved(sample(), "TIFF", icc_profile=profile)) == 0


def test_broken_profiles_are_harmless() -> None:
    source = random.Random(0)
    for _ in range(200):
        profile = bytearray(rgb_profile("Display P3"))
        for _ in range(source.randint(1, 8)):
            profile[source.randrange(len(profile))] = source.randrange(256)
        assert decode(saved(sample(), "TIFF", icc_profile=bytes(profile)), LIMITS).shape == (48, 64, 3)


def test_grey_negative_of_16_bits_is_inverted() -> None:
    tifffile = pytest.importorskip("tifffile")
    grey: npt.NDArray[np.uint16] = (np.asarray(sample().convert("L"), np.uint16) * 257).astype(np.uint16)
    files = [io.BytesIO(), io.BytesIO()]
    tifffile.imwrite(files[0], grey, photometric="minisblack")
    tifffile.imwrite(files[1], 65535 - grey, photometric="miniswhite")
    black, white = (decode(file.getvalue(), LIMITS) for file in files)
    assert np.abs(black.astype(int) - white).max() <= 1


def with_more_images(jpeg: bytes) -> bytes:
    """Add the segment by which Pillow recognises a file of several JPEG images (MPO)."""
    several = frames("MPO", 2, side=16)
    start = several.index(b"MPF\0") - 4
    end = start + 2 + int.from_bytes(several[start + 2 : start + 4])
    return jpeg[:2] + several[start:end] + jpeg[2:]


@pytest.mark.parametrize("count", [90, 101])
def test_scans_of_a_jpeg_are_limited_whatever_pillow_calls_it(count: int) -> None:
    for content in (jpeg_with_scans(count, 16), with_more_images(jpeg_with_scans(count, 16))):
        if count < 100:
            assert decode(content, LIMITS).shape == (16, 16, 3)
            continue
        with pytest.raises(Problem, match="more than 100 scans"):
            decode(content, LIMITS)
    assert Image.open(io.BytesIO(with_more_images(jpeg_with_scans(count, 16)))).format == "MPO"


def test_film_behind_a_jpeg_has_no_scans() -> None:
    film = random.Random(0).randbytes(1000) + b"\xff\xda\0\4" * 200
    assert decode(saved(sample(), "JPEG") + film, LIMITS).shape == (48, 64, 3)


def test_more_segments_than_any_camera_writes_are_rejected() -> None:
    jpeg = saved(sample(), "JPEG")
    with pytest.raises(Problem, match="scans"):
        decode(jpeg[:2] + b"\xff\xe5\0\2" * 10_001 + b"\xff\xfe\0\xcb" + b"\xff\xda" * 101 + jpeg[2:], LIMITS)
