"""Searches for hyperparameters: trials over the queue, chosen by Optuna."""
