"""The course as a static site: pages from the notebooks, the documents and the docstrings, with living interactive figures.

PYTHONPATH=tools python -m website   writes build/site, which opens from a folder and from any address, and asks nobody else.
"""
