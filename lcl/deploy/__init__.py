"""A trained model in use: opened by a path, exported, searched with."""
