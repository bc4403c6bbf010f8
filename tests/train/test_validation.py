from __future__ import annotations

import pytest
import torch
from baselines import MF

from torch_promptmm.data import held_out, read_graph
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.evaluate import evaluate
from torch_promptmm.models import LightGCN
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train import RankingTask, Validation
from torch_promptmm.train.validation import METRIC, cut_off, same_edges

TRAIN, VAL, TEST = SyntheticMultimodal.blocks(known='train+val')
GRAPH = UserItemGraph(TRAIN['user', 'interacts', 'item'].edge_index, 40, 36)


@pytest.mark.parametrize('data, other', [(VAL, False), (TEST, True)])
@pytest.mark.parametrize('metric', ['recall@5', 'ndcg@3', 'map@5'])
def test_the_same_as_evaluate(data, other: bool, metric: str) -> None:
    model = LightGCN(40, 36, 8)
    task = RankingTask(model, GRAPH, GRAPH.edge_index)
    view = read_graph(data)
    validate = Validation(task, view, held_out(view), metric)
    assert (validate.graph is not None) == other
    name, k = metric.split('@')
    want = evaluate(model, data, int(k),
                    metrics=sorted({'recall', 'ndcg', name}), score='cosine')
    assert validate() == pytest.approx(want)
    torch.nn.init.normal_(model.user_embedding.weight)
    assert validate() != pytest.approx(want)  # As the model stands.
    want = evaluate(model, data, int(k), metrics=[name], score='cosine')
    assert validate()[metric] == pytest.approx(want[metric])


def test_same_edges_in_any_order() -> None:
    view = read_graph(VAL)
    perm = torch.randperm(view.edge_index.size(1))
    assert same_edges(GRAPH, view)
    assert same_edges(UserItemGraph(GRAPH.edge_index[:, perm], 40, 36), view)
    assert not same_edges(GRAPH, read_graph(TEST))
    assert not same_edges(UserItemGraph(GRAPH.edge_index[:, 1:], 40, 36), view)


def test_the_default_works_for_a_small_catalogue() -> None:
    assert cut_off(METRIC, 7) == 7 and cut_off(METRIC, 36) == 20
    task = RankingTask(MF(40, 36), GRAPH, GRAPH.edge_index)
    view = read_graph(VAL)
    assert set(Validation(task, view, held_out(view))()) == {
        'recall@20', 'ndcg@20'}


@pytest.mark.parametrize('metric, cut', [
    ('map@7', 7), ('recall@1', 1), ('hit_ratio@3', 3)])
def test_cut_off(metric: str, cut: int) -> None:
    assert cut_off(metric, 7) == cut


@pytest.mark.parametrize('metric', [
    'recall@8', 'recall@0', 'recall@-1', 'recall@2.0', 'recall', '@3',
    'coverage@3', 'loss', '', None, 20, ('recall@2', )])
def test_what_is_no_metric(metric) -> None:
    with pytest.raises(ValueError, match="'metric' must"):
        cut_off(metric, 7)
