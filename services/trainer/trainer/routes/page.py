"""`GET /`: the page that shows and starts experiments."""

from pathlib import Path
from typing import Literal

from agegender_service.browser_security import PAGE_HEADERS
from fastapi import APIRouter
from fastapi.responses import FileResponse

router = APIRouter(include_in_schema=False)

_PAGE = Path(__file__).parent.parent / "page"


@router.get("/")
def index() -> FileResponse:
    return FileResponse(_PAGE / "index.html", headers=PAGE_HEADERS)


@router.get("/page/{name}")
def file(name: Literal["trainer.js", "searches.js", "ask.js", "trainer.css"]) -> FileResponse:
    return FileResponse(_PAGE / name, headers=PAGE_HEADERS)
