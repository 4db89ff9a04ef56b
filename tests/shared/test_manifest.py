"""What a manifest says of its version's numbers."""

import pytest

from shared.manifest import int8_ranges


def test_a_range_is_of_unit_vectors_cut_to_each_length() -> None:
    ranges = int8_ranges([[3.0, -4.0, 12.0], [0.0, 0.0, 0.0], [5.0, 5.0, 5.0]], [2, 3])
    assert ranges == {2: pytest.approx(0.8), 3: pytest.approx(12 / 13)}


@pytest.mark.parametrize("vectors", [[], [[0.0] * 64]])
def test_vectors_that_say_nothing_give_four_standard_deviations(vectors: list[list[float]]) -> None:
    assert int8_ranges(vectors, [64, 4]) == {64: 0.5, 4: 1.0}
