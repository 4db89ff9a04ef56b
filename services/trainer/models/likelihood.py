"""How likely a teacher finds texts: log-likelihoods of continuations, many of them in one pass.

What continuations share is computed once: a pass is one row of tokens that is a tree. Its root is the prompt, its
branches are prefixes, its leaves are continuations, and the attention mask lets a token attend to its ancestors alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM

from services.trainer.models import encoder
from shared.errors import Fatal, first_line
from shared.precision import dtype_for

Numbers = npt.NDArray[np.float64]

_Branch = tuple[list[int], list[list[int]]]
"""The ids of a prefix, and those of each of its continuations."""

MOST_TOKENS = 1024
"""Of one pass: attention grows with the square of it."""
MOST_TEXTS = 32
"""Continuations of one prefix in one pass."""


@dataclass(frozen=True)
class Prompt:
    """What stands around two texts."""

    opening: str
    """An example, and what comes before the first text."""
    between: str
    closing: str
    longest: int = 64
    """Tokens of a text that are read: the first ones."""


@dataclass(frozen=True)
class _Leaf:
    """One continuation in a row: where it starts, how long it is, and the place of its prefix's last token."""

    start: int
    length: int
    before: int


@dataclass
class _Tree:
    """A row of tokens: a root, branches, and the leaves of each branch."""

    ids: list[int]
    positions: list[int] = field(default_factory=list)
    branch: list[int] = field(default_factory=list)
    """Of each token; 0: the root."""
    leaf: list[int] = field(default_factory=list)
    """Of each token; 0: the root or a prefix."""
    leaves: list[_Leaf] = field(default_factory=list)

    @classmethod
    def of(cls, root: list[int], branches: Sequence[_Branch]) -> "_Tree":
        """The row of some branches."""
        tree = cls(list(root), list(range(len(root))), [0] * len(root), [0] * len(root))
        for number, (prefix, texts) in enumerate(branches, start=1):
            tree._append(prefix, len(root), number, 0)
            before = len(tree.ids) - 1
            for text in texts:
                tree.leaves.append(_Leaf(len(tree.ids), len(text), before))
                tree._append(text, len(root) + len(prefix), number, len(tree.leaves))
        return tree

    def _append(self, ids: list[int], position: int, branch: int, leaf: int) -> None:
        self.ids += ids
        self.positions += range(position, position + len(ids))
        self.branch += [branch] * len(ids)
        self.leaf += [leaf] * len(ids)

    def attention(self) -> torch.Tensor:
        """Which token attends to which: to itself and to what is before it on its own path, bool [tokens, tokens]."""
        branch, leaf = torch.tensor(self.branch), torch.tensor(self.leaf)
        same_branch = (branch == 0) | (branch == branch[:, None])
        same_leaf = (leaf == 0) | (leaf == leaf[:, None])
        return torch.ones(len(leaf), len(leaf), dtype=torch.bool).tril() & same_branch & same_leaf

    def predictions(self) -> tuple[list[int], list[int]]:
        """For each token of each leaf: the place whose state predicts it, and its id."""
        places = [[leaf.before, *range(leaf.start, leaf.start + leaf.length - 1)] for leaf in self.leaves]
        ids = [self.ids[leaf.start : leaf.start + leaf.length] for leaf in self.leaves]
        return list(chain.from_iterable(places)), list(chain.from_iterable(ids))


class Likelihood:
    """A teacher with its head, which scores texts and never generates."""

    def __init__(self, teacher: Path, setting: str) -> None:
        """Load it from its folder. Raises `Fatal`."""
        on_gpu = torch.cuda.is_available()
        self._device, dtype = "cuda" if on_gpu else "cpu", dtype_for("auto", on_gpu)
        try:
            self._tokenizer = encoder.tokenizer(teacher)
            model = AutoModelForCausalLM.from_pretrained(teacher, local_files_only=True, dtype=dtype)
            self._model = model.eval().to(self._device)
        except Fatal:
            raise
        except Exception as error:  # whatever a broken or unreachable model makes the libraries raise
            raise Fatal(f"{setting}: can't load {teacher}: {first_line(error)}") from None

    def mean_log_likelihoods(
        self,
        prompt: Prompt,
        groups: Sequence[tuple[str, Sequence[str]]],
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> list[Numbers]:
        """For each group, a first text and second ones: the mean log-likelihood of a token of each second one, [texts].

        `on_progress` gets how many groups are done.
        """
        root, done, results = self._ids(prompt.opening, special=True), 0, list[Numbers]()
        between, closing = self._ids(prompt.between), self._ids(prompt.closing)
        branches = [
            (
                self._ids(first)[: prompt.longest] + between,
                [self._ids(text)[: prompt.longest] + closing for text in texts],
            )
            for first, texts in groups
        ]
        for some in _passes(branches, MOST_TOKENS - len(root)):
            means = self._score(_Tree.of(root, some))
            results += np.split(means, np.cumsum([len(texts) for _, texts in some])[:-1])
            done += len(some)
            on_progress(done)
        return results

    def _ids(self, text: str, special: bool = False) -> list[int]:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        begin = self._tokenizer.bos_token_id
        has_begin = special and begin is not None and begin in self._tokenizer("a")["input_ids"]
        return [begin, *ids] if has_begin else list(ids)

    @torch.inference_mode()
    def _score(self, tree: _Tree) -> Numbers:
        device, dtype = self._device, self._model.dtype
        mask = torch.zeros(1, 1, len(tree.ids), len(tree.ids), dtype=dtype)
        mask.masked_fill_(~tree.attention(), torch.finfo(dtype).min)
        states = self._model.model(
            torch.tensor([tree.ids], device=device),
            attention_mask=mask.to(device),
            position_ids=torch.tensor([tree.positions], device=device),
            use_cache=False,
        ).last_hidden_state[0]
        places, chosen = tree.predictions()
        logs = torch.log_softmax(self._model.lm_head(states[places]).float(), -1)
        values = logs.gather(1, torch.tensor(chosen, device=device)[:, None])[:, 0].double().cpu().numpy()
        starts = np.cumsum([0, *(leaf.length for leaf in tree.leaves)])[:-1]
        return np.add.reduceat(values, starts) / [leaf.length for leaf in tree.leaves]


def _passes(branches: Sequence[_Branch], most: int) -> Iterator[list[_Branch]]:
    """The branches in their order, as many at a time as fit; one that is too long comes alone."""
    some, tokens = list[_Branch](), 0
    for prefix, texts in branches:
        size = len(prefix) + sum(map(len, texts))
        if some and tokens + size > most:
            yield some
            some, tokens = [], 0
        some.append((prefix, texts))
        tokens += size
    if some:
        yield some
