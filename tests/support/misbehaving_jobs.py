"""Queue jobs that no release of the trainer has, for workers under test."""


def returns_a_set(*arguments: str | int) -> set[str]:
    """JSON holds no set."""
    return {str(argument) for argument in arguments}
