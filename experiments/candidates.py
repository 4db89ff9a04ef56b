"""Students that are better and worse than their base, made on purpose: what a label-free estimate must tell apart.

Each is made of one of two bases, the default student and a transformer, from pairs of a domain's sentences. Their
vectors of all texts that anything is measured on are kept in a cache: making a candidate takes a minute, to measure it
a second.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.sentence_transformer import losses

from experiments.fine_tuning import fine_tune, make_recipe
from services.trainer.distillation import embedding_cache, ridge
from services.trainer.evaluation.sts import Row
from services.trainer.models import encoder
from services.trainer.models.averaging import average
from services.trainer.models.prompt_eol import PromptEOLEncoder
from services.trainer.models.static import Embeddings
from services.trainer.students import locate

STEPS = 32
"""Of a transformer's training, which takes a second each on two cores."""
SEEDLESS = ("base", "mean removed")
TEXTS_EMBEDDED = 1_000


@dataclass(frozen=True)
class Domain:
    """What candidates are made of. No person has scored anything here."""

    name: str
    texts: Sequence[str]
    """Unlabelled texts."""
    pairs: Sequence[Row]
    """What the teacher wrote for some of them."""
    other_pairs: Sequence[Row]
    """What it wrote for another domain's."""
    title_pairs: Sequence[tuple[str, str]] = ()
    """Titles and what stands under them, where texts are documents."""


@dataclass(frozen=True)
class Base:
    """A student that candidates are made of."""

    name: str
    """`static` or `transformer`."""
    folder: str
    teacher: Path
    cache: Path
    longest: int | None = None
    """Tokens of a text that a transformer reads: fewer than it could, to save time."""

    @property
    def static(self) -> bool:
        """Whether it is a table of token embeddings."""
        return self.name == "static"

    def load(self) -> Any:
        """The base, untrained."""
        model = encoder.load(self.folder, self.name)
        if self.longest is not None:
            model.max_seq_length = self.longest
        return model


class Maker:
    """Makes the candidates of one base, domain and seed."""

    def __init__(self, base: Base, domain: Domain, seed: int) -> None:
        self._base, self._domain, self._seed = base, domain, seed

    def candidates(self) -> Mapping[str, Callable[[], Any]]:
        """How each is made, by name. `base` and `mean removed` depend on no seed."""
        base, domain, train = self._base, self._domain, self._fine_tune
        made: dict[str, Callable[[], Any]] = {
            "base": base.load,
            "mean removed": base.load,
            "pairs": partial(train, domain.pairs),
            "half of pairs": self._half,
            "placebo": partial(train, shuffle_partners(domain.pairs, self._seed), select=False),
            "in-batch negatives": partial(train, domain.pairs, loss="mnrl"),
            "overtrained": self._overtrained,
            "rate too high": partial(train, domain.pairs, select=False, rate=5e-2 if base.static else 5e-4),
            "another domain": partial(train, domain.other_pairs, select=False),
        }
        if base.static:
            made["teacher embeddings"] = partial(train, domain.pairs, teacher_embeddings=True, loss=None)
            made["default round"] = partial(train, domain.pairs, teacher_embeddings=True)
        else:
            made["SimCSE"] = self._simcse
        if domain.title_pairs:
            made["titles"] = partial(self._contrast, domain.title_pairs, 2e-5)
        return made

    def _overtrained(self) -> Any:
        """Every pair of a few sentences, again and again."""
        few = sorted({row[0] for row in self._domain.pairs})[:60]
        rows = [row for row in self._domain.pairs if row[0] in set(few)]
        return self._fine_tune(rows, select=False, epochs=60, rate=3e-3 if self._base.static else 2e-4)

    def _half(self) -> Any:
        return average(self._base.load(), self._fine_tune(self._domain.pairs), 0.5)

    def _fine_tune(
        self,
        rows: Sequence[Row],
        *,
        loss: str | None = "cosine",
        select: bool = True,
        teacher_embeddings: bool = False,
        rate: float | None = None,
        epochs: int = 0,
    ) -> Any:
        """As a round does it; `loss` None trains on no pairs."""
        static, model = self._base.static, self._base.load()
        recipe = make_recipe(
            loss or "cosine",
            rate or (1e-3 if static else 5e-5),
            epochs,
            self._seed,
            max_steps=None if static else STEPS,
        )

        def fit_to_teacher(file: Path) -> None:
            if teacher_embeddings:
                self._fit_to_teacher(model, embedding_cache.sample_texts(file, TEXTS_EMBEDDED))

        fine_tune(model, recipe, rows, select=select, before=fit_to_teacher, has_pairs=loss is not None)
        return model

    def _fit_to_teacher(self, model: Any, texts: list[str]) -> None:
        file = self._base.cache / f"teacher-embeddings-{locate.identity(self._base.teacher)}.npz"
        load: Any = lambda: PromptEOLEncoder(self._base.teacher).encode  # noqa: E731
        embeddings = embedding_cache.encode_cached(texts, file, load, lambda _: None)
        bag = encoder.bag_of_tokens_matrix(model, texts)
        fitted = ridge.fit_to_teacher(encoder.token_embeddings(model), bag, embeddings)
        encoder.set_token_embeddings(model, ridge.rotate_to_principal_axes(fitted, bag))

    def _simcse(self) -> Any:
        """Unsupervised SimCSE (Gao et al. 2021): a text is its own partner, with another dropout."""
        return self._contrast([(text, text) for text in self._domain.texts], 3e-5)

    def _contrast(self, pairs: Sequence[tuple[str, str]], rate: float) -> Any:
        """In-batch negatives over some pairs, without a dev side."""
        torch.manual_seed(self._seed)
        model, chosen = self._base.load(), random.Random(self._seed).sample(list(pairs), len(pairs))
        loss = losses.MultipleNegativesRankingLoss(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3 if self._base.static else rate)
        model.train()
        for first in range(0, min(len(chosen) - 31, 32 * STEPS), 32):
            batch = chosen[first : first + 32]
            features = [model.preprocess(list(side)) for side in zip(*batch, strict=True)]
            loss(features, None).backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.eval()


def shuffle_partners(rows: Sequence[Row], seed: int) -> list[Row]:
    """The placebo: each pair's sentence2 is that of another pair with the same score."""
    order, shuffled = random.Random(seed), list[Row]()
    for score in sorted({row[2] for row in rows}):
        own = [row for row in rows if row[2] == score]
        others = order.sample([row[1] for row in own], len(own))
        shuffled += [(row[0], other, score) for row, other in zip(own, others, strict=True)]
    return shuffled


def vectors(
    base: Base, domain: Domain, seed: int, texts: Mapping[str, Sequence[str]], cache: Path
) -> dict[str, dict[str, Embeddings]]:
    """Of each candidate, its vectors of some lists of texts, each [texts, dimensions]; made where not in the cache."""
    made: dict[str, dict[str, Embeddings]] = {}
    for name, make in Maker(base, domain, seed).candidates().items():
        own_seed = 0 if name in SEEDLESS else seed
        file = cache / f"{domain.name}-{base.name}-{name.replace(' ', '-')}-{own_seed}.npz"
        if not file.is_file():
            # A transformer is trained and read in bfloat16, at twice the speed: all candidates alike.
            with torch.autocast("cpu", torch.bfloat16, enabled=not base.static):
                model = make()
                arrays = {list_: encoder.encode(model, some) for list_, some in texts.items()}
            if name == "mean removed":
                arrays = {list_: array - arrays["sample"].mean(axis=0) for list_, array in arrays.items()}
            np.savez(file, **{list_: array.astype(np.float16) for list_, array in arrays.items()})  # type: ignore[arg-type]
            print(f"{domain.name} {base.name} {name} {own_seed}", flush=True)
        with np.load(file) as arrays_:
            made[name] = {list_: arrays_[list_].astype(np.float32) for list_ in texts}
    return made
