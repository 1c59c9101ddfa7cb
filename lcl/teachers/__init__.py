"""Frozen encoders, banks of their features, nearest neighbours, and the teachers made of them."""
