"""Draw all diagrams into notebooks/diagrams."""

from pathlib import Path

from diagrams import diagrams
from diagrams.canvas import save

save(diagrams(), Path(__file__).resolve().parents[2] / "notebooks" / "diagrams")
