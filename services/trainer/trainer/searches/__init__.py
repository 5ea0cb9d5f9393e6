"""Hyperparameter searches: trials over the queue, proposed by Optuna."""
