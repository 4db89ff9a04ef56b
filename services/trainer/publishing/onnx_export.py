"""An int8 copy of a transformer student, for serving without a GPU: exported at publication, and measured at once.

torch's exporter and ONNX Runtime's quantiser: sentence-transformers' own `onnx` extra can't be installed beside vllm.
Only the transformer is copied: weights become int8 by output channel, activations as they come, without calibration.
"""

import logging
import shutil
import tempfile
import timeit
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer

from services.trainer.evaluation.sts import Encode, Row, Undefined, score, unit
from services.trainer.models.static import Embeddings
from shared.errors import first_line
from shared.manifest import PROBE_SENTENCES, Int8

log = logging.getLogger(__name__)

FILE = "onnx/model_int8.onnx"
DEV_SENTENCES = 256


def add_int8(folder: Path, dev: Sequence[Row]) -> Int8 | None:
    """Add an int8 copy to the version in `folder` and measure it; None, and no file, where that fails or isn't true."""
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, trust_remote_code=False)
    if type(model[0]) is not Transformer:
        return None
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".staging-") as scratch:
            exact = Path(scratch, "exact.onnx")
            _export(model, exact)
            for excluded in _exclusions(exact):
                _quantise(exact, folder / FILE, excluded)
                record = _measure(model, folder / FILE, dev)
                if not record.verdict:
                    log.info("int8 export: %s", record)
                    return record
        log.warning("no int8 export: %s", record.verdict)
    except Exception as error:  # whatever an unusual architecture makes the exporter raise
        log.warning("no int8 export: %s", first_line(error))
    if (folder / FILE).parent.is_dir():
        shutil.rmtree((folder / FILE).parent)
    return None


class _TokenVectors(torch.nn.Module):
    """A transformer as ONNX sees it: ids and mask in, the last layer's vectors out."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self._transformer = transformer

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        """float32 [rows, tokens, hidden]."""
        return self._transformer(input_ids=input_ids, attention_mask=attention_mask)[0]


def _export(model: Any, file: Path) -> None:
    # Two rows of unlike length: a size of one would be taken for a constant.
    example = model.tokenizer(list(PROBE_SENTENCES[:2]), padding=True, return_tensors="pt")
    longest, names = int(model.max_seq_length or 512), ["input_ids", "attention_mask"]
    sizes = {0: torch.export.Dim("rows", min=1, max=65_536), 1: torch.export.Dim("tokens", min=2, max=longest)}
    for noisy in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with torch.no_grad():
        program = torch.onnx.export(
            _TokenVectors(model[0].auto_model).eval(),
            tuple(example[name] for name in names),
            dynamo=True,
            verbose=False,
            input_names=names,
            output_names=["token_embeddings"],
            dynamic_shapes=dict.fromkeys(names, sizes),
        )
    program.save(str(file))


def _exclusions(exact: Path) -> list[list[str]]:
    """Products to keep exact, to be tried in turn: none; those that narrow (their inputs spread the widest); all."""
    graph = onnx.load(str(exact), load_external_data=False).graph
    sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    products = {node.name: sizes.get(node.input[1], ()) for node in graph.node if node.op_type == "MatMul"}
    shapes = {name: size for name, size in products.items() if len(size) == 2}
    narrowing = [name for name, (rows, columns) in shapes.items() if rows > columns]
    widening = [name for name, (rows, columns) in shapes.items() if rows < columns]
    return [[], narrowing, narrowing + widening]


def _quantise(exact: Path, file: Path, excluded: list[str]) -> None:
    file.parent.mkdir(exist_ok=True)
    logging.getLogger().addFilter(_not_about_preprocessing)
    try:
        quantize_dynamic(exact, file, weight_type=QuantType.QInt8, per_channel=True, nodes_to_exclude=excluded)
    finally:
        logging.getLogger().removeFilter(_not_about_preprocessing)


def _not_about_preprocessing(record: logging.LogRecord) -> bool:
    """The quantiser asks the root logger for a step that torch's exporter has done."""
    return "pre-processing" not in record.getMessage()


def _measure(model: Any, file: Path, dev: Sequence[Row]) -> Int8:
    exact: Encode = partial(model.encode, batch_size=32, show_progress_bar=False)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    int8 = partial(_encode, model, session)
    sentences = list(dict.fromkeys(text for row in dev for text in row[:2]))[:DEV_SENTENCES]
    timed = sentences or list(PROBE_SENTENCES) * 8
    return Int8(
        file=FILE,
        cosine=round(float(_cosines(exact(list(PROBE_SENTENCES)), int8(PROBE_SENTENCES)).min()), 5),
        dev_cosine=round(float(_cosines(exact(sentences), int8(sentences)).mean()), 5) if sentences else None,
        dev_exact=_dev_score(exact, dev),
        dev_int8=_dev_score(int8, dev),
        speedup=round(_seconds(exact, timed) / _seconds(int8, timed), 2),
    )


def _encode(model: Any, session: Any, texts: Sequence[str]) -> Embeddings:
    """The vectors of `texts` with `session` in the transformer's place, longest last so that little is padded."""
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    vectors = np.empty((len(texts), model.get_embedding_dimension()), np.float32)
    for places in (order[start : start + 16] for start in range(0, len(order), 16)):
        features = model.preprocess([texts[place] for place in places])
        inputs = {name: features[name].numpy() for name in ("input_ids", "attention_mask")}
        features["token_embeddings"] = torch.from_numpy(session.run(None, inputs)[0])
        with torch.no_grad():
            for module in list(model)[1:]:
                features = module(features)
        vectors[places] = features["sentence_embedding"].numpy()
    return vectors


def _cosines(some: Embeddings, others: Embeddings) -> Embeddings:
    return np.asarray(np.einsum("ij,ij->i", unit(some), unit(others)))


def _seconds(run: Encode, texts: Sequence[str]) -> float:
    """The better of two times, after one that warms up."""
    return min(timeit.repeat(partial(run, texts), number=1, repeat=3)[1:])


def _dev_score(run: Encode, dev: Sequence[Row]) -> float | None:
    try:
        return round(score(run, dev), 2) if dev else None
    except Undefined:
        return None
