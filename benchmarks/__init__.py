"""Speed next to trusted baselines, and how costs grow. Not part of the installed package."""
