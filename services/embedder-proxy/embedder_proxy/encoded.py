"""The faces of an image as JSON, which is made once for the cache and the answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agegender.errors import Problem
from agegender.faces import ImageFaces, ImageProblem
from agegender.spaces import Space


@dataclass(frozen=True)
class EncodedFaces:
    """The JSON of an `agegender.faces.ImageFaces` with `count` faces."""

    json: bytes
    count: int
    complete: bool = False  # every face that was found; known of one just encoded, not of a cache entry

    @classmethod
    def of(cls, image: ImageFaces) -> "EncodedFaces":
        complete = len(image.faces) == image.faces_found
        return cls(image.model_dump_json().encode(), len(image.faces), complete)

    def decoded(self) -> ImageFaces:
        return ImageFaces.model_validate_json(self.json)


def encode_each(images: Mapping[str, ImageFaces | Problem]) -> dict[str, EncodedFaces | Problem]:
    return {
        key: image if isinstance(image, Problem) else EncodedFaces.of(image) for key, image in images.items()
    }


def faces_answer_json(space: Space, images: Sequence[EncodedFaces | Problem]) -> bytes:
    """The JSON of `agegender.faces.FacesAnswer`."""
    entries = [
        ImageProblem(problem=image.document()).model_dump_json().encode()
        if isinstance(image, Problem)
        else image.json
        for image in images
    ]
    return b'{"space":%b,"images":[%b]}' % (space.model_dump_json().encode(), b",".join(entries))
