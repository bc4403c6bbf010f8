from __future__ import annotations

import pytest
import torch

from torch_promptmm.data import held_out, read_graph
from torch_promptmm.datasets import BlockDataset, SyntheticMultimodal

UI = ('user', 'interacts', 'item')


def recall(dataset: BlockDataset, score: torch.Tensor, split: int) -> float:
    graph = read_graph(dataset[split])
    score = score.clone()
    score[graph.edge_index[0], graph.edge_index[1]] = -float('inf')
    top = score.topk(dataset.k).indices
    hit = torch.zeros_like(score)
    user, item = held_out(graph)
    hit[user, item] = 1.0
    total = hit.sum(dim=1)
    assert total.min() > 0  # Every user has something held out.
    return float((hit.gather(1, top).sum(dim=1) / total).mean())


@pytest.mark.parametrize('known', ['train', 'train+val'])
@pytest.mark.parametrize('cold', [0, 1, 2])
def test_the_right_answer_is_one(cold: int, known: str) -> None:
    dataset = BlockDataset(num_blocks=3, cold_per_block=cold, known=known)
    truth = dataset.user_block.unsqueeze(1) == dataset.item_block
    truth = truth.float() + 0.1 * torch.rand(truth.shape)
    splits = [1, 2] if known == 'train' else [2]
    for split in splits:
        assert recall(dataset, truth, split) == 1.0
        assert recall(dataset, torch.rand(truth.shape), split) < 0.5

    train, val, test = dataset
    everything = torch.cat([train[UI].edge_index, val[UI].edge_label_index,
                            test[UI].edge_label_index], dim=1)
    pairs = {tuple(pair) for pair in everything.t().tolist()}
    assert len(pairs) == everything.size(1)  # The splits are disjoint.
    block = dataset.user_block[everything[0]]
    assert torch.equal(block, dataset.item_block[everything[1]])

    stats = dataset.statistics
    assert stats['cold_items'] == dataset.cold_items.numel() == 3 * cold
    assert not torch.isin(train[UI].edge_index[1], dataset.cold_items).any()
    if cold > 0:
        for data in [val, test]:
            items = data[UI].edge_label_index[1]
            assert torch.isin(dataset.cold_items, items).all()


def test_only_features_place_cold_items() -> None:
    dataset = SyntheticMultimodal.blocks(seed=1)
    graph = read_graph(dataset[0])
    known = torch.zeros(dataset.num_users, dataset.num_items)
    known[graph.edge_index[0], graph.edge_index[1]] = 1.0

    # A recommender of neighbours in the graph misses just the cold ones:
    by_id = known @ (known.t() @ known)
    assert 0.4 < recall(dataset, by_id, 2) < 0.8

    for name in ['visual', 'textual']:
        x = graph.features[name]
        assert x.mean(dim=0).abs().mean() > 1.0
        x = x - x.mean(dim=0)
        by_content = known @ torch.nn.functional.normalize(x) @ x.t()
        assert recall(dataset, by_content, 2) == 1.0


def test_arguments() -> None:
    dataset = BlockDataset(2, 5, 4, 1, features={'a': 7}, seed=3)
    assert str(dataset) == ("BlockDataset(users=10, items=10, train=20, "
                            "val=16, test=14, features={'a': 7})")
    again = BlockDataset(2, 5, 4, 1, features={'a': 7}, seed=3)
    other = BlockDataset(2, 5, 4, 1, features={'a': 7}, seed=4)
    assert torch.equal(dataset[0]['item'].a, again[0]['item'].a)
    assert not torch.equal(dataset[0]['item'].a, other[0]['item'].a)

    for name in ['num_blocks', 'users_per_block', 'items_per_block']:
        with pytest.raises(ValueError, match=f"'{name}'.*got 0"):
            BlockDataset(**{name: 0})
    with pytest.raises(ValueError, match="'cold_per_block'.*got -1"):
        BlockDataset(cold_per_block=-1)


@pytest.mark.parametrize('users', [3, 4, 10])
@pytest.mark.parametrize('items', [3, 5, 8])
def test_every_warm_item_is_trained_on(users: int, items: int) -> None:
    dataset = BlockDataset(2, users, items, 1)
    assert dataset.statistics['cold_items'] == 2
    assert dataset.statistics['cold_users'] == 0
