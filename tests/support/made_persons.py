"""Faces of made-up persons, as the predictor answers them, for tests of videos."""

import numpy as np
import numpy.typing as npt
from agegender.labels import AGE_GROUP_NAMES
from agegender.predictions import AgeAnswer, FaceAnswer, GenderAnswer, Quality
from agegender.spaces import RECOGNISERS, Space

SPACE = Space(id="human-2", dimension=2304)
IDENTITY = RECOGNISERS[SPACE.id].columns
Array = npt.NDArray[np.float32]


def looks(person: int, count: int, other: float = 0.3) -> Array:
    """Return embeddings [count, dimension] of one person who looks different each time.

    other : how much two looks differ, as the share of the embedding that does not identify the person.
    """
    rng = np.random.default_rng(person)
    who = rng.normal(size=SPACE.dimension)
    found = who + other / (1 - other) * rng.normal(size=(count, SPACE.dimension))
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), dtype=np.float32)


def made_face(
    embedding: Array,
    centre: tuple[float, float] = (100, 100),
    *,
    side: float = 60,
    age: float = 30,
    p_female: float = 0.8,
    quality: float = 0.9,
) -> FaceAnswer:
    """Return a face with an age interval of 10 years on both sides."""
    x, y = centre
    group = AGE_GROUP_NAMES[4]
    return FaceAnswer(
        bbox=(x - side / 2, y - side / 2, x + side / 2, y + side / 2),
        det_score=0.9,
        landmarks=[(x, y)] * 5,
        quality=Quality(score=quality, reasons=[], pixels=side, yaw=0, roll=0),
        age=AgeAnswer(
            mean=age,
            interval=(age - 10, age + 10),
            coverage=0.9,
            group=group,
            groups={name: 0.65 if name == group else 0.05 for name in AGE_GROUP_NAMES},
            entropy=1,
        ),
        gender=GenderAnswer(
            label="female", probability={"female": p_female, "male": 1 - p_female}, entropy=0.5
        ),
        embedding=embedding.tolist(),
    )
