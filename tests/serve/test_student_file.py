"""A student alone in a file."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from torch_promptmm.loss import as_scored
from torch_promptmm.nn import LightGCNStudent, UserItemGraph
from torch_promptmm.serve import load_student, recommend, save_student
from torch_promptmm.serve.store import load_tensors, save_tensors

EDGES = torch.tensor([[0, 0, 1, 2, 5], [1, 3, 0, 2, 3]])


@pytest.fixture
def student():
    return LightGCNStudent(6, 4, 5, num_layers=3)


@pytest.mark.parametrize('score', ['dot', 'cosine'])
def test_recommends_as_before(student, tmp_path, score):
    save_student(tmp_path / 'x', student, EDGES, score)
    loaded, edge_index, got = load_student(tmp_path / 'x')
    assert got == score and str(loaded) == str(student)
    assert torch.equal(edge_index, EDGES)
    for key, value in student.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    outs = []
    for each in (student, loaded):
        user, item = (as_scored(x, score) for x in each(edge_index))
        outs.append(recommend(user, item, range(6), 4, edge_index))
    assert_close(*outs, rtol=0, atol=0)


def test_without_interactions(student, tmp_path):
    save_student(tmp_path / 'x', student)
    _, edge_index, score = load_student(tmp_path / 'x')
    assert edge_index is None and score == 'dot'


def test_any_adjacency(student, tmp_path):
    graph = UserItemGraph(EDGES, 6, 4)
    adj = torch.sparse_coo_tensor(EDGES, torch.ones(5), (6, 4))
    for each in (EDGES.flip(1), adj, adj.to_sparse_csr(), graph):
        save_student(tmp_path / 'x', student, each)
        assert torch.equal(load_student(tmp_path / 'x')[1], EDGES)


def test_damaged(student, tmp_path):
    path = tmp_path / 'x'
    save_student(path, student, EDGES)
    tensors, config = load_tensors(path, 'student')
    config.pop('kind')
    broken = [
        ({**tensors, 'edge_index': torch.tensor([[6], [0]])}, config),
        ({**tensors, 'more': torch.ones(1)}, config),
        (tensors, {**config, 'score': 'l2'}),
        (tensors, {**config, 'student': {}}),
        (tensors, {}),
    ]
    broken += [({k: v for k, v in tensors.items() if k != key}, config)
               for key in tensors if key != 'edge_index']
    for each in broken:
        save_tensors(path, 'student', *each)
        with pytest.raises(ValueError, match="'path'.*x' is damaged"):
            load_student(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match='damaged or no safetensors'):
        load_student(path)
