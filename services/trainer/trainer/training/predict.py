"""Predict with a trained bank, before any calibration."""

import numpy as np
import numpy.typing as npt
from agegender.heads.head import Task
from agegender.heads.networks import bank_logits, softmax

from trainer.datasets.embedding_set import EmbeddingSet
from trainer.training.config import TrainingOptions

Array = npt.NDArray[np.float32]
_CHUNK = 2048


def member_probabilities(
    tensors: dict[str, Array], options: TrainingOptions, faces: EmbeddingSet
) -> dict[Task, Array]:
    """Return the class probabilities of every member [members, faces, classes] for each task."""
    layers = options.head.layers(faces.space.dimension, options.outputs)
    chunks: dict[Task, list[Array]] = {task: [] for task, _ in options.tasks}
    for begin in range(0, max(len(faces), 1), _CHUNK):
        logits = bank_logits(layers, tensors, faces.embedding[begin : begin + _CHUNK])
        start = 0
        for task, classes in options.tasks:
            own = logits[..., start : start + classes.outputs]
            chunks[task].append(np.asarray(softmax(own), dtype=np.float32))
            start += classes.outputs
    return {task: np.concatenate(values, axis=1) for task, values in chunks.items()}


def task_tensors(tensors: dict[str, Array], options: TrainingOptions, task: Task) -> dict[str, Array]:
    """Return the shared layers and the output columns of one task, of a bank trained on both tasks."""
    start = 0
    for own_task, classes in options.tasks:
        if own_task is task:
            columns = slice(start, start + classes.outputs)
            return {
                **tensors,
                "output.weight": tensors["output.weight"][..., columns],
                "output.bias": tensors["output.bias"][..., columns],
            }
        start += classes.outputs
    raise KeyError(task)
