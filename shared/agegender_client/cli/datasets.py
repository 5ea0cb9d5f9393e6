"""`agegender datasets` and `agegender extract`."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from agegender.files import write_bytes
from rich.markup import escape
from rich.table import Table

from agegender_client import Client
from agegender_client.cli.output import AsJson, console, errors, print_json, progress_bars, table
from agegender_client.training import ENDED, Dataset, Extraction

NearDuplicates = Annotated[
    str | None,
    typer.Option(
        help="Faces that become one subject: off, photographs (copies of one photograph) or persons."
    ),
]
SubjectsFrom = Annotated[
    str | None, typer.Option(help="Take unknown subjects from the extraction in this space.")
]


def add_commands(app: typer.Typer) -> None:
    app.command("datasets")(list_datasets)
    for command in (extract, regroup, duplicates):
        app.command()(command)


def list_datasets(
    name: Annotated[str | None, typer.Argument(help="Tell all of one data set.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the data sets in the data folder, and what was extracted of them."""
    with Client() as client:
        found = client.datasets() if name is None else [client.dataset(name)]
    if as_json:
        print_json(found)
        return
    if not found:
        errors.print(
            "There are no data sets yet. Put a folder with pictures and labels.csv into the data folder."
        )
    shown = table("data set", "kind", "space", "variant", "faces", "of")
    for dataset in found:
        _add_rows(shown, dataset)
    console.print(shown)
    if name is not None:
        for extracted in found[0].extracted:
            console.print_json(data=extracted.meta_data)


def _add_rows(shown: Table, dataset: Dataset) -> None:
    first = [escape(dataset.name), dataset.kind or "extracted only"]
    for extracted in dataset.extracted:
        faces, _, rest = extracted.summary.partition(" of ")
        shown.add_row(
            *first,
            extracted.space.id,
            escape(extracted.variant),
            faces or f"{extracted.faces:,}",
            escape(rest),
        )
        first = ["", ""]
    done = {(one.space.id, one.variant) for one in dataset.extracted}
    for other in dataset.extractions:
        if (other.space.id, other.variant) not in done or other.state != "finished":
            shown.add_row(
                *first, other.space.id, escape(other.variant), f"[dim]{other.state}", escape(_sentence(other))
            )
            first = ["", ""]
    if first[0]:
        shown.add_row(*first, "", escape(", ".join(dataset.variants)), "[dim]not extracted", "")


def _sentence(extraction: Extraction) -> str:
    """Why it failed, with the counts of what was removed."""
    detail = str((extraction.problem or {}).get("detail", ""))
    return detail if extraction.summary in detail else f"{detail} {extraction.summary}.".strip()


def extract(
    name: Annotated[str, typer.Argument(help="Name of the data set: its folder in the data folder.")],
    variant: Annotated[str | None, typer.Option(help="Folder of images, such as aligned.")] = None,
    mirrored: Annotated[bool, typer.Option(help="Embed the mirrored faces too.")] = False,
    min_det_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Remove faces that the detector doubts more.")
    ] = None,
    gender: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT=GENDER", help="What labels.csv means, such as 0=male; may be repeated."),
    ] = None,
    near_duplicates: NearDuplicates = None,
    subjects_from: SubjectsFrom = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an extraction that was made with other options.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Follow it to its end.")] = True,
    as_json: AsJson = False,
) -> None:
    """Find and embed the faces of a data set. Run it again to go on where it stopped."""
    options: dict[str, Any] = {
        "variant": variant,
        "mirrored": mirrored,
        "min_det_score": min_det_score,
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
        console.print(
            f"Extracted {name}/{extraction.variant} in {extraction.space}: {extraction.summary}. "
            f"Next: agegender train {shlex.quote(name)}",
            markup=False,
            soft_wrap=True,
        )


def _gender_map(assignments: list[str]) -> dict[str, str]:
    pairs = [assignment.rpartition("=") for assignment in assignments]
    for text, _, gender in pairs:
        if not text or gender not in ("male", "female"):
            raise typer.BadParameter(
                f"--gender takes text of labels.csv and male or female, such as 0=male; got {text}={gender}."
            )
    return {text: gender for text, _, gender in pairs}


def regroup(
    name: Annotated[str, typer.Argument(help="Name of an extracted data set.")],
    near_duplicates: NearDuplicates = None,
    subjects_from: SubjectsFrom = None,
    space: Annotated[str | None, typer.Option(help="Where extracted in several spaces.")] = None,
    variant: Annotated[str | None, typer.Option(help="Where several were extracted.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find subjects and folds anew, without embedding. Completes what an earlier release extracted."""
    options = {
        "near_duplicates": near_duplicates,
        "subjects_from": subjects_from,
        "space": space,
        "variant": variant,
    }
    with Client() as client:
        started = client.regroup(name, **{key: value for key, value in options.items() if value is not None})
        extraction = _finished(client, started, as_json=as_json)
        done = next(
            one
            for one in client.dataset(name).extracted
            if (one.space, one.variant) == (extraction.space, extraction.variant)
        )
    if not as_json:
        found = done.meta_data.get("near_duplicates", {})
        console.print(
            f"{name}/{extraction.variant} in {extraction.space}: {done.faces:,} faces of "
            f"{done.meta_data.get('subjects', 0):,} subjects; {found.get('faces', 0):,} near-duplicates in "
            f"{found.get('groups', 0):,} groups (`agegender duplicates {name}` shows them)."
        )


def duplicates(
    name: Annotated[str, typer.Argument(help="Name of an extracted data set.")],
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Draw the first groups into this JPEG file.")
    ] = None,
    first: Annotated[int, typer.Option(min=0, help="Groups to skip.")] = 0,
    groups: Annotated[int, typer.Option(min=1, max=100, help="Groups to show.")] = 30,
    space: Annotated[str | None, typer.Option(help="Where extracted in several spaces.")] = None,
    variant: Annotated[str | None, typer.Option(help="Where several were extracted.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show which faces were found to be near-duplicates, largest group first."""
    options = {key: value for key, value in (("space", space), ("variant", variant)) if value is not None}
    with Client() as client:
        found = client.duplicates(name, **options)
        if sheet is not None:
            write_bytes(sheet, client.duplicates_sheet(name, first=first, groups=groups, **options))
            errors.print(f"Written to {sheet}.")
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


def _finished(client: Client, extraction: Extraction, *, as_json: bool) -> Extraction:
    """Follow an extraction to its end. Exits with 4 if it does not finish."""
    extraction = _followed(client, extraction, as_json=as_json)
    if extraction.state != "finished":
        errors.print(
            f"[red]Extraction of {escape(extraction.dataset)} {extraction.state}.[/]",
            escape(_sentence(extraction)),
        )
        raise typer.Exit(4)
    return extraction


def _followed(client: Client, extraction: Extraction, *, as_json: bool) -> Extraction:
    with progress_bars(quiet=as_json) as bars:
        bar = bars.add_task(extraction.dataset, total=None, note=extraction.state)
        for told in client.watch_extraction(extraction.dataset):
            if (told.variant, told.space) != (extraction.variant, extraction.space):
                continue
            extraction = told
            if as_json:
                print_json(told)
            progress = told.progress
            rate = f"{progress.images_per_second:.0f} images/s" if progress.images_per_second else ""
            bars.update(
                bar,
                completed=progress.done,
                total=progress.total or None,
                note=told.state if told.state in ENDED else f"{told.state} {rate}",
            )
    return extraction
