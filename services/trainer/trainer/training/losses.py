"""Losses of a bank: one number a member and face."""

import torch
from agegender.heads.head import Classes, Task
from torch import Tensor

from trainer.training.config import TrainingOptions
from trainer.training.targets import Targets, class_years


def face_losses(logits: Tensor, batch: Targets, options: TrainingOptions) -> Tensor:
    """Loss [members, faces] of logits [members, faces, outputs]; unknown labels add nothing.

    `batch` holds tensors [members, faces, …], since each member draws its own batch.
    """
    total = torch.zeros(logits.shape[:2], device=logits.device)
    start = 0
    for task, classes in options.tasks:
        own = logits[..., start : start + classes.outputs]
        start += classes.outputs
        if task is Task.AGE:
            total = total + _age_loss(own, batch, options, classes)
        else:
            log_probabilities = torch.log_softmax(own, dim=-1)
            total = total - options.loss.gender_weight * (batch.gender * log_probabilities).sum(dim=-1)
    return total


def _age_loss(logits: Tensor, batch: Targets, options: TrainingOptions, classes: Classes) -> Tensor:
    """Cross entropy with the label's distribution; for an interval, the likelihood of lying in it."""
    log_probabilities = torch.log_softmax(logits, dim=-1)
    exact = -(batch.age * log_probabilities).sum(dim=-1)
    masked = torch.where(batch.age_set > 0, log_probabilities, -torch.inf)
    interval = -torch.logsumexp(masked, dim=-1)
    loss = torch.where(batch.age_exact, exact, interval)
    if options.loss.mean_weight > 0:
        years = class_years(classes).to(logits.device)
        error = (log_probabilities.exp() @ years - batch.age_years).abs()
        loss = loss + options.loss.mean_weight * torch.where(batch.age_exact, error, 0.0)
    return torch.where(batch.age_known, loss, 0.0)
