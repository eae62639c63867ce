"""Which backbone takes which task's inputs: a line for each pair, and a table.

    python benchmarks/backbones.py [NAME ...] [--method jigsaw ...] [--image-size 32]

Every backbone and method is built as a run builds them and passes a batch forward and backward on
the meta device, where shapes are checked at no cost in arithmetic. Expected: each pair runs, or is
refused by one line; what the line says to type is followed, and runs. Anything else ends in a
traceback. `tests/methods/test_backbone_matrix.py` tests the same.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ssltool.encoders.registry import backbone_names
from ssltool.methods.registry import available

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from made_backbones import outcome


def main() -> None:
    """Print each line that is not ``runs`` as it is found, then the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="backbones; all by default")
    parser.add_argument("--method", action="append", help="all by default")
    parser.add_argument("--image-size", type=int, default=32)
    arguments = parser.parse_args()
    methods = arguments.method or list(available())
    rows = list[list[str]]()
    for name in arguments.names or backbone_names():
        row = [name]
        for method in methods:
            line = outcome(method, name, arguments.image_size)
            row.append("runs" if line == "runs" else line.rpartition(" or ")[2])
            if line != "runs":
                print(f"{method}: {line}", file=sys.stderr, flush=True)
        rows.append(row)
        print("| " + " | ".join(row) + " |", file=sys.stderr, flush=True)
    print(f"| backbone, {arguments.image_size} px | " + " | ".join(methods) + " |")
    print("|---" * (1 + len(methods)) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
