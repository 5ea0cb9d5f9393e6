"""`/docs`: Swagger UI of a pinned version. Browsers check its hashes: keys live in its origin."""

from html import escape
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

_FROM = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.35.0/"
_SCRIPT_SHA384 = "sha384-gjRm0bEPMeTmMh5jT2cHccIwCUZSTd8YC+j0d0sXw0MdGEfScduGpSyF3ZSSLkX9"
_STYLE_SHA384 = "sha384-WlYgdmXYOOBWL5apwjDEZwN+U3HmXSSu5R6V5aGxEcf7z+KuRNwBhoxKVN1i3D5I"
_POLICY = (
    f"default-src 'none'; script-src 'self' {_FROM}; style-src 'self' {_FROM}; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FILES = Path(__file__).parent / "static"


def add_documentation(app: FastAPI) -> None:
    """`/docs`, and `/web/`, the files that the pages of several services share."""
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(app.title)}: API</title>
<link rel="stylesheet" href="{_FROM}swagger-ui.css" integrity="{_STYLE_SHA384}" crossorigin="anonymous">
</head><body><div id="swagger-ui"><a href="/openapi.json">openapi.json</a></div>
<script src="{_FROM}swagger-ui-bundle.js" integrity="{_SCRIPT_SHA384}" crossorigin="anonymous"></script>
<script src="/web/docs.js"></script></body></html>"""

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})

    app.mount("/web", StaticFiles(directory=_FILES), name="web")
