"""sentence-transformers' losses by name."""

from typing import Any

from sentence_transformers.sentence_transformer import losses

from services.trainer.training.recipe import Recipe


def build(recipe: Recipe, model: Any) -> Any:
    """The recipe's loss on `model`, inside Matryoshka's if it asks for shorter vectors too."""
    loss = getattr(losses, recipe.loss)(model)
    if recipe.matryoshka:
        return losses.MatryoshkaLoss(model, loss, matryoshka_dims=list(recipe.matryoshka))
    return loss
