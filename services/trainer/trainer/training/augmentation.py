"""What is done to a batch before a bank sees it: mirrored faces, noise, mixup."""

import torch
from torch import Tensor

from trainer.training.config import AugmentationOptions
from trainer.training.targets import Targets


def drawn(faces: Tensor, mirrored: Tensor | None, index: Tensor) -> Tensor:
    """Features [members, faces, inputs] at `index` [members, faces]; half of them of the mirrored face."""
    features = faces[index]
    if mirrored is not None:
        mirror = torch.rand(index.shape, device=faces.device) < 0.5
        features = torch.where(mirror[..., None], mirrored[index], features)
    return features


def augmented(features: Tensor, labels: Targets, options: AugmentationOptions) -> tuple[Tensor, Targets]:
    """Features with noise; features and labels mixed with those of another face of the batch."""
    if options.noise > 0:
        features = features + options.noise * torch.randn_like(features)
    if options.mixup > 0:
        features, labels = _mixed(features, labels, options.mixup)
    return features, labels


def _mixed(features: Tensor, labels: Targets, alpha: float) -> tuple[Tensor, Targets]:
    """Mixup (arXiv 1710.09412), the share drawn for each face."""
    share = torch.distributions.Beta(alpha, alpha).sample(features.shape[:2]).to(features.device)
    partner = torch.randperm(features.shape[1], device=features.device)
    # Only faces whose labels are both exact and known can be mixed.
    both = labels.age_exact & labels.age_known & (labels.gender.sum(dim=-1) > 0)
    share = torch.where(both & both[:, partner], share, 1.0)

    def mixed(values: Tensor) -> Tensor:
        weight = share.reshape(share.shape + (1,) * (values.ndim - 2))
        return weight * values + (1 - weight) * values[:, partner]

    return mixed(features), Targets(
        age=mixed(labels.age),
        age_set=labels.age_set,
        age_exact=labels.age_exact,
        age_known=labels.age_known,
        age_years=mixed(labels.age_years),
        gender=mixed(labels.gender),
    )
