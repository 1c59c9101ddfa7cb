"""Figures with alt text: pure functions from numbers to a `Chart`. They keep no state.

`base` holds what all figures share, `pictures` shows images, matrices of similarities and maps, `words` shows tokens and their
patches, `curves` shows training runs, `results` compares recipes.
"""

from lcl.config import need

need("matplotlib", "course")

from lcl.course.plots.base import *  # noqa: E402, F403
from lcl.course.plots.curves import *  # noqa: E402, F403
from lcl.course.plots.pictures import *  # noqa: E402, F403
from lcl.course.plots.results import *  # noqa: E402, F403
from lcl.course.plots.words import *  # noqa: E402, F403
