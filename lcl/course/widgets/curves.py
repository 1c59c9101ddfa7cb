"""Live curves of a training run."""

import math
import time
from collections.abc import Sequence

from IPython.display import display

from lcl.course import plots
from lcl.course.widgets.base import Exhibit, script
from lcl.train.loop import Event, Step, Training, Validation

EVERY = 0.5  # seconds between two updates
POINTS = 600  # as many steps as a reader can see


class LiveCurves(Exhibit):
    """A training run's curves, which grow while it runs: call `show` once, `add` for every event, `finish` at the end.

    What was added stays, and can be read, when the kernel is busy or gone.
    """

    _esm = script("curves")

    def __init__(self, training: Training):
        config = training.profile.training
        self._curve: list[Event] = []
        self._drawn, self._handle = 0.0, None
        self._chance = training.recipe.chance_losses(config.batch_size, training.profile.model.language.vocab_size)
        empty = {
            "total": config.steps, "chances": self._chance, "steps": [], "losses": {}, "validations": [],
            "pace": "", "message": "Preparing: the first scenes are drawn, which takes a while.",
        }  # fmt: skip
        super().__init__("Training curves: losses and recall@1 by step.", empty, plots.loss_curve([], self._chance))

    def show(self) -> None:
        """Display it below the cell."""
        self._handle = display(self, display_id=True)

    def add(self, event: Event) -> None:
        """Add an event of the training."""
        self._curve.append(event)
        if isinstance(event, Validation) or time.perf_counter() - self._drawn > EVERY:
            self._update("Training.")

    def finish(self, curve: Sequence[Event] | None = None) -> None:
        """Show the end, also in the still picture. curve: of a training run that ran elsewhere."""
        self._curve = list(self._curve if curve is None else curve)
        self._update("Done." if self._curve and self._curve[-1].step == self.data["total"] else "Stopped.")
        self.still = plots.loss_curve(self._curve, self._chance)
        if self._handle:
            self._handle.update(self)

    def _update(self, message: str) -> None:
        steps = [event for event in self._curve if isinstance(event, Step)]
        thin = steps[:: math.ceil(len(steps) / POINTS) or 1]
        thin += steps[-1:] if thin and thin[-1] is not steps[-1] else []
        self.data = self.data | {
            "message": message,
            "pace": _pace(steps[-1]) if steps and message == "Training." else "",
            "steps": [step.step for step in thin],
            "losses": {name: [round(step.losses[name], 4) for step in thin] for name in (thin[0].losses if thin else ())},
            "validations": [
                [e.step, e.loss, e.image_to_text, e.text_to_image] for e in self._curve if isinstance(e, Validation)
            ],
        }
        self._drawn = time.perf_counter()


def _pace(step: Step) -> str:
    minutes = step.seconds_left / 60
    left = f"{minutes:.0f} minutes" if minutes > 1.5 else f"{step.seconds_left:.0f} seconds"
    return f"step {step.step:,} of {step.total:,} · {step.pairs_per_second:,.0f} pairs/s · about {left} left"
