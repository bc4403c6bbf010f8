from __future__ import annotations

import torch

from torch_promptmm.checks import check_float
from torch_promptmm.nn.graph import UserItemGraph


@torch.no_grad()
def drop_edges(
    graph: UserItemGraph,
    keep: float,
    generator: torch.Generator | None = None,
) -> UserItemGraph:
    r"""Returns a graph of some of the interactions, normalised anew.

    :math:`\lfloor \textrm{keep} \cdot |\mathcal{E}| \rfloor` of them are
    drawn without replacement, with a probability proportional to
    :math:`1 / \sqrt{\deg(u) \deg(i)}` (the degree-sensitive pruning of `"A
    Tale of Two Graphs: Freezing and Denoising Graph Structures for
    Multimodal Recommendation" <https://arxiv.org/abs/2211.06924>`_): those
    with the smallest :math:`t_{ui} \sqrt{\deg(u) \deg(i)}`, :math:`t_{ui}
    \sim \textrm{Exp}(1)`. Unlike :func:`torch.multinomial`, that holds for
    any number of edges.

    Args:
        graph (UserItemGraph): The full graph. Each interaction counts once,
            whatever its weight.
        keep (float): The share that is kept.
        generator (torch.Generator, optional): What is drawn from.
            (default: torch's global generator)
    """
    check_float('keep', keep, 0.0, 1.0)
    if graph.is_batch:
        raise ValueError(f"'graph' must be the full graph, not that of a "
                         f"batch (got {graph})")
    num_kept = int(keep * graph.num_edges + 1e-6)  # 0.29 * 100 is 28.99...
    user, item = edge_index = graph.edge_index
    root = (graph.user_item.crow.diff()[user].double().sqrt() *
            graph.item_user.crow.diff()[item].double().sqrt())
    time = torch.empty_like(root).exponential_(generator=generator)
    kept = (time * root).argsort()[:num_kept].sort().values
    return UserItemGraph(edge_index[:, kept], graph.num_users,
                         graph.num_items, dtype=graph.dtype)
