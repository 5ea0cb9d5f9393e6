"""`python -m benchmarks.video DATA --keep FOLDER`: measure videos of real labelled faces, and print tables.

DATA has `utkface` and `all-age-faces`, each with its images and a labels.csv (file, age, gender). Clips,
heads and answers are kept in FOLDER, so that a second run only measures. `choose` prints the tables from
which the constants of the analysis are selected; `measure` compares the ways to answer. Use the development
split to choose, and the confirmation split (--confirm) once, to report.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from agegender.video.persons import correlation_of

from benchmarks.accuracy.tables import Table
from benchmarks.video import choose, comparison
from benchmarks.video.collection import measured_clips
from benchmarks.video.portraits import Split

PARTS = ("measure", "choose")
PERIODS = (0.4, 0.8, 1.2, 1.6)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.video", description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--keep", type=Path, required=True, help="folder for clips, heads and answers")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--pack", default="human")
    parser.add_argument("--clips", type=int, default=28, help="of ten seconds, with three or four persons")
    parser.add_argument("--confirm", action="store_true", help="the split reserved for confirmation")
    for table in tables(parser.parse_args()):
        print(table.markdown(), flush=True)


def tables(arguments: argparse.Namespace) -> Iterator[Table]:
    split: Split = "confirmation" if arguments.confirm else "development"
    clips = measured_clips(arguments.data, arguments.keep, arguments.pack, split, arguments.clips)
    measured = list(clips(PERIODS[0]))
    if "measure" in arguments.parts:
        yield comparison.per_person(measured)
        yield comparison.following(measured)
        yield comparison.labels(measured)
    if "choose" in arguments.parts:
        cases = choose.cases(measured)
        yield choose.error_correlation(cases)
        yield choose.age_choices(cases)
        yield choose.gender_choices(cases)
        yield choose.faces_per_track(cases, correlation_of(measured[0].space))
        yield choose.evidence_changes(cases, correlation_of(measured[0].space))
        yield choose.certain(measured)
        yield from choose.joining(measured)
        yield choose.periods(clips, PERIODS)


if __name__ == "__main__":
    main()
