"""What the notebooks show: figures, interactive figures, exercises, saved checkpoints, the study."""
