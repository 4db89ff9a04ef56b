"""The errors of the embedding core. `api/errors.py` turns them into HTTP."""

from typing import ClassVar


class EmbeddingError(Exception):
    """A request that gets no vectors. The message says what is wrong and what to do."""

    code: ClassVar[str | None] = None
    """The error's name for programs."""

    def __init__(self, detail: str, field: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.field = field
        """The request's field that is wrong."""
        self.retry_after = retry_after
        """Seconds after which the same request may succeed."""


class EmptyInput(EmbeddingError):
    """No input, or an empty one."""

    code = "empty_input"


class TooManyInputs(EmbeddingError):
    """More inputs than one request may have."""

    code = "too_many_inputs"


class InputTooLong(EmbeddingError):
    """An input that the caller does not want to be cut is longer than the version reads."""

    code = "input_too_long"


class UnknownPrompt(EmbeddingError):
    """The version has no prompt of this name."""

    code = "unknown_prompt"


class WrongDimensions(EmbeddingError):
    """The version's vectors cannot be cut to this size."""

    code = "wrong_dimensions"


class UnknownToken(EmbeddingError):
    """The version's vocabulary has no such token id."""


class VersionNotServed(EmbeddingError):
    """The version that the caller named can't be had. The message lists what can."""

    code = "model_not_found"


class NotReady(EmbeddingError):
    """No version is loaded at all. The message says why."""

    code = "not_ready"


class Overloaded(EmbeddingError):
    """Too much is waiting already."""

    code = "overloaded"


class DeadlineExceeded(EmbeddingError):
    """The request was not answered in time."""

    code = "deadline_exceeded"


class EncodingFailed(EmbeddingError):
    """The model failed on these inputs; the log has the reason."""


class CallerLeft(Exception):
    """The caller left before the answer: nothing more is computed."""
