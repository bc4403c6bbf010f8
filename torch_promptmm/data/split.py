r"""From one set of interactions to the three graphs of a split."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch_geometric.data import HeteroData

from torch_promptmm.checks import check_choice
from torch_promptmm.data._edges import stored_edges
from torch_promptmm.data.contract import EdgeType, InteractionData, read_graph
from torch_promptmm.data.report import Report
from torch_promptmm.data.subgraph import subgraph

Split = tuple[HeteroData, HeteroData, HeteroData]
TRAIN, VAL, TEST = 0, 1, 2


def read_unsplit(
    data: HeteroData,
    edge_type: EdgeType | None,
    name: str,
) -> tuple[HeteroData, InteractionData, np.ndarray, np.ndarray]:
    r"""What :obj:`name`, which chooses among interactions, needs of a graph:
    the graph with its interactions in :obj:`edge_index` alone, the same
    checked, and the user and the item of each interaction. Interactions that
    are held out already, or lie in the graph a second time, from where they
    would leak, are an error."""
    graph = read_graph(data, edge_type, modalities=[])
    edge_type = graph.edge_type
    if 'edge_label_index' in data[edge_type]:
        raise ValueError(f"{name} needs interactions that are not split yet "
                         f"(data[{edge_type}] has an 'edge_label_index')")
    for other in data.edge_types:
        if (other[0], other[2]) == (edge_type[2], edge_type[0]):
            raise ValueError(f'{name} would leave held-out interactions in '
                             f'{other}, from where they leak; apply '
                             f'T.ToUndirected afterwards')
    if 'adj_t' in data[edge_type]:
        data = copy.copy(data)
        data[edge_type].edge_index = stored_edges(data, edge_type)[1]
        del data[edge_type].adj_t
    user, item = data[edge_type].edge_index.numpy(force=True)
    return data, graph, user, item


def make_split(data: HeteroData, graph: InteractionData, part: np.ndarray,
               known: str, report: Report) -> Split:
    r"""The three graphs, over one storage of whatever the nodes have, from
    where each interaction goes :math:`[E]` and what the test knows of.

    Attributes of the interactions (``time``, ``rating``) stay with
    ``edge_index``; the ``time`` of those held out becomes
    ``edge_label_time``.
    """
    check_choice('known', known, ('train', 'train+val'))
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
