"""`python -m trainer.worker`: pulls jobs from the queue and runs each in a process of its own.

A spawned process, not a forked one: fork and torch's threads do not mix.
"""

from agegender.web.logs import configure_logs
from rq.serializers import JSONSerializer
from rq.worker import SpawnWorker

from trainer.queues import HEARTBEAT_SECONDS, connect, job_queue
from trainer.settings import TrainerSettings

_MAINTENANCE_SECONDS = 30


def main() -> None:
    settings = TrainerSettings()
    configure_logs(settings.log_format, settings.log_level)
    connection = connect(settings)
    worker = SpawnWorker(
        [job_queue(connection)],
        connection=connection,
        serializer=JSONSerializer,
        job_monitoring_interval=HEARTBEAT_SECONDS,
        maintenance_interval=_MAINTENANCE_SECONDS,
        log_job_description=False,
    )
    worker.work(logging_level=settings.log_level, with_scheduler=False)


if __name__ == "__main__":
    main()
