"""Groups of faces side by side in one image, for somebody who judges them."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agegender.errors import Problem
from agegender.images import ImageLimits, decode
from PIL import Image, ImageDraw

_SIDE, _TEXT, _PER_ROW = 96, 14, 12
_LIMITS = ImageLimits()


def contact_sheet(image_dir: Path, groups: Sequence[dict[str, Any]]) -> bytes:
    """Draw a row for each group: what it was found by, its lowest cosine, and its first twelve images.

    groups : as `trainer.datasets.grouping.found_groups` describes them. An image that cannot be read is an
    empty square. Returns a JPEG file.
    """
    sheet = Image.new("RGB", (_PER_ROW * _SIDE, max(1, len(groups)) * (_SIDE + _TEXT)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, group in enumerate(groups):
        top = row * (_SIDE + _TEXT)
        cosine = group.get("lowest_cosine")
        text = f"{group['subject']}  {group['found_by']}  {len(group['files'])} faces"
        draw.text((2, top + 1), text + ("" if cosine is None else f"  cosine >= {cosine:.2f}"), fill="black")
        for column, file in enumerate(group["files"][:_PER_ROW]):
            thumbnail = _thumbnail(image_dir, file)
            if thumbnail is not None:
                sheet.paste(thumbnail, (column * _SIDE, top + _TEXT))
    if not groups:
        draw.text((2, 1), "no near-duplicates", fill="black")
    content = io.BytesIO()
    sheet.save(content, "JPEG", quality=85)
    return content.getvalue()


def _thumbnail(image_dir: Path, file: str) -> Image.Image | None:
    root = image_dir.resolve()
    path = (root / file).resolve()
    if not path.is_relative_to(root) or not path.is_file() or path.stat().st_size > _LIMITS.max_bytes:
        return None
    try:
        image = Image.fromarray(decode(path.read_bytes(), _LIMITS))
    except (OSError, Problem):
        return None
    image.thumbnail((_SIDE, _SIDE))
    return image
