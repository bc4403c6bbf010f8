"""A real dataset in a folder of `.npy` files, such as TikTok: PyG's LightGCN,
the multimodal teacher and the student that is distilled from it, in one table.

    python examples/tiktok.py --root FOLDER

FOLDER has `train.npy`, `val.npy` and `test.npy` (integers [2, E], user row and
item row), and one two-dimensional float `.npy` for each modality. It is read
in place; nothing is written into it.
"""

from __future__ import annotations

import argparse
import sys

from _report import add_options, compare, describe

from torch_promptmm.datasets import InteractionFolder


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--root', required=True, help='the folder')
    add_options(parser, setting='default')
    args = parser.parse_args()

    try:
        dataset = InteractionFolder(args.root)
    except ValueError as error:  # It names the files that are missing.
        print(error, file=sys.stderr)
        return 2
    print(describe(args.root, dataset))
    compare(dataset, args)
    return 0


if __name__ == '__main__':
    sys.exit(main())
