"""Selection beside its references, in one run, as ratios: `prunekit bench select`, from a checkout.

    python -m benchmarks.stages                  # two sizes, every case
    python -m benchmarks.stages --smoke          # one small size, to see that it runs
    python -m benchmarks.stages --all --json     # with any option of the command

Exit code 1 where a selection is not the textbook's.
"""

from __future__ import annotations

import sys

from prunekit.cli import main

SMOKE = ("--tokens", "144", "--dim", "64", "--keep", "16")

if __name__ == "__main__":
    options = sys.argv[1:]
    if "--smoke" in options:
        options.remove("--smoke")
        options += SMOKE
    sys.argv = ["prunekit", "bench", "select", *options]
    main()
