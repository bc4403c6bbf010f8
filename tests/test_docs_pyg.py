"""The code of the page "Beside the rest of PyG" runs, from top to bottom."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import torch
from torch_geometric.data import HeteroData
from torch_geometric.typing import WITH_PYG_LIB, WITH_TORCH_SPARSE

PAGE = Path(__file__).resolve().parents[1] / 'docs/pyg.rst'
BLOCK = re.compile(r'^\.\. code-block:: python\n\n((?:   .*\n|\n)+)', re.M)


def batches(train: HeteroData) -> list[HeteroData]:
    """What a loader over two hops yields on this dense graph: nearly all of
    it, the seeds first."""
    out = []
    user, item = train['user', 'interacts', 'item'].edge_index
    for start in range(0, 60, 20):
        batch = HeteroData()
        batch['user'].n_id = torch.arange(60).roll(-start)
        batch['item'].n_id = torch.arange(40)
        batch['user'].batch_size = 20
        batch['item', 'rev_interacts', 'user'].edge_index = torch.stack([
            item, (user - start) % 60])
        out.append(batch)
    return out


@pytest.mark.filterwarnings("ignore:Using 'NeighborSampler' without",
                            'ignore:There exist node types')
def test_code_of_the_page() -> None:
    blocks = BLOCK.findall(PAGE.read_text('utf-8'))
    assert len(blocks) == 8
    scope: dict = {}
    for block in blocks:
        if 'NeighborLoader(' in block and not (WITH_PYG_LIB
                                               or WITH_TORCH_SPARSE):
            scope['loader'] = batches(scope['train'])
            continue
        exec(compile(textwrap.dedent(block), PAGE.name, 'exec'), scope)
    assert scope['hetero']['item'].num_nodes == 40
