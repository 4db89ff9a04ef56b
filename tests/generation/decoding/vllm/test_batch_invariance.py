"""Rows through fixed tiles: the same bits for any number of them."""

import pytest
import torch

from services.generation.decoding.vllm.batch_invariance import TILE, make_batch_invariant, tiled, tiles_that_agree

WIDTH, OUTPUTS = 96, 40


def linear(rows: torch.Tensor, weight: torch.Tensor, _bias: object) -> torch.Tensor:
    return rows @ weight.T


@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 130, 192, 200, 500])
def test_tiles_give_every_row_its_own_result(count: int) -> None:
    torch.manual_seed(count)
    rows, weight = torch.randn(count, WIDTH), torch.randn(OUTPUTS, WIDTH)
    result = tiled(linear, (192, 128, TILE))(rows, weight, None)
    torch.testing.assert_close(result, linear(rows, weight, None))
    assert torch.equal(tiled(linear, (TILE,))(rows[:1], weight, None), tiled(linear, (TILE,))(rows, weight, None)[:1])


def test_only_heights_that_agree_to_the_bit_are_used() -> None:
    heights: list[int] = []

    def batch_dependent(rows: torch.Tensor, weight: torch.Tensor, _bias: object) -> torch.Tensor:
        """A kernel that adds up otherwise from 150 rows on."""
        heights.append(rows.shape[0])
        result = rows @ weight.T
        return result * (1 + 1e-6) if rows.shape[0] >= 150 else result

    weight = torch.randn(OUTPUTS, WIDTH)
    tiles = tiles_that_agree(lambda rows: batch_dependent(rows, weight, None), WIDTH, torch.float32)
    assert 192 not in tiles
    assert tiles[-1] == TILE
    heights.clear()
    call = tiled(batch_dependent, tiles)
    many = torch.randn(400, WIDTH)
    full = call(many, weight, None)
    for first, count in ((0, 1), (7, 64), (100, 300)):
        part = call(many[first : first + count], weight, None)
        torch.testing.assert_close(part, full[first : first + count])
    assert set(heights) <= set(tiles)


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(RuntimeError, match="no CPU linear layer"):
        make_batch_invariant(torch.nn.Linear(2, 2))
