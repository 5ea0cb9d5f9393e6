"""What the routes are given."""

from typing import Annotated

from fastapi import Depends, Request
from redis import Redis

from trainer.settings import TrainerSettings


def _settings(request: Request) -> TrainerSettings:
    settings: TrainerSettings = request.app.state.settings
    return settings


def _redis(request: Request) -> Redis:
    """Asked first: a route that needs the queue changes no file while there is none."""
    redis: Redis = request.app.state.redis
    redis.ping()
    return redis


Settings = Annotated[TrainerSettings, Depends(_settings)]
Connection = Annotated[Redis, Depends(_redis)]
