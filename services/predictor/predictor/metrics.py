"""What Prometheus is told beside the requests themselves."""

from prometheus_client import Counter, Gauge, Histogram

FACES = Counter("predictor_faces_total", "Faces answered")
IMAGES = Counter("predictor_images_total", "Images answered, by outcome", ["outcome"])
HEAD_VERSION = Gauge("predictor_head", "1 for each head that is served", ["task", "space", "version"])
HEAD_SWAPS = Counter("predictor_head_swaps_total", "New heads found, by outcome", ["task", "outcome"])
STAGE_SECONDS = Histogram(
    "predictor_stage_seconds",
    "Time that one request spends in a stage",
    ["stage"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
BATCH_FACES = Histogram(
    "predictor_batch_faces",
    "Faces that went through the heads together",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
