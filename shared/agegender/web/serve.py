"""Run a service's application under uvicorn."""

import uvicorn
from fastapi import FastAPI

from agegender.settings import ServiceSettings
from agegender.web.logs import configure_logs


def serve(app: FastAPI, settings: ServiceSettings, port: int) -> None:
    """Serve until SIGTERM, then answer what was accepted and stop."""
    configure_logs(settings.log_format, settings.log_level)
    uvicorn.run(
        app,
        host=settings.host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=20,
    )
