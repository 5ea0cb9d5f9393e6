"""`GET /`: the page that shows and starts experiments."""

from pathlib import Path

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


@router.get("/page/trainer.js")
def script() -> FileResponse:
    return FileResponse(_PAGE / "trainer.js", headers=_HEADERS)


@router.get("/page/trainer.css")
def style() -> FileResponse:
    return FileResponse(_PAGE / "trainer.css", headers=_HEADERS)
