"""`python -m trainer.worker`: pull jobs from the queue and run each in a process forked from this one."""

import os

from agegender_service.observability import configure_logs
from agegender_service.settings import read_settings

from trainer.jobs import preload
from trainer.runs.worker import make_worker
from trainer.settings import TrainerSettings


def main() -> None:
    settings = read_settings(TrainerSettings)
    configure_logs(settings.log_format, settings.log_level)
    settings.log_deprecations()
    # Threads of one job that spin while they wait for more work would take another worker's cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # torch then counts GPUs without starting CUDA, which a process forked later could not use.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    preload()
    make_worker(settings).work(logging_level=settings.log_level, with_scheduler=False)


if __name__ == "__main__":
    main()
