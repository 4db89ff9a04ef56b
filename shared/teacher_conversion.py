"""`python -m shared.teacher_conversion FOLDER`: convert the default teacher into FOLDER, with torch and transformers.

A program of its own: its memory goes back when it ends, and `shared.teacher` imports no torch.
"""

import importlib.util
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from shared.teacher import PACKAGE

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(folder: Path) -> None:
    """GGUF to bf16 safetensors and a tokenizer, with transformers' own progress bar."""
    package = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    assert package is not None
    assert package.origin is not None
    source = str(Path(package.origin).parent)
    # Without dequantize, transformers 5 keeps GGUF's packed weights and then can't save them.
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF_FILE, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF_FILE).save_pretrained(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
