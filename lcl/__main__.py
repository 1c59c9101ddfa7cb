"""`python -m lcl`, the same as `lcl`."""

from lcl.cli.main import main

main()
