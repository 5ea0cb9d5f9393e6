"""The parts of one predictor, and the dependency through which routes get them."""

from dataclasses import dataclass
from typing import Annotated

from agegender_service.batching import BoundedThreads
from agegender_service.faces_client import FacesClient
from agegender_service.request_body import RequestBodies
from fastapi import Depends, Request
from prometheus_client import Histogram

from predictor.aws_signatures import AwsSignatures
from predictor.prediction import HeadBatches, Predictor
from predictor.registry import HeadRegistry
from predictor.settings import PredictorSettings

_DRAWING_THREADS = 2  # each may need a gigabyte for the pixels of an image and its encoding

STAGE_SECONDS = Histogram(
    "predictor_stage_seconds",
    "Time that one request spends in a stage",
    ["stage"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)


@dataclass(frozen=True)
class Services:
    settings: PredictorSettings
    proxy: FacesClient
    registry: HeadRegistry
    batches: HeadBatches
    predictor: Predictor
    bodies: RequestBodies
    drawing: BoundedThreads
    aws_signatures: AwsSignatures

    @classmethod
    def build(cls, settings: PredictorSettings) -> "Services":
        proxy = FacesClient(
            settings.proxy_url, headers=settings.service_headers, connect_timeout=settings.connect_timeout
        )
        registry = HeadRegistry(settings.models_dir, settings.heads_dir)
        batches = HeadBatches(
            settings.threads,
            settings.max_batch_faces,
            max_waiting_faces=settings.max_waiting_faces,
            max_waiting=settings.max_waiting,
        )
        return cls(
            settings=settings,
            proxy=proxy,
            registry=registry,
            batches=batches,
            predictor=Predictor(proxy, registry, batches, settings.mc_passes),
            bodies=RequestBodies(
                settings.body_limits,
                answer_seconds=settings.timeout,
                read_seconds=settings.read_timeout,
                max_memory=settings.max_body_memory,
                stages=STAGE_SECONDS,
            ),
            drawing=BoundedThreads("drawing", _DRAWING_THREADS, settings.max_waiting),
            aws_signatures=AwsSignatures(
                settings.rekognition_credentials, settings.known_keys, service="rekognition"
            ),
        )

    async def require_ready(self) -> None:
        """Raise the `Problem` why no prediction is possible now."""
        await self.proxy.require_ready()
        self.registry.heads(await self.proxy.space())

    async def close(self) -> None:
        await self.proxy.close()
        self.batches.close()
        self.drawing.close()


async def _services(request: Request) -> Services:  # not `def`, which FastAPI would run in a thread
    services: Services = request.app.state.services
    return services


ServicesIn = Annotated[Services, Depends(_services)]
