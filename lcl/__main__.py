"""`python -m lcl`, the same as `lcl`."""

from lcl.cli import main

main()
