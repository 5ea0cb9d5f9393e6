"""Heads with random weights: they answer nonsense, always the same, and as quickly as trained ones."""

import hashlib
import json
from pathlib import Path

import numpy as np
from agegender.heads.calibration import ConformalIntervals, Familiarity
from agegender.heads.head import Classes, HeadManifest, Task, heads_directory, save_head, set_current
from agegender.heads.networks import Mlp, tensor_shapes
from agegender.labels import YEARS
from agegender.spaces import Space
from safetensors.numpy import load, save

ARCHITECTURE = Mlp(hidden=(32,))
MEMBERS = 2


def made_head(models: Path, task: Task, space: Space, version: str, *, seed: int = 0) -> Path:
    """Write a head to `models/<task>/<space>/<version>`; gives that directory.

    An age head finds unit vectors familiar that have most of their length in the last features.
    """
    classes = Classes.YEARS if task is Task.AGE else Classes.GENDERS
    draws = np.random.default_rng(seed)
    shapes = tensor_shapes(ARCHITECTURE.layers(space.dimension, classes.outputs), MEMBERS, space.dimension)
    tensors = {name: draws.standard_normal(shape).astype(np.float32) * 0.3 for name, shape in shapes.items()}
    tensors["input.std"] = np.abs(tensors["input.std"]) + 0.5
    directory = heads_directory(models, task, space) / version
    manifest = HeadManifest(
        task=task,
        space=space,
        version=version,
        classes=classes,
        members=MEMBERS,
        architecture=ARCHITECTURE,
        temperature=1.2,
        conformal=_conformal(draws) if task is Task.AGE else None,
        familiarity=task is Task.AGE,
        weights_sha256="",
        card={"data": "none: random weights"},
    )
    statistics = _familiarity(space, draws).tensors if task is Task.AGE else {}
    save_head(directory, manifest, {**tensors, **statistics})
    return directory


def make_answer_wrongly(directory: Path) -> None:
    """Change a head's weights and state the new hash: now only its golden embedding can tell."""
    path = directory / "head.safetensors"
    tensors = load(path.read_bytes())
    content = save({**tensors, "output.weight": tensors["output.weight"] * 2})
    path.write_bytes(content)
    manifest = json.loads((directory / "head.json").read_bytes())
    manifest["weights_sha256"] = hashlib.sha256(content).hexdigest()
    (directory / "head.json").write_text(json.dumps(manifest))


def promoted_head(models: Path, task: Task, space: Space, version: str, *, seed: int = 0) -> None:
    """Write a head, and make it the current one."""
    directory = made_head(models, task, space, version, seed=seed)
    set_current(directory.parent, version)


def promoted_heads(models: Path, space: Space, version: str = "v1") -> None:
    for task in Task:
        promoted_head(models, task, space, version)


def _familiarity(space: Space, draws: np.random.Generator) -> Familiarity:
    points = draws.standard_normal((200, space.dimension)) * np.linspace(0.2, 2, space.dimension)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return Familiarity.fit(points.astype(np.float32), np.arange(200))


def _conformal(draws: np.random.Generator) -> ConformalIntervals:
    years = draws.dirichlet(np.ones(YEARS), 300)
    ages = draws.integers(0, YEARS, 300).astype(np.float64)
    return ConformalIntervals.fit(years, ages, ages)
