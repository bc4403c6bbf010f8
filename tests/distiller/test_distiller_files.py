"""What is saved, what is not, and what a damaged file says."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from torch_promptmm import PromptMMDistiller
from torch_promptmm.files import atomic_path
from torch_promptmm.serve import load_student, save_student
from torch_promptmm.serve.store import load_tensors, save_tensors

VARIANTS = {
    'default': {},
    'faithful': {'setting': 'faithful'},
    'dot': {'score': 'dot'},
    'rows': {'normalize': 'row'},
    'no prompt': {'prompt': None},
    'graph prompt': {'prompt': 'graph'},
    'deep prompt': {'prompt_layers': 3},
    'raw features': {'standardize': False, 'normalize': False},
    'wide teacher': {'teacher_channels': 12, 'teacher_layers': 1},
    'one modality': {'modalities': ['textual']},
    'settings': {'beta': 0.5, 'kd_temperature': 0.3, 'dropout': 0.4},
}


@pytest.fixture
def saved(fitted, tmp_path):
    path = tmp_path / 'distiller.safetensors'
    fitted.save(path)
    return path


@pytest.mark.parametrize('name', VARIANTS)
def test_as_before(make, blocks, tmp_path, name):
    train, val, test = blocks
    distiller = make(**VARIANTS[name])
    distiller.fit(train, val, epochs=2, seed=0, progress=False)
    distiller.save(tmp_path / 'x')
    loaded = PromptMMDistiller.load(tmp_path / 'x')
    assert not loaded.teacher.features
    assert loaded.settings == distiller.settings
    assert loaded.score == distiller.score
    assert str(loaded) == str(distiller)
    state = loaded.state_dict()
    assert list(state) == list(distiller.state_dict())
    for key, value in distiller.state_dict().items():
        assert torch.equal(state[key], value), key
    for model in ('student', 'teacher'):
        for data in (val, test):
            assert (loaded.evaluate(data, k=5, model=model) ==
                    distiller.evaluate(data, k=5, model=model))
        for a, b in zip(loaded.recommend(range(40), k=36, model=model),
                        distiller.recommend(range(40), k=36, model=model),
                        strict=True):
            assert torch.equal(a, b)
        assert torch.equal(loaded.predict([0, 5], [3, 1], model=model),
                           distiller.predict([0, 5], [3, 1], model=model))


def test_before_fit(make, blocks, tmp_path):
    distiller = make()
    distiller.save(tmp_path / 'x')
    loaded = PromptMMDistiller.load(tmp_path / 'x')
    assert torch.equal(loaded.embeddings()[0], distiller.embeddings()[0])


def test_saved_twice_is_the_same(saved, tmp_path):
    PromptMMDistiller.load(saved).save(tmp_path / 'again')
    a, b = load_file(saved), load_file(tmp_path / 'again')
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_no_raw_feature(fitted, saved, blocks):
    content = saved.read_bytes()
    for name in ('visual', 'textual'):
        x = blocks[0]['item'][name]
        for row in x[:3]:
            assert row[:4].numpy().tobytes() not in content
        for tensors in (load_file(saved), fitted.state_dict()):
            for key, value in tensors.items():
                assert value.shape != x.shape, key
                assert value.shape != x.t().shape, key
    # Nor in a checkpoint.
    shapes = {tuple(x.shape) for x in fitted.state_dict().values()}
    assert (36, 48) not in shapes and (36, 32) not in shapes


def test_no_raw_feature_in_a_checkpoint(make, blocks, tmp_path):
    make().fit(*blocks[:2], epochs=1, progress=False,
               checkpoint=tmp_path / 'x')
    content = (tmp_path / 'x').read_bytes()
    for name in ('visual', 'textual'):
        for row in blocks[0]['item'][name][:3]:
            assert row[:4].numpy().tobytes() not in content


def test_what_a_loaded_one_lacks(saved, blocks):
    loaded = PromptMMDistiller.load(saved)
    other = blocks[0].clone()
    store = other['user', 'interacts', 'item']
    store.edge_label_index = store.edge_index[:, :5]
    store.edge_index = store.edge_index[:, 5:]
    loaded.evaluate(other, k=5)  # The student needs nothing.
    for call in (lambda: loaded.evaluate(other, k=5, model='teacher'),
                 lambda: loaded.teacher(loaded.graph)):
        with pytest.raises(ValueError, match='no item features'):
            call()
    del other['item'].visual
    with pytest.raises(ValueError, match='visual'):
        loaded.fit(other, epochs=1, progress=False)


@pytest.mark.parametrize('name', ['default', 'wide teacher', 'rows'])
def test_fit_again(make, blocks, tmp_path, name):
    train, val, test = blocks
    distiller = make(**VARIANTS[name])
    distiller.fit(train, val, epochs=2, seed=0, progress=False)
    distiller.save(tmp_path / 'x')
    loaded = PromptMMDistiller.load(tmp_path / 'x')
    for each in (distiller, loaded):
        each.fit(train, val, epochs=2, seed=1, progress=False)
    for key, value in distiller.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    loaded.evaluate(val, k=5, model='teacher')


def test_known_items_are_the_union(tmp_path):
    from torch_promptmm.data import from_interactions
    data = from_interactions([[0, 1], [0, 1]], {'x': torch.randn(4, 3)}, 2, 4,
                             edge_label_index=[[0, 1], [2, 3]])
    distiller = PromptMMDistiller.from_data(data, hidden_channels=2)
    distiller.save(tmp_path / 'x')
    loaded = PromptMMDistiller.load(tmp_path / 'x')
    items, _ = loaded.recommend([0, 1], k=4)
    assert set(items[0].tolist()) == {1, 3, -1}
    assert set(items[1].tolist()) == {0, 2, -1}


def test_moves_with_its_embeddings(saved):
    loaded = PromptMMDistiller.load(saved)
    wanted = loaded.embeddings('teacher')[0]
    loaded.to('cpu').eval().train()
    assert torch.equal(loaded.embeddings('teacher')[0], wanted)


# Damage #######################################################################


def rewrite(path, change):
    """Writes a file anew, as a whole and well-formed one."""
    tensors, config = load_tensors(path, 'distiller')
    config.pop('kind')
    change(tensors, config)
    save_tensors(path, 'distiller', tensors, config)


def setter(*keys, value):
    def change(tensors, config):
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return change


def test_truncated_and_noisy_files(saved):
    whole = saved.read_bytes()
    generator = torch.Generator().manual_seed(0)
    damaged = {'empty': b'', 'noise': os.urandom(2000)}
    for share in (0.01, 0.3, 0.6, 0.99):
        damaged[f'cut at {share}'] = whole[:int(share * len(whole))]
    for at in torch.randint(len(whole), (25, ), generator=generator).tolist():
        flipped = bytes([whole[at] ^ 16])
        damaged[f'bit at {at}'] = whole[:at] + flipped + whole[at + 1:]
    damaged['more'] = whole + b'more'
    for name, content in damaged.items():
        saved.write_bytes(content)
        try:
            PromptMMDistiller.load(saved)
        except ValueError as error:
            assert str(saved) in str(error), name
        else:
            pytest.fail(f'{name} was loaded')


def test_every_tensor_is_missed(saved):
    tensors, config = load_tensors(saved, 'distiller')
    kind = config.pop('kind')
    for key in tensors:
        rest = {k: v for k, v in tensors.items() if k != key}
        save_tensors(saved, kind, rest, config)
        with pytest.raises(ValueError, match=f"'path'.*{saved.name}"):
            PromptMMDistiller.load(saved)
            pytest.fail(key)
        wrong = {**tensors, key: torch.zeros(3, 2, 1)}
        save_tensors(saved, kind, wrong, config)
        with pytest.raises(ValueError, match=f"'path'.*{saved.name}"):
            PromptMMDistiller.load(saved)
            pytest.fail(key)


CHANGES = {
    'users': setter('student', 'num_users', value=41),
    'many users': setter('student', 'num_users', value=10**13),
    'no layers': setter('student', 'num_layers', value=-1),
    'unknown argument': setter('student', 'depth', value=2),
    'student': setter('student', value=None),
    'teacher': setter('teacher', value={'hidden_channels': 8}),
    'teacher type': setter('teacher', value=7),
    'teacher width': setter('teacher', 'hidden_channels', value=9),
    'modalities': setter('teacher', 'in_channels', value={'visual': 48}),
    'normalize': setter('teacher', 'normalize', value='column'),
    'prompt': setter('prompt', value={'num_layers': 1}),
    'prompt layers': setter('prompt', 'num_layers', value=2),
    'prompt gone': setter('prompt', 'modalities', value=['smell']),
    'setting': setter('settings', 'gamma', value=0.1),
    'unknown setting': setter('settings', 'gamme', value=2.0),
    'settings': setter('settings', value=[1]),
    'edge_type': setter('edge_type', value=['user']),
    'finals': setter('finals', value=['nobody']),
    'finals gone': lambda tensors, config: config.pop('finals'),
    'users out of range': lambda tensors, config: tensors.update(
        {'graph.edge_index': torch.tensor([[40], [0]])}),
    'known out of range': lambda tensors, config: tensors.update(
        {'graph.known': torch.tensor([[0], [-1]])}),
    'float ids': lambda tensors, config: tensors.update(
        {'graph.known': torch.zeros(2, 3)}),
}


@pytest.mark.parametrize('name', CHANGES)
def test_flipped_config(saved, name):
    rewrite(saved, CHANGES[name])
    with pytest.raises(ValueError, match=f"'path'.*{saved.name}"):
        PromptMMDistiller.load(saved)


def test_foreign_files(fitted, saved, tmp_path):
    path = tmp_path / 'foreign'
    save_file({'x': torch.ones(3)}, path)
    with pytest.raises(ValueError, match='does not hold a distiller.*none'):
        PromptMMDistiller.load(path)
    save_file({'x': torch.ones(3)}, path, metadata={'torch_promptmm': '[1]'})
    with pytest.raises(ValueError, match='does not hold a distiller'):
        PromptMMDistiller.load(path)
    save_student(path, fitted.student)
    with pytest.raises(ValueError, match='it holds student'):
        PromptMMDistiller.load(path)
    with pytest.raises(ValueError, match='it holds distiller'):
        load_student(saved)
    torch.save({'a': 1}, path)
    with pytest.raises(ValueError, match='damaged or no safetensors'):
        PromptMMDistiller.load(path)
    # Tensors of ours under a header that somebody changed by hand.
    with safe_open(saved, framework='pt') as file:
        metadata = file.metadata()
    config = json.loads(metadata['torch_promptmm'])
    config['student']['num_layers'] = 3
    metadata['torch_promptmm'] = json.dumps(config)
    save_file(load_file(saved), path, metadata=metadata)
    with pytest.raises(ValueError, match='checksum'):
        PromptMMDistiller.load(path)


# The disk #####################################################################


@pytest.mark.parametrize('where', ['write', 'sync', 'replace'])
def test_a_failed_write_leaves_the_old_file(fitted, saved, monkeypatch, where):
    before = saved.read_bytes()

    def fail(tensors, path, **kwargs):
        with open(path, 'wb') as file:
            file.write(b'half')
        raise OSError('No space left on device')

    def fail_late(*args):
        raise OSError('No space left on device')

    target = {
        'write': ('torch_promptmm.serve.store.save_file', fail),
        'sync': ('torch_promptmm.files.os.fsync', fail_late),
        'replace': ('torch_promptmm.files.os.replace', fail_late),
    }[where]
    monkeypatch.setattr(*target)
    with pytest.raises(OSError, match='No space'):
        fitted.save(saved)
    with pytest.raises(OSError, match='No space'):
        fitted.save(saved.with_name('new'))
    monkeypatch.undo()
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_a_failed_checkpoint_leaves_the_old_one(make, blocks, tmp_path,
                                                monkeypatch):
    path = tmp_path / 'x'
    run = dict(epochs=3, seed=0, progress=False, checkpoint=path)
    wanted = make()
    wanted.fit_teacher(blocks[0], **{**run, 'checkpoint': tmp_path / 'y'})
    save, calls = torch.save, []

    def fail(state, target):
        calls.append(target)
        if len(calls) == 3:
            with open(target, 'wb') as file:
                file.write(b'half')
            raise OSError('No space left on device')
        save(state, target)

    monkeypatch.setattr(torch, 'save', fail)
    distiller = make()
    with pytest.raises(OSError, match='No space'):
        distiller.fit_teacher(blocks[0], **run)
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ['x', 'y']
    resumed = make(seed=9)
    resumed.fit_teacher(blocks[0], resume=True, **run)
    assert torch.equal(resumed.teacher.backbone.user_embedding.weight,
                       wanted.teacher.backbone.user_embedding.weight)


def test_missing_folders_are_made(fitted, tmp_path):
    fitted.save(tmp_path / 'a' / 'b' / 'c')
    PromptMMDistiller.load(str(tmp_path / 'a' / 'b' / 'c'))


def test_a_file_left_behind_by_a_kill_is_no_trouble(fitted, tmp_path):
    # Its writer cannot be running: no process has this number.
    with atomic_path(tmp_path / 'x') as temporary:
        temporary.write_bytes(b'half')
        own = f'{os.getpid()}-'
        assert own in temporary.name
        left = tmp_path / temporary.name.replace(own, f'{2**22 + 1}-')
        left.write_bytes(b'half')
    fitted.save(tmp_path / 'x')
    PromptMMDistiller.load(tmp_path / 'x')
    assert os.listdir(tmp_path) == ['x']
