"""Import labels: find them in a folder, propose how to read them, and write `labels.csv` from them.

They are exported as the `metadata.csv` of Hugging Face's image folders.
"""

import csv
import os
from hashlib import sha256
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import IO

from agegender.errors import Problem
from agegender.files import atomic_file, read_json, write_json

from trainer.datasets.formats import TABLE_FORMATS, format_of, require_format, tables, unknown_folder
from trainer.datasets.formats.names import CLASS_FOLDERS
from trainer.datasets.formats.table_files import (
    EXPORTED,
    LABELS,
    METADATA,
    SURPLUS,
    columns,
    hugging_face_tables,
    rows,
    tables_in,
)
from trainer.datasets.labels import NO_FOLD, LabelledImage, Removed, is_safe_name
from trainer.datasets.proposals import (
    Images,
    Inspection,
    LabelChoice,
    LabelExport,
    LabelProposal,
    Source,
    age_text,
    gender_text,
)

SOURCE = "labels.source.json"  # what labels.csv was written from
ORIGINAL = "labels.original.csv"  # the labels.csv that a person wrote
REMOVED = "labels.removed.csv"
_OURS = frozenset({LABELS, METADATA, REMOVED})
_TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".parquet")
_SAMPLE = 200
_VOTERS = ("worker", "rater", "voter", "annotator", "labeler", "labeller")  # not the face's age and gender
_AGE_WORDS = ("alter", "edad", "idade", "leeftijd", "eta", "età", "âge", "yas", "yaş", "wiek")


def propose(folder: Path, choice: LabelChoice | None = None) -> LabelProposal:
    """Inspect the labels in a folder, and return how they are read.

    choice : columns and meanings that are not to be guessed.

    Raises ``unknown-dataset`` 422 if nothing is found that can be labels, and ``bad-labels`` 422 if a table
    cannot be read or lacks a column.
    """
    choice = _selection(folder, choice)
    images = Images.below(folder)
    source = _source(folder, choice, images)
    return Inspection(folder, source, choice, images).proposal()


def write_labels(folder: Path, choice: LabelChoice | None = None) -> LabelProposal:
    """Write `labels.csv` with the usable rows of a folder's labels, and return how they were read.

    A `labels.csv` that a person wrote is kept as `labels.original.csv`. The rows omitted are listed with
    their reasons in `labels.removed.csv`. Raises what `propose` does, and ``no-images`` 422 if no row can be
    used.
    """
    choice = _selection(folder, choice)
    source = _source(folder, choice, Images.below(folder))
    tables.unpack(folder, source.files, lambda: None)
    inspection = Inspection(folder, source, choice, Images.below(folder), is_unpacked=True)
    labels = tables.label_file(folder)
    with atomic_file(labels) as kept, atomic_file(folder / REMOVED) as omitted:
        proposal = _write_rows(inspection, kept, omitted)
        if not proposal.usable:
            raise _nothing_usable(folder, proposal)
        own = None if not labels.is_file() or _is_written(folder) else _free_name(folder)
        names = tuple(own if own and name == LABELS else name for name in source.files)
        kept.flush()
        digest = sha256(Path(kept.name).read_bytes()).hexdigest()
        write_json(folder / SOURCE, {"tables": names, "sha256": digest, **choice.model_dump()})
        if own:
            labels.replace(folder / own)
    if not proposal.removed:
        (folder / REMOVED).unlink(missing_ok=True)
    written = {"ready": True, "written": LABELS, "removed_file": REMOVED if proposal.removed else None}
    return proposal.model_copy(update=written)


def _write_rows(inspection: "Inspection", kept: IO[bytes], omitted: IO[bytes]) -> LabelProposal:
    """Write the usable rows as labels.csv, the others with their reasons; return the proposal."""
    texts = [TextIOWrapper(file, encoding="utf-8", errors="replace", newline="") for file in (kept, omitted)]
    kept_rows, removed_rows = (csv.writer(text, lineterminator="\n") for text in texts)
    kept_rows.writerow(tables.ROLES)
    removed_rows.writerow(("file", "reason"))
    for _, row in inspection.rows():
        if isinstance(row, Removed):
            removed_rows.writerow((row.file, row.reason.value))
        else:
            fold = "" if row.fold == NO_FOLD else row.fold
            kept_rows.writerow((row.file, age_text(row), gender_text(row), row.subject, fold))
    for text in texts:
        text.detach()  # flushes it, and leaves the file open
    return inspection.proposal()


def export_metadata(folder: Path, *, replace: bool = False) -> LabelExport:
    """Write `metadata.csv`, so that `datasets` of Hugging Face reads the folder as an `imagefolder`.

    The table has the columns file_name, age (years or a range), gender, subject and fold, as far as they are
    known. Raises ``file-exists`` 409 for a `metadata.csv` that is no export, unless `replace` is true.
    """
    target, mark = folder / METADATA, folder / EXPORTED
    if target.is_file() and not mark.is_file() and not replace:
        detail = f"{folder.name}/{METADATA} exists and was not exported. Rename it, or send replace=true."
        raise Problem("file-exists", 409, detail)
    label_format = require_format(folder)
    if label_format.unpack is not None:
        label_format.unpack(folder, label_format.image_sets(folder)[0], lambda: None)
    source = Source(label_format, label_format.image_sets(folder)[0])
    inspection = Inspection(folder, source, LabelChoice(), Images.below(folder), is_unpacked=True)
    with atomic_file(target) as file:
        text = TextIOWrapper(file, encoding="utf-8", errors="replace", newline="")
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(("file_name", *tables.ROLES[1:]))
        for _, row in inspection.rows():
            if isinstance(row, LabelledImage):
                fold = "" if row.fold == NO_FOLD else row.fold
                lines.writerow((row.file, age_text(row), gender_text(row), row.subject, fold))
        text.detach()
        proposal = inspection.proposal()
        if not proposal.usable:
            raise _nothing_usable(folder, proposal)
        mark.touch()
    return LabelExport(
        dataset=folder.name,
        written=METADATA,
        rows=proposal.usable,
        removed=proposal.removed,
        summary=proposal.summary,
    )


def _nothing_usable(folder: Path, proposal: LabelProposal) -> Problem:
    return Problem(
        "no-images",
        422,
        " ".join([f"No row of {folder.name!r} can be used: {proposal.summary}.", *proposal.problems]),
        removed=proposal.removed,
        removed_examples=proposal.removed_examples,
        summary=proposal.summary,
    )


def _selection(folder: Path, choice: LabelChoice | None) -> LabelChoice:
    """Return what a user selected, or else what labels.csv was written with."""
    if choice is not None and choice != LabelChoice():
        return choice
    if not _is_written(folder):
        return LabelChoice()
    try:
        stored = read_json(folder / SOURCE)
        return LabelChoice.model_validate({name: stored[name] for name in LabelChoice.model_fields})
    except (OSError, ValueError, KeyError, TypeError):
        return LabelChoice()


def _source(folder: Path, choice: LabelChoice, images: Images) -> Source:
    """Return where the labels of a folder are."""
    if choice.hugging_face:
        return _hugging_face_source(folder, choice, images)
    if written := _tables_written_from(folder):
        return _table_source(folder, written, choice, images)
    found = format_of(folder)
    is_table = found is None or found.name in TABLE_FORMATS
    if found is not None and not is_table and not choice.columns:
        return Source(found, found.image_sets(folder)[0])
    if names := tables_in(folder):
        return _table_source(folder, tuple(names), choice, images)
    problem: Problem | None = None
    for name in _other_tables(folder):
        try:
            source = _table_source(folder, (name,), choice, images)
        except Problem as error:
            problem = problem or error
            continue
        if source.found is not None and (source.found.age or source.found.gender):
            return source
    if found is not None and not choice.columns:
        return Source(found, found.image_sets(folder)[0])
    raise problem or unknown_folder(folder)


def _hugging_face_source(folder: Path, choice: LabelChoice, images: Images) -> Source:
    if names := hugging_face_tables(folder):
        return _table_source(folder, tuple(names), choice, images)
    if CLASS_FOLDERS.image_sets(folder):
        return Source(CLASS_FOLDERS, CLASS_FOLDERS.image_sets(folder)[0])
    problem = unknown_folder(folder)
    detail = (
        f"{folder.name!r} is no data set of Hugging Face: expected metadata.csv, metadata.jsonl or "
        "metadata.parquet beside the images or in each split, Parquet shards, or a folder for each class. "
    )
    raise Problem(problem.slug, problem.status, detail + problem.detail, **problem.extra)


def _is_written(folder: Path) -> bool:
    """Return whether labels.csv is as an import wrote it, and not a person's own."""
    try:
        digest = sha256((folder / LABELS).read_bytes()).hexdigest()
        return bool(read_json(folder / SOURCE)["sha256"] == digest)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _free_name(folder: Path) -> str:
    """Return a name for a labels.csv of a person, so that no earlier one is replaced."""
    names = [ORIGINAL, *(f"labels.original-{number}.csv" for number in range(2, 1000))]
    return next((name for name in names if not (folder / name).exists()), names[-1])


def _tables_written_from(folder: Path) -> tuple[str, ...]:
    """Return the tables that the present labels.csv was written from."""
    if not _is_written(folder):
        return ()
    try:
        names = read_json(folder / SOURCE)["tables"]
        return tuple(name for name in names if is_safe_name(name) and (folder / name).is_file())
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _other_tables(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file()]
    return sorted(
        name
        for name in names
        if name.lower().endswith(_TABLE_SUFFIXES) and name not in _OURS and name[0] != "."
    )


def _table_source(folder: Path, names: tuple[str, ...], choice: LabelChoice, images: Images) -> Source:
    first = folder / names[0]
    present = columns(first, tables.LIKELY | {name.lower() for name in choice.columns.values() if name})
    guessed = _guess_columns(first, present, images) | choice.columns
    found = tables.find_columns(first, present, guessed)
    return Source(tables.TABLE, tables.IMAGE_SET, names, found, tuple(present))


def _guess_columns(path: Path, present: list[str], images: Images) -> dict[str, str | None]:
    """Return roles of columns whose names say nothing, by their values."""
    sample = list(islice(rows(path, tables.LIKELY), _SAMPLE))
    named = {role for role in tables.ROLES if any(name in present for name in tables.ALIASES[role])}
    taken = {name for role in named for name in tables.ALIASES[role]}
    open_columns = [
        name
        for name in present
        if name not in taken and name != SURPLUS and not any(voter in name for voter in _VOTERS)
    ]
    guessed: dict[str, str | None] = {}
    tests = {
        "file": lambda name, value: images.resolve(value) in images.paths,
        "gender": lambda name, value: value.lower() in tables.GENDERS,
        "age": lambda name, value: _means_age(name) and tables.age_interval(value) is not None,
    }
    for role in [role for role in tests if role not in named]:
        for name in open_columns:
            values = [value for row in sample if (value := row.get(name, "")).lower() not in tables.UNKNOWN]
            fitting = sum(tests[role](name, value) for value in values)
            if values and fitting >= 0.5 * len(values) and name not in guessed.values():
                guessed[role] = name
                break
    return guessed


def _means_age(name: str) -> bool:
    words = name.replace("-", "_").replace(" ", "_").split("_")
    return "age" in words or any(word in _AGE_WORDS for word in words)
