"""Run a service's application under uvicorn."""

import uvicorn
from fastapi import FastAPI

from agegender_service.connections import BoundedHeads
from agegender_service.logs import configure_logs
from agegender_service.settings import ServiceSettings, UnusableSettings


def serve(app: FastAPI, settings: ServiceSettings, port: int) -> None:
    """Serve until SIGTERM, then answer what was accepted and stop.

    Raises `UnusableSettings` if strangers could reach the service and nothing would stop them.
    """
    configure_logs(settings.log_format, settings.log_level)
    settings.log_deprecations()
    if (reason := settings.why_exposed()) is not None:
        raise UnusableSettings(reason)
    uvicorn.run(
        app,
        host=settings.host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        http=BoundedHeads,
        ws="none",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=20,
    )
