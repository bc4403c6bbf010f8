"""What content is worth to a model, on planted data."""

from __future__ import annotations

from typing import Any

import torch

from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.evaluate import evaluate
from torch_promptmm.models import RankingModel
from torch_promptmm.train import fit


def gain_of_features(cls: type[RankingModel], model: dict[str, Any],
                     training: dict[str, Any],
                     cold: bool = False) -> tuple[float, float]:
    """Recall of a trained model, and of one whose features belong to other
    items; of cold items alone, if wanted.
    """
    data, _, test = SyntheticMultimodal(
        num_users=300, num_items=200, num_interactions=4500,
        informative=0.4, cold_fraction=0.15, cold_in_val=False, seed=0)
    shuffled = data.clone()
    perm = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    for name in ('visual', 'textual'):
        shuffled['item'][name] = data['item'][name][perm]
    store = test['user', 'interacts', 'item']
    if cold:
        test = test.clone()
        warm = torch.zeros(200, dtype=torch.bool)
        warm[store.edge_index[1]] = True
        held_out = store.edge_label_index
        test['user', 'interacts', 'item'].edge_label_index = (
            held_out[:, ~warm[held_out[1]]])
    out = []
    for train in (data, shuffled):
        each = cls.from_data(train, 16, seed=0, **model)
        fit(each, train, seed=0, progress=False, **training)
        for name in ('visual', 'textual'):
            test['item'][name] = train['item'][name]
        out.append(evaluate(each, test, k=20)['recall@20'])
    return out[0], out[1]
