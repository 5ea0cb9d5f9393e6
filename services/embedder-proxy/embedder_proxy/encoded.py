"""The faces of an image together with their JSON, which is made once for the cache and the answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agegender.errors import Problem
from agegender.faces import ImageFaces, ImageProblem
from agegender.spaces import Space


@dataclass(frozen=True)
class EncodedFaces:
    image: ImageFaces
    json: str


def encode_each(images: Mapping[str, ImageFaces | Problem]) -> dict[str, EncodedFaces | Problem]:
    return {
        key: image if isinstance(image, Problem) else EncodedFaces(image, image.model_dump_json())
        for key, image in images.items()
    }


def faces_answer_json(space: Space, images: Sequence[EncodedFaces | Problem]) -> str:
    """The JSON of `agegender.faces.FacesAnswer`."""
    entries = [
        ImageProblem(problem=image.document()).model_dump_json() if isinstance(image, Problem) else image.json
        for image in images
    ]
    return f'{{"space":{space.model_dump_json()},"images":[{",".join(entries)}]}}'
