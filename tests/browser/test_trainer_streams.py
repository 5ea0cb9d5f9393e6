"""The trainer's page beside many active runs."""

from pathlib import Path

import httpx
import pytest
from trainer.datasets.embedding_set import write_embedding_set

from tests.support.chromium import chromium
from tests.support.made_faces import made_faces
from tests.support.trainer_page import open_page, served_trainer


def test_many_active_runs_leave_connections_for_other_requests(tmp_path: Path) -> None:
    """A browser has six connections to a server, and each stream of events holds one."""
    data_dir = tmp_path / "data"
    write_embedding_set(data_dir, "made", "images", made_faces(60, folds=3), {"kind": "made up"})
    with served_trainer(data_dir) as url, chromium() as browser, open_page(browser, f"{url}/#runs") as page:
        for _ in range(8):
            response = httpx.post(f"{url}/experiments", json={"dataset": "made", "task": "age"})
            assert response.status_code == 202, response.text
        asked: list[str] = []
        page.on("request", lambda sent: asked.append(sent.url))
        page.clock.install()
        page.reload()
        page.locator("#experiments article").nth(7).wait_for()
        page.evaluate("fetch('/presets').then((response) => response.text())")
        for _ in range(100):
            page.wait_for_timeout(100)
            page.clock.run_for(4000)
            if len({one for one in asked if one.endswith("/events")}) == 8:  # each has had its turn
                return
        pytest.fail("some run was not followed")
