"""Import labels: find them in a folder, propose how to read them, and write `labels.csv` from them.

They are exported as the `metadata.csv` of Hugging Face's image folders.
"""

import csv
import os
from dataclasses import replace
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import IO

from agegender.errors import Problem
from agegender.files import atomic_file, write_json

from trainer.datasets.catalog import Images
from trainer.datasets.embedding_set import file_sha256
from trainer.datasets.formats import TABLE_FORMATS, format_of, require_format, tables, unknown_folder
from trainer.datasets.formats.names import CLASS_FOLDERS
from trainer.datasets.formats.table_files import (
    EXPORTED,
    LABELS,
    METADATA,
    SOURCE,
    SURPLUS,
    columns,
    hugging_face_tables,
    import_record,
    rows,
    tables_in,
)
from trainer.datasets.labels import (
    NO_FOLD,
    LabelledImage,
    Removed,
    age_interval,
    age_text,
    gender_text,
    is_safe_name,
)
from trainer.datasets.proposals import (
    Inspection,
    LabelChoice,
    LabelExport,
    LabelProposal,
    Source,
)

ORIGINAL = "labels.original.csv"  # the labels.csv that a person wrote
REMOVED = "labels.removed.csv"
_OURS = (LABELS, METADATA, REMOVED, SOURCE, "labels.original")
_TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet")
_SAMPLE = 200
_MOST_OTHERS = 20  # further tables that are looked at; a folder may have a file beside each image
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
    tables.unpack(folder, source.files, lambda: None, choice.genders, choice.columns)
    inspection = Inspection(folder, source, choice, Images.below(folder), is_unpacked=True)
    labels = tables.label_file(folder)
    with atomic_file(labels) as kept, atomic_file(folder / REMOVED) as omitted:
        proposal = _write_rows(inspection, kept, omitted)
        if not proposal.usable:
            raise _nothing_usable(folder, proposal)
        own = None if not labels.is_file() or import_record(folder) else _free_name(folder)
        names = tuple(own if own and name == LABELS else name for name in source.files)
        kept.flush()
        digest = file_sha256(Path(kept.name))
        # A labels.csv that is written again from itself keeps the limits of the first format.
        kept_format = import_record(folder).get("format") if source.files == (LABELS,) else None
        label_format = kept_format if source.files else source.label_format.name
        if choice.table is not None:
            choice = choice.model_copy(update={"table": names[0]})
        record = {"tables": names, "format": label_format, "sha256": digest, **choice.model_dump()}
        write_json(folder / SOURCE, record)
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
    removed_rows.writerow(("file", "reason", "cell"))
    for _, row in inspection.rows():
        if isinstance(row, Removed):
            removed_rows.writerow((row.file, row.reason.value, row.cell))
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
    stored = import_record(folder)
    try:
        return LabelChoice.model_validate(
            {key: stored[key] for key in LabelChoice.model_fields if key in stored}
        )
    except ValueError:
        return LabelChoice()


def _source(folder: Path, choice: LabelChoice, images: Images) -> Source:
    """Return where the labels of a folder are."""
    if choice.hugging_face:
        return _hugging_face_source(folder, choice, images)
    if choice.table is not None:
        return _table_source(folder, (_existing_table(folder, choice.table),), choice, images)
    if written := _tables_written_from(folder):
        return _table_source(folder, written, choice, images)
    found = format_of(folder)
    is_table = found is None or found.name in TABLE_FORMATS
    if found is not None and not is_table and not choice.columns:
        return Source(found, found.image_sets(folder)[0])
    if names := tables_in(folder):
        source = _table_source(folder, tuple(names), choice, images)
        others = [name for name in _other_tables(folder) if name not in names][:_MOST_OTHERS]
        return replace(source, unread=tuple(name for name in others if _names_a_label(folder / name)))
    sources, problem = _usable(folder, choice, images)
    if sources:
        return _together(sources)
    if found is not None and not choice.columns:
        return Source(found, found.image_sets(folder)[0])
    raise problem or unknown_folder(folder)


def _usable(folder: Path, choice: LabelChoice, images: Images) -> tuple[list[Source], Problem | None]:
    """Return the first table of any name that has labels, those of the next ones that do, and a problem.

    The problem is the first of the other tables.
    """
    found: list[Source] = []
    problem: Problem | None = None
    left = _MOST_OTHERS
    for name in _other_tables(folder):
        left -= bool(found)
        if left < 0:
            break
        try:
            source = _table_source(folder, (name,), choice, images)
        except Problem as error:
            problem = problem or error
            continue
        if source.first is not None and (source.first.age or source.first.gender):
            found.append(source)
    return found, problem


def _names_a_label(path: Path) -> bool:
    """Return whether a table has a column for a label, by its first line."""
    try:
        return any(tables.role_of(name) in ("age", "gender") for name in columns(path, tables.LIKELY))
    except Problem:
        return False


def _together(sources: list[Source]) -> Source:
    """Return the first table with all that have the same columns; the others are not read."""
    first = sources[0]
    alike = [one for one in sources if set(one.columns) == set(first.columns) and one.found == first.found]
    return replace(
        first,
        files=tuple(one.files[0] for one in alike),
        found=tuple(one.found[0] for one in alike),
        unread=tuple(one.files[0] for one in sources if one not in alike),
    )


def _existing_table(folder: Path, name: str) -> str:
    """Return the name of a table in a folder. Raises ``bad-labels`` 422 if there is no such table."""
    if is_safe_name(name) and name.lower().endswith(_TABLE_SUFFIXES) and (folder / name).is_file():
        return name
    known = dict.fromkeys([*tables_in(folder), *_other_tables(folder)])
    listed = ", ".join(known) or "none"
    raise Problem("bad-labels", 422, f"{folder.name!r} has no table {name!r}. Its tables are: {listed}.")


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


def _free_name(folder: Path) -> str:
    """Return a name for a labels.csv of a person, so that no earlier one is replaced."""
    names = [ORIGINAL, *(f"labels.original-{number}.csv" for number in range(2, 1000))]
    return next((name for name in names if not (folder / name).exists()), names[-1])


def _tables_written_from(folder: Path) -> tuple[str, ...]:
    """Return the tables that the present labels.csv was written from."""
    names = import_record(folder).get("tables")
    if not isinstance(names, list):
        return ()
    return tuple(
        name for name in names if isinstance(name, str) and is_safe_name(name) and (folder / name).is_file()
    )


def _other_tables(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file()]
    return sorted(
        name
        for name in names
        if name.lower().endswith(_TABLE_SUFFIXES) and not name.startswith((*_OURS, "."))
    )


def _table_source(folder: Path, names: tuple[str, ...], choice: LabelChoice, images: Images) -> Source:
    likely = tables.LIKELY | {name for name in choice.columns.values() if name}
    present = {name: columns(folder / name, likely) for name in names}
    found: dict[tuple[str, ...], tables.Columns] = {}
    for name in names:
        if tuple(present[name]) not in found:  # a hundred shards with the same columns are examined once
            guessed = _guess_columns(folder / name, present[name], images) | choice.columns
            found[tuple(present[name])] = tables.find_columns(folder / name, present[name], guessed)
    return Source(
        tables.TABLE,
        tables.IMAGE_SET,
        names,
        tuple(found[tuple(present[name])] for name in names),
        tuple(dict.fromkeys(column for name in names for column in present[name])),
    )


def _guess_columns(path: Path, present: list[str], images: Images) -> dict[str, str | None]:
    """Return roles of columns whose names say nothing, by their values."""
    sample = list(islice(rows(path, tables.LIKELY), _SAMPLE))
    named = {tables.role_of(name) for name in present}
    open_columns = [
        name
        for name in present
        if tables.role_of(name) is None and name != SURPLUS and not any(voter in name for voter in _VOTERS)
    ]
    guessed: dict[str, str | None] = {}
    tests = {
        "file": lambda name, value: bool(images.meant(value) or images.likely(value)),
        "gender": lambda name, value: value.lower() in tables.GENDERS,
        "age": lambda name, value: _means_age(name) and age_interval(value) is not None,
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
