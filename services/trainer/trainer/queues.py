"""The queue between the API and the workers: RQ on Redis, with JSON instead of pickle."""

from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from trainer.settings import TrainerSettings

QUEUE = "trainer"


def connect(settings: TrainerSettings) -> Redis:
    return Redis.from_url(settings.redis_url, health_check_interval=30)


def job_queue(connection: Redis, name: str = QUEUE) -> Queue:
    return Queue(name, connection=connection, serializer=JSONSerializer)
