"""Interactive figures (widgets), one per module, with its script beside it; `base` holds what they share.

Widgets of the class `Exhibit` send all their data at once and need neither kernel nor network afterwards. Explorers ask the
kernel to draw again.
"""

from lcl.course.widgets.alignment import AlignmentInspector as AlignmentInspector
from lcl.course.widgets.base import Exhibit as Exhibit
from lcl.course.widgets.base import Explorer as Explorer
from lcl.course.widgets.base import dropdown as dropdown
from lcl.course.widgets.base import slider as slider
from lcl.course.widgets.base import stops as stops
from lcl.course.widgets.board import RunBoard as RunBoard
from lcl.course.widgets.curves import LiveCurves as LiveCurves
from lcl.course.widgets.guesser import WordGuesser as WordGuesser
from lcl.course.widgets.labels import LabelScrubber as LabelScrubber
from lcl.course.widgets.map import EmbeddingMap as EmbeddingMap
from lcl.course.widgets.neighbours import NeighbourBrowser as NeighbourBrowser
from lcl.course.widgets.search import FolderSearch as FolderSearch
