"""Users' and items' own ids, from the data to recommendations and files."""

import pytest
import torch

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import set_ids
from torch_promptmm.datasets import SyntheticMultimodal


def test_raw_ids_travel_through_save_and_load(tmp_path):
    data = SyntheticMultimodal.blocks(seed=0)[0]
    users = [f'u{i}' for i in range(data['user'].num_nodes)]
    items = [f'item {i}' for i in range(data['item'].num_nodes)]
    set_ids(data, users, items)
    distiller = PromptMMDistiller.from_data(data, 8, seed=0)
    distiller.fit(data, epochs=1, seed=0, progress=False)
    rows, scores = distiller.recommend([3, 1], k=4)
    expected = [[items[i] for i in row] for row in rows.tolist()]

    distiller.save(tmp_path / 'model')
    for each in (distiller, PromptMMDistiller.load(tmp_path / 'model')):
        got, raw_scores = each.recommend(['u3', 'u1'], k=4, raw=True)
        assert got == expected
        assert torch.equal(raw_scores, scores)
        with pytest.raises(ValueError, match='nobody'):
            each.recommend(['nobody'], k=4, raw=True)


def test_raw_ids_are_needed_for_raw():
    data = SyntheticMultimodal.blocks(seed=0)[0]
    distiller = PromptMMDistiller.from_data(data, 8, seed=0)
    with pytest.raises(ValueError, match="'raw=True' needs the users'"):
        distiller.recommend(['u1'], k=2, raw=True)
    with pytest.raises(TypeError, match="'raw'"):
        distiller.recommend([1], k=2, raw='yes')
