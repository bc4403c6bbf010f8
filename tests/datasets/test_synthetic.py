from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from torch_promptmm.data import held_out, read_graph
from torch_promptmm.datasets import SyntheticMultimodal, _planted

UI = ('user', 'interacts', 'item')


def edges(dataset: SyntheticMultimodal) -> list[Tensor]:
    train, val, test = dataset
    return [train[UI].edge_index, val[UI].edge_label_index,
            test[UI].edge_label_index]


def equal(a: SyntheticMultimodal, b: SyntheticMultimodal) -> bool:
    tensors = [
        edges(x) + [x[0]['item'][name] for name in a.config['features']]
        for x in (a, b)
    ]
    return all(torch.equal(x, y) for x, y in zip(*tensors, strict=True))


@given(
    num_users=st.integers(1, 60),
    num_items=st.integers(2, 60),
    share=st.floats(0.0, 1.0),
    cold_fraction=st.sampled_from([0.0, 0.1, 0.4]),
    val_fraction=st.sampled_from([0.0, 0.1, 0.3]),
    cold_in_val=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_size(
    num_users: int,
    num_items: int,
    share: float,
    cold_fraction: float,
    val_fraction: float,
    cold_in_val: bool,
    seed: int,
) -> None:
    half = num_users * num_items // 2
    num_interactions = max(1, round(share * half))
    generator = torch.Generator().manual_seed(seed)

    user, item = _planted.sample_tastes(num_users, num_items, 3, 4, generator)
    popularity = _planted.sample_popularity(num_items, generator)
    activity = _planted.sample_activity(num_users, num_items,
                                        num_interactions, generator)
    assert int(activity.sum()) == num_interactions
    assert int(activity.max()) <= num_items and int(activity.min()) >= 0

    index = _planted.sample_interactions(user, item, popularity, activity,
                                         8.0, generator)
    assert index.size(1) == num_interactions
    assert index.unique(dim=1).size(1) == num_interactions
    count = index[0].bincount(minlength=num_users)
    assert torch.equal(count, activity)

    cold = _planted.sample_cold(popularity, cold_fraction, generator)
    assert int(cold.sum()) == round(cold_fraction * num_items)
    splits = _planted.split_interactions(index, cold, num_users, val_fraction,
                                         0.1, cold_in_val, generator)
    # Nothing is lost, nothing is twice, no cold item is trained on, and a
    # user with any warm item has one to train on.
    together = torch.cat(splits, dim=1)
    assert together.size(1) == num_interactions
    assert together.unique(dim=1).size(1) == num_interactions
    assert not cold[splits[0][1]].any()
    if not cold_in_val or val_fraction == 0.0:
        assert not cold[splits[1][1]].any()
    has_warm = index[0][~cold[index[1]]].unique()
    assert torch.equal(splits[0][0].unique(), has_warm)


@pytest.mark.parametrize('name,users,items,interactions,features', [
    ('netflix', 43739, 17239, 609341, {'visual': 512, 'textual': 768}),
    ('tiktok', 14343, 8690, 276637,
     {'visual': 128, 'acoustic': 128, 'textual': 768}),
    ('electronics', 41691, 21479, 359165, {'visual': 4096, 'textual': 1024}),
])
def test_presets_have_the_statistics_of_table_3(
    name: str,
    users: int,
    items: int,
    interactions: int,
    features: dict[str, int],
) -> None:
    scale = 0.02
    dataset = SyntheticMultimodal.preset(name, scale)
    stats = dataset.statistics
    assert stats['users'] == round(scale * users)
    assert stats['items'] == round(scale * items)
    assert stats['interactions'] == round(scale * interactions)
    assert stats['features'] == features
    for data in dataset:
        read_graph(data, need_features=True)


def test_other_presets() -> None:
    small = SyntheticMultimodal.preset('small')
    assert str(small) == (
        f"SyntheticMultimodal(users=600, items=400, "
        f"train={small.statistics['train']}, val={small.statistics['val']}, "
        f"test={small.statistics['test']}, "
        f"features={{'visual': 64, 'textual': 48}})")

    stats = SyntheticMultimodal.preset('wide').statistics
    assert (stats['users'], stats['items']) == (3000, 2000)
    assert stats['features'] == {'visual': 1024, 'textual': 512}
    assert stats['cold_test_interactions'] / stats['test'] == pytest.approx(
        0.44, abs=0.02)

    dataset = SyntheticMultimodal.preset('small', seed=1, num_items=300)
    assert dataset.num_items == 300
    tiny = SyntheticMultimodal.preset('electronics', scale=0.0005,
                                      features={'visual': 8})
    assert tiny.num_users == 21


def test_seed() -> None:
    a = SyntheticMultimodal(seed=1)
    torch.rand(3)  # The global generator has no part in it, and is left.
    state = torch.get_rng_state()
    b = SyntheticMultimodal(seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(a, b)
    assert not equal(a, SyntheticMultimodal(seed=2))


def test_splits() -> None:
    dataset = SyntheticMultimodal(num_users=500, num_items=300,
                                  cold_fraction=0.1, seed=4)
    train, val, test = edges(dataset)
    stats = dataset.statistics
    assert stats['interactions'] == 15 * 500
    assert stats['cold_users'] == 0
    assert stats['cold_test_items'] >= 25
    for data in list(dataset)[1:]:
        assert torch.equal(data[UI].edge_index, train)
        assert torch.equal(held_out(read_graph(data)),
                           data[UI].edge_label_index)
        assert (data['item'].visual.data_ptr()
                == dataset[0]['item'].visual.data_ptr())

    # Per user: the warm part of each split is a tenth, rounded at random.
    warm = torch.zeros(300, dtype=torch.bool)
    warm[train[1]] = True
    assert not warm[val[1]].all()
    count = torch.cat([train, val, test], dim=1)
    count = count[0][warm[count[1]]].bincount(minlength=500)
    for index in [val, test]:
        held = index[0][warm[index[1]]].bincount(minlength=500)
        assert ((held - 0.1 * count).abs() < 1.01).all()

    dataset = SyntheticMultimodal(cold_in_val=False)
    train, val, _ = edges(dataset)
    assert torch.isin(val[1], train[1]).all()


def test_popularity_and_activity_have_long_tails() -> None:
    dataset = SyntheticMultimodal(num_users=2000, num_items=1000)
    index = torch.cat(edges(dataset), dim=1)
    for row in index:
        count = row.bincount().sort(descending=True).values.float()
        assert count[:len(count) // 10].sum() > 0.25 * count.sum()
        assert count.max() > 5 * count.median()


@pytest.fixture(scope='module')
def small() -> SyntheticMultimodal:
    return SyntheticMultimodal.preset('small')


def test_it_can_be_learned(small: SyntheticMultimodal) -> None:
    train, _, test = edges(small)
    known = torch.zeros(small.num_users, small.num_items)
    known[train[0], train[1]] = 1.0
    hit = torch.zeros_like(known)
    hit[test[0], test[1]] = 1.0

    def recall(score: Tensor) -> float:
        top = (score - 1e9 * known).topk(20).indices
        total = hit.sum(dim=1)
        found = hit.gather(1, top).sum(dim=1)
        return float((found / total)[total > 0].mean())

    popularity = known.sum(dim=0).expand_as(known)
    norm = known / known.sum(1, True).sqrt()
    norm = norm / known.sum(0).clamp(min=1.0).sqrt()
    neighbours = norm @ norm.t() @ norm
    user, item = small.taste
    assert recall(neighbours) > 1.5 * recall(popularity)
    assert recall(user @ item.t()) > 1.2 * recall(neighbours)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_features_tell_the_taste(dtype: torch.dtype) -> None:
    dataset = SyntheticMultimodal(num_users=10, num_items=1500,
                                  num_interactions=100,
                                  features={'a': 256, 'b': 512}, dtype=dtype)
    _, taste = dataset.taste
    graph = read_graph(dataset[0], need_features=True)
    fit, probe = torch.arange(1500) < 1000, torch.arange(1500) >= 1000
    for x in graph.features.values():
        assert x.dtype == dtype
        x = x.float()
        # Means far from zero, scales of all sizes:
        assert (x.mean(dim=0).abs() > x.std(dim=0)).float().mean() > 0.5
        assert x.std(dim=0).max() > 5 * x.std(dim=0).min()
        x = (x - x.mean(dim=0)) / x.std(dim=0)
        y = taste - taste[fit].mean(dim=0)
        gram = x[fit].t() @ x[fit] + 300.0 * torch.eye(x.size(1))
        weight = torch.linalg.solve(gram, x[fit].t() @ y[fit])
        rest = (y[probe] - x[probe] @ weight).square().sum()
        assert 1 - rest / y[probe].square().sum() > 0.4

        # But the leading directions are about something else:
        _, _, v = torch.pca_lowrank(x, 4, center=False, niter=4)
        lead = x @ v
        weight = torch.linalg.lstsq(taste, lead).solution
        rest = (lead - taste @ weight).square().sum()
        assert 1 - rest / lead.square().sum() < 0.1


def test_share_of_information() -> None:
    generator = torch.Generator().manual_seed(0)
    _, taste = _planted.sample_tastes(1, 4000, 16, 16, generator)
    for informative in [0.0, 0.3, 1.0]:
        x = _planted.sample_features(taste, 32, informative, torch.float64,
                                     generator)
        x = (x - x.mean(dim=0)) / x.std(dim=0)
        square = taste.unsqueeze(2) * taste.unsqueeze(1)
        a = torch.cat([taste, square.flatten(1)], dim=1).double()
        a = a - a.mean(dim=0)
        fit = a @ torch.linalg.lstsq(a, x, driver='gelsd').solution
        found = float(fit.square().sum() / x.square().sum())
        assert found == pytest.approx(informative, abs=0.15)


def test_missing_modalities() -> None:
    dataset = SyntheticMultimodal(missing_fraction=0.3)
    graph = read_graph(dataset[0])
    assert list(graph.masks) == ['visual', 'textual']
    for name, mask in graph.masks.items():
        assert float(mask.float().mean()) == pytest.approx(0.7, abs=0.1)
        empty = (graph.features[name] == 0).all(dim=1)
        assert torch.equal(empty, ~mask)
    assert not torch.equal(*graph.masks.values())


def test_root(tmp_path: Path) -> None:
    kwargs = dict(num_users=50, num_items=40, features={'a': 8, 'b': 4},
                  missing_fraction=0.2, root=tmp_path)
    first = SyntheticMultimodal(**kwargs)
    folder, = tmp_path.iterdir()
    assert {x.name for x in folder.iterdir()} == {
        'processed', 'a.npy', 'b.npy', 'a_mask.npy', 'b_mask.npy'}
    config = json.loads((folder / 'processed' / 'config.json').read_text())
    assert config == first.config

    # The next time it is read, mapped where asked for.
    times = {x: x.stat().st_mtime_ns for x in folder.rglob('*.npy')}
    for mmap in [False, True]:
        second = SyntheticMultimodal(**kwargs, mmap=mmap)
        assert equal(first, second)
        assert torch.equal(first.taste[1], second.taste[1])
        assert list(read_graph(second[0]).masks) == ['a', 'b']
    assert times == {x: x.stat().st_mtime_ns for x in folder.rglob('*.npy')}

    # It is the same without a folder, and another has a folder of its own.
    kwargs.pop('root')
    assert equal(first, SyntheticMultimodal(**kwargs))
    SyntheticMultimodal(**kwargs, seed=1, root=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_root_is_whole_or_made_again(tmp_path: Path) -> None:
    kwargs = dict(num_users=50, num_items=40, features={'a': 8}, root=tmp_path)
    first = SyntheticMultimodal(**kwargs)
    folder, = tmp_path.iterdir()
    for name in ['a.npy', 'processed/train.npy', 'processed/config.json']:
        (folder / name).unlink()
        assert equal(first, SyntheticMultimodal(**kwargs))
        assert (folder / name).is_file()

    (folder / 'a.npy').write_bytes(b'')
    with pytest.raises(ValueError, match='a.npy'):
        SyntheticMultimodal(**kwargs)
    assert equal(first, SyntheticMultimodal(**kwargs, force_reload=True))


@pytest.mark.parametrize('stop', range(6))
def test_killed_while_writing(tmp_path: Path, monkeypatch, stop: int) -> None:
    from torch_promptmm.datasets import synthetic

    kwargs = dict(num_users=20, num_items=20, features={'a': 8}, root=tmp_path)
    save_npy, written = synthetic.save_npy, []

    def save(path: str, value: Tensor) -> None:
        if len(written) == stop:
            raise KeyboardInterrupt
        written.append(path)
        save_npy(path, value)

    for name in ['new', 'once more']:
        monkeypatch.setattr(synthetic, 'save_npy', save)
        written.clear()
        with pytest.raises(KeyboardInterrupt):
            SyntheticMultimodal(**kwargs, force_reload=True)
        monkeypatch.undo()
        dataset = SyntheticMultimodal(**kwargs)
        assert dataset.num_users == 20, name


@pytest.mark.parametrize('kwargs', [
    dict(num_users=0),
    dict(num_users=2.5),
    dict(num_items=-1),
    dict(num_interactions=0),
    dict(num_interactions=600 * 400),
    dict(features={}),
    dict(features=['visual']),
    dict(features={'visual': 0}),
    dict(informative=1.5),
    dict(informative=float('nan')),
    dict(cold_fraction=-0.1),
    dict(missing_fraction=2.0),
    dict(val_fraction=0.5, test_fraction=0.5),
    dict(taste_strength=-1.0),
    dict(taste_channels=0),
    dict(num_clusters=0),
    dict(known='test'),
    dict(dtype=torch.int64),
    dict(dtype=torch.bfloat16, root='somewhere'),
    dict(mmap=True),
], ids=lambda kwargs: '-'.join(kwargs))
def test_bad_arguments(kwargs: dict) -> None:
    name = 'root' if 'mmap' in kwargs else next(iter(kwargs))
    with pytest.raises((ValueError, TypeError), match=f"'{name}"):
        SyntheticMultimodal(**kwargs)


def test_bad_presets() -> None:
    with pytest.raises(ValueError, match="'name'.*'electronics'.*'amazon'"):
        SyntheticMultimodal.preset('amazon')
    with pytest.raises(ValueError, match="'scale'.*got 0"):
        SyntheticMultimodal.preset('small', scale=0)
