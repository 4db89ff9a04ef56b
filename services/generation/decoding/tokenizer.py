"""The teacher's tokenizer, as both engines use it: prompts into tokens, drawn tokens into a completion."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from services.generation.decoding.base import Completion, Decoding, NoChatTemplate, PromptTooLong, Sample, Turn
from services.generation.decoding.vocabulary import cut, read_vocabulary


class TeacherTokenizer:
    """A tokenizer, and its tokens by their role in `vocabulary`. Not thread-safe."""

    def __init__(self, model: str, vocabulary_size: int) -> None:
        """Load it. Raises whatever transformers raises, and ValueError if it can't close a sentence."""
        from transformers import AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self.vocabulary = read_vocabulary(self._tokenizer, vocabulary_size)
        # A counter-label's prompt is another label's own prompt: each is tokenised once.
        self._encode = lru_cache(maxsize=4096)(self._encode_uncached)

    def encode_lanes(self, sample: Sample) -> list[tuple[int, ...]]:
        """The token ids of a sample's lanes. Without decay the counter-prompts change nothing and get no lane."""
        prompts = sample.prompts if sample.decoding.decay_constant > 0 else sample.prompts[:1]
        return [self._encode(prompt, sample.templated) for prompt in prompts]

    def completion(self, tokens: Sequence[int]) -> Completion:
        """What was written with the drawn `tokens`, the one that ended it included."""
        text, end = cut(self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False))
        return Completion(text, end, len(tokens))

    def render_chat(self, turns: Sequence[Turn]) -> str:
        """The text after which the teacher goes on writing the last turn, which is the assistant's.

        Raises `NoChatTemplate`.
        """
        if not getattr(self._tokenizer, "chat_template", None):
            raise NoChatTemplate("the teacher has no chat template: it is a base model; use the prompt form `plain`")
        text: str = self._tokenizer.apply_chat_template(list(turns), tokenize=False, continue_final_message=True)
        return text

    def _encode_uncached(self, prompt: str, templated: bool) -> tuple[int, ...]:
        return tuple(self._tokenizer(prompt, add_special_tokens=not templated).input_ids)


def check_length(prompts: Sequence[Sequence[int]], decoding: Decoding, limit: int) -> None:
    """Raises `PromptTooLong` if the longest prompt with its output exceeds `limit` tokens."""
    longest, output = max(map(len, prompts)), decoding.max_tokens
    if longest + output > limit:
        raise PromptTooLong(f"a prompt of {longest} tokens with {output} to write exceeds the engine's {limit}")
