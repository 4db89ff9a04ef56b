"""The number format of a teacher that a service runs, where the settings say `auto`."""

from pathlib import Path


def dtype_for(wanted: str, on_gpu: bool) -> str:
    """vLLM's and torch's name of the format. `auto` is the teacher's own on a GPU; on a CPU, what the CPU multiplies.

    bfloat16 on a CPU without instructions for it is emulated number by number: on AVX2 alone, no pair came within the
    time in which float32 wrote fifty.
    """
    if wanted != "auto" or on_gpu:
        return wanted
    return "bfloat16" if multiplies_bfloat16() else "float32"


def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU has instructions for it: `avx512_bf16` or `amx_bf16` on x86, `bf16` on ARM."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return any(flag.endswith("bf16") for flag in flags)
