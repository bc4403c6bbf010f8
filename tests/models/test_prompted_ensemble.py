"""The member of an ensemble that learns content, against dense matrices in
double precision."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from graphs import NUM_ITEMS, NUM_USERS, random_edges
from teachers import CHANNELS, WIDTHS, dense, make_teacher

from torch_promptmm.data import from_interactions, read_graph
from torch_promptmm.models import (
    ContentExpert,
    Ensemble,
    Fusion,
    LightGCN,
    MultimodalTeacher,
)
from torch_promptmm.models.door import model_from_config, saved_config
from torch_promptmm.nn import SoftPrompt, UserItemGraph

EDGES = random_edges()
GRAPH = UserItemGraph(EDGES, NUM_USERS, NUM_ITEMS, dtype=torch.double)
COLD = np.bincount(EDGES[1].numpy(), minlength=NUM_ITEMS) == 0
FUSION = Fusion({'visual': 0.5, 'audio.mfcc': 1.5}, 0.2, 1.75, prompted=0.75,
                scaling=dict.fromkeys(WIDTHS, 'standardize'))


def make(fusion: Fusion | None = FUSION) -> Ensemble:
    prompted, x, masks = make_teacher()
    content = ContentExpert(NUM_USERS, NUM_ITEMS, WIDTHS, dtype=torch.double)
    content.set_features(x, masks)
    member = LightGCN(NUM_USERS, NUM_ITEMS, 5)
    return Ensemble([member], content, fusion, prompted=prompted).double()


def scores(model: Ensemble) -> np.ndarray:
    out = model(GRAPH)
    return (out.user @ out.item.t()).numpy()


def test_scores_are_the_formula() -> None:
    model = make()
    bare = Ensemble(list(model.members), model.content,
                    Fusion(FUSION.weights, 0.2, 1.75))
    fused, _ = dense(model.prompted)
    rows = reference.unit_rows(fused.detach().numpy())
    own = rows[:NUM_USERS] @ rows[NUM_USERS:].T
    assert COLD.any()
    wanted = scores(bare) + 0.75 * own * np.where(COLD, 1.75, 1.0)
    np.testing.assert_allclose(scores(model), wanted, atol=1e-6)
    assert np.abs(wanted - scores(bare)).max() > 0.1
    # Nothing is left of it where it weighs nothing.
    model.fusion = bare.fusion
    np.testing.assert_allclose(scores(model), scores(bare), atol=1e-12)
    assert model.width == bare.width + CHANNELS == model(GRAPH).item.size(1)


def test_the_prompt_is_that_of_the_member() -> None:
    model = make()
    assert isinstance(model.prompt, SoftPrompt)
    assert model.prompt is model.prompted.prompt
    # Held by reference, as the member holds it.
    assert not any('prompt' in k.split('.') for k in model.state_dict())
    before = scores(model)
    other = SoftPrompt(torch.randn(NUM_ITEMS, CHANNELS).double()).double()
    model.inject(other)
    assert model.prompt is model.prompted.prompt is other
    assert np.abs(scores(model) - before).max() > 1e-3
    bare = Ensemble(list(model.members), model.content)
    assert bare.prompt is None and bare.prompted_rows(GRAPH) is None
    with pytest.raises(ValueError, match='which there is not: set train_con'):
        bare.inject(other)


def test_state_and_config() -> None:
    model = make()
    config = saved_config(model)
    assert config is not None
    again = model_from_config(config)
    assert isinstance(again, Ensemble) and saved_config(again) == config
    again = again.double()
    assert again.fusion.prompted == 1.0  # Before anything is chosen.
    again.load_state_dict(model.state_dict())
    assert again.fusion == FUSION and str(again) == str(model)
    assert 'prompted=MultimodalTeacher(' in str(again)
    again.inject(model.prompt)
    prompted = model.prompted
    data = from_interactions(EDGES, dict(prompted.features), NUM_USERS,
                             NUM_ITEMS)
    data['item']['audio.mfcc_mask'] = prompted.masks['audio.mfcc']
    view = read_graph(data)
    again.give_features(view)
    assert all(again.prompted.features[k] is x
               for k, x in view.features.items())
    np.testing.assert_allclose(scores(again), scores(model), atol=1e-5)
    again.release_features()
    assert not again.prompted.item_features.available
    # Files of before have no such member.
    del config['prompted']
    assert model_from_config(config).prompted is None
    model.reset_parameters()
    assert (model.prompted.reduction('visual').bias == 0).all()


def test_from_data() -> None:
    x = {k: torch.randn(NUM_ITEMS, n) for k, n in WIDTHS.items()}
    data = from_interactions(EDGES, x, NUM_USERS, NUM_ITEMS)
    plain = Ensemble.from_data(data, 4, seed=0)
    assert plain.prompted is None and plain.prompt is None
    learned = Ensemble.from_data(data, 4, seed=0, train_content=True)
    assert isinstance(learned.prompted, MultimodalTeacher)
    assert learned.prompt is None and learned.fusion.prompted == 1.0
    full = Ensemble.from_data(
        data, 4, seed=0, prompt='graph', prompt_layers=2, prompt_weight=0.5,
        normalize='row', scaling='raw')
    assert full.prompt is not None and full.prompt.num_layers == 2
    reduction = full.prompted.reduction('visual')
    assert reduction.prompt_weight == 0.5 and reduction.normalize == 'row'
    assert (reduction.scale == 1).all()
    # The members are what they are without it.
    for a, b in zip(plain.members.parameters(), full.members.parameters(),
                    strict=True):
        assert torch.equal(a, b)


def test_features_are_propagated_where_that_is_exact() -> None:
    x = {k: torch.randn(NUM_ITEMS, n) for k, n in WIDTHS.items()}
    data = from_interactions(EDGES, x, NUM_USERS, NUM_ITEMS)
    graph = UserItemGraph(EDGES, NUM_USERS, NUM_ITEMS)
    for kwargs, exact in (({}, True), ({'normalize': 'row'}, False),
                          ({'prompt_layers': 2}, False)):
        model = Ensemble.from_data(data, 4, prompt='pca', **kwargs)
        model.cache_features(graph)
        assert (model.prompted.propagated is not None) == exact
        model.cache_features(None)
        assert model.prompted.propagated is None


def test_bad_input() -> None:
    model = make()
    members, content = list(model.members), model.content
    with pytest.raises(ValueError, match="'prompted' learns content: give"):
        Ensemble(members, prompted=model.prompted)
    with pytest.raises(ValueError, match=r'weighs a prompted .*prompted=0.75'):
        Ensemble(members, content, FUSION)
    with pytest.raises(ValueError, match="'prompted' must be"):
        Fusion(prompted=-1.0)
    other, _, _ = make_teacher()
    other.num_items += 1
    with pytest.raises(ValueError, match='All members must be of'):
        Ensemble(members, content, prompted=other)
    x = {k: torch.randn(NUM_ITEMS, n) for k, n in WIDTHS.items()}
    data = from_interactions(EDGES, x, NUM_USERS, NUM_ITEMS)
    for error, match, kwargs in (
            (ValueError, "'prompt' opens the member", {
                'prompt': 'pca', 'train_content': False}),
            (ValueError, "'prompt' must be one of", {'prompt': 'svd'}),
            (ValueError, "'train_content' needs content", {
                'train_content': True, 'use_content': False}),
            (TypeError, "'train_content' must be", {'train_content': 1})):
        with pytest.raises(error, match=match):
            Ensemble.from_data(data, 4, **kwargs)
