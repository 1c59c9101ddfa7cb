"""Exercises and builds of the notebooks: one module a topic, with one function an exercise.

Each takes a learner's answer, and what it needs of the notebook, and returns the sentence of `lcl.course.checks`. The right
answer and the typical mistakes, each with its reason, stand there and not beside the question.
"""

from collections.abc import Callable

from lcl.config import choose
from lcl.course.checks import RIGHT
from lcl.train.objectives import OBJECTIVES, Objective


def yours_or_ours(mine: Callable, verdict: str, ours: Callable) -> Callable:
    """Choose the function that the next cells use, and print which.

    Args:
        mine: the learner's function.
        verdict: the sentence of its check.
        ours: lcl's function, with the same arguments and results.

    Returns:
        `mine` if the verdict is "Right.", else `ours`.
    """
    right = verdict == RIGHT
    print("The next cells use your function." if right else "The next cells use lcl's function until yours is right.")
    return mine if right else ours


def train_with(name: str, objective: Objective) -> None:
    """Replace one objective of all training runs of this process, and print so.

    Args:
        name: of the objective, as in a recipe's weights.
        objective: from a recipe and a step's context to {name: scalar}.

    Raises:
        LclError: for a name that no objective has.
    """
    choose("objective", name, OBJECTIVES)
    OBJECTIVES[name] = objective
    print(f"Training runs of this notebook now take {name!r} from the function above.")
