"""`GET /`: the page that shows and starts experiments."""

from pathlib import Path
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import FileResponse

router = APIRouter(include_in_schema=False)

_PAGE = Path(__file__).parent.parent / "page"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@router.get("/")
def index() -> FileResponse:
    return FileResponse(_PAGE / "index.html", headers=_HEADERS)


@router.get("/page/{name}")
def file(name: Literal["trainer.js", "searches.js", "ask.js", "trainer.css"]) -> FileResponse:
    return FileResponse(_PAGE / name, headers=_HEADERS)
