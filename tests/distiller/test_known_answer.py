"""Blocks, whose right answer is known: a working recommender finds it."""

from __future__ import annotations

import copy

import pytest
import torch

from torch_promptmm import PromptMMDistiller
from torch_promptmm.datasets import SyntheticMultimodal


@pytest.fixture(scope='module')
def data():
    return SyntheticMultimodal.blocks(num_blocks=4, users_per_block=20,
                                      items_per_block=10, cold_per_block=2)


def shuffled(data):
    """The same graph, its features at random."""
    data, generator = copy.copy(data), torch.Generator().manual_seed(0)
    perm = torch.randperm(data['item'].num_nodes, generator=generator)
    for name in ('visual', 'textual'):
        data['item'][name] = data['item'][name][perm]
    return data


def fit(train, val, setting):
    kwargs = {}
    if setting == 'default':
        # Nearly all items of so small a catalogue are negatives: a sharp
        # softmax would learn the held-out ones by heart as such.
        kwargs = {'temperature': 0.5, 'num_negatives': 32,
                  'warm_negatives': True}
    distiller = PromptMMDistiller.from_data(train, hidden_channels=8, seed=0,
                                            setting=setting, **kwargs)
    distiller.fit(train, val, epochs=30, min_epochs=20, lr=0.02,
                  batch_size=256, metric='recall@4', seed=0, progress=False)
    return distiller


def cold_recall(distiller, dataset, model):
    """Are the cold items of a user's block before those of others?"""
    user, item = distiller.embeddings(model)
    scores = user @ item[dataset.cold_items].t()
    right = (dataset.user_block.view(-1, 1) ==
             dataset.item_block[dataset.cold_items].view(1, -1))
    k = int(right.sum(1)[0])
    top = scores.topk(k, dim=1).indices
    return float(right.gather(1, top).float().mean())


@pytest.mark.parametrize('setting', ['default', 'faithful'])
def test_teacher_and_student_find_it(data, setting):
    train, val, test = data
    distiller = fit(train, val, setting)
    for model in ('teacher', 'student'):
        out = distiller.evaluate(test, k=data.k, model=model)
        assert out[f'recall@{data.k}'] > 0.95, (model, out)
        assert cold_recall(distiller, data, model) > 0.95, model
    # And the right items are recommended.
    items, _ = distiller.recommend(range(80), k=data.k)
    hit = data.item_block[items] == data.user_block.view(-1, 1)
    assert hit.float().mean() > 0.95


def test_a_broken_one_cannot(data):
    train, val, test = data
    distiller = fit(shuffled(train), val, 'default')
    for model in ('teacher', 'student'):
        assert cold_recall(distiller, data, model) < 0.7, model
        out = distiller.evaluate(test, k=data.k, model=model)
        assert out[f'recall@{data.k}'] < 0.9
