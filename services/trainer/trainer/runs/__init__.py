"""The lifecycle that all kinds of runs share: record, steps, attempts, failure, cancel, resume, delete.

This package knows no kind of run. Experiments, searches and extractions implement `run.Kind`.
"""
