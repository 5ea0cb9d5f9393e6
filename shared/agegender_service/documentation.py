"""`/docs`: Swagger UI from an installed package, so that it works offline. Keys live in its origin."""

from html import escape
from pathlib import Path

import fastapi_offline
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FILES = Path(__file__).parent / "static"
# The package's own page has an inline script, which the policy refuses; only its files are served.
_SWAGGER = Path(fastapi_offline.__file__).parent / "static"


def add_documentation(app: FastAPI) -> None:
    """`/docs`, and `/web/`, the files that the pages of several services share."""
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(app.title)}: API</title>
<meta name="viewport" content="width=device-width"><link rel="icon" href="/web/swagger/favicon.png">
<link rel="stylesheet" href="/web/swagger/swagger-ui.css">
</head><body><div id="swagger-ui"><a href="/openapi.json">openapi.json</a></div>
<script src="/web/swagger/swagger-ui-bundle.js"></script>
<script src="/web/docs.js"></script></body></html>"""

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})

    app.mount("/web/swagger", StaticFiles(directory=_SWAGGER), name="swagger")
    app.mount("/web", StaticFiles(directory=_FILES), name="web")
