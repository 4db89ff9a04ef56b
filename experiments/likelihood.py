"""The judge pass: the teacher scores its own pairs by the likelihood of each label's instruction.

A pair was written for one label. How likely is its second sentence after each label's prompt? By Bayes' rule that
gives a distribution over the labels: a pair may be thrown away for it, or its score made softer. No second model is
needed.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from services.generation.pairs import prompts
from services.generation.pairs.tasks import BUILT_IN, TaskSpec, load_tasks

EXEMPLARS = (0, 1)
"""The same for all pairs, so that likelihoods can be compared."""
AT_ONCE = 256
Likelihoods = npt.NDArray[np.float64]


def sts() -> TaskSpec:
    """The built-in task."""
    return load_tasks([BUILT_IN]).get("sts")


def log_likelihoods(pairs: Sequence[tuple[str, str]], task: TaskSpec, teacher: Path) -> Likelihoods:
    """log p(sentence2 and the quote that ends it | label's prompt with sentence1): [pairs, labels], in nats."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=dtype).to(device).eval()
    found = np.zeros((len(pairs), len(task.labels)))
    answers = tokenizer([f'{prompts.in_quotes(two)}"' for _, two in pairs], add_special_tokens=False).input_ids
    with torch.inference_mode():
        for column, label in enumerate(task.labels.values()):
            texts = [prompts.sentence2_prompt(label, one, EXEMPLARS).text for one, _ in pairs]
            given = tokenizer(texts).input_ids
            order = sorted(range(len(pairs)), key=lambda place: len(given[place]) + len(answers[place]))
            for first in range(0, len(order), AT_ONCE):
                places = order[first : first + AT_ONCE]
                rows = [given[place] + answers[place] for place in places]
                width, most = max(map(len, rows)), max(len(answers[place]) for place in places)
                # Padded on the left, so that the answers end together.
                fed = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=device)
                mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
                positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
                output = model(
                    fed, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=most + 1
                )
                logs = output.logits[:, :-1].float().log_softmax(dim=-1)
                chosen = logs.gather(2, fed[:, width - most :, None]).squeeze(2)
                counts = torch.tensor([len(answers[place]) for place in places], device=device)
                counted = torch.arange(most, device=device)[None] >= most - counts[:, None]
                found[places, column] = torch.where(counted, chosen, 0).sum(dim=1).cpu().numpy()
    return found


def posteriors(likelihoods: Likelihoods, written_for: npt.NDArray[np.int64]) -> Likelihoods:
    """p(label | pair), [pairs, labels], all labels alike likely before.

    Some labels' prompts make any sentence likelier. So that no label is favoured for that, each column is shifted by
    its mean over the labels that pairs were written for, each label counting the same.
    """
    centred = likelihoods - likelihoods.mean(axis=1, keepdims=True)
    means = np.stack([centred[written_for == label].mean(axis=0) for label in np.unique(written_for)])
    shifted = centred - means.mean(axis=0)
    powers = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    found: Likelihoods = powers / powers.sum(axis=1, keepdims=True)
    return found
