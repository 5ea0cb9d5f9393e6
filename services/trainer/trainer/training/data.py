"""Turn labelled faces into tensors for the losses, and augment batches of them."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from agegender.heads.head import Classes, Task
from agegender.labels import AGE_GROUPS, YEARS
from torch import Tensor

from trainer.datasets.embedding_set import EmbeddingSet, age_bounds
from trainer.training.config import TrainingOptions

_NARROWEST = 0.05  # years; a narrower bell covers no other year


@dataclass(frozen=True)
class Targets:
    """Labels as tensors.

    Attributes
    ----------
    age : distribution to be learnt [faces, classes]; zero for an unknown age.
    age_set : classes that the label allows [faces, classes]; used if the label is an interval.
    age_exact, age_known : bool [faces].
    age_years : years [faces]; zero for an unknown age.
    gender : distribution [faces, 2]; zero for an unknown gender.
    """

    age: Tensor
    age_set: Tensor
    age_exact: Tensor
    age_known: Tensor
    age_years: Tensor
    gender: Tensor

    def to(self, device: str) -> "Targets":
        return Targets(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    def rows(self, index: Tensor) -> "Targets":
        """Return the targets at `index` [members, faces]; each member draws its own."""
        return Targets(**{name: tensor[index] for name, tensor in vars(self).items()})


def make_targets(faces: EmbeddingSet, options: TrainingOptions) -> Targets:
    """Return the targets of labelled faces; an exact age becomes a bell with a peak (`LossOptions`)."""
    classes = dict(options.tasks).get(Task.AGE, Classes.YEARS)
    first, last = age_bounds(faces, classes)
    index = np.arange(classes.outputs)
    allowed = ((index >= first[:, None]) & (index <= last[:, None])).astype(np.float32)
    exact = first == last
    distribution = allowed / allowed.sum(axis=1, keepdims=True)
    if classes is Classes.YEARS:
        width = options.loss.label_width + options.loss.label_growth * first[:, None]
        bell = np.exp(-0.5 * ((index - first[:, None]) / np.maximum(width, _NARROWEST)) ** 2)
        bell *= (1 - options.loss.label_peak) / bell.sum(axis=1, keepdims=True)
        distribution = np.where(exact[:, None], options.loss.label_peak * allowed + bell, distribution)
    gender = np.eye(2, dtype=np.float32)[np.maximum(faces.gender, 0)] * faces.has_gender[:, None]
    return Targets(
        age=torch.tensor(distribution * faces.has_age[:, None], dtype=torch.float32),
        age_set=torch.tensor(allowed),
        age_exact=torch.tensor(exact),
        age_known=torch.tensor(faces.has_age),
        age_years=torch.tensor(np.nan_to_num((faces.age_low + faces.age_high) / 2), dtype=torch.float32),
        gender=torch.tensor(gender, dtype=torch.float32),
    )


def class_years(classes: Classes) -> Tensor:
    """Return the age in years that each class stands for [classes]."""
    if classes is Classes.YEARS:
        return torch.arange(YEARS, dtype=torch.float32)
    return torch.tensor([(low + high) / 2 for low, high in AGE_GROUPS])


def draw(faces: Tensor, mirrored: Tensor | None, index: Tensor) -> Tensor:
    """Return features [members, faces, inputs] at `index` [members, faces], half of them mirrored."""
    features = faces[index]
    if mirrored is not None:
        mirror = torch.rand(index.shape, device=faces.device) < 0.5
        features = torch.where(mirror[..., None], mirrored[index], features)
    return features


def augment(
    features: Tensor, labels: Targets, options: TrainingOptions
) -> tuple[Tensor, list[tuple[Tensor, Targets]]]:
    """Add noise to the features [members, faces, inputs]; mix them with those of other faces of the batch.

    Returns the features, and the targets to learn from with their weights [members, faces] in the loss.
    """
    if options.augmentation.noise > 0:
        features = features + options.augmentation.noise * torch.randn_like(features)
    if options.augmentation.mixup > 0:
        return _mixed(features, labels, options)
    return features, [(torch.ones(features.shape[:2], device=features.device), labels)]


def _mixed(
    features: Tensor, labels: Targets, options: TrainingOptions
) -> tuple[Tensor, list[tuple[Tensor, Targets]]]:
    """Apply mixup (arXiv 1710.09412) with a share drawn per face.

    The losses of both labels are mixed. For exact ages and genders this is the loss of the mixed label, but a
    range of ages has one too. Only faces with a label for each trained task are mixed.
    """
    alpha = options.augmentation.mixup
    share = torch.distributions.Beta(alpha, alpha).sample(features.shape[:2]).to(features.device)
    partner = torch.randperm(features.shape[1], device=features.device)
    known = {Task.AGE: labels.age_known, Task.GENDER: labels.gender.sum(dim=-1) > 0}
    mixable = torch.stack([known[task] for task, _ in options.tasks]).all(dim=0)
    share = torch.where(mixable & mixable[:, partner], share, 1.0)
    years = share * labels.age_years + (1 - share) * labels.age_years[:, partner]
    own = replace(labels, age_years=years)
    other = Targets(**{name: tensor[:, partner] for name, tensor in vars(labels).items()})
    weight = share[..., None]
    return weight * features + (1 - weight) * features[:, partner], [
        (share, own),
        (1 - share, replace(other, age_years=years)),
    ]
