"""The teacher's number format where the settings leave it open."""

from pathlib import Path

import pytest

from shared.precision import dtype_for, multiplies_bfloat16


@pytest.mark.parametrize(
    ("line", "has_it"),
    [
        ("flags\t\t: fpu sse2 avx2 fma avx512f avx512_bf16", True),
        ("flags\t\t: fpu avx2 amx_bf16 amx_tile", True),
        ("Features\t: fp asimd i8mm bf16", True),
        ("flags\t\t: fpu sse2 avx2 fma avx512f avx512bw", False),
        ("model name\t: a CPU named bf16", False),
    ],
)
def test_bfloat16_by_the_flags_in_cpuinfo(tmp_path: Path, line: str, has_it: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{line}\n")
    assert multiplies_bfloat16(cpuinfo) is has_it


def test_without_cpuinfo_there_is_no_bfloat16(tmp_path: Path) -> None:
    assert not multiplies_bfloat16(tmp_path / "none")


def test_a_format_that_is_set_is_kept() -> None:
    assert dtype_for("float16", on_gpu=False) == "float16"
    assert dtype_for("auto", on_gpu=True) == "auto"
    assert dtype_for("auto", on_gpu=False) in ("bfloat16", "float32")
