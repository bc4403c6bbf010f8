r"""Validation while a task is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torch_promptmm.data import InteractionData
from torch_promptmm.evaluate import HITS, evaluate_embeddings
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train.task import Task

#: The metric that decides where none is named.
METRIC = 'recall@20'


class Validation:
    r"""Ranks all items for the users of a validation graph, each time it is
    called.

    Args:
        task (Task): What is trained.
        view (InteractionData): The validation graph.
        positives (torch.Tensor): Its held-out interactions :math:`(2, P)`.
        metric (str, optional): :obj:`"recall@K"`, :obj:`"ndcg@K"` or another
            metric of hits. Recall and NDCG are always among the results.
            (default: :obj:`"recall@20"`)
    """
    def __init__(self, task: Task, view: InteractionData, positives: Tensor,
                 metric: str = METRIC) -> None:
        self.task, device = task, task.device
        self.positives = positives.to(device)
        self.known = view.edge_index.to(device)
        self.cut = cut_off(metric, view.num_items)
        self.label = metric.partition('@')[2]
        name = metric.partition('@')[0]
        self.metrics = ('recall', 'ndcg') + (
            () if name in ('recall', 'ndcg') else (name, ))
        # On the graph that is trained on, nothing is built again.
        self.graph = None if same_edges(task.graph, view) else UserItemGraph(
            view.edge_index, view.num_users, view.num_items).to(device)

    def __call__(self) -> dict[str, float]:
        user, item = self.task.embeddings(self.graph)
        out = evaluate_embeddings(user, item, self.positives, self.known,
                                  (self.cut, ), metrics=self.metrics)
        return {
            f'{key.partition("@")[0]}@{self.label}': float(value)
            for key, value in out.items()
        }


def same_edges(graph: UserItemGraph, view: InteractionData) -> bool:
    r"""Whether a graph has just the interactions of another one."""
    edge_index = graph.edge_index.cpu()
    return (edge_index.shape == view.edge_index.shape
            and torch.equal(edge_index, view.edge_index.cpu()))


def cut_off(metric: Any, num_items: int) -> int:
    r"""Returns the cut-off of a metric's name within the catalogue."""
    name, _, cut = str(metric).partition('@')
    if name not in HITS or not cut.isdecimal():
        raise ValueError(f"'metric' must be one of "
                         f"{', '.join(f'{x}@K' for x in HITS)} (got "
                         f"{metric!r})")
    if metric == METRIC:  # The default works for small catalogues too.
        return min(int(cut), num_items)
    if not 1 <= int(cut) <= num_items:
        raise ValueError(f"'metric' must have a cut-off from 1 to the "
                         f"{num_items} items (got {metric!r})")
    return int(cut)
