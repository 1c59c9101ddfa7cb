"""Pairs of image and caption: drawn scenes, and pictures from outside."""
