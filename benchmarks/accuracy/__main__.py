"""`python -m benchmarks.accuracy --data DATA ours=ID original=AGE_ID,GENDER_ID`: print tables.

Experiments must be finished and have the same data sets and space. The first one is evaluated in depth.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from trainer.experiments.experiment import load_experiment

from benchmarks.accuracy import robustness
from benchmarks.accuracy.answers import of_experiments
from benchmarks.accuracy.children import children
from benchmarks.accuracy.comparison import compare
from benchmarks.accuracy.cross_dataset import cross
from benchmarks.accuracy.fairness import fairness
from benchmarks.accuracy.probes import PROBES
from benchmarks.accuracy.shift import shift
from benchmarks.accuracy.tables import Table
from benchmarks.accuracy.uncertainty import uncertainty

PARTS = ("comparison", "cross", "uncertainty", "fairness", "children", "robustness", "shift")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.accuracy", description=__doc__)
    parser.add_argument(
        "methods",
        nargs="+",
        metavar="NAME=ID[,ID]",
        help="one experiment, or several for other tasks or seeds",
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--probes", nargs="*", choices=list(PROBES), default=list(PROBES))
    parser.add_argument("--pack", default="human", help="pack for robustness and shift")
    parser.add_argument("--pack-dir", type=Path)
    parser.add_argument("--human-dir", type=Path)
    parser.add_argument(
        "--confirm", action="store_true", help="shift: images reserved for confirmation, not for development"
    )
    for table in tables(parser.parse_args()):
        print(table.markdown(), flush=True)


def tables(arguments: argparse.Namespace) -> Iterator[Table]:
    data: Path = arguments.data
    methods = {name: ids.split(",") for name, _, ids in (one.partition("=") for one in arguments.methods)}
    answers = [of_experiments(name, data, ids) for name, ids in methods.items()]
    (first, ids), parts = next(iter(methods.items())), arguments.parts
    if "comparison" in parts:
        yield from compare(answers, load_experiment(data, ids[0]).datasets, arguments.probes)
    if "cross" in parts:
        yield cross(first, data, ids[0])
    if "uncertainty" in parts:
        for name, own in methods.items():
            yield uncertainty(name, data, own)
    if "fairness" in parts:
        yield fairness(answers[0])
    if "children" in parts:
        yield children(answers[0])
    if "robustness" in parts or "shift" in parts:
        pack = robustness.load(arguments.pack, data, arguments.pack_dir, arguments.human_dir)
    if "robustness" in parts:
        yield robustness.robustness(first, data, ids[0], pack)
    if "shift" in parts:
        yield from shift(first, data, ids[0], pack, confirm=arguments.confirm)


if __name__ == "__main__":
    main()
