"""What each stage trains, freezes and reports."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from torch_promptmm import PromptMMDistiller
from torch_promptmm.loader import InteractionLoader
from torch_promptmm.nn import ConstantTables, PromptTables
from torch_promptmm.train import DistillationTask, RankingTask

KD = {
    'pair_weight': 'pair',
    'list_weight': 'list',
    'emb_weight': 'emb',
    'fused_list_weight': 'fused_list',
    'fused_emb_weight': 'fused_emb',
    'teacher_weight': 'teacher',
}
ALL = dict.fromkeys(KD, 0.5)


def batches(task, batch_size=32, seed=0):
    torch.manual_seed(seed)
    return list(
        InteractionLoader(task.positives, task.known, task.graph.num_users,
                          task.graph.num_items, batch_size, task.batch_spec))


def grads(module):
    return {
        name: p.grad.abs().max().item()
        for name, p in module.named_parameters() if p.grad is not None
    }


# Stage 1 ######################################################################


def test_stage_1_trains_teacher_and_prompt(make, blocks):
    distiller = make()
    task = distiller.prepare(blocks[0], 'teacher')
    assert isinstance(task, RankingTask)
    total, terms = distiller.teacher_loss(batches(task)[0])
    assert set(terms) == {'rank', 'l2', 'modality'}
    total.backward()
    assert all(value > 0 for value in grads(distiller.teacher).values())
    assert set(grads(distiller.teacher)) == {
        name for name, _ in distiller.teacher.named_parameters()
    }
    assert set(grads(distiller.prompt)) == {'weight', 'bias'}
    assert all(value > 0 for value in grads(distiller.prompt).values())
    assert not grads(distiller.student)
    assert not any(p.requires_grad for p in distiller.student.parameters())


def test_stage_1_leaves_the_student_alone(make, blocks):
    distiller = make()
    before = distiller.embeddings()
    distiller.fit_teacher(blocks[0], epochs=2, progress=False, seed=0)
    assert_close(distiller.embeddings(), before, rtol=0, atol=0)


@pytest.mark.parametrize('ranking_loss', ['bpr', 'softmax'])
def test_stage_1_loss_by_hand(make, blocks, ranking_loss):
    distiller = make(ranking_loss=ranking_loss, l2=0.3, modality_weight=0.7)
    task = distiller.prepare(blocks[0], 'teacher')
    batch = batches(task)[0]
    total, terms = distiller.teacher_loss(batch)
    assert_close(
        total, terms['rank'] + 0.3 * terms['l2'] + 0.7 * terms['modality'])

    out = distiller.teacher(distiller.graph)

    def unit(x):
        cosine = distiller.score == 'cosine'
        return x / x.norm(dim=1, keepdim=True) if cosine else x

    def rank(user, item):
        user, item = unit(user), unit(item)
        scores = user[batch.user] @ item.t()
        positive = scores.gather(1, batch.positive.view(-1, 1))
        if ranking_loss == 'bpr':
            negative = scores.gather(1, batch.negative)
            return -(positive - negative).sigmoid().log().mean()
        negative = scores[:, batch.shared].masked_fill(~batch.shared_mask,
                                                       -float('inf'))
        return torch.nn.functional.cross_entropy(
            torch.cat([positive, negative], 1) / 0.2,
            torch.zeros(len(positive)).long())

    assert_close(terms['rank'], rank(out.user, out.item))
    assert_close(terms['modality'],
                 sum(rank(*pair) for pair in out.modalities.values()))
    backbone = distiller.teacher.backbone
    rows = [backbone.user_embedding.weight[batch.user],
            backbone.item_embedding.weight[batch.positive]]
    if ranking_loss == 'bpr':
        rows.append(backbone.item_embedding.weight[batch.negative[:, 0]])
    wanted = sum(x.square().sum() for x in rows) / (2 * batch.user.numel())
    assert_close(terms['l2'], wanted)


def test_dropout_in_stage_1_only(make, blocks):
    distiller = make(dropout=0.5, fusion_weight=1.0)
    task = distiller.prepare(blocks[0], 'teacher')
    distiller.train()
    batch = batches(task)[0]
    assert distiller.teacher.training
    losses = {float(distiller.teacher_loss(batch)[0]) for _ in range(3)}
    assert len(losses) == 3
    distiller.eval()
    losses = {float(distiller.teacher_loss(batch)[0]) for _ in range(3)}
    assert len(losses) == 1

    task = distiller.prepare(blocks[0], 'student')
    batch = batches(task)[0]
    for mode in [True, False]:
        distiller.train(mode)
        assert distiller.student.training is mode
        assert not any(x.training for x in distiller.teacher.modules())
        losses = {float(distiller.student_loss(batch)[0]) for _ in range(3)}
        assert len(losses) == 1
    # Back in stage 1 it is active again.
    distiller.prepare(blocks[0], 'teacher')
    distiller.train()
    assert distiller.teacher.training


def test_fit_leaves_the_mode_as_it_was(make, blocks):
    for mode in [True, False]:
        distiller = make(dropout=0.2).train(mode)
        distiller.fit_teacher(blocks[0], epochs=1, progress=False)
        assert distiller.training is mode
        assert distiller.teacher.training is mode
        distiller.fit_student(blocks[0], epochs=1, progress=False)
        assert distiller.student.training is mode
        assert not distiller.teacher.training


# Stage 2 ######################################################################


@pytest.mark.parametrize('normalize', ['size', 'row', False])
@pytest.mark.parametrize('prompt_layers', [1, 2])
@pytest.mark.parametrize('name', KD)
def test_gradients_reach_the_prompt_through_the_teacher(
        make, blocks, name, normalize, prompt_layers):
    kwargs = {**dict.fromkeys(KD, 0.0), name: 1.0}
    distiller = make(normalize=normalize, prompt_layers=prompt_layers,
                     **kwargs)
    task = distiller.prepare(blocks[0], 'student')
    before = {k: v.clone() for k, v in distiller.teacher.state_dict().items()}
    total, terms = distiller.student_loss(batches(task)[0])
    assert set(terms) == {'rank', 'l2', KD[name]}
    total.backward()
    assert not grads(distiller.teacher)
    assert not any(p.requires_grad for p in distiller.teacher.parameters())
    assert grads(distiller.prompt)['weight'] > 0
    assert grads(distiller.prompt)['bias'] > 0
    assert all(value > 0 for value in grads(distiller.student).values())
    for key, value in distiller.teacher.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize('setting', ['default', 'faithful'])
def test_fit_student_moves_prompt_and_student_alone(make, blocks, setting):
    distiller = make(setting=setting)
    distiller.fit_teacher(blocks[0], epochs=1, progress=False, seed=0)
    before = {k: v.clone() for k, v in distiller.state_dict().items()}
    distiller.fit_student(blocks[0], epochs=1, progress=False, seed=0)
    moved = {
        key for key, value in distiller.state_dict().items()
        if not torch.equal(value, before[key])
    }
    assert moved == {
        'student.user_embedding.weight', 'student.item_embedding.weight',
        'prompt.weight', 'prompt.bias'
    }


def test_a_frozen_prompt(make, blocks):
    distiller = make(tune_prompt=False)
    distiller.fit_teacher(blocks[0], epochs=1, progress=False, seed=0)
    before = {k: v.clone() for k, v in distiller.prompt.state_dict().items()}
    task = distiller.prepare(blocks[0], 'student')
    assert isinstance(task.teacher_rows, ConstantTables)
    distiller.fit_student(blocks[0], epochs=2, progress=False, seed=0)
    for key, value in distiller.prompt.state_dict().items():
        assert torch.equal(value, before[key])
    assert not any(p.requires_grad for p in distiller.prompt.parameters())
    # Stage 1 trains it all the same.
    distiller.fit_teacher(blocks[0], epochs=1, progress=False, seed=0)
    assert not torch.equal(distiller.prompt.weight, before['weight'])


def test_tuned_and_frozen_agree_at_the_start(make, blocks):
    outs = []
    for tune in [True, False]:
        distiller = make(tune_prompt=tune, **ALL)
        task = distiller.prepare(blocks[0], 'student')
        outs.append(distiller.student_loss(batches(task)[0]))
    assert_close(outs[0], outs[1])


def test_no_prompt(make, blocks):
    distiller = make(prompt=None)
    task = distiller.prepare(blocks[0], 'student')
    assert isinstance(task.teacher_rows, ConstantTables)
    assert distiller.prompt is None
    distiller.fit(blocks[0], epochs=1, progress=False)


@pytest.mark.parametrize('ranking_loss', ['bpr', 'softmax'])
def test_every_term_is_named_and_weighted(make, blocks, ranking_loss):
    weights = {name: 0.1 * i for i, name in enumerate(KD, start=1)}
    distiller = make(ranking_loss=ranking_loss, l2=0.7, **weights)
    task = distiller.prepare(blocks[0], 'student')
    assert isinstance(task, DistillationTask)
    assert isinstance(task.teacher_rows, PromptTables)
    total, terms = distiller.student_loss(batches(task)[0])
    assert set(terms) == {'rank', 'l2', *KD.values()}
    wanted = terms['rank'] + 0.7 * terms['l2'] + sum(
        weights[name] * terms[KD[name]] for name in KD)
    assert_close(total, wanted)
    for term in terms.values():
        assert term.dim() == 0 and term.requires_grad and term.isfinite()
    history = distiller.fit_student(blocks[0], epochs=1, progress=False)
    assert {'loss', *terms} <= history[0].keys()


@pytest.mark.parametrize('name', KD)
def test_a_weight_of_zero_removes_its_term(make, blocks, name):
    distiller = make(**{**ALL, name: 0.0})
    task = distiller.prepare(blocks[0], 'student')
    _, terms = distiller.student_loss(batches(task)[0])
    assert set(terms) == {'rank', 'l2', *KD.values()} - {KD[name]}


def test_no_distillation_at_all(make, blocks):
    distiller = make(**dict.fromkeys(KD, 0.0), l2=0.0)
    task = distiller.prepare(blocks[0], 'student')
    total, terms = distiller.student_loss(batches(task)[0])
    assert set(terms) == {'rank'} and total is terms['rank']
    assert not any(p.requires_grad for p in distiller.prompt.parameters())
    distiller.fit_student(blocks[0], epochs=1, progress=False)


@pytest.mark.parametrize('ranking_loss', ['bpr', 'softmax'])
def test_teacher_ranking_loss_moves_the_prompt_alone(make, blocks,
                                                     ranking_loss):
    distiller = make(**{**dict.fromkeys(KD, 0.0), 'teacher_weight': 1.0},
                     ranking_loss=ranking_loss)
    task = distiller.prepare(blocks[0], 'student')
    _, terms = distiller.student_loss(batches(task)[0])
    terms['teacher'].backward()
    assert not grads(distiller.student) and not grads(distiller.teacher)
    assert grads(distiller.prompt)['weight'] > 0


def test_disentangling_is_a_choice(make, blocks):
    outs = {}
    for name, kwargs in {
            'natural': {},
            'plain': {'disentangle': False},
            'fixed': {'beta': 3.0}
    }.items():
        distiller = make(list_weight=1.0, **kwargs)
        task = distiller.prepare(blocks[0], 'student')
        outs[name] = distiller.student_loss(batches(task)[0])[1]['list']
    # alpha = 1 and the natural beta are the plain divergence.
    assert_close(outs['natural'], outs['plain'], rtol=1e-4, atol=1e-6)
    assert outs['fixed'] > outs['natural']


def test_terms_by_hand(make, blocks):
    distiller = make(**ALL, item_samples=50, gamma=3.0, kd_temperature=0.5)
    task = distiller.prepare(blocks[0], 'student')
    batch = batches(task)[0]
    _, terms = distiller.student_loss(batch)
    with torch.no_grad():
        teacher = distiller.teacher(distiller.graph)
        student = distiller.student(distiller.graph)

    def unit(x):
        return x / x.norm(dim=1, keepdim=True)

    # Each row has its own of the shared negatives, if its user lacks it.
    column = torch.arange(batch.user.numel()) % batch.shared.numel()
    lacks = batch.shared_mask[torch.arange(batch.user.numel()), column]
    assert 0 < lacks.sum() < lacks.numel()

    def margin(user, item):
        user, item = unit(user)[batch.user], unit(item)
        other = item[batch.shared[column]]
        return (user * (item[batch.positive] - other)).sum(1)

    def listed(user, item):
        scores = unit(user)[batch.user] @ unit(item).t()
        shared = scores[:, batch.shared].masked_fill(~batch.shared_mask,
                                                     -float('inf'))
        positive = scores.gather(1, batch.positive.view(-1, 1))
        return (torch.cat([positive, shared], 1) / 0.5).log_softmax(1)

    def kl(t, s):
        return (t.exp() * (t - s)).nan_to_num(0.0).sum(1).mean() * 0.25

    def emb(x, y):
        return (1 - (unit(x) * unit(y)).sum(1)).pow(3).mean()

    p = (margin(*teacher[:2]) / 0.5).sigmoid()
    q = (margin(*student) / 0.5).sigmoid()
    pair = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    sampled = student[1][batch.item]
    wanted = {
        'pair': pair[lacks].mean() * 0.25,
        'list': sum(kl(listed(*x), listed(*student))
                    for x in teacher.modalities.values()),
        'emb': sum(emb(sampled, x[1][batch.item])
                   for x in teacher.modalities.values()),
        'fused_list': kl(listed(*teacher[:2]), listed(*student)),
        'fused_emb': emb(student[0][batch.user], teacher[0][batch.user]) +
        emb(sampled, teacher[1][batch.item]),
    }
    for name, value in wanted.items():
        assert_close(terms[name].detach(), value, rtol=1e-3, atol=1e-5)


# Presets ######################################################################


def test_faithful_preset(make, blocks):
    distiller = make(setting='faithful')
    assert distiller.score == 'dot'
    assert distiller.objective.ranking_loss == 'bpr'
    assert distiller.settings.teacher_weight == 0.0
    assert distiller.settings.tune_prompt
    assert distiller.prompt is not None
    reduction = distiller.teacher.reduction('visual')
    assert reduction.normalize == 'size'
    task = distiller.prepare(blocks[0], 'student')
    _, terms = distiller.student_loss(batches(task)[0])
    assert set(terms) == {'rank', 'l2', 'pair', 'list', 'emb'}


def test_default_preset(make, blocks):
    distiller = make()
    assert distiller.prompt is not None and distiller.settings.tune_prompt
    task = distiller.prepare(blocks[0], 'student')
    _, terms = distiller.student_loss(batches(task)[0])
    assert 'rank' in terms and len(terms) > 2
    assert {'setting': 'faithful'} != distiller.settings.to_dict()


def test_changing_a_preset(make):
    distiller = make(setting='faithful', pair_weight=7.0, score='cosine')
    assert distiller.settings.pair_weight == 7.0
    assert distiller.settings.ranking_loss == 'bpr'
    assert distiller.score == 'cosine'


# A loop of the user's own #####################################################


@pytest.mark.parametrize('stage', ['teacher', 'student'])
def test_custom_loop(make, blocks, stage):
    distiller = make()
    task = distiller.prepare(blocks[0], stage=stage)
    loader = InteractionLoader(task.positives, task.known, 40, 36, 64,
                               task.batch_spec)
    optimizer = torch.optim.Adam(
        (p for p in distiller.parameters() if p.requires_grad), lr=0.02)
    loss = (distiller.teacher_loss
            if stage == 'teacher' else distiller.student_loss)
    torch.manual_seed(0)
    means, embeddings = [], []
    for _ in range(8):
        values = []
        for batch in loader:
            optimizer.zero_grad()
            total, _ = loss(batch)
            total.backward()
            optimizer.step()
            values.append(float(total))
        means.append(sum(values) / len(values))
        embeddings.append(distiller.embeddings(stage)[0])
    assert means[-1] < 0.95 * means[0]
    assert not torch.equal(embeddings[0], embeddings[-1])
    distiller.evaluate(blocks[2], k=5, model=stage)


def test_forward_is_the_loss(make, blocks):
    distiller = make()
    task = distiller.prepare(blocks[0], 'student')
    batch = batches(task)[0]
    assert_close(distiller(batch, stage='student'),
                 distiller.student_loss(batch))
    assert_close(distiller(batch), distiller.student_loss(batch))


def test_prepared_task_is_no_part_of_the_state(make, blocks):
    distiller = make()
    names = set(distiller.state_dict())
    for stage in ['teacher', 'student']:
        distiller.prepare(blocks[0], stage)
        assert set(distiller.state_dict()) == names
        assert not any(isinstance(x, (RankingTask, DistillationTask))
                       for x in distiller.modules())


@pytest.mark.parametrize('stage', ['teacher', 'student'])
def test_torch_compile(make, blocks, stage):
    distiller = make()
    task = distiller.prepare(blocks[0], stage)
    batch = batches(task)[0]
    total, terms = distiller(batch, stage=stage)
    compiled = torch.compile(distiller, backend='eager')
    out, out_terms = compiled(batch, stage=stage)
    assert_close(out, total)
    assert set(out_terms) == set(terms)
    out.backward()
    assert grads(getattr(distiller, stage))
    torch._dynamo.reset()


def test_ddp(make, blocks, tmp_path):
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store',
                            rank=0, world_size=1)
    try:
        for kwargs in [{}, {'teacher_channels': 12, 'emb_weight': 0.0},
                       {'setting': 'faithful', 'teacher_channels': 5},
                       dict.fromkeys(KD, 0.0)]:
            distiller = make(**kwargs)
            for stage in ['teacher', 'student']:
                task = distiller.prepare(blocks[0], stage)
                model = DistributedDataParallel(distiller)
                for batch in batches(task, 100):  # The second step tells.
                    wanted, _ = distiller(batch, stage=stage)
                    total, _ = model(batch, stage=stage)
                    assert_close(total, wanted)
                    total.backward()
    finally:
        dist.destroy_process_group()


def test_distiller_without_features_in_stage_2(make, blocks):
    # What stage 2 needs of the features is in its tables.
    distiller = make()
    task = distiller.prepare(blocks[0], 'student')
    distiller.teacher.release_features()
    batch = batches(task)[0]
    assert distiller.student_loss(batch)[0].isfinite()
    with pytest.raises(ValueError, match='data again'):
        distiller.teacher(distiller.graph)


def test_prepare_student_of_a_fresh_distiller(blocks):
    distiller = PromptMMDistiller.from_data(blocks[0], hidden_channels=4)
    task = distiller.prepare(blocks[0])
    assert isinstance(task, DistillationTask)
    assert 'student' in repr(distiller._training.prepared[0])
