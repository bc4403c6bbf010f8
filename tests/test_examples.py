"""Every example runs as a user runs it: from another folder, as a process."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from amazon_raw import serve, write_amazon_raw

from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.nn import UserItemGraph

ROOT = Path(__file__).resolve().parents[1]
TINY = ['--epochs', '2', '--hidden-channels', '8', '--device', 'cpu']
NUMBER = r'\d\.\d{4}'


def run(cwd: Path, name: str, *args: str) -> subprocess.CompletedProcess:
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    return subprocess.run(
        [sys.executable, str(ROOT / 'examples' / f'{name}.py'), *args],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def output(cwd: Path, name: str, *args: str) -> str:
    done = run(cwd, name, *args)
    assert done.returncode == 0, done.stderr
    assert 'nan' not in done.stdout.lower()
    assert 'Warning' not in done.stderr
    return done.stdout


def check_table(stdout: str, num_nodes: int, channels: int = 8) -> None:
    """Three rows of four metrics, of parameters, epochs and seconds."""
    parameters = {}
    for model in ['PyG LightGCN', 'teacher', 'student']:
        row = re.search(
            rf'^{model} +({NUMBER}) +({NUMBER}) +({NUMBER}) +({NUMBER}) +'
            r'([\d,]+) +(\d+) +(\d+\.\d)$', stdout, re.M)
        assert row is not None, stdout
        *metrics, size, epochs, _ = row.groups()
        assert all(0.0 <= float(x) <= 1.0 for x in metrics)
        assert float(metrics[0]) <= float(metrics[2])  # Recall@20, Recall@50
        assert epochs == '2'
        parameters[model] = int(size.replace(',', ''))
    assert parameters['student'] == num_nodes * channels
    assert parameters['PyG LightGCN'] == num_nodes * channels
    assert parameters['teacher'] > num_nodes * channels


def test_electronics_synthetic(tmp_path: Path) -> None:
    out = output(tmp_path, 'electronics', '--synthetic', '--scale', '0.005',
                 *TINY)
    assert '208 users, 107 items' in out
    assert 'visual 4,096, textual 1,024' in out
    check_table(out, 208 + 107)
    assert list(tmp_path.iterdir()) == []  # It leaves nothing behind.


def test_electronics_says_what_is_missing(tmp_path: Path) -> None:
    raw = tmp_path / 'here' / 'raw'
    raw.mkdir(parents=True)
    (raw / 'meta_Electronics.json.gz').touch()
    done = run(tmp_path, 'electronics', '--root', 'here')
    assert done.returncode == 2
    assert done.stdout == ''
    for text in ['reviews_Electronics_5.json.gz', '--synthetic', '--download',
                 'image_features_Electronics.b', str(Path('here', 'raw'))]:
        assert text in done.stderr
    assert 'meta_Electronics.json.gz' not in done.stderr  # It is there.
    assert 'Traceback' not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize('download', [False, True])
def test_electronics_from_raw_files(tmp_path: Path, download: bool) -> None:
    source = tmp_path / ('source' if download else 'root/raw')
    write_amazon_raw(source, num_users=80, num_items=60)
    with serve(source) as address:
        args = ['--download', '--url', address] if download else []
        done = run(tmp_path, 'electronics', '--root', 'root', '--subset',
                   '5-core', *args, *TINY)
    assert done.returncode == 0, done.stderr
    assert 'Electronics, found: 80 users, 60 items' in done.stdout
    assert 'Electronics, paper: 41,691 users, 21,479 items' in done.stdout
    check_table(done.stdout, 80 + 60)


@pytest.mark.parametrize('setting', ['default', 'faithful'])
def test_tiktok(tmp_path: Path, setting: str) -> None:
    root = tmp_path / 'folder'
    root.mkdir()
    dataset = SyntheticMultimodal(80, 60, 700, {'visual': 12, 'acoustic': 9})
    edge_type = ('user', 'interacts', 'item')
    for name, data in zip(['train', 'val', 'test'], dataset,
                          strict=True):
        key = 'edge_index' if name == 'train' else 'edge_label_index'
        np.save(root / f'{name}.npy', data[edge_type][key].numpy())
    for name in ['visual', 'acoustic']:
        np.save(root / f'{name}.npy', data['item'][name].numpy())
    before = sorted(root.iterdir())
    out = output(tmp_path, 'tiktok', '--root', 'folder', '--setting', setting,
                 *TINY)
    assert '80 users, 60 items, 700 interactions' in out
    assert 'acoustic 9, visual 12' in out
    check_table(out, 80 + 60)
    assert sorted(root.iterdir()) == before


def test_tiktok_says_what_is_missing(tmp_path: Path) -> None:
    done = run(tmp_path, 'tiktok', '--root', 'nowhere')
    assert done.returncode == 2
    assert 'train.npy' in done.stderr and 'nowhere' in done.stderr
    assert 'Traceback' not in done.stderr


def test_custom_loop(tmp_path: Path) -> None:
    out = output(tmp_path, 'custom_loop', '--epochs', '1', '--scale', '0.2',
                 '--hidden-channels', '8', '--device', 'cpu')
    for name in ['your teacher', 'your student, distilled',
                 "the distiller's teacher", "the distiller's student"]:
        assert re.search(rf'^{name} +Recall@20 {NUMBER} +NDCG@20 {NUMBER}$',
                         out, re.M), out
    assert re.search(r'^student loss .*: rank .*, emb ', out, re.M), out


def test_teacher_of_the_custom_loop_stands_alone() -> None:
    """It takes all it needs as arguments: it can be copied elsewhere."""
    module = example('custom_loop')  # Importing it runs nothing.
    torch.manual_seed(0)
    edge_index = (torch.rand(7, 6) < 0.4).nonzero().t()
    teacher = module.Teacher(7, 6, in_channels=5, channels=4)
    user, item = teacher(UserItemGraph(edge_index, 7, 6), torch.randn(6, 5), {
        ('user', 'interacts', 'item'): edge_index,
        ('item', 'rev_interacts', 'user'): edge_index.flip(0),
    })
    assert user.shape == (7, 4) and item.shape == (6, 4)


def test_quickstart(tmp_path: Path) -> None:
    out = output(tmp_path, 'quickstart')
    for model in ('teacher', 'student'):
        assert re.search(rf'^{model}: recall@20 ({NUMBER}), ndcg@20 {NUMBER}$',
                         out, re.M), out
    lists = re.findall(r'^(?:user \d|like item 7): items \[(.*)\]$', out, re.M)
    assert [len(set(x.split(', '))) for x in lists] == 4 * [5], out
    assert list(tmp_path.iterdir()) == []


def test_train_a_baseline(tmp_path: Path) -> None:
    out = output(tmp_path, 'train_a_baseline')
    assert re.search(r'^bpr: .*dot products$', out, re.M), out
    assert re.search(r'^softmax: .*cosine products$', out, re.M), out
    recall = [float(x) for x in re.findall(rf'recall@20 ({NUMBER})', out)]
    assert len(recall) == 2
    assert min(recall) > 2 * 20 / 400  # Twice what chance gives.
    assert out.count('coverage@50') == 2


@pytest.mark.parametrize('name', ['quickstart', 'train_a_baseline'])
def test_is_straight_and_short(name: str) -> None:
    source = (ROOT / 'examples' / f'{name}.py').read_text('utf-8')
    assert len(source.splitlines()) <= 42
    assert 'argparse' not in source and 'def ' not in source


def test_baseline_is_lightgcn() -> None:
    """The fast form in the table gives what PyG's own model gives, which
    normalises the graph itself, in value and in gradient."""
    report = example('_report')
    user, item = torch.randint(7, (30, )), torch.randint(5, (30, ))
    edge_index = torch.stack([user, item]).unique(dim=1)
    ours = report.PyGLightGCN(7, 6, 4)  # item 5 has no edge
    plain = report.LightGCN(13, 4, num_layers=2)
    plain.load_state_dict(ours.model.state_dict())

    user, item = edge_index[0], edge_index[1] + 7
    square = torch.stack([torch.cat([user, item]), torch.cat([item, user])])
    expected = plain.get_embedding(square)
    graph = UserItemGraph(edge_index, 7, 6)
    out = ours(graph)
    torch.testing.assert_close(torch.cat([out.user, out.item]), expected)
    weight = torch.randn(13, 4)
    (expected * weight).sum().backward()
    (torch.cat([out.user, out.item]) * weight).sum().backward()
    torch.testing.assert_close(ours.model.embedding.weight.grad,
                               plain.embedding.weight.grad)

    user_id, item_id = torch.tensor([3, 3, 0]), torch.tensor([5, 1])
    rows = ours.rows(graph, user_id, item_id, num_ego=1)
    table = plain.embedding.weight
    for x, wanted in zip([rows.user, rows.item, *rows.ego], [
            expected[user_id], expected[item_id + 7], table[user_id],
            table[item_id[:1] + 7]
    ], strict=True):
        torch.testing.assert_close(x, wanted)


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        name, ROOT / 'examples' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
