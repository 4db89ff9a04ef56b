"""How far the round is that runs, and its curves up to now."""

from services.trainer.dataset.store import Curves
from services.trainer.progress import Progress


class LiveRound:
    """The round that runs, if one does."""

    def __init__(self) -> None:
        self.id: int | None = None
        self.progress = Progress(state="starting")
        self.curves: Curves = {}

    def begin(self, id_: int, curves: Curves) -> None:
        """A try at a round starts; these are the curves of the tries before."""
        self.id, self.progress, self.curves = id_, Progress(state="starting"), curves

    def follow(self, progress: Progress) -> None:
        """The round has got so far. A step that was taken before, by a try that died, counts as it came out last."""
        self.progress = progress
        for name in progress.fresh:
            value = progress.loss if name == "loss" else progress.dev
            if value is not None:
                kept = [point for point in self.curves.get(name, []) if point[0] < progress.step]
                self.curves[name] = [*kept, (progress.step, value)]

    def end(self) -> Curves:
        """The try has ended; the curves."""
        self.id = None
        return self.curves
