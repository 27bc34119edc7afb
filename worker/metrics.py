"""A worker's own figures. vLLM keeps its figures (tokens, cache, batch) in the same registry."""

from prometheus_client import Counter, Gauge, Histogram

RUNNING = Gauge("prefstream_worker_jobs_running", "Jobs it works on.")
JOB_SECONDS = Histogram(
    "prefstream_worker_job_seconds",
    "From claim to the end of the attempt, however it ended.",
    ["kind"],
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250),
)
LEASES_LOST = Counter(
    "prefstream_worker_leases_lost",
    "Attempts for nothing: the job was cancelled, or given to another worker.",
)
WEIGHT_VERSION = Gauge("prefstream_worker_weight_version", "What it gives to new jobs.")
ADOPT_SECONDS = Histogram(
    "prefstream_worker_adopt_seconds",
    "From word of a version to the first job that may begin with it.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250),
)
VERSIONS_REFUSED = Counter("prefstream_worker_versions_refused", "Versions it would not serve.")
ENGINE_RESTARTS = Counter("prefstream_worker_engine_restarts", "Engines that died or got stuck.")
