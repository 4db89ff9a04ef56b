"""What the service counts, for Prometheus, beside the metrics of the HTTP edge."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SIZES = tuple(2**power for power in range(12))
TOKENS = tuple(2**power for power in range(3, 18))
SECONDS = tuple(base * 10.0**power for power in range(-4, 1) for base in (1, 2, 5))


class TeiMetrics:
    """What text-embeddings-inference counts too, by its names: for dashboards and autoscalers that have them.

    Its counters are missing: this client would add `_total` to their names.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        histogram = partial(Histogram, namespace="te", registry=registry)
        seconds = partial(histogram, buckets=SECONDS)
        queue = "Inputs that are tokenised and in no batch yet, each distinct text once."
        self.queue_size = Gauge("queue_size", queue, namespace="te", registry=registry)
        self.batch_next_size = histogram("batch_next_size", "As pairwright_embedding_batch_inputs.", buckets=SIZES)
        self.batch_next_tokens = histogram("batch_next_tokens", "As pairwright_embedding_batch_tokens.", buckets=TOKENS)
        self.request_duration = seconds("request_duration", "Time to a request's vectors: x-total-time.")
        self.tokenization_duration = seconds("request_tokenization_duration", "Of it in the tokeniser.")
        self.queue_duration = seconds("request_queue_duration", "Of it waiting for the first batch.")
        self.inference_duration = seconds("request_inference_duration", "Of it from first batch to last.")


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry, self.tei = registry, TeiMetrics(registry)
        counter = partial(Counter, namespace="pairwright", subsystem="embedding", registry=registry)
        gauge = partial(Gauge, namespace="pairwright", subsystem="embedding", registry=registry)
        histogram = partial(Histogram, namespace="pairwright", subsystem="embedding", registry=registry)
        seconds = partial(histogram, buckets=SECONDS)

        self.batch_inputs = histogram("batch_inputs", "Inputs computed together.", buckets=SIZES)
        self.batch_tokens = histogram("batch_tokens", "Tokens of a batch, its padding included.", buckets=TOKENS)
        self.padding_tokens = counter("padding_tokens", "Tokens computed only to fill batches.")
        self.queue_seconds = seconds("queue_seconds", "Time from a request's arrival to its first batch.")
        self.tokenise_seconds = seconds("tokenise_seconds", "Time to tokenise up to 512 texts.")
        self.encode_seconds = seconds("encode_seconds", "Time to compute one batch.")
        self.write_seconds = seconds("write_seconds", "Time to write vectors as JSON.")
        self.tokens = counter("tokens", "Tokens computed, without padding.")
        self.truncated = counter("truncated", "Inputs that were cut because they were too long.")
        self.cache_hits = counter("cache_hits", "Inputs whose vector was known.")
        self.cache_misses = counter("cache_misses", "Inputs that had to be computed.")
        self.batch_texts = counter("batch_texts", "Texts computed for `/batches`.")
        self.queued_tokens = gauge("queued_tokens", "Tokens that wait or are being computed.")
        self.expired = counter("expired", "Requests given up at their deadline.")
        self.queued_inputs = gauge("queued_inputs", "Inputs of requests that are not answered yet.")
        self.refused = counter("refused", "Requests refused for overload.")
        self.abandoned = counter("abandoned", "Requests whose caller left before the answer.")
        self.serving = gauge("serving", "1 for the version that serves.", ("version",))
        self.swaps = counter("swaps", "Times another version went live.")
        self.quarantined = counter("quarantined", "Versions that were refused as damaged.")
        self.degraded = gauge("degraded", "1 while a version that should serve is quarantined.")
        self.loaded = gauge("loaded_versions", "Versions in memory.")
        self.load_seconds = histogram("load_seconds", "Time to verify, load and smoke-test a version.")
