"""What became of a unit, as it is kept: one JSON object a unit, in Redis and in the batch command's journal."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from services.generation.pairs.generator import WorkItemResult, Written
from shared.pairs import Pair
from shared.stream import Append

Record = dict[str, Any]
"""`sentence1`; `pairs`, each with `label`, `seed` and `slot` beside the pair; `rejected`, samples by reason;
`samples`, how many second sentences were sampled; and once the unit is entered, `lost`: by label, how many pairs the
dataset had already."""


def draft_record(unit: WorkItemResult) -> Record:
    """A unit as it was written, before anybody asked whether its pairs are new."""
    return {
        "sentence1": unit.sentence1,
        "pairs": [
            {**written.pair.model_dump(), "label": written.label, "seed": written.seed, "slot": written.slot}
            for written in unit.written
        ],
        "rejected": dict(unit.rejected),
        "samples": unit.samples,
        "lost": {},
    }


def written_of(record: Record) -> list[Written]:
    """The pairs of a draft."""
    return [
        Written(
            slot=pair["slot"],
            label=pair["label"],
            seed=pair["seed"],
            pair=Pair(sentence1=pair["sentence1"], sentence2=pair["sentence2"], score=pair["score"]),
        )
        for pair in record["pairs"]
    ]


def without_surplus(draft: Record, room: Callable[[str], int]) -> Record:
    """The draft without the pairs for which the job has no room any more, counted as `surplus`."""
    kept: list[dict[str, Any]] = []
    taken: Counter[str] = Counter()
    for pair in draft["pairs"]:
        if taken[pair["label"]] < room(pair["label"]):
            taken[pair["label"]] += 1
            kept.append(pair)
    surplus = len(draft["pairs"]) - len(kept)
    rejected = Counter(draft["rejected"]) + Counter(surplus=surplus)
    return {**draft, "pairs": kept, "rejected": dict(rejected)}


def entered(draft: Record, answers: list[Append]) -> Record:
    """The unit's record, once the stream has answered for each of the draft's pairs."""
    pairs = [pair for pair, answer in zip(draft["pairs"], answers, strict=True) if answer == Append.ACCEPTED]
    lost = Counter(
        pair["label"] for pair, answer in zip(draft["pairs"], answers, strict=True) if answer == Append.DUPLICATE
    )
    rejected = Counter(draft["rejected"]) + Counter(duplicate=lost.total())
    return {**draft, "pairs": pairs, "rejected": dict(rejected), "lost": dict(lost)}


def shown(pair: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded pair as people see it."""
    return {name: pair[name] for name in ("sentence1", "sentence2", "score", "label")}
