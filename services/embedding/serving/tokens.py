"""What is asked of tokens: those of a text, the text of some, and a vector for each. The answers are bounded."""

from collections.abc import Sequence

from services.embedding.models.base import EncodeOptions, Encoder, Token, Vectors
from services.embedding.serving.batcher import Batcher
from services.embedding.serving.errors import InvalidInput
from services.embedding.serving.service import EmbeddingService, EmbedRequest, InputType, find_prompt, options_of

MAX_TOKENS = 131_072
"""Tokens in one answer: about 8 MiB of JSON."""
MAX_CHARS = 8 * MAX_TOKENS
"""More characters are refused before they are tokenised."""
MAX_NUMBERS = 2**20
"""Numbers in one answer of token vectors: about 12 MiB of JSON."""


class TokenService:
    """Checks, admission and deadline are the embedding service's; the work is done in the thread of long texts."""

    def __init__(self, service: EmbeddingService, batcher: Batcher) -> None:
        self._service, self._batcher = service, batcher

    async def list_tokens(
        self,
        texts: Sequence[str],
        version: str | None,
        prompt_name: str | None,
        input_type: InputType | None,
        add_special_tokens: bool,
    ) -> tuple[Encoder, list[list[Token]]]:
        """Every token of each text, and the version whose they are. Raises `EmbeddingError`."""
        self._service.check_size(texts, "inputs")
        chars = sum(map(len, texts))
        if chars > MAX_CHARS:
            raise _too_much("inputs", f"at most {MAX_CHARS} characters; given: {chars}")
        async with self._service.deadline():
            encoder = await self._service.versions.choose(version)
            prompt = find_prompt(encoder, prompt_name, input_type) or ""
            try:
                return encoder, await self._batcher.run_apart(
                    encoder,
                    len(texts),
                    chars,
                    lambda: encoder.list_tokens(texts, prompt, add_special_tokens, MAX_TOKENS),
                )
            except ValueError as error:
                raise _too_much("inputs", f"at most {MAX_TOKENS} tokens; given: {error}") from None

    async def decode(
        self, rows: Sequence[Sequence[int]], version: str | None, skip_special_tokens: bool
    ) -> tuple[Encoder, list[str]]:
        """The text of each row of token ids, and the version that reads them so. Raises `EmbeddingError`."""
        self._service.check_size(rows, "ids")
        count = sum(map(len, rows))
        if count > MAX_TOKENS:
            raise _too_much("ids", f"at most {MAX_TOKENS} ids; given: {count}")
        async with self._service.deadline():
            encoder = await self._service.versions.choose(version)
            try:
                return encoder, await self._batcher.run_apart(
                    encoder, len(rows), count, lambda: encoder.decode(rows, skip_special_tokens)
                )
            except ValueError as error:
                raise InvalidInput(f"`ids`: {error}", "ids") from None

    async def token_vectors(self, request: EmbedRequest) -> tuple[Encoder, list[Vectors]]:
        """The vectors that are pooled, of each text, and the version that made them. Raises `EmbeddingError`."""
        self._service.check_texts(request.texts, request.field)
        chars = sum(map(len, request.texts))
        if chars > MAX_CHARS:
            raise _too_much(request.field, f"at most {MAX_CHARS} characters; given: {chars}")
        async with self._service.deadline():
            encoder = await self._service.versions.choose(*request.versions)
            options = options_of(request, encoder)
            try:
                return encoder, await self._batcher.run_apart(
                    encoder, len(request.texts), chars, lambda: _token_vectors(encoder, request, options)
                )
            except ValueError as error:
                raise _too_much(request.field, str(error)) from None


def _token_vectors(encoder: Encoder, request: EmbedRequest, options: EncodeOptions) -> list[Vectors]:
    """Raises ValueError for more numbers than one answer may have."""
    tokens = encoder.tokenise(request.texts, options)
    for place, text in enumerate(tokens):
        if text.total > text.count and not request.truncate:
            raise ValueError(f"at most {encoder.max_tokens} tokens each; given: {text.total} (item {place})")
    most = MAX_NUMBERS // encoder.manifest.dimensions
    if (count := sum(text.count for text in tokens)) > most:
        raise ValueError(f"at most {most} tokens together; given: {count}")
    return [encoder.token_vectors(text, options) for text in tokens]


def _too_much(field: str, limit: str) -> InvalidInput:
    return InvalidInput(f"`{field}` may have {limit}: send fewer or shorter ones", field, "too_many_tokens")
