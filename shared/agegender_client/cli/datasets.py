"""`agegender datasets`, `import`, `export-labels`, `extract`, `regroup` and `duplicates`."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from agegender.errors import Problem
from rich.markup import escape
from rich.table import Table

from agegender_client import Client
from agegender_client.cli import (
    AsJson,
    FacesOption,
    ImageSetOption,
    NearDuplicates,
    OverwriteOption,
    SpaceOption,
    SubjectsFrom,
    console,
    errors,
    plural,
    print_json,
    progress_bars,
    save,
    table,
)
from agegender_client.responses import Dataset, Extraction, Labels

_HUGGING_FACE = "hf:"


def add_commands(app: typer.Typer) -> None:
    app.command("datasets")(list_datasets)
    for command in (extract, regroup, duplicates, cancel_extraction, delete_extraction):
        app.command()(command)
    app.command("import")(import_labels)
    app.command("export-labels")(export_labels)


def list_datasets(
    name: Annotated[str | None, typer.Argument(help="Data set to show in full.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the data sets in the data folder and what has been extracted from them."""
    with Client() as client:
        found = client.datasets() if name is None else [client.dataset(name)]
    if as_json:
        print_json(found)
        return
    if not found:
        errors.print(
            "There are no data sets. Put a folder with images into the data folder: agegender import FOLDER"
        )
    shown = table("data set", "format", "space", "image set", "faces", "of")
    for dataset in found:
        _add_rows(shown, dataset)
    console.print(shown)
    if name is not None:
        for extracted in found[0].extracted:
            console.print_json(data=extracted.meta_data)


def _add_rows(shown: Table, dataset: Dataset) -> None:
    first = [escape(dataset.name), dataset.format or "extracted only"]
    for extracted in dataset.extracted:
        faces, _, rest = extracted.summary.partition(" of ")
        shown.add_row(
            *first,
            extracted.space.id,
            escape(extracted.image_set),
            faces or f"{extracted.faces:,}",
            escape(rest),
        )
        first = ["", ""]
    done = {(one.space.id, one.image_set) for one in dataset.extracted}
    for other in dataset.extractions:
        if (other.space.id, other.image_set) not in done or other.state != "finished":
            shown.add_row(
                *first,
                other.space.id,
                escape(other.image_set),
                f"[dim]{other.state}",
                escape(_why_failed(other)),
            )
            first = ["", ""]
    if first[0]:
        shown.add_row(*first, "", escape(", ".join(dataset.image_sets)), "[dim]not extracted", "")


def _why_failed(extraction: Extraction) -> str:
    """Return why an extraction failed, with the counts of removed faces."""
    detail = str((extraction.problem or {}).get("detail", ""))
    listed = f" List: {extraction.removed_file}" if extraction.removed_file else ""
    return (detail if extraction.summary in detail else f"{detail} {extraction.summary}.".strip()) + listed


def extract(
    name: Annotated[str, typer.Argument(help="Name of the data set: its folder in the data folder.")],
    image_set: Annotated[
        str | None,
        typer.Option(
            "--image-set",
            "--variant",
            help="Folder of images in the data set, such as aligned. --variant is deprecated.",
        ),
    ] = None,
    mirrored: Annotated[bool, typer.Option(help="Also embed the mirrored faces.")] = False,
    varied: Annotated[bool, typer.Option(help="Also embed mirrored, varied copies.")] = False,
    min_det_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Remove faces with a lower detection score.")
    ] = None,
    faces: FacesOption = "found",
    gender: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT=GENDER", help="Meaning of a text in labels.csv, such as 0=male. Repeatable."
        ),
    ] = None,
    near_duplicates: NearDuplicates = None,
    subjects_from: SubjectsFrom = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an extraction with different options.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Watch the extraction until it has ended.")] = True,
    as_json: AsJson = False,
) -> None:
    """Detect and embed the faces of a data set. Run it again to resume."""
    options: dict[str, Any] = {
        "image_set": image_set,
        "mirrored": mirrored,
        "varied": varied or None,
        "min_det_score": min_det_score,
        "faces": faces if faces != "found" else None,
        "near_duplicates": near_duplicates,
        "subjects_from": subjects_from,
        "replace": replace or None,
    }
    if gender:
        options["genders"] = _gender_map(gender)
    with Client() as client:
        extraction = client.extract(
            name, **{key: value for key, value in options.items() if value is not None}
        )
        if not wait:
            print_json(extraction) if as_json else console.print(f"Extraction of {name} has started.")
            return
        extraction = _finished(client, extraction, as_json=as_json)
    if not as_json:
        counts = ": ".join(filter(None, (extraction.summary, extraction.removed_file)))
        console.print(
            f"Extracted {name}/{extraction.image_set} in {extraction.space}: {counts}. "
            f"Next: agegender train {shlex.quote(name)}",
            markup=False,
            soft_wrap=True,
        )


def _gender_map(assignments: list[str]) -> dict[str, str]:
    pairs = [assignment.rpartition("=") for assignment in assignments]
    for text, _, gender in pairs:
        if not text or gender not in ("male", "female"):
            raise typer.BadParameter(
                f"got --gender {text}={gender}; expected a label and male or female, such as 0=male"
            )
    return {text: gender for text, _, gender in pairs}


def regroup(
    name: Annotated[str, typer.Argument(help="Name of an extracted data set.")],
    near_duplicates: NearDuplicates = None,
    subjects_from: SubjectsFrom = None,
    space: SpaceOption = None,
    image_set: ImageSetOption = None,
    as_json: AsJson = False,
) -> None:
    """Recompute subjects and folds without embedding. Also completes extractions of earlier releases."""
    options = {
        "near_duplicates": near_duplicates,
        "subjects_from": subjects_from,
        "space": space,
        "image_set": image_set,
    }
    with Client() as client:
        started = client.regroup(name, **{key: value for key, value in options.items() if value is not None})
        extraction = _finished(client, started, as_json=as_json)
        done = next(
            one
            for one in client.dataset(name).extracted
            if (one.space, one.image_set) == (extraction.space, extraction.image_set)
        )
    if not as_json:
        found = done.meta_data.get("near_duplicates", {})
        console.print(
            f"{name}/{extraction.image_set} in {extraction.space}: {done.faces:,} faces of "
            f"{done.meta_data.get('subjects', 0):,} subjects; {found.get('faces', 0):,} near-duplicates in "
            f"{found.get('groups', 0):,} groups (`agegender duplicates {name}` shows them)."
        )


def duplicates(
    name: Annotated[str, typer.Argument(help="Name of an extracted data set.")],
    sheet: Annotated[Path | None, typer.Option(help="JPEG file that shows the faces of the groups.")] = None,
    overwrite: OverwriteOption = False,
    first: Annotated[int, typer.Option(min=0, help="Number of groups to skip.")] = 0,
    groups: Annotated[int, typer.Option(min=1, max=100, help="Number of groups to show.")] = 30,
    space: SpaceOption = None,
    image_set: ImageSetOption = None,
    as_json: AsJson = False,
) -> None:
    """Show the groups of near-duplicate faces, largest first."""
    options = {key: value for key, value in (("space", space), ("image_set", image_set)) if value is not None}
    with Client() as client:
        found = client.duplicates(name, **options)
        if sheet is not None:
            drawn = {"first": first, "groups": groups, **options}
            save(sheet, lambda: client.duplicates_sheet(name, **drawn), overwrite=overwrite)
    if as_json:
        print_json(found)
        return
    shown = table("subject", "found by", "lowest cosine", "faces", "files")
    for group in found[first : first + groups]:
        cosine = "" if group.lowest_cosine is None else f"{group.lowest_cosine:.2f}"
        files = ", ".join(group.files[:6]) + (" …" if len(group.files) > 6 else "")
        shown.add_row(group.subject, group.found_by, cosine, str(len(group.files)), files)
    console.print(shown)
    console.print(f"{len(found):,} groups of {sum(len(group.files) for group in found):,} faces.")


def import_labels(
    name: Annotated[
        str, typer.Argument(help="Folder in the data folder; hf:FOLDER for a data set of Hugging Face.")
    ],
    file_column: Annotated[str | None, typer.Option(help="Column with the image's name.")] = None,
    age_column: Annotated[str | None, typer.Option(help="Column with the age; '' for none.")] = None,
    gender_column: Annotated[str | None, typer.Option(help="Column with the gender; '' for none.")] = None,
    subject_column: Annotated[str | None, typer.Option(help="Column with the person; '' for none.")] = None,
    fold_column: Annotated[str | None, typer.Option(help="Column with the fold; '' for none.")] = None,
    label_table: Annotated[
        str | None, typer.Option("--table", help="Table in the folder to read; default: guessed.")
    ] = None,
    genders: Annotated[
        str | None, typer.Option("--map", metavar="0=female,1=male", help="Meaning of gender words.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write labels.csv without asking.")] = False,
    image_set: ImageSetOption = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace imported embeddings.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how the labels in a folder are read, and write them as labels.csv.

    Embeddings of the original project (data-aligned.npy or data.npy) are imported as they are.
    """
    is_hugging_face, name = name.startswith(_HUGGING_FACE), name.removeprefix(_HUGGING_FACE)
    columns = {"file": file_column, "age": age_column, "gender": gender_column}
    columns |= {"subject": subject_column, "fold": fold_column}
    given: dict[str, Any] = {f"{role}_column": column for role, column in columns.items()}
    given |= {"table": label_table, "map": genders, "hugging_face": is_hugging_face or None}
    options = {key: value for key, value in given.items() if value is not None}
    with Client() as client:
        if not options and (image_set is not None or replace or _is_original(client, name)):
            _import_original(client, name, image_set, replace, as_json=as_json)
            return
        labels = client.labels(name, **options)
        if not as_json:
            _show_labels(labels)
        if not labels.usable:
            if as_json:
                print_json(labels)
            errors.print(f"Nothing was written: {labels.summary}.", markup=False)
            raise typer.Exit(1)
        if not (yes or as_json or typer.confirm(f"Write labels.csv with {plural(labels.usable, 'row')}?")):
            raise typer.Exit(1)
        labels = client.write_labels(name, **options)
    if as_json:
        print_json(labels)
        return
    omitted = f": {name}/{labels.removed_file}" if labels.removed_file else ""
    next_step = f"Next: agegender extract {shlex.quote(name)}"
    text = f"Wrote {name}/{labels.written}: {labels.summary}{omitted}. {next_step}"
    console.print(text, markup=False, soft_wrap=True)


def _is_original(client: Client, name: str) -> bool:
    """Return whether a folder has embeddings of the original project."""
    try:
        return bool(client.dataset(name).importable)
    except Problem as problem:
        if problem.slug != "not-found":
            raise
        return False  # no data set yet; its labels may become one


def _show_labels(labels: Labels) -> None:
    """Print where labels were found, five rows with what they are read as, and what to check."""
    lines = [f"{labels.dataset}: labels of the format {labels.format} {', '.join(labels.source)}".rstrip()]
    if labels.source:
        roles = ("file", "age", "gender", "subject", "fold")
        columns = {role: getattr(labels, f"{role}_column") or "none" for role in roles}
        lines += ["columns: " + ", ".join(f"{role} = {column}" for role, column in columns.items())]
    if labels.genders:
        meanings = [f"{text or 'empty'} = {gender or '?'}" for text, gender in labels.genders.items()]
        lines += [f"genders: {', '.join(meanings)}"]
    console.print("\n".join(lines), markup=False)
    shown = table("file", "age in the table", "gender in the table", "age", "gender", "problem")
    for row in labels.examples:
        cells = [row.cells.get(name or "", "") for name in (labels.age_column, labels.gender_column)]
        values = [row.file, *cells, row.age or "unknown", row.gender or "unknown", row.problem or ""]
        shown.add_row(*map(escape, values))
    console.print(shown)
    console.print(labels.summary, markup=False)
    for problem in labels.problems:
        errors.print(f"- {problem}", markup=False)


def export_labels(
    name: Annotated[str, typer.Argument(help="Name of the data set: its folder in the data folder.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace another metadata.csv.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write metadata.csv into a data set, so that Hugging Face's `datasets` reads it as an imagefolder."""
    with Client() as client:
        exported = client.export_labels(name, replace)
    if as_json:
        print_json(exported)
    else:
        console.print(f"Wrote {name}/{exported.written}: {exported.summary}.", markup=False, soft_wrap=True)


def _import_original(
    client: Client, name: str, image_set: str | None, replace: bool, *, as_json: bool
) -> None:
    """Import the embeddings that the original project extracted."""
    options = {"image_set": image_set, "replace": replace or None}
    started = client.import_original(name, **{key: value for key, value in options.items() if value})
    extraction = _finished(client, started, as_json=as_json)
    if not as_json:
        console.print(f"Imported {name}/{extraction.image_set} in {extraction.space}.", markup=False)


def cancel_extraction(
    name: Annotated[str, typer.Argument(help="Name of the data set.")], as_json: AsJson = False
) -> None:
    """Cancel the running extractions of a data set. `agegender extract` resumes them."""
    with Client() as client:
        _print_states(client.cancel_extraction(name), as_json=as_json)


def delete_extraction(
    name: Annotated[str, typer.Argument(help="Name of the data set.")], as_json: AsJson = False
) -> None:
    """Delete the records and unfinished work of ended extractions. Extracted faces are kept."""
    with Client() as client:
        deleted = client.delete_extraction(name)
    if as_json:
        print_json(deleted)
    else:
        console.print(f"Deleted {plural(len(deleted), 'extraction')} of {name}.", markup=False)


def _print_states(extractions: list[Extraction], *, as_json: bool) -> None:
    if as_json:
        print_json(extractions)
        return
    for extraction in extractions:
        image_set = f"{extraction.dataset}/{extraction.image_set}"
        console.print(f"{image_set} in {extraction.space}: {extraction.state}.", markup=False)


def _finished(client: Client, extraction: Extraction, *, as_json: bool) -> Extraction:
    """Watch an extraction until it has ended. Exits with 4 if it has not finished."""
    extraction = _followed(client, extraction, as_json=as_json)
    if extraction.state != "finished":
        errors.print(
            f"[red]Extraction of {escape(extraction.dataset)} {extraction.state}.[/]",
            escape(_why_failed(extraction)),
        )
        raise typer.Exit(4)
    return extraction


def _followed(client: Client, extraction: Extraction, *, as_json: bool) -> Extraction:
    with progress_bars(quiet=as_json) as bars:
        bar = bars.add_task(extraction.dataset, total=None, note=extraction.state)
        for event in client.watch_extraction(extraction.dataset):
            if (event.image_set, event.space) != (extraction.image_set, extraction.space):
                continue
            extraction = event
            if as_json:
                print_json(event)
            progress = event.progress
            rate = f"{progress.images_per_second:.0f} images/s" if progress.images_per_second else ""
            bars.update(
                bar,
                completed=progress.done,
                total=progress.total or None,
                note=event.state if event.ended else f"{event.state} {rate}",
            )
    return extraction
