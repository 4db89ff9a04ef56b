"""The other side of `make bench-trainer`: sentence-transformers' own trainer as documented, on lists.

`python -m scripts.bench_plain_trainer PAIRS.jsonl STUDENT EPOCHS BATCH_SIZE RATE`. It gets the sparse optimizer that a
static student needs (dense Adam over the whole table is several times slower), or it would be no match.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers import SentenceTransformerTrainingArguments as TrainingArguments
from sentence_transformers.sentence_transformer.losses import CosineSimilarityLoss
from sentence_transformers.sentence_transformer.modules import StaticEmbedding


class SparseTrainer(SentenceTransformerTrainer):  # type: ignore[misc]
    """torch takes no norm of sparse gradients, and the trainer asks for one to log it."""

    def _get_grad_norm(self, *_: Any, **__: Any) -> None:
        return


def main() -> None:
    """Train, print pairs a second."""
    pairs, student, epochs, batch_size, rate = sys.argv[1:]
    disable_progress_bars()
    rows = [json.loads(line) for line in Path(pairs).read_text().splitlines()]
    data = Dataset.from_dict({name: [row[name] for row in rows] for name in ("sentence1", "sentence2", "score")})
    model = SentenceTransformer(student)
    static = isinstance(model[0], StaticEmbedding)
    if static:
        model[0].embedding.sparse = True
    batches = {"num_train_epochs": int(epochs), "per_device_train_batch_size": int(batch_size)}
    quiet = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": not torch.cuda.is_available()}
    steps = {"learning_rate": float(rate), "warmup_steps": 0.1, "max_grad_norm": 0.0 if static else 1.0}
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(folder, **batches, **steps, **quiet)
        optimizer = torch.optim.SparseAdam(model.parameters(), lr=float(rate)) if static else None
        trainer = (SparseTrainer if static else SentenceTransformerTrainer)(
            model, settings, train_dataset=data, loss=CosineSimilarityLoss(model), optimizers=(optimizer, None)
        )
        began = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - began
    print(json.dumps({"pairs_s": round(len(rows) * int(epochs) / seconds, 1), "seconds": round(seconds, 2)}))


if __name__ == "__main__":
    main()
