"""A transformer student's exports for serving on CPUs, exact and int8: made at publication, and measured at once.

torch's exporter and ONNX Runtime's quantiser: sentence-transformers' own `onnx` extra can't be installed beside vllm.
Only the transformer is exported. In int8, weights are so by output channel, and activations as they come, without
calibration.
"""

import logging
import shutil
import tempfile
import timeit
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Transformer
from tokenizers import Tokenizer

from services.trainer.evaluation.sts import Encode, Row, Undefined, score, unit
from services.trainer.models.static import Embeddings
from shared.errors import first_line
from shared.manifest import PROBE_SENTENCES, Int8, OnnxExport

log = logging.getLogger(__name__)

EXACT, INT8 = "onnx/model.onnx", "onnx/model_int8.onnx"
DEV_SENTENCES = 256
BATCH, REPEATS = 16, 4
UNUSUAL_TEXTS = (
    "",
    " two  spaces\n",
    "UPPER, na\u00efve",
    "\u4f60\u597d 12,345.67!",
    "e\u0301 \u00ad\u200b",
    "\U0001f600",
)


class Exports(NamedTuple):
    """The records of what was exported; None where an export failed or isn't worth having."""

    onnx: OnnxExport | None = None
    int8: Int8 | None = None


def add_exports(folder: Path, dev: Sequence[Row]) -> Exports:
    """Add exports to the version in `folder` and measure them; those that failed, or aren't true, leave no file."""
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, trust_remote_code=False)
    if type(model[0]) is not Transformer:
        return Exports()
    exports, threads = Exports(), torch.get_num_threads()
    torch.set_num_threads(1)  # both sides are measured on one: others are at work beside us
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".staging-") as scratch:
            exact = Path(scratch, "exact.onnx")
            _export(model, exact)
            reference = _Reference(model, folder, dev)
            exports = Exports(_add_exact(reference, exact, folder))
            exports = exports._replace(int8=_add_int8(reference, exact, folder))
    except Exception as error:  # whatever an unusual architecture makes the exporter raise
        log.warning("an export failed: %s", first_line(error))
    finally:
        torch.set_num_threads(threads)
    kept = {record.file for record in exports if record is not None}
    for name in (EXACT, INT8):
        if name not in kept:
            (folder / name).unlink(missing_ok=True)
    if not kept:
        shutil.rmtree((folder / EXACT).parent, ignore_errors=True)
    return exports


def _add_exact(reference: "_Reference", exact: Path, folder: Path) -> OnnxExport | None:
    record = reference.exact(exact)
    log.info("export: %s", record)
    if record.verdict:
        log.info("no exact export is kept: %s", record.verdict)
        return None
    (folder / EXACT).parent.mkdir(exist_ok=True)
    shutil.copyfile(exact, folder / EXACT)
    return record


def _add_int8(reference: "_Reference", exact: Path, folder: Path) -> Int8 | None:
    record = None
    for excluded in _exclusions(exact):
        _quantise(exact, folder / INT8, excluded)
        record = reference.int8(folder / INT8)
        if not record.verdict:
            log.info("int8 export: %s", record)
            return record
    log.warning("no int8 export: %s", record.verdict if record else "there is nothing to quantise")
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


class _Reference:
    """A model that exports are measured against."""

    def __init__(self, model: Any, folder: Path, dev: Sequence[Row]) -> None:
        self._model, self._folder, self._dev = model, folder, dev
        self._encode: Encode = partial(model.encode, batch_size=BATCH, show_progress_bar=False)
        self._sentences = list(dict.fromkeys(text for row in dev for text in row[:2]))[:DEV_SENTENCES]
        self._timed = self._sentences or list(PROBE_SENTENCES) * 8

    def exact(self, file: Path) -> OnnxExport:
        """The record of an exact export."""
        run, texts = partial(_encode, self._model, _session(file)), [*PROBE_SENTENCES, *self._sentences]
        return OnnxExport(
            file=EXACT,
            difference=float(np.abs(np.asarray(self._encode(texts)) - run(texts)).max()),
            speedup=self._speedup(run, self._timed),
            single_speedup=self._speedup(run, PROBE_SENTENCES[:1]),
            tokenizer=self._tokenizer_file_suffices([*texts, *UNUSUAL_TEXTS, " ".join(texts * 4)]),
        )

    def _tokenizer_file_suffices(self, texts: list[str]) -> bool:
        """Whether a server needs no more than the `tokenizers` library, for any of the model's prompts."""
        file, limit = self._folder / "tokenizer.json", self._model.max_seq_length
        if not file.is_file() or limit is None or self._model.tokenizer.pad_token_id is None:
            return False
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_padding()
        tokenizer.enable_truncation(int(limit))
        for prompt in {"", *filter(None, self._model.prompts.values())}:
            features = self._model.preprocess(texts, prompt=prompt or None)
            rows = zip(features["input_ids"].tolist(), features["attention_mask"].tolist(), strict=True)
            ids = [[id_ for id_, kept in zip(*row, strict=True) if kept] for row in rows]
            if [one.ids for one in tokenizer.encode_batch([prompt + text for text in texts])] != ids:
                return False
        return True

    def int8(self, file: Path) -> Int8:
        """The record of an int8 export."""
        run, sentences, probe = partial(_encode, self._model, _session(file)), self._sentences, list(PROBE_SENTENCES)
        return Int8(
            file=INT8,
            cosine=round(float(_cosines(self._encode(probe), run(probe)).min()), 5),
            dev_cosine=round(float(_cosines(self._encode(sentences), run(sentences)).mean()), 5) if sentences else None,
            dev_exact=_dev_score(self._encode, self._dev),
            dev_int8=_dev_score(run, self._dev),
            speedup=self._speedup(run, self._timed),
        )

    def _speedup(self, run: Encode, texts: Sequence[str]) -> float:
        """Of the model and an export alike, with all that is around the transformer."""
        return round(_seconds(partial(_encode, self._model, None), texts) / _seconds(run, texts), 2)


def _session(file: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _encode(model: Any, session: Any, texts: Sequence[str]) -> Embeddings:
    """The vectors of `texts`, with `session` in the transformer's place, if any; longest last, so little is padded."""
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    vectors = np.empty((len(texts), model.get_embedding_dimension()), np.float32)
    for places in (order[start : start + BATCH] for start in range(0, len(order), BATCH)):
        features = model.preprocess([texts[place] for place in places])
        modules = list(model)
        if session is not None:
            inputs = {name: features[name].numpy() for name in ("input_ids", "attention_mask")}
            features["token_embeddings"], modules = torch.from_numpy(session.run(None, inputs)[0]), modules[1:]
        with torch.inference_mode():
            for module in modules:
                features = module(features)
        vectors[places] = features["sentence_embedding"].numpy()
    return vectors


def _cosines(some: Embeddings, others: Embeddings) -> Embeddings:
    return np.asarray(np.einsum("ij,ij->i", unit(some), unit(others)))


def _seconds(run: Encode, texts: Sequence[str]) -> float:
    """Processor time: the best of some runs, after one that warms up."""
    return min(timeit.repeat(partial(run, texts), timer=process_time, number=1, repeat=REPEATS)[1:])


def _dev_score(run: Encode, dev: Sequence[Row]) -> float | None:
    try:
        return round(score(run, dev), 2) if dev else None
    except Undefined:
        return None
