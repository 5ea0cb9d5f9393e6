"""`python -m tools.openapi` writes the OpenAPI documents of all services to docs/openapi/."""

import json
from pathlib import Path
from tempfile import gettempdir

from embedder.app import create_embedder
from embedder.settings import EmbedderSettings
from embedder_proxy.app import create_proxy
from embedder_proxy.settings import ProxySettings
from fastapi import FastAPI
from predictor.app import create_predictor
from predictor.settings import PredictorSettings
from trainer.app import create_trainer
from trainer.settings import TrainerSettings

from tools.stack import ROOT

FOLDER = ROOT / "docs" / "openapi"


def applications() -> dict[str, FastAPI]:
    """Return the application of each service, not started, by name."""
    data_dir = Path(gettempdir()) / "age-gender-openapi"
    return {
        "insightface": create_embedder(EmbedderSettings(data_dir=data_dir)),
        "embedder-proxy": create_proxy(ProxySettings(data_dir=data_dir)),
        "predictor": create_predictor(PredictorSettings(data_dir=data_dir)),
        "trainer": create_trainer(TrainerSettings(data_dir=data_dir)),
    }


def openapi_text(app: FastAPI) -> str:
    """Return the OpenAPI document of an application."""
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, app in applications().items():
        path = FOLDER / f"{name}.json"
        path.write_text(openapi_text(app))
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
