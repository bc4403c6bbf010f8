r"""From one set of interactions to the three graphs of a split."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

from torch_promptmm.data.contract import EdgeType, InteractionData, read_graph
from torch_promptmm.data.report import Report
from torch_promptmm.data.subgraph import subgraph

Split = tuple[HeteroData, HeteroData, HeteroData]
TRAIN, VAL, TEST = 0, 1, 2


def check_unsplit(data: HeteroData, edge_type: EdgeType, name: str) -> None:
    r"""Checks that a graph has nothing but known interactions.

    Args:
        data (HeteroData): The graph.
        edge_type (tuple[str, str, str]): The edge type of the interactions.
        name (str): What is about to be done.

    Raises:
        ValueError: If interactions are held out already, or lie in the graph
            a second time, from where they would leak.
    """
    if 'edge_label_index' in data[edge_type]:
        raise ValueError(f"{name} needs interactions that are not split yet "
                         f"(data[{edge_type}] has an 'edge_label_index')")
    reverse = [x for x in data.edge_types
               if (x[0], x[2]) == (edge_type[2], edge_type[0])]
    if reverse:
        raise ValueError(f'{name} would leave held-out interactions in '
                         f'{reverse[0]}, from where they leak; apply '
                         f'T.ToUndirected afterwards')


def make_split(
    data: HeteroData,
    graph: InteractionData,
    part: np.ndarray,
    known: str,
    report: Report,
) -> Split:
    r"""The three graphs, over one storage of whatever the nodes have.

    Attributes of the interactions (``time``, ``rating``) stay with
    ``edge_index``; the ``time`` of those held out becomes
    ``edge_label_time``.

    Args:
        data (HeteroData): The graph.
        graph (InteractionData): The same, read.
        part (numpy.ndarray): Where each interaction goes :math:`[E]`: 0, 1 or
            2.
        known (str): The interactions that the test graph knows of.
        report (Report): What was left out.
    """
    if known not in ('train', 'train+val'):
        raise ValueError(f"'known' must be 'train' or 'train+val' (got "
                         f"{known!r})")
    edge_type = graph.edge_type
    parts = torch.from_numpy(part)
    if not bool((parts == TRAIN).any()):
        raise ValueError(f'Nothing is left to train on: all {len(part)} '
                         f'interactions are held out')
    out = []
    for name in (TRAIN, VAL, TEST):
        edges = parts == TRAIN
        if name == TEST and known == 'train+val':
            edges = parts != TEST
        split = subgraph(data, edge_type, edges)
        split.report += report
        if name != TRAIN:
            held = subgraph(data, edge_type, parts == name)[edge_type]
            split[edge_type].edge_label_index = held.edge_index
            if 'time' in held:
                split[edge_type].edge_label_time = held.time
        out.append(split)
    return out[0], out[1], out[2]


def read_for_split(
    data: HeteroData,
    edge_type: EdgeType | None,
    name: str,
) -> tuple[InteractionData, np.ndarray, np.ndarray]:
    r"""The graph, with the user and the item of each interaction.

    Args:
        data (HeteroData): The graph.
        edge_type (tuple[str, str, str], optional): The edge type.
        name (str): What is about to be done.

    Raises:
        ValueError: If an interaction is there twice, so that it could be
            trained on and tested.
    """
    graph = read_graph(data, edge_type, modalities=[])
    check_unsplit(data, graph.edge_type, name)
    index: Tensor = data[graph.edge_type].edge_index
    if index.size(1) != graph.edge_index.size(1):
        raise ValueError(
            f'{index.size(1) - graph.edge_index.size(1)} interactions are '
            f'there more than once, and would be in two splits; build the '
            f'graph with from_interactions or read_interactions')
    user, item = index.numpy(force=True)
    return graph, user, item
