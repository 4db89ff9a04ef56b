"""What may wait at one time: requests past it are refused at once, with the time after which to try again."""

import asyncio
import math

from services.embedding.metrics import Metrics
from services.embedding.models.base import Encoder
from services.embedding.serving.errors import Overloaded
from services.embedding.settings import EmbeddingSettings

CHARS_PER_TOKEN = 3
"""To estimate what a text will cost before it is tokenised."""
LONGEST_RETRY_S = 30


class Admission:
    """Counts what is waiting, and refuses what would exceed the settings' limits."""

    def __init__(self, settings: EmbeddingSettings, metrics: Metrics) -> None:
        self.inputs = self.chars = 0
        self.tokens = 0  # that wait or are computed now, each distinct text once
        self.idle = asyncio.Event()  # set while no request is in flight
        self.idle.set()
        self._settings, self._refused = settings, metrics.refused
        self._tokens_per_s = 0.0  # of all threads together; 0 before the first batch
        metrics.queued_inputs.set_function(lambda: self.inputs)
        metrics.queued_tokens.set_function(lambda: self.tokens)

    def admit(self, inputs: int, chars: int, encoder: Encoder) -> None:
        """Count a request in. Raises `Overloaded`."""
        limits = self._settings
        # Estimated, and cached texts cost less: the true count replaces it once the text is tokenised.
        tokens = self.tokens + min(chars // CHARS_PER_TOKEN, inputs * (encoder.max_tokens or chars))
        wait = self.tokens / self._tokens_per_s if self._tokens_per_s else 0.0
        fits = self.inputs + inputs <= limits.max_queue_inputs and self.chars + chars <= limits.max_queue_chars
        # Whatever its size, a request that would be alone is admitted.
        if not fits or (self.tokens and (tokens > limits.max_queue_tokens or wait > limits.request_seconds)):
            self._refused.inc()
            seconds = min(max(1, math.ceil(wait)), LONGEST_RETRY_S)
            detail = f"Too much is waiting. Try again in {seconds} s, or send fewer inputs at once."
            raise Overloaded(detail, retry_after=seconds)
        self.idle.clear()
        self.inputs += inputs
        self.chars += chars

    def release(self, inputs: int, chars: int) -> None:
        """A request was answered or given up."""
        self.inputs -= inputs
        self.chars -= chars
        if not self.inputs:
            self.idle.set()

    def observe_speed(self, tokens_per_s: float) -> None:
        """The speed of one more batch, all threads together."""
        old = self._tokens_per_s
        self._tokens_per_s = 0.9 * old + 0.1 * tokens_per_s if old else tokens_per_s


def estimate_tokens(text: str, encoder: Encoder) -> int:
    """What `text` will cost, before it is tokenised."""
    tokens = len(text) // CHARS_PER_TOKEN + 2
    return min(tokens, encoder.max_tokens) if encoder.max_tokens else tokens
