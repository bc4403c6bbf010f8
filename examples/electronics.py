"""Amazon Electronics, the third dataset of the paper: PyG's LightGCN, the
multimodal teacher and the student that is distilled from it, in one table.

    python examples/electronics.py --synthetic           # nothing needed
    python examples/electronics.py --root data/amazon    # the raw files
    python examples/electronics.py --root data/amazon --download
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from _report import add_options, compare, describe

from torch_promptmm.datasets import AmazonReviews, SyntheticMultimodal
from torch_promptmm.datasets.base import SplitDataset

FILES = {
    'reviews_Electronics_5.json.gz': 'the 5-core reviews',
    'meta_Electronics.json.gz': 'the metadata: titles, descriptions, brands',
    'image_features_Electronics.b': 'the image features, several gigabytes',
}
MISSING = """Amazon Electronics is not in '{raw}'. There is no

{files}

Do one of these:
  * Get the files from McAuley's page of Amazon product data, which the paper
    names (jmcauley.ucsd.edu/data/amazon/links.html): "Electronics" among the
    per-category files. Put them, as they are, into '{raw}'.
  * Let this example fetch them: add --download, and --url ADDRESS where you
    have them on a server of your own.
  * Do without: --synthetic trains on a planted dataset with the statistics
    of Electronics, scaled by --scale."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--root', type=Path, default=Path('data/amazon'), help='the folder of '
        'the dataset; its files are in ROOT/raw (default: %(default)s)')
    add('--subset', choices=['paper', '5-core'], default='paper', help='of '
        'the size in the paper, or all of the 5-core (default: %(default)s)')
    add('--download', action='store_true', help='fetch what is missing')
    add('--url', help='the address of a folder that has the files')
    add('--synthetic', action='store_true', help='a planted stand-in')
    add('--scale', type=float, default=0.05, help='the size of the stand-in, '
        '1.0 is that of Electronics in the paper (default: %(default)s)')
    # The paper's losses on the paper's dataset. All three models then have
    # one ranking loss, so the table shows what content and distillation add.
    add_options(parser, setting='faithful')
    args = parser.parse_args()

    dataset: SplitDataset
    if args.synthetic:
        dataset = SyntheticMultimodal.preset('electronics', scale=args.scale,
                                             seed=args.seed)
        name = f'Planted stand-in for Electronics, scale {args.scale:g}'
    else:
        raw = args.root.expanduser() / 'raw'
        missing = [file for file in FILES if not (raw / file).is_file()]
        if missing and not args.download:
            files = '\n'.join(f'  {file}  ({FILES[file]})' for file in missing)
            print(MISSING.format(raw=raw, files=files), file=sys.stderr)
            return 2
        dataset = AmazonReviews(args.root, subset=args.subset,
                                base_url=args.url, progress=True)
        name = f'Amazon Electronics, {args.subset}'
        print(dataset.table3())
    print(describe(name, dataset))
    compare(dataset, args)
    return 0


if __name__ == '__main__':
    sys.exit(main())
