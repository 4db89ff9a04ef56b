"""What the service counts, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
TOKENS = tuple(2**power for power in range(3, 18))


SECONDS = tuple(base * 10.0**power for power in range(-4, 1) for base in (1, 2, 5))


class Metrics:
    """The embedding service's own metrics, beside those of the HTTP edge."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.batch_inputs = Histogram(
            "pairwright_embedding_batch_inputs", "Inputs computed together.", buckets=SIZES, registry=registry
        )
        self.batch_tokens = Histogram(
            "pairwright_embedding_batch_tokens", "Tokens of a batch, its padding included.", buckets=TOKENS,
            registry=registry,
        )  # fmt: skip
        self.padding_tokens = Counter(
            "pairwright_embedding_padding_tokens", "Tokens computed only to fill batches.", registry=registry
        )
        self.queue_seconds = Histogram(
            "pairwright_embedding_queue_seconds", "Time from a request's arrival to its first batch.", buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self.tokenise_seconds = Histogram(
            "pairwright_embedding_tokenise_seconds", "Time to tokenise up to 512 texts.", buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self.encode_seconds = Histogram(
            "pairwright_embedding_encode_seconds", "Time to compute one batch.", buckets=SECONDS, registry=registry
        )
        self.write_seconds = Histogram(
            "pairwright_embedding_write_seconds", "Time to write vectors as JSON.", buckets=SECONDS, registry=registry
        )
        self.tokens = Counter("pairwright_embedding_tokens", "Tokens computed, without padding.", registry=registry)
        self.truncated = Counter(
            "pairwright_embedding_truncated", "Inputs that were cut because they were too long.", registry=registry
        )
        self.cache_hits = Counter(
            "pairwright_embedding_cache_hits", "Inputs whose vector was known.", registry=registry
        )
        self.cache_misses = Counter(
            "pairwright_embedding_cache_misses", "Inputs that had to be computed.", registry=registry
        )
        self.queued_tokens = Gauge(
            "pairwright_embedding_queued_tokens", "Tokens that wait or are being computed.", registry=registry
        )
        self.expired = Counter(
            "pairwright_embedding_expired", "Requests given up at their deadline.", registry=registry
        )
        self.queued_inputs = Gauge(
            "pairwright_embedding_queued_inputs", "Inputs of requests that are not answered yet.", registry=registry
        )
        self.refused = Counter("pairwright_embedding_refused", "Requests refused for overload.", registry=registry)
        self.abandoned = Counter(
            "pairwright_embedding_abandoned", "Requests whose caller left before the answer.", registry=registry
        )
        self.serving = Gauge(
            "pairwright_embedding_serving", "1 for the version that serves.", ("version",), registry=registry
        )
        self.swaps = Counter("pairwright_embedding_swaps", "Times another version went live.", registry=registry)
        self.quarantined = Counter(
            "pairwright_embedding_quarantined", "Versions that were refused as damaged.", registry=registry
        )
        self.degraded = Gauge(
            "pairwright_embedding_degraded", "1 while a version that should serve is quarantined.", registry=registry
        )
        self.loaded = Gauge("pairwright_embedding_loaded_versions", "Versions in memory.", registry=registry)
        self.load_seconds = Histogram(
            "pairwright_embedding_load_seconds", "Time to verify, load and prove a version.", registry=registry
        )
