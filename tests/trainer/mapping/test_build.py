"""The map: near texts are near in the plane, neighbours are the exact ones, and any number of texts has one."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from services.trainer.dataset.sampling import SampledText
from services.trainer.mapping.build import build_map

TOPICS = {"bicycle": "wheel saddle pedal chain", "kitchen": "oven pan flour spoon", "harbour": "ship crane rope quay"}
RNG = np.random.default_rng(0)


def encode(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """A bag of words: each word has a random direction, the same in every process."""
    vectors = np.zeros((len(texts), 64), np.float32)
    for row, text in enumerate(texts):
        for word in text.split():
            vectors[row] += np.random.default_rng(list(word.encode())).standard_normal(64).astype(np.float32)
    return vectors


def make_texts(count: int) -> list[SampledText]:
    texts = []
    for number in range(count):
        topic = list(TOPICS)[number % 3]
        words = [topic, *RNG.choice(TOPICS[topic].split(), 2), "the", f"w{number}"]
        texts.append(SampledText(number, " ".join(words), "pair", topic, "job"))
    return texts


def made(texts: list[SampledText]) -> tuple[dict[str, Any], list[tuple[str, int, int]]]:
    told: list[tuple[str, int, int]] = []
    surprises = {one.text: 0.5 for one in texts[1::2]}
    result = build_map("r000001-00000000", texts, surprises, encode, lambda *now: told.append(now))
    return json.loads(json.dumps(result, allow_nan=False)), told


@pytest.mark.slow
def test_topics_come_apart_and_clusters_are_named_by_their_words() -> None:
    texts = make_texts(300)
    texts[299] = texts[0]._replace(id=299)
    result, told = made(texts)
    points = result["points"]
    places = np.array([points["x"], points["y"]]).T
    centres = np.array([places[topic::3].mean(axis=0) for topic in range(3)])
    nearest_centre = np.argmin(((places[:, None] - centres) ** 2).sum(axis=2), axis=1)
    assert (nearest_centre == np.arange(300) % 3).mean() > 0.95
    assert {len(column) for column in points.values()} == {300}
    vectors = encode([one.text for one in texts])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T - 2 * np.eye(300, dtype=np.float32)
    for place in range(0, 300, 17):
        found = points["neighbours"][place]
        assert cosines[place][found] == pytest.approx(np.sort(cosines[place])[::-1][:5], abs=1e-5)
    assert points["duplicate_of"][299] == 0
    assert sum(one["size"] for one in result["clusters"]) == 300
    assert [one["size"] for one in result["clusters"]] == sorted(
        (one["size"] for one in result["clusters"]), reverse=True
    )
    for one in result["clusters"]:
        labels = {texts[place].label for place in range(300) if points["cluster"][place] == one["id"]}
        assert labels & set(one["words"]), "each is named by its topic"
        assert "the" not in one["words"]
    assert points["surprise"][2:4] == [None, 0.5]
    states = list(dict.fromkeys(state for state, _, _ in told))
    assert states == ["embedding", "finding neighbours", "placing"]
    assert all(done <= of for _, done, of in told)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 11, 12, 20])
def test_few_texts_have_a_map_too(count: int) -> None:
    result, _ = made(make_texts(count))
    assert {len(column) for column in result["points"].values()} == {count}
    assert sum(one["size"] for one in result["clusters"]) == count
    assert all(len(others) == min(5, max(count - 1, 0)) for others in result["points"]["neighbours"])


def test_texts_that_say_nothing_or_the_same_have_a_map() -> None:
    texts = [one._replace(text=text) for one, text in zip(make_texts(30), ["!", "a b"] * 15, strict=True)]
    result = build_map(
        "r000001-00000000", texts, {}, lambda some: np.zeros((len(some), 4), np.float32), lambda *_: None
    )
    assert np.isfinite([result["points"]["x"], result["points"]["y"]]).all()


def test_long_texts_are_cut_in_the_answer_only() -> None:
    [text] = make_texts(1)
    result, _ = made([text._replace(text="long " * 400)])
    assert len(result["points"]["text"][0]) == 300
