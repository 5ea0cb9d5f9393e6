"""JSON that was made to break a reader."""

DEEP = 10_000


def nested_lists() -> bytes:
    return b"[" * DEEP + b"]" * DEEP


def nested_objects(name: str) -> bytes:
    return (f'{{"{name}":'.encode()) * DEEP + b"1" + b"}" * DEEP
