"""An interrupted and resumed run ends as an uninterrupted one, bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch

from torch_promptmm import PromptMMDistiller
from torch_promptmm.train import load_checkpoint, save_checkpoint

EPOCHS = 4


class Interrupt(Exception):
    pass


def assert_same(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def records(history):
    return {
        stage: [{k: v for k, v in record.items() if k != 'time'}
                for record in each] for stage, each in history.items()
    }


def stop_at(call):
    calls = iter(range(1, 1000))

    def callback(record):
        if next(calls) == call:
            raise Interrupt

    return callback


def momentum(params):
    return torch.optim.SGD(params, lr=0.05, momentum=0.9)


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)


def steps(optimizer):  # Holds a Counter in its state.
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2], 0.5)


def plateau(optimizer):
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)


RUNS = {
    'plain': {},
    'faithful': {'setting': 'faithful'},
    'dropout': {'dropout': 0.3},
    'wide teacher': {'teacher_channels': 11, 'emb_weight': 0.1},
    'frozen prompt': {'tune_prompt': False},
    'deep prompt': {'prompt_layers': 2},
    'no validation': {'val': False},
    'factories': {'optimizer': momentum, 'scheduler': cosine},
    'steps': {'scheduler': steps},
    'plateau': {'scheduler': plateau},
    'short patience': {'patience': 1},
    'min_epochs': {'min_epochs': 3},
}


@pytest.mark.parametrize('name', RUNS)
def test_resume(make, blocks, tmp_path, name):
    kwargs = dict(RUNS[name])
    train, val, _ = blocks
    val = val if kwargs.pop('val', True) else None
    run = {
        key: kwargs.pop(key)
        for key in ('optimizer', 'scheduler', 'patience', 'min_epochs')
        if key in kwargs
    }
    run.update(epochs=EPOCHS, seed=3, progress=False)
    wanted = make(**kwargs)
    history = wanted.fit(train, val, **run)
    total = sum(map(len, history.values()))
    # Every moment of the plain run, and one of each stage of the others.
    calls = range(1, total + 1) if name == 'plain' else (2, total - 1)
    for call in calls:
        path = tmp_path / str(call)
        with pytest.raises(Interrupt):
            make(**kwargs).fit(train, val, checkpoint=path,
                               callback=stop_at(call), **run)
        # A new process has other initial weights. (Where nothing was saved
        # yet, it starts anew.)
        seed = 99 if path.exists() else 0
        resumed = make(**{**kwargs, 'seed': seed})
        out = resumed.fit(train, val, checkpoint=path, resume=True, **run)
        assert_same(resumed, wanted)
        assert records(out) == records(history)
        assert out['student'].best_epoch == history['student'].best_epoch
        assert out['teacher'].best_epoch == history['teacher'].best_epoch


def test_interrupted_again_and_again(make, blocks, tmp_path):
    run = dict(epochs=EPOCHS, seed=3, progress=False)
    wanted = make()
    wanted.fit(*blocks[:2], **run)
    for attempt in range(20):
        resumed = make(seed=attempt)
        try:
            resumed.fit(*blocks[:2], checkpoint=tmp_path / 'x', resume=True,
                        callback=stop_at(2), **run)
            break
        except Interrupt:
            pass
    assert attempt > 3
    assert_same(resumed, wanted)


def test_resume_of_each_stage_alone(make, blocks, tmp_path):
    run = dict(epochs=EPOCHS, seed=3, progress=False)
    wanted = make()
    wanted.fit_teacher(*blocks[:2], **run)
    wanted.fit_student(*blocks[:2], **run)

    a, b = tmp_path / 'a', tmp_path / 'b'
    first = make()
    with pytest.raises(Interrupt):
        first.fit_teacher(*blocks[:2], checkpoint=a, callback=stop_at(3),
                          **run)
    second = make(seed=98)
    second.fit_teacher(*blocks[:2], checkpoint=a, resume=True, **run)
    with pytest.raises(Interrupt):
        second.fit_student(*blocks[:2], checkpoint=b, callback=stop_at(3),
                           **run)
    # The second checkpoint holds the teacher too.
    third = make(seed=97)
    third.fit_student(*blocks[:2], checkpoint=b, resume=True, **run)
    assert_same(third, wanted)
    with pytest.raises(ValueError, match="'fit_student' alone"):
        make().fit(*blocks[:2], checkpoint=b, resume=True, **run)


def test_resume_without_a_seed(make, blocks, tmp_path):
    run = dict(epochs=EPOCHS, progress=False)
    torch.manual_seed(4)
    wanted = make()
    wanted.fit(*blocks[:2], **run)
    torch.manual_seed(4)
    with pytest.raises(Interrupt):
        make().fit(*blocks[:2], checkpoint=tmp_path / 'x',
                   callback=stop_at(6), **run)
    torch.manual_seed(77)
    resumed = make()
    resumed.fit(*blocks[:2], checkpoint=tmp_path / 'x', resume=True, **run)
    assert_same(resumed, wanted)


def test_resume_of_a_finished_run(make, blocks, tmp_path):
    run = dict(epochs=2, seed=3, progress=False, checkpoint=tmp_path / 'x')
    wanted = make()
    history = wanted.fit(*blocks[:2], **run)
    resumed = make(seed=99)
    calls = []
    out = resumed.fit(*blocks[:2], resume=True, callback=calls.append, **run)
    assert_same(resumed, wanted)
    assert records(out) == records(history) and not calls


def test_resume_with_more_epochs(make, blocks, tmp_path):
    run = dict(seed=3, progress=False)
    wanted = make()
    wanted.fit_teacher(*blocks[:2], epochs=5, **run)
    path = tmp_path / 'x'
    make().fit_teacher(*blocks[:2], epochs=2, checkpoint=path, **run)
    resumed = make()
    resumed.fit_teacher(*blocks[:2], epochs=5, checkpoint=path, resume=True,
                        **run)
    assert_same(resumed, wanted)


def test_resume_starts_anew_where_there_is_nothing(make, blocks, tmp_path):
    run = dict(epochs=2, seed=3, progress=False)
    a, b = make(), make()
    a.fit(*blocks[:2], **run)
    b.fit(*blocks[:2], checkpoint=tmp_path / 'deep' / 'x', resume=True, **run)
    assert_same(a, b)
    # Without resume, a checkpoint that is there is written anew.
    c = make()
    c.fit(*blocks[:2], checkpoint=tmp_path / 'deep' / 'x', **run)
    assert_same(a, c)


def test_resume_with_a_foreign_teacher(blocks, foreign, tmp_path):
    from torch_promptmm.nn import LightGCNStudent

    def build(seed):
        torch.manual_seed(seed)
        return PromptMMDistiller(foreign(), LightGCNStudent(40, 36, 8),
                                 emb_weight=0.1)

    run = dict(epochs=EPOCHS, seed=3, progress=False)
    wanted = build(0)
    before = torch.get_rng_state()
    wanted.fit(*blocks[:2], **run)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(wanted.projections) == 2
    with pytest.raises(Interrupt):
        build(0).fit(*blocks[:2], checkpoint=tmp_path / 'x',
                     callback=stop_at(7), **run)
    resumed = build(1)
    resumed.fit(*blocks[:2], checkpoint=tmp_path / 'x', resume=True, **run)
    assert_same(resumed, wanted)


def test_running_statistics_are_of_the_best_epoch(blocks, tmp_path):
    from torch_promptmm.nn import LightGCNStudent

    class Normalised(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.user = torch.nn.Embedding(40, 8)
            self.item = torch.nn.Embedding(36, 8)
            self.norm = torch.nn.BatchNorm1d(8)

        def forward(self, graph):
            return self.norm(self.user.weight), self.item.weight

    run = dict(epochs=8, seed=0, progress=False, lr=0.1)
    torch.manual_seed(0)
    distiller = PromptMMDistiller(Normalised(), LightGCNStudent(40, 36, 8))
    means = []
    history = distiller.fit_teacher(
        *blocks[:2], callback=lambda _: means.append(
            distiller.teacher.norm.running_mean.clone()), **run)
    assert history.best_epoch < 8
    assert torch.equal(distiller.teacher.norm.running_mean,
                       means[history.best_epoch - 1])


# What does not fit ############################################################


@pytest.fixture
def checkpoint(make, blocks, tmp_path):
    path = tmp_path / 'checkpoint'
    make().fit_teacher(*blocks[:2], epochs=2, seed=0, progress=False,
                       checkpoint=path)
    return path


def resume(distiller, blocks, path, **kwargs):
    return distiller.fit_teacher(*blocks[:2], epochs=3, seed=0,
                                 progress=False, checkpoint=path, resume=True,
                                 **kwargs)


def test_checkpoint_of_another_model(make, blocks, checkpoint):
    for kwargs in [{'hidden_channels': 7}, {'prompt': None},
                   {'prompt_layers': 3}, {'modalities': ['visual']},
                   {'teacher_channels': 9}]:
        distiller = make(**kwargs)
        before = copy.deepcopy(distiller)
        with pytest.raises(ValueError, match="'checkpoint'.*another model"):
            resume(distiller, blocks, checkpoint)
        assert_same(distiller, before)


def test_checkpoint_of_another_stage(make, blocks, checkpoint):
    with pytest.raises(ValueError, match="named 'teacher'.*'student'"):
        make().fit_student(*blocks[:2], epochs=3, progress=False,
                           checkpoint=checkpoint, resume=True)


def test_checkpoint_of_another_optimizer(make, blocks, checkpoint):
    for kwargs in [{'optimizer': momentum}, {'scheduler': cosine}]:
        with pytest.raises(ValueError, match="'checkpoint'.*AdamW"):
            resume(make(), blocks, checkpoint, **kwargs)


def test_damaged_checkpoints(make, blocks, checkpoint):
    whole = checkpoint.read_bytes()
    generator = torch.Generator().manual_seed(0)

    def noise(size):
        return bytes(torch.randint(256, (size, ), generator=generator,
                                   dtype=torch.uint8).tolist())

    damaged = {'empty': b'', 'noise': noise(1000)}
    for share in (0.1, 0.5, 0.9, 0.999):
        damaged[f'cut at {share}'] = whole[:int(share * len(whole))]
    for at in (0, len(whole) // 2, len(whole) - 200):
        damaged[f'noise at {at}'] = (whole[:at] + noise(200) +
                                     whole[at + 200:])
    for name, content in damaged.items():
        checkpoint.write_bytes(content)
        with pytest.raises(ValueError, match="'checkpoint'.*damaged"):
            resume(make(), blocks, checkpoint)
            pytest.fail(name)


def test_foreign_checkpoints(make, blocks, checkpoint):
    state = load_checkpoint(checkpoint)
    del state['format']
    for content in ([1, 2], {'a': 1}, torch.ones(3), state,
                    {**state, 'format': 'torch_promptmm checkpoint 0'}):
        torch.save(content, checkpoint)
        with pytest.raises(ValueError, match="'checkpoint'.*no checkpoint"):
            resume(make(), blocks, checkpoint)
    for key in ('name', 'notes', 'module', 'optimizer', 'history', 'stopped',
                'best_value', 'rng', 'kinds'):
        for broken in ({k: v for k, v in state.items() if k != key},
                       {**state, key: torch.ones(1)}):
            save_checkpoint(checkpoint, broken)
            with pytest.raises(ValueError, match=f"'checkpoint'.*{key}"):
                resume(make(), blocks, checkpoint)
    for key, value in {'history': '{"records": 5', 'rng': {'cpu': 5},
                       'optimizer': {'state': 1}, 'best': {'x': 5}}.items():
        save_checkpoint(checkpoint, {**state, key: value})
        with pytest.raises(ValueError, match="'checkpoint'"):
            resume(make(), blocks, checkpoint)


def test_a_checkpoint_runs_no_code(make, blocks, checkpoint, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / 'evil'), 'w'))

    torch.save({'format': Evil()}, checkpoint)
    with pytest.raises(ValueError, match="'checkpoint'"):
        resume(make(), blocks, checkpoint)
    assert not (tmp_path / 'evil').exists()
