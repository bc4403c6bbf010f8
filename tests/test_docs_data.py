"""The code of "Bring your own data" runs, from top to bottom."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

PAGE = Path(__file__).resolve().parents[1] / 'docs/bring_your_own_data.rst'
BLOCK = re.compile(r'^\.\. code-block:: python\n\n((?:   .*\n|\n)+)', re.M)
ITEMS = ['B000F83SZQ', '0007-X', 'B00LAMP001']


def make_files(folder: Path) -> None:
    rng = np.random.RandomState(0)
    rows = [(user, sku, rng.randint(1, 6), f'2024-01-{day:02d}')
            for day, sku in enumerate(ITEMS, start=1)
            for user in ('anna', 'ben', 'cleo', 'dora')]
    rows += [(user, sku, 4, when) for user, sku, _, when in rows[::2]]
    table = pd.DataFrame(rows, columns=['customer', 'sku', 'stars',
                                        'ordered_at'])
    table.to_csv(folder / 'orders.csv', index=False)
    (folder / 'features').mkdir()
    np.save(folder / 'features/visual.npy', np.ones((3, 4), np.float32))
    (folder / 'features/visual_ids.txt').write_text('\n'.join(ITEMS[::-1]))
    pd.DataFrame({'sku': ITEMS[:2], 'x': [[1.0, 2.0]] * 2}).to_parquet(
        folder / 'text.parquet')


@pytest.mark.filterwarnings('ignore:.*(repeated|masked)')
def test_code_of_the_page(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_files(tmp_path)
    blocks = BLOCK.findall(PAGE.read_text('utf-8'))
    assert len(blocks) >= 6
    scope: dict = {}
    for block in blocks:
        exec(compile(textwrap.dedent(block), PAGE.name, 'exec'), scope)
    assert scope['train']['item'].num_nodes == 3
    assert {'visual', 'textual', 'price', 'title'} <= set(
        scope['train']['item'].keys())
    assert sorted(scope['item_ids'](scope['train'])) == sorted(ITEMS)
