"""Known texts are answered from memory, each version from its own."""

import httpx
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from services.embedding.models.base import EncodeOptions, Tokens
from services.embedding.serving.cache import OVERHEAD, Cache
from shared.model_store import ModelStore
from tests.embedding.conftest import Start
from tests.support.versions import publish

TEXTS = ["a dog", "a cat", "the stock market fell on monday"]
VECTOR = np.arange(4, dtype=np.float32)
ENTRY = OVERHEAD + VECTOR.nbytes + 4


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=60))
def test_it_keeps_the_latest_that_fit(steps: list[tuple[str, bool]]) -> None:
    cache, expected = Cache(3 * ENTRY), dict[str, None]()
    for text, put in [*steps, *((text, False) for text in "abcdefgh")]:
        if put and text not in expected:
            cache.put("v", EncodeOptions(), text, Tokens(1, 2, None), VECTOR)
            expected[text] = None
            if len(expected) > 3:
                del expected[next(iter(expected))]
        elif not put:
            assert (cache.get("v", EncodeOptions(), text) is not None) == (text in expected)
            if text in expected:
                expected[text] = expected.pop(text)


def test_versions_prompts_and_sides_are_kept_apart() -> None:
    cache = Cache(10**6)
    cache.put("v", EncodeOptions("query: "), "a", Tokens(1, 2, None), VECTOR)
    others = (("w", EncodeOptions("query: ")), ("v", EncodeOptions()), ("v", EncodeOptions("query: ", "left")))
    for version, options in others:
        assert cache.get(version, options, "a") is None
    entry = cache.get("v", EncodeOptions("query: "), "a")
    assert entry is not None
    assert (entry.tokens.count, entry.tokens.total, entry.vector.tolist()) == (1, 2, VECTOR.tolist())


def test_an_entry_does_not_keep_its_batch_alive() -> None:
    cache, batch = Cache(10**6), np.zeros((1000, 4), dtype=np.float32)
    cache.put("v", EncodeOptions(), "a", Tokens(1, 1, None), batch[0])
    entry = cache.get("v", EncodeOptions(), "a")
    assert entry is not None
    assert entry.vector.base is None


def test_known_texts_are_not_computed_again_whatever_is_asked_of_them(
    store: ModelStore, transformer: SentenceTransformer, start: Start
) -> None:
    publish(store, transformer, 0)
    service = start(cache_mib=1)

    def ask(texts: list[str], **fields: object) -> httpx.Response:
        return httpx.post(service.url + "/embed", json={"inputs": texts} | fields)

    first = ask([*TEXTS, "dog " * 40])
    computed = service.metric("batch_inputs_sum")
    again = ask([*TEXTS, "dog " * 40])
    assert again.json() == first.json()
    for header in ("x-pairwright-truncated", "x-compute-tokens", "x-pairwright-version"):
        assert again.headers[header] == first.headers[header]
    raw = ask(TEXTS, normalize=False)
    np.testing.assert_allclose(raw.json(), transformer.encode(TEXTS), atol=1e-5)
    assert service.metric("batch_inputs_sum") == computed
    assert service.metric("cache_hits_total") == 7
    assert len(ask([*TEXTS, "a man"]).json()) == 4
    assert service.metric("batch_inputs_sum") == computed + 1


def test_a_new_version_never_answers_with_the_vectors_of_the_old(
    store: ModelStore, static_one: SentenceTransformer, static_two: SentenceTransformer, start: Start
) -> None:
    ids = [publish(store, static_one, 0).id]
    service = start(cache_mib=1)
    httpx.post(service.url + "/embed", json={"inputs": TEXTS})
    ids.append(publish(store, static_two, 1).id)
    service.wait_until(lambda: service.serving() == ids[1], "the new version serves")
    for version, student in ((None, static_two), (ids[0], static_one), (ids[1], static_two)):
        headers = {"x-pairwright-version": version} if version else {}
        answer = httpx.post(service.url + "/embed", json={"inputs": TEXTS}, headers=headers)
        np.testing.assert_allclose(answer.json(), student.encode(TEXTS, normalize_embeddings=True), atol=1e-6)
