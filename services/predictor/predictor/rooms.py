"""What one predictor is made of."""

from dataclasses import dataclass

from agegender_service.admission import BodyMemory
from agegender_service.faces_client import FacesClient

from predictor.batching import BoundedThreads, HeadBatches
from predictor.prediction import Predictor
from predictor.registry import HeadRegistry
from predictor.settings import PredictorSettings

_DRAWN_AT_ONCE = 2  # pictures; each may need a gigabyte of pixels and their encoding


@dataclass(frozen=True)
class Rooms:
    settings: PredictorSettings
    proxy: FacesClient
    registry: HeadRegistry
    batches: HeadBatches
    predictor: Predictor
    bodies: BodyMemory
    drawing: BoundedThreads

    @classmethod
    def furnished(cls, settings: PredictorSettings) -> "Rooms":
        proxy = FacesClient(settings.proxy_url, headers=settings.service_headers)
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
            bodies=BodyMemory(settings.max_body_memory),
            drawing=BoundedThreads("drawing", _DRAWN_AT_ONCE, settings.max_waiting),
        )
