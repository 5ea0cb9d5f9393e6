"""`agegender key`: make an API key."""

from typing import Annotated

import typer
from agegender.keys import ApiKey, Scope

from agegender_client.cli.output import AsJson, errors, print_json


def add_commands(app: typer.Typer) -> None:
    app.command()(key)


def key(
    name: Annotated[str, typer.Argument(help="Whose it is, as logs and limits tell it.")],
    scope: Annotated[list[Scope], typer.Option(help="What it is good for. Repeatable.")] = [Scope.PREDICT],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Make an API key: the secret for its owner, and the entry of API_KEYS for the services."""
    made, secret = ApiKey.new(name, scope)
    try:
        ApiKey.parse(str(made))
    except ValueError:
        raise typer.BadParameter("a name has letters, digits, '.', '_' and '-', at most 40") from None
    if as_json:
        print_json({"key": secret, "entry": str(made)})
        return
    errors.print("For its owner (AGEGENDER_API_KEY); it is stored nowhere and cannot be shown again:")
    print(secret)
    errors.print("For the services, in API_KEYS, with commas between several:")
    print(made)
