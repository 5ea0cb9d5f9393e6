"""The `agegender` command.

Exit codes: 0 success; 1 rejected or failed, with a message; 2 wrong usage or settings; 3 a service cannot be
reached or is not ready; 4 a watched run ended without success.
"""

import json
import sys
from typing import Annotated

import typer
from agegender.errors import Problem
from agegender.keys import ApiKey, Scope

from agegender_client.cli import AsJson, datasets, errors, print_json, results, runs, serving, video

app = typer.Typer(
    name="agegender",
    help="Estimate age and gender of faces, extract data sets, train heads and serve them.",
    epilog="AGEGENDER_PREDICTOR_URL, AGEGENDER_TRAINER_URL and AGEGENDER_PROXY_URL are the addresses of the "
    "services. AGEGENDER_API_KEY is the API key, if the services require one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for module in (serving, video, datasets, runs, results):
    module.add_commands(app)

_NEXT_STEPS = {
    "no-head": "agegender models     # spaces that have heads",
    "not-finished": "agegender watch ID    # until the experiment has ended",
    "not-found": "agegender datasets, agegender experiments     # existing names",
}


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Name of the owner, for logs and rate limits.")],
    scope: Annotated[list[Scope], typer.Option(help="Scope of the key. Repeatable.")] = [Scope.PREDICT],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Create an API key: the secret for its owner, and the entry for API_KEYS of the services."""
    new, secret = ApiKey.new(name, scope)
    try:
        ApiKey.parse(str(new))
    except ValueError:
        raise typer.BadParameter(
            f"the name is {name!r}; expected letters, digits, '.', '_' and '-', at most 40"
        ) from None
    if as_json:
        print_json({"key": secret, "entry": str(new)})
        return
    errors.print("Secret for the owner (AGEGENDER_API_KEY). It is not stored and cannot be shown again:")
    print(secret)
    errors.print("Entry for API_KEYS of the services, where commas separate entries:")
    print(new)


def main() -> None:
    try:
        app()
    except Problem as problem:
        print_problem(problem, as_json="--json" in sys.argv)
        raise SystemExit(_exit_code(problem)) from None


def _exit_code(problem: Problem) -> int:
    if problem.slug == "bad-settings":
        return 2
    return 3 if problem.status == 503 else 1


def print_problem(problem: Problem, *, as_json: bool) -> None:
    """Print to standard error: the problem document, or its detail and a command to try."""
    if as_json:
        print(json.dumps(problem.document()), file=sys.stderr)
        return
    errors.print(f"[bold red]{problem.document()['title']}.[/] ", end="")
    errors.print(problem.detail, markup=False, highlight=False)
    if (step := _NEXT_STEPS.get(problem.slug)) is not None:
        errors.print(f"Try: {step}", markup=False, highlight=False, style="dim")


if __name__ == "__main__":
    main()
