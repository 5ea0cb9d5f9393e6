"""`/docs` in a real browser: Swagger UI comes from the service itself, and its requests work."""

from pathlib import Path

from predictor.app import create_predictor
from predictor.settings import PredictorSettings

from tests.support.chromium import chromium
from tests.support.embedder_double import EmbedderDouble
from tests.support.serving import serving


def test_documentation_works_without_another_host(tmp_path: Path) -> None:
    complaints: list[str] = []
    with (
        EmbedderDouble().served() as proxy,
        serving(create_predictor(PredictorSettings(data_dir=tmp_path, proxy_url=proxy.url))) as url,
        chromium() as browser,
    ):
        page = browser.new_page()
        page.set_default_timeout(20_000)
        page.on(
            "console", lambda message: complaints.append(message.text) if message.type == "error" else None
        )
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((url, "data:")) else complaints.append(request.url)
            ),
        )
        page.goto(f"{url}/docs")
        page.locator("#operations-health-live_health_live_get").click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        page.get_by_text('"live": true').first.wait_for()
    assert complaints == []
