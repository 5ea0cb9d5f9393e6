"""Make images with one to six faces from the photograph in the insightface package."""

from io import BytesIO

from agegender.images import ImageLimits, decode
from embedder.packs.pack import Pack
from PIL import Image

from tools.stack import PHOTOGRAPH

_ONE_FACE = (720, 340, 870, 500)


def one_face() -> bytes:
    """Return a crop with one face as JPEG; bytes may be appended to it."""
    with Image.open(PHOTOGRAPH) as photograph:
        file = BytesIO()
        photograph.convert("RGB").crop(_ONE_FACE).save(file, "JPEG", quality=95)
    return file.getvalue()


def many_faces(columns: int, rows: int) -> bytes:
    """Return a grid of copies of that crop as JPEG."""
    with Image.open(BytesIO(one_face())) as face:
        grid = Image.new("RGB", (columns * face.width, rows * face.height))
        for number in range(columns * rows):
            grid.paste(face, (number % columns * face.width, number // columns * face.height))
    file = BytesIO()
    grid.save(file, "JPEG", quality=95)
    return file.getvalue()


def photographs_by_faces(pack: Pack) -> dict[int, bytes]:
    """Return number of faces → JPEG file with so many of the photograph's faces, from the left."""
    with Image.open(PHOTOGRAPH) as photograph:
        image = photograph.convert("RGB")
    pixels = decode(PHOTOGRAPH.read_bytes(), ImageLimits())
    boxes = sorted(face.bbox for face in pack.faces([pixels])[0])
    found = {}
    for count in range(1, len(boxes) + 1):
        edge = boxes[count][0] if count < len(boxes) else image.width
        file = BytesIO()
        right = (boxes[count - 1][2] + edge) / 2
        image.crop((0, 0, round(max(right, boxes[count - 1][2])), image.height)).save(file, "JPEG")
        found[count] = file.getvalue()
    return found
