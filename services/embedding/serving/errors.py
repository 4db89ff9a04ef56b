"""The few errors of the embedding core. `api/errors.py` turns them into HTTP."""


class EmbeddingError(Exception):
    """A request that gets no vectors. The message says what is wrong and what to do."""

    code: str | None  # the error's name for programs, in OpenAI's style

    def __init_subclass__(cls, code: str | None = None) -> None:
        cls.code = code

    def __init__(
        self, detail: str, field: str | None = None, code: str | None = None, retry_after: int | None = None
    ) -> None:
        """`field` of the request is wrong; after `retry_after` seconds the same request may succeed."""
        super().__init__(detail)
        self.field, self.code, self.retry_after = field, code or self.code, retry_after


class EmptyInput(EmbeddingError, code="empty_input"):
    """No input, or an empty one."""


class InvalidInput(EmbeddingError):
    """A field that the version or the service's limits don't allow."""


class VersionNotServed(EmbeddingError, code="model_not_found"):
    """The version that the caller named can't be had. The message lists what can."""


class NotReady(EmbeddingError, code="not_ready"):
    """No version is loaded at all. The message says why."""


class Overloaded(EmbeddingError, code="overloaded"):
    """Too much is waiting already."""


class DeadlineExceeded(EmbeddingError, code="deadline_exceeded"):
    """The request was not answered in time."""


class EncodingFailed(EmbeddingError):
    """The model failed on these inputs."""


class CallerLeft(Exception):
    """The caller left before the answer: nothing more is computed."""
