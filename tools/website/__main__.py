"""Build the site: PYTHONPATH=tools python -m website [--out FOLDER] [--repository OWNER/NAME] [--still]

--repository: on GitHub; chapters get buttons that open them in Colab and Binder, from its branch `launch`.
--still: without the interactive figures, which take some minutes when they are made for the first time.
"""

import argparse
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
    started, made = time.perf_counter(), []
    if not options.still:
        from website.exhibits import figures  # it imports torch

        made = list(figures([path.stem for path in chapters()], say=lambda text: print(text, flush=True)))
    pages = build(options.out, made, repository=options.repository)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file()) / 1e6
    print(f"{options.out}: {len(pages)} pages, {len(made)} interactive figures, {size:.1f} MB, "
          f"{time.perf_counter() - started:.0f} seconds")  # fmt: skip


if __name__ == "__main__":
    main()
