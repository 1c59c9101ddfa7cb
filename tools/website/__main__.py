"""Build the site: PYTHONPATH=tools python -m website [--out FOLDER] [--repository OWNER/NAME] [--still]

--repository: on GitHub; chapters get buttons that open them in Colab and Binder, from its branch `launch`.
--still: without the interactive figures and the page on which one tries a model, which take some minutes when they are made for
the first time.
"""

import argparse
import functools
import time
from pathlib import Path

from website.build import build
from website.place import ROOT, chapters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    parser.add_argument("--repository", default="")
    parser.add_argument("--still", action="store_true")
    options = parser.parse_args()
    started, made, tried = time.perf_counter(), [], None
    if not options.still:
        from website import exhibits, tryout  # they import torch

        say = functools.partial(print, flush=True)
        made = list(exhibits.figures([path.stem for path in chapters()], say))
        tried = tryout.prepared(say)
    pages = build(options.out, made, repository=options.repository, tried=tried)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file()) / 1e6
    print(f"{options.out}: {len(pages)} pages, {len(made)} interactive figures, {size:.1f} MB, "
          f"{time.perf_counter() - started:.0f} seconds")  # fmt: skip


if __name__ == "__main__":
    main()
