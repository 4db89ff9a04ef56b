"""Which sample enters next, and what fits."""

import pytest

from services.generation.decoding.base import Decoding, PromptTooLong, Sample
from services.generation.decoding.vllm.admission import MAX_SKIPS, AdmissionQueue, Limits, SampleState

# A prompt of 10 tokens with 5 to write takes a block of 16 tokens.
LIMITS = Limits(lanes=4, step_tokens=40, sequence_tokens=32, block_tokens=16, blocks=6)


def state(client: str = "", lanes: int = 1, prompt_tokens: int = 10) -> SampleState:
    sample = Sample(("a prompt",) * lanes, seed=0, decoding=Decoding(max_tokens=5), client=client)
    return SampleState(sample, [range(prompt_tokens)] * lanes)


def pop(queue: AdmissionQueue, count: int) -> str:
    """The clients of the next samples."""
    popped = [queue.pop(lambda _: True) for _ in range(count)]
    return "".join(one.sample.client for one in popped if one is not None)


def test_clients_share_the_lanes_and_a_newcomer_starts_level() -> None:
    queue = AdmissionQueue()
    for _ in range(3):
        queue.add(state("a", lanes=2))
    for _ in range(4):
        queue.add(state("b"))
    assert pop(queue, 3) == "abb"
    for _ in range(3):
        queue.add(state("c"))
    assert pop(queue, 7) == "abcbcac"
    assert not queue


def test_replays_go_first() -> None:
    queue = AdmissionQueue()
    queue.add(state("a"))
    queue.add_replay(state("b", lanes=3))
    assert pop(queue, 2) == "ba"


def test_a_small_sample_fills_the_gap_before_a_large_one() -> None:
    queue = AdmissionQueue()
    large, small = state(lanes=3), state()
    queue.add(large)
    queue.add(small)
    assert queue.pop(lambda one: one.lanes < 3) is small
    assert queue.pop(lambda one: one.lanes < 3) is None
    queue.remove(large)
    assert not queue


def test_a_sample_that_others_passed_often_is_next() -> None:
    queue = AdmissionQueue()
    large = state("a", lanes=3)
    queue.add(large)
    for _ in range(MAX_SKIPS):
        queue.add(state("b"))
        assert queue.pop(lambda one: one.lanes < 3) is not large
    queue.add(state("b"))
    assert queue.pop(lambda one: one.lanes < 3) is None
    assert queue.pop(lambda _: True) is large


def test_a_sample_fits_whole_or_not_at_all() -> None:
    three = state(lanes=3)
    assert LIMITS.fits(three, lanes=1, step_tokens=10, blocks=3)
    assert not LIMITS.fits(three, lanes=2, step_tokens=10, blocks=3)
    assert not LIMITS.fits(three, lanes=1, step_tokens=11, blocks=3)
    assert not LIMITS.fits(three, lanes=1, step_tokens=10, blocks=4)


@pytest.mark.parametrize("too_large", [state(lanes=5, prompt_tokens=1), state(lanes=2, prompt_tokens=21)])
def test_a_sample_that_never_fits_is_refused(too_large: SampleState) -> None:
    with pytest.raises(PromptTooLong, match="exceed one step of the engine"):
        LIMITS.check(too_large)
    with pytest.raises(PromptTooLong, match="28 tokens with 5 to write exceeds the engine's 32"):
        LIMITS.check(state(prompt_tokens=28))
