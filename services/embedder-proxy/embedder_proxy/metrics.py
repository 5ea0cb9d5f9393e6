"""What Prometheus is told beside the requests themselves."""

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

QUEUE_SECONDS = Histogram("proxy_queue_seconds", "Wait for a place at the embedders", buckets=_SECONDS)
INFERENCE_SECONDS = Histogram(
    "proxy_inference_seconds", "Time of one call to an embedder that it answered", buckets=_SECONDS
)
IN_FLIGHT = Gauge("proxy_in_flight", "Requests at the embedders now")
WAITING = Gauge("proxy_waiting", "Requests that wait for a place at the embedders now")
REFUSED = Counter("proxy_refused_total", "Requests refused at once as the queue was full")
RETRIES = Counter("proxy_retries_total", "Calls made again at another embedder", ["reason"])
EJECTIONS = Counter("proxy_ejections_total", "Embedders taken out after a failure")
EMBEDDERS = Gauge("proxy_embedders", "Embedders known, by whether they are asked", ["state"])
IMAGES = Counter("proxy_images_total", "Images answered, by where from", ["source"])
FACES = Counter("proxy_faces_total", "Faces answered")
for reason in ("failed", "busy"):
    RETRIES.labels(reason)  # 0 from the start, so that a board shows it
CACHE_ERRORS = Counter("proxy_cache_errors_total", "Redis calls that failed or took too long")
