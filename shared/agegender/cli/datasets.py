"""`agegender datasets` and `agegender extract`."""

from typing import Annotated

import typer
from rich.table import Table

from agegender.cli.output import AsJson, console, errors, print_json, progress_bars, table
from agegender.client import Client
from agegender.client.training import ENDED, Dataset, Extraction


def add_commands(app: typer.Typer) -> None:
    app.command("datasets")(list_datasets)
    app.command("extract")(extract)


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
    shown = table("data set", "kind", "space", "variant", "faces")
    for dataset in found:
        _add_rows(shown, dataset)
    console.print(shown)
    if name is not None:
        for extracted in found[0].extracted:
            console.print_json(data=extracted.meta_data)


def _add_rows(shown: Table, dataset: Dataset) -> None:
    first = [dataset.name, dataset.kind or "extracted only"]
    for extracted in dataset.extracted:
        shown.add_row(*first, extracted.space.id, extracted.variant, f"{extracted.faces:,}")
        first = ["", ""]
    done = {(one.space.id, one.variant) for one in dataset.extracted}
    for running in dataset.extractions:
        if (running.space.id, running.variant) not in done:
            shown.add_row(*first, running.space.id, running.variant, f"[dim]{running.state}")
            first = ["", ""]
    if first[0]:
        shown.add_row(*first, "", ", ".join(dataset.variants), "[dim]not extracted")


def extract(
    name: Annotated[str, typer.Argument(help="Name of the data set: its folder in the data folder.")],
    variant: Annotated[str | None, typer.Option(help="Folder of images, such as aligned.")] = None,
    mirrored: Annotated[bool, typer.Option(help="Embed the mirrored faces too.")] = False,
    min_det_score: Annotated[
        float | None, typer.Option(min=0, max=1, help="Remove faces that the detector doubts more.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Follow it to its end.")] = True,
    as_json: AsJson = False,
) -> None:
    """Find and embed the faces of a data set. Run it again to go on where it stopped."""
    options = {"variant": variant, "mirrored": mirrored, "min_det_score": min_det_score}
    with Client() as client:
        extraction = client.extract(
            name, **{key: value for key, value in options.items() if value is not None}
        )
        if not wait:
            print_json(extraction) if as_json else console.print(f"Extraction of {name} has started.")
            return
        extraction = _followed(client, extraction, as_json=as_json)
    if extraction.state != "finished":
        errors.print(
            f"[red]Extraction of {name} {extraction.state}.[/]", (extraction.problem or {}).get("detail", "")
        )
        raise typer.Exit(4)
    if not as_json:
        console.print(
            f"Extracted {name}/{extraction.variant} in {extraction.space}. Next: agegender train {name}"
        )


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
