"""What a model has learned: metrics beside their chance levels, and where words point."""
