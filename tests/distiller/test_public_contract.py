"""What users rely on: names, shapes and behaviour of the front door."""

from __future__ import annotations

import copy

import pytest
import torch
import torch_geometric.transforms as T
from torch.testing import assert_close
from torch_geometric.data import HeteroData

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import from_interactions
from torch_promptmm.nn import LightGCNStudent, MultimodalTeacher, SoftPrompt

RUN = dict(epochs=2, seed=0, progress=False)


def random_data(num_users=30, num_items=20, num_edges=150, seed=0, widths=None,
                **kwargs) -> HeteroData:
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randperm(num_users * num_items, generator=generator)
    edge_index = torch.stack([pairs // num_items, pairs % num_items])
    widths = {'visual': 12, 'textual': 7} if widths is None else widths
    features = {
        name: torch.randn(num_items, width, generator=generator) + 3.0
        for name, width in widths.items()
    }
    return from_interactions(
        edge_index[:, :num_edges], features, num_users, num_items,
        edge_label_index=edge_index[:, num_edges:num_edges + 40], **kwargs)


def held_out_of(data):
    """The same graph with its labels as held-out positives, and without."""
    train = copy.copy(data)
    del train['user', 'interacts', 'item'].edge_label_index
    return train, data


def state(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


# The twelve lines of the contract ############################################


def test_parts(fitted):
    assert isinstance(fitted.student, LightGCNStudent)
    assert isinstance(fitted.teacher, MultimodalTeacher)
    assert isinstance(fitted.prompt, SoftPrompt)
    assert fitted.prompt is fitted.teacher.prompt
    assert fitted.score == 'cosine'
    text = str(fitted)
    assert text.startswith('PromptMMDistiller(\n  teacher=MultimodalTeacher(')
    assert 'student=LightGCN(40, 36' in text


def test_student_has_no_modality_parameter(fitted):
    names = [name for name, _ in fitted.student.named_parameters()]
    assert names == ['user_embedding.weight', 'item_embedding.weight']
    assert sum(p.numel() for p in fitted.student.parameters()) == (40 + 36) * 8
    assert set(fitted.student.state_dict()) == set(names)


def test_evaluate(fitted, blocks):
    for model in ['student', 'teacher']:
        out = fitted.evaluate(blocks[2], k=(5, 20), model=model)
        assert list(out) == ['recall@5', 'ndcg@5', 'recall@20', 'ndcg@20']
        assert all(isinstance(x, float) and 0 <= x <= 1 for x in out.values())
    assert fitted.evaluate(blocks[2], k=5) == {
        key: value
        for key, value in fitted.evaluate(blocks[2], k=(5, 20)).items()
        if key.endswith('@5')
    }


def test_evaluate_against_a_loop(fitted, blocks):
    user_emb, item_emb = fitted.embeddings()
    store = blocks[2]['user', 'interacts', 'item']
    known = set(map(tuple, store.edge_index.t().tolist()))
    positives: dict[int, set[int]] = {}
    for user, item in store.edge_label_index.t().tolist():
        positives.setdefault(user, set()).add(item)
    recall = []
    for user, want in positives.items():
        scores = (item_emb @ user_emb[user]).tolist()
        order = sorted((i for i in range(36) if (user, i) not in known),
                       key=lambda i: -scores[i])
        recall.append(len(want & set(order[:5])) / len(want))
    out = fitted.evaluate(blocks[2], k=5)['recall@5']
    assert out == pytest.approx(sum(recall) / len(recall), abs=1e-5)


def test_evaluate_per_user(fitted, blocks):
    out = fitted.evaluate(blocks[2], k=5, per_user=True)
    mean = fitted.evaluate(blocks[2], k=5)
    assert out['user'].tolist() == list(range(40))
    assert float(out['recall@5'].mean()) == pytest.approx(mean['recall@5'])
    assert float(out['ndcg@5'].mean()) == pytest.approx(mean['ndcg@5'])


def test_recommend(fitted, blocks):
    user_ids = torch.tensor([3, 0, 17, 3])
    items, scores = fitted.recommend(user_ids, k=7)
    assert items.shape == scores.shape == (4, 7)
    assert items.dtype == torch.long and scores.dtype == torch.float
    assert torch.equal(items[0], items[3])
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    edge_index = blocks[0]['user', 'interacts', 'item'].edge_index
    known = set(map(tuple, edge_index.t().tolist()))
    for user, row, score in zip(user_ids.tolist(), items, scores,
                                strict=True):
        assert len(set(row.tolist())) == 7
        assert not known & {(user, item) for item in row.tolist()}
        assert_close(fitted.predict([user] * 7, row), score)


@pytest.mark.parametrize('user_ids', [
    [2, 5], (2, 5), torch.tensor([2, 5], dtype=torch.int32),
    torch.tensor([2, 5]).numpy()
])
def test_recommend_takes_any_ids(fitted, user_ids):
    assert torch.equal(
        fitted.recommend(user_ids, k=3)[0],
        fitted.recommend(torch.tensor([2, 5]), k=3)[0])
    assert fitted.recommend(2, k=3)[0].shape == (1, 3)
    assert fitted.recommend([], k=3)[0].shape == (0, 3)


def test_recommend_a_batch_is_each_user_alone(fitted):
    for batch_size in [None, 1, 7]:
        items, scores = fitted.recommend(range(40), k=10,
                                         batch_size=batch_size)
        for user in range(40):
            item, score = fitted.recommend([user], k=10)
            assert_close(score[0], scores[user])
            gap = (score[0, :-1] - score[0, 1:]).min()
            if gap > 1e-5:  # No ties, which rounding may decide.
                assert torch.equal(item[0], items[user])


def test_recommend_pads(fitted):
    known_count = 36 - 6
    items, scores = fitted.recommend([0], k=36)
    assert (items[0, :known_count] >= 0).all()
    assert (items[0, known_count:] == -1).all()
    assert scores[0, :known_count].isfinite().all()
    assert (scores[0, known_count:] == -float('inf')).all()
    with pytest.raises(ValueError, match=r"'k'.* 36 items \(got 37\)"):
        fitted.recommend([0], k=37)


def test_recommend_leaves_out_other_data(fitted, blocks):
    edge_index = torch.tensor([[0] * 34, list(range(34))])
    data = from_interactions(edge_index, {}, 40, 36)
    items, _ = fitted.recommend([0, 1], k=36, data=data)
    assert set(items[0, :2].tolist()) == {34, 35}
    assert (items[0, 2:] == -1).all()
    assert set(items[1].tolist()) == set(range(36))


def test_predict_and_embeddings(fitted):
    user_emb, item_emb = fitted.embeddings()
    assert user_emb.shape == (40, 8) and item_emb.shape == (36, 8)
    user, item = torch.tensor([0, 39, 5]), torch.tensor([35, 0, 5])
    out = fitted.predict(user, item)
    assert out.shape == (3, ) and out.dtype == torch.float
    assert_close(out, (user_emb[user] * item_emb[item]).sum(-1))
    assert not out.requires_grad
    # Unit rows under cosine scores.
    assert_close(user_emb.norm(dim=1), torch.ones(40))
    # What is returned is the caller's.
    user_emb.zero_()
    assert_close(fitted.predict(user, item), out)
    teacher_user, teacher_item = fitted.embeddings(model='teacher')
    assert_close(fitted.predict(user, item, model='teacher'),
                 (teacher_user[user] * teacher_item[item]).sum(-1))


def test_dot_scores(make, blocks):
    distiller = make(score='dot')
    raw = distiller.student(blocks[0]['user', 'interacts', 'item'].edge_index)
    assert_close(distiller.embeddings()[0], raw[0].detach())
    assert distiller.score == 'dot'


# Around fit ###################################################################


def test_evaluate_and_recommend_before_fit(make, blocks):
    distiller = make()
    for model in ['student', 'teacher']:
        distiller.evaluate(blocks[2], k=5, model=model)
        assert distiller.recommend([0], k=3, model=model)[0].shape == (1, 3)


def test_fit_returns_histories(make, blocks):
    distiller = make()
    out = distiller.fit(blocks[0], blocks[1], **RUN)
    assert list(out) == ['teacher', 'student']
    teacher, student = out['teacher'][0], out['student'][0]
    assert {'epoch', 'loss', 'rank', 'l2', 'modality', 'time', 'recall@20'
            } <= teacher.keys()
    assert {'epoch', 'loss', 'rank', 'l2', 'time', 'recall@20'
            } <= student.keys()
    assert [record['epoch'] for record in out['student']] == [1, 2]


def test_fit_without_validation_keeps_the_last_weights(make, blocks):
    seen = []
    distiller = make()
    history = distiller.fit(
        blocks[0], **{**RUN, 'epochs': 30}, patience=1,
        callback=lambda record: seen.append(state(distiller)))
    assert len(history['teacher']) == len(history['student']) == 30
    assert history['student'].best_epoch is None
    assert 'recall@20' not in history['student'][0]
    assert_same(seen[-1], state(distiller))


def test_second_fit_goes_on_and_reset_starts_over(make, blocks):
    distiller = make()
    distiller.fit(blocks[0], **RUN)
    first = state(distiller)
    embedding = distiller.embeddings()[0]
    losses = distiller.fit_teacher(blocks[0], **RUN).values('loss')
    fresh = make()
    assert losses[0] < fresh.fit_teacher(blocks[0], **RUN).values('loss')[0]
    distiller.fit_student(blocks[0], **RUN)
    assert not torch.equal(distiller.embeddings()[0], embedding)

    torch.manual_seed(1)
    distiller.reset_parameters()
    again = state(distiller)
    assert torch.equal(again['prompt.weight'], torch.eye(8))
    for key in ['student.user_embedding.weight',
                'teacher.backbone.user_embedding.weight']:
        assert not torch.equal(again[key], first[key])
    with pytest.raises(ValueError, match='prepare'):
        distiller.student_loss(None)
    # Statistics of the features are no parameters.
    key = 'teacher.reductions.modality_visual.mean'
    assert torch.equal(again[key], first[key])
    distiller.fit(blocks[0], **RUN)


def test_stages_take_their_own_arguments(make, blocks):
    distiller = make()
    teacher = distiller.fit_teacher(blocks[0], epochs=3, lr=1e-2, seed=0,
                                    progress=False)
    student = distiller.fit_student(blocks[0], epochs=1, lr=1e-3, seed=1,
                                    progress=False)
    assert len(teacher) == 3 and len(student) == 1


def test_fit_never_changes_the_data(make, blocks):
    train, val, _ = (copy.deepcopy(data) for data in blocks)
    before = [copy.deepcopy(data.to_dict()) for data in (train, val)]
    pointers = [train['item'].visual.data_ptr()]
    make(data=train).fit(train, val, **RUN)
    for data, old in zip((train, val), before, strict=True):
        new = data.to_dict()
        assert str(new.keys()) == str(old.keys())
        for key in old:
            if isinstance(old[key], dict):
                assert old[key].keys() == new[key].keys()
                for name, value in old[key].items():
                    if isinstance(value, torch.Tensor):
                        assert torch.equal(value, new[key][name])
                    else:
                        assert value == new[key][name]
    assert [train['item'].visual.data_ptr()] == pointers


def test_features_are_held_by_reference(make, blocks):
    distiller = make()
    assert distiller.teacher.features['visual'] is blocks[0]['item'].visual
    shapes = [list(x.shape) for x in distiller.state_dict().values()]
    assert [36, 48] not in shapes and [36, 32] not in shapes
    assert not any(x.shape == (36, 48) for x in distiller.buffers())


def test_features_of_a_second_fit_are_the_new_ones(make, blocks):
    distiller = make()
    data = copy.deepcopy(blocks[0])
    data['item'].visual += 1.0
    distiller.prepare(data, 'teacher')
    assert distiller.teacher.features['visual'] is data['item'].visual


def test_same_seed_same_bits(make, blocks):
    results = []
    for _ in range(2):
        torch.rand(3)  # The global generator plays no part.
        before = torch.get_rng_state()
        distiller = make()
        history = distiller.fit(blocks[0], blocks[1], **RUN)
        assert torch.equal(torch.get_rng_state(), before)
        results.append((state(distiller), history['student'].values('loss')))
    assert_same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]

    other = make(seed=1)
    other.fit(blocks[0], blocks[1], **RUN)
    key = 'student.user_embedding.weight'
    assert not torch.equal(other.state_dict()[key], results[0][0][key])


def test_no_seed_is_the_global_generator(blocks):
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        distiller = PromptMMDistiller.from_data(blocks[0], hidden_channels=4)
        distiller.fit(blocks[0], epochs=1, progress=False)
        results.append(state(distiller))
    assert_same(*results)


def test_a_callback_sees_the_weights_as_they_are(make, blocks):
    # The fused optimiser changes weights without a new version.
    distiller, seen = make(), []
    distiller.fit_teacher(blocks[0], **RUN)
    distiller.fit_student(
        blocks[0], callback=lambda _: seen.append(distiller.embeddings()[0]),
        epochs=3, seed=0, progress=False)
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], distiller.embeddings()[0])


def test_embeddings_follow_the_weights(make):
    distiller = make()
    before = distiller.embeddings()[0]
    assert torch.equal(before, distiller.embeddings()[0])
    with torch.no_grad():
        distiller.student.user_embedding.weight.mul_(-1.0)
        distiller.student.item_embedding.weight.mul_(-1.0)
    assert_close(distiller.embeddings()[0], -before)


def test_unknown_device(make, blocks):
    distiller = make()
    for device in ['abacus', 'cuda:99', 3.5, 'meta']:
        with pytest.raises(ValueError, match="'device'"):
            distiller.fit(blocks[0], device=device, **RUN)


# Shapes of the world ##########################################################


@pytest.mark.parametrize('widths', [
    {'visual': 12},
    {'visual': 12, 'textual': 3},
    {'a.b': 2, 'forward': 5, 'träume': 9},
    {'visual': 2, 'textual': 3, 'acoustic': 4, 'odour': 40},
])
def test_modalities(widths, tmp_path):
    train, val = held_out_of(random_data(widths=widths))
    distiller = PromptMMDistiller.from_data(train, hidden_channels=32, seed=0)
    assert distiller.modalities == list(widths)
    history = distiller.fit(train, val, **RUN)
    assert all(x > 0 for x in history['student'].values('loss'))
    assert set(distiller.teacher(
        distiller.graph).modalities) == set(widths)
    distiller.save(tmp_path / 'x')
    loaded = PromptMMDistiller.load(tmp_path / 'x')
    assert loaded.evaluate(val, k=5) == distiller.evaluate(val, k=5)


def test_no_modality_is_an_error():
    with pytest.raises(ValueError, match='no modality'):
        PromptMMDistiller.from_data(random_data(widths={}))


def test_modalities_can_be_chosen():
    train, val = held_out_of(random_data())
    distiller = PromptMMDistiller.from_data(train, hidden_channels=8,
                                            modalities=['textual'])
    distiller.fit(train, val, **RUN)
    assert distiller.teacher.modalities == ['textual']


@pytest.mark.parametrize('hidden_channels', [1, 5, 64])
@pytest.mark.parametrize('prompt', ['pca', 'graph', None])
def test_narrow_features_and_few_items(hidden_channels, prompt):
    data = random_data(num_users=9, num_items=8, num_edges=30,
                       widths={'visual': 3, 'textual': 2})
    train, val = held_out_of(data)
    distiller = PromptMMDistiller.from_data(
        train, hidden_channels=hidden_channels, prompt=prompt, seed=0)
    distiller.fit(train, val, **RUN)
    assert distiller.embeddings()[0].isfinite().all()
    assert distiller.embeddings('teacher')[1].isfinite().all()
    assert distiller.embeddings()[1].shape == (8, hidden_channels)
    items, _ = distiller.recommend([0], k=8)
    assert items.shape == (1, 8)


@pytest.mark.parametrize('dtype', [
    torch.float16, torch.bfloat16, torch.float64
])
def test_precisions(dtype, small):
    train, val, test = small
    reference = PromptMMDistiller.from_data(train, hidden_channels=8, seed=0)
    wanted = reference.fit(train, val, **RUN)['student'].values('loss')
    half = copy.copy(train)
    for name in ['visual', 'textual']:
        half['item'][name] = half['item'][name].to(dtype)
    distiller = PromptMMDistiller.from_data(half, hidden_channels=8, seed=0)
    history = distiller.fit(half, val, **RUN)
    assert distiller.teacher.features['visual'].dtype == dtype
    assert distiller.embeddings()[0].dtype == torch.float32
    assert history['student'].values('loss') == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize('tune_prompt', [True, False])
@pytest.mark.parametrize('setting', ['default', 'faithful'])
def test_a_teacher_of_another_width(make, blocks, tmp_path, setting,
                                    tune_prompt):
    distiller = make(teacher_channels=12, setting=setting, emb_weight=0.1,
                     fused_emb_weight=0.1, tune_prompt=tune_prompt)
    names = {'fused', 'modality_visual', 'modality_textual'}
    assert set(distiller.projections) == names
    before = state(distiller.projections)
    distiller.fit(blocks[0], blocks[1], **RUN)
    for key, value in before.items():
        assert not torch.equal(distiller.projections.state_dict()[key], value)
        assert value.shape == (12, 8)
    assert distiller.embeddings('teacher')[0].shape == (40, 12)
    distiller.save(tmp_path / 'x')
    loaded = PromptMMDistiller.load(tmp_path / 'x')
    assert_same(state(loaded), state(distiller))


@pytest.mark.parametrize('given', [True, False])
def test_other_edge_types(given, tmp_path):
    edge_type = ('customer', 'buys', 'product')
    data = random_data(edge_type=edge_type)
    train = copy.copy(data)
    del train[edge_type].edge_label_index
    kwargs = {'edge_type': edge_type} if given else {}
    distiller = PromptMMDistiller.from_data(train, hidden_channels=8, **kwargs)
    distiller.fit(train, data, **RUN)
    out = distiller.evaluate(data, k=5)
    distiller.recommend([0], k=5, data=data)
    distiller.save(tmp_path / 'x')
    loaded = PromptMMDistiller.load(tmp_path / 'x')
    assert loaded.evaluate(data, k=5) == out
    assert loaded.edge_type == distiller.edge_type


def test_edge_type_of_several():
    data = random_data()
    data['user', 'views', 'item'].edge_index = torch.tensor([[0], [1]])
    train, val = held_out_of(data)
    edge_type = ('user', 'views', 'item')
    distiller = PromptMMDistiller.from_data(train, 8, edge_type=edge_type)
    distiller.fit(train, **RUN)
    items, _ = distiller.recommend([0], k=20)
    assert (items == -1).sum() == 1  # One view, though many interactions.


def test_cold_users_and_items(small):
    train, val, test = small
    distiller = PromptMMDistiller.from_data(train, hidden_channels=8, seed=0)
    data = from_interactions(
        torch.tensor([[0, 0, 1], [0, 1, 1]]),
        {'visual': torch.randn(6, 4)}, 5, 6,
        edge_label_index=torch.tensor([[4, 1], [5, 0]]))
    train, val = held_out_of(data)
    distiller = PromptMMDistiller.from_data(train, hidden_channels=4, seed=0)
    distiller.fit(train, val, **RUN)
    items, scores = distiller.recommend([4], k=6)
    assert set(items[0].tolist()) == set(range(6))
    assert scores.isfinite().all()
    assert 0 <= distiller.evaluate(val, k=2)['recall@2'] <= 1


def test_random_link_split_unchanged():
    data = random_data(num_users=40, num_items=30, num_edges=400)
    del data['user', 'interacts', 'item'].edge_label_index
    data = T.ToUndirected()(data)
    edge_type = ('user', 'interacts', 'item')
    train, val, test = T.RandomLinkSplit(
        num_val=0.1, num_test=0.1, disjoint_train_ratio=0.3,
        neg_sampling_ratio=0.0, add_negative_train_samples=False,
        edge_types=[edge_type],
        rev_edge_types=[('item', 'rev_interacts', 'user')])(data)
    supervision = train[edge_type].edge_label_index
    propagated = train[edge_type].edge_index
    assert supervision.size(1) > 0
    distiller = PromptMMDistiller.from_data(train, hidden_channels=8, seed=0)
    task = distiller.prepare(train, 'student')
    pairs = lambda index: set(map(tuple, index.t().tolist()))  # noqa: E731
    assert pairs(task.positives) == pairs(supervision)
    assert pairs(task.graph.edge_index) == pairs(propagated)
    known = pairs(supervision) | pairs(propagated)
    assert pairs(task.known) == known

    from torch_promptmm.loader import InteractionLoader
    loader = InteractionLoader(task.positives, task.known, 40, 30, 64,
                               task.batch_spec)
    for batch in loader:
        for row, user in enumerate(batch.user.tolist()):
            shared = batch.shared[batch.shared_mask[row]].tolist()
            own = batch.negative[row].tolist()
            assert not {(user, item) for item in shared + own} & known

    distiller.fit(train, val, **RUN)
    distiller.evaluate(test, k=5)
    items, _ = distiller.recommend(range(40), k=30)
    for user, row in enumerate(items.tolist()):
        assert not {(user, item) for item in row} & known
        assert row.count(-1) == sum(u == user for u, _ in known)


def test_negative_labels_do_not_count():
    data = random_data()
    store = data['user', 'interacts', 'item']
    label = torch.ones(store.edge_label_index.size(1))
    label[::2] = 0
    store.edge_label = label
    distiller = PromptMMDistiller.from_data(data, hidden_channels=4)
    task = distiller.prepare(data)
    assert task.positives.size(1) == int(label.sum())


def test_missing_modalities_take_no_part():
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(20, generator=generator) > 0.3
    outs = []
    for filler in [0.0, 1e4]:  # What stands in a missing row is irrelevant.
        data = random_data(masks={'visual': mask})
        data['item'].visual[~mask] = filler
        train, val = held_out_of(data)
        distiller = PromptMMDistiller.from_data(train, 8, seed=0,
                                                emb_weight=1.0)
        distiller.fit(train, val, **RUN)
        outs.append(state(distiller.student))
    assert_same(*outs)


def test_missing_modalities_have_no_emb_gradient():
    mask = torch.ones(20, dtype=torch.bool)
    mask[5:] = False
    data = random_data(masks={'visual': mask}, widths={'visual': 6})
    distiller = PromptMMDistiller.from_data(
        data, 8, num_layers=0, seed=0, emb_weight=1.0, item_samples=500)
    task = distiller.prepare(data, 'student')
    from torch_promptmm.loader import InteractionLoader
    batch = next(iter(InteractionLoader(task.positives, task.known, 30, 20,
                                        8, task.batch_spec)))
    _, terms = distiller.student_loss(batch)
    terms['emb'].backward()
    grad = distiller.student.item_embedding.weight.grad
    assert (grad[mask].abs().sum(1) > 0).all()
    assert (grad[~mask] == 0).all()


def test_duplicates_are_dropped(blocks):
    data = copy.copy(blocks[0])
    store = data['user', 'interacts', 'item']
    store.edge_index = store.edge_index.repeat(1, 2)
    a, b = [
        PromptMMDistiller.from_data(x, hidden_channels=4, seed=0)
        for x in (blocks[0], data)
    ]
    assert_close(a.embeddings(), b.embeddings())


def test_parts_of_your_own(blocks):
    train, val, test = blocks
    student = LightGCNStudent(40, 36, 8)
    teacher = MultimodalTeacher(40, 36, {'visual': 48, 'textual': 32}, 8)
    distiller = PromptMMDistiller(teacher, student)
    assert distiller.prompt is None
    distiller.evaluate(test, k=5)  # On the graph of the data.
    distiller.evaluate(test, k=5, model='teacher')
    with pytest.raises(ValueError, match='training graph'):
        distiller.embeddings()
    with pytest.raises(ValueError, match="'fit' before 'save'"):
        distiller.save('nowhere')
    distiller.fit(train, val, **RUN)
    distiller.recommend([0], k=5)


def test_a_prompt_that_comes_after_the_features(blocks):
    # The statistics of a teacher depend on its prompt.
    features = {'visual': blocks[0]['item'].visual}
    prompt = SoftPrompt.from_features(features, 8)
    outs = []
    for late in [True, False]:
        torch.manual_seed(0)
        teacher = MultimodalTeacher(40, 36, {'visual': 48}, 8,
                                    prompt=None if late else prompt)
        teacher.set_features(features)
        distiller = PromptMMDistiller(teacher, LightGCNStudent(40, 36, 8),
                                      prompt)
        distiller.prepare(blocks[0], 'teacher')
        outs.append(distiller.embeddings('teacher'))
    assert_close(*outs)


def test_copies_are_whole(make, blocks):
    distiller = make()
    distiller.fit(blocks[0], **RUN)
    other = copy.deepcopy(distiller)
    assert other.prompt is other.teacher.prompt
    assert other.prompt is not distiller.prompt
    other.fit(blocks[0], **RUN)
    assert_close(distiller.predict([0], [0]), distiller.predict([0], [0]))
    assert not torch.equal(other.embeddings()[0], distiller.embeddings()[0])
