"""The course's diagrams: drawn by code in one style, kept as SVG in `notebooks/diagrams`. `make diagrams` draws them anew."""

from __future__ import annotations

from diagrams import basics, lightclip, ping
from diagrams.canvas import Diagram

CHAPTERS = {
    1: basics.scene, 2: basics.block, 3: basics.clip, 4: lightclip.labels, 5: lightclip.matching, 6: lightclip.fusion,
    7: lightclip.lightclip, 8: ping.banks, 9: ping.ping, 10: ping.controls,
    11: ping.scale, 12: ping.failures, 13: ping.use, 14: ping.capstone,
}  # fmt: skip
"""The diagram of each chapter's main idea."""


def diagrams() -> dict[str, Diagram]:
    """All diagrams by name: "map-03" of every chapter, and that of its idea, such as "03-clip"."""
    return {f"map-{number:02d}": basics.course_map(number) for number in basics.TITLES} | {
        f"{number:02d}-{draw.__name__}": draw() for number, draw in CHAPTERS.items()
    }
