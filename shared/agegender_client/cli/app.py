"""The `agegender` command.

Exit codes: 0 done; 1 refused or failed, the message says why; 2 wrong usage; 3 a service cannot be reached
or is not ready; 4 what was watched ended without success.
"""

import json
import sys

import typer
from agegender.errors import Problem

from agegender_client.cli import datasets, experiments, heads, keys, prediction, searches
from agegender_client.cli.output import errors

app = typer.Typer(
    name="agegender",
    help="Age and gender of faces: predict, extract data sets, train heads, promote them.",
    epilog="Services are found at AGEGENDER_PREDICTOR_URL, AGEGENDER_TRAINER_URL and AGEGENDER_PROXY_URL. "
    "Where they take keys, AGEGENDER_API_KEY is sent.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for part in (prediction, datasets, experiments, searches, heads, keys):
    part.add_commands(app)

_NEXT_STEPS = {
    "no-head": "agegender models     # the spaces that have heads",
    "not-finished": "agegender watch ID    # until the experiment has ended",
    "not-found": "agegender datasets, agegender experiments     # the names that there are",
}


def main() -> None:
    try:
        app()
    except Problem as problem:
        tell_problem(problem, as_json="--json" in sys.argv)
        raise SystemExit(_exit_code(problem)) from None


def _exit_code(problem: Problem) -> int:
    if problem.slug == "bad-settings":
        return 2
    return 3 if problem.status == 503 else 1


def tell_problem(problem: Problem, *, as_json: bool) -> None:
    """On standard error: the problem document, or its words and what to try next."""
    if as_json:
        print(json.dumps(problem.document()), file=sys.stderr)
        return
    errors.print(f"[bold red]{problem.document()['title']}.[/] ", end="")
    errors.print(problem.detail, markup=False, highlight=False)
    if (step := _NEXT_STEPS.get(problem.slug)) is not None:
        errors.print(f"Try: {step}", markup=False, highlight=False, style="dim")


if __name__ == "__main__":
    main()
