"""Recipes and their training: the loop, its data loader, processes, checkpoints and run folders."""
