r"""All-ranking evaluation: every item for every user, in chunks of users."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.metrics import (
    LinkPredAveragePopularity,
    LinkPredCoverage,
    LinkPredF1,
    LinkPredHitRatio,
    LinkPredMAP,
    LinkPredMetric,
    LinkPredMetricCollection,
    LinkPredMRR,
    LinkPredNDCG,
    LinkPredPersonalization,
    LinkPredPrecision,
    LinkPredRecall,
)
from torch_geometric.metrics.link_pred import LinkPredMetricData

from torch_promptmm.checks import check_int
from torch_promptmm.data import InteractionData, read_graph
from torch_promptmm.data import held_out as held_out_of
from torch_promptmm.models import RankingModel, as_model, embed
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.ranking import KnownItems, top_items

# Of the hits in a user's list, and of the lists themselves.
HITS: dict[str, Callable[[int], Any]] = {
    'recall': LinkPredRecall,
    'ndcg': LinkPredNDCG,
    'precision': LinkPredPrecision,
    'f1': LinkPredF1,
    'map': LinkPredMAP,
    'mrr': LinkPredMRR,
    'hit_ratio': LinkPredHitRatio,
}
LISTS = ('coverage', 'personalization', 'popularity')
Metric = str | Callable[[int], Any]


@torch.no_grad()
def evaluate(
    model: torch.nn.Module,
    data: HeteroData,
    k: int | Sequence[int] = (20, 50),
    metrics: Sequence[Metric] = ('recall', 'ndcg'),
    score: str | None = None,
    batch_size: int | None = None,
    per_user: bool = False,
    edge_type: tuple[str, str, str] | None = None,
) -> dict[str, Any]:
    r"""Ranks every item for every user with held-out positives, over the
    graph of :obj:`data`, whose interactions are left out.

    Args:
        model (torch.nn.Module): Any model:
            a :class:`~torch_promptmm.models.RankingModel`, or a module for
            which :obj:`model(graph)` yields user and item embeddings. A
            model that reads content and has lost its features takes those of
            :obj:`data`.
        data (HeteroData): A graph with :obj:`edge_label_index`.
        k (int or list of int, optional): Cut-offs. (default:
            :obj:`(20, 50)`)
        metrics (list, optional): See :func:`evaluate_embeddings`.
            (default: :obj:`("recall", "ndcg")`)
        score (str, optional): :obj:`"dot"` or :obj:`"cosine"`.
            (default: what the model was trained with, else :obj:`"dot"`)
        batch_size (int, optional): Users ranked at a time.
            (default: as many as 64 MiB of scores hold)
        per_user (bool, optional): If :obj:`True`, returns the values of each
            user. (default: :obj:`False`)
        edge_type (tuple, optional): The edge type of the interactions.
            (default: :obj:`("user", "interacts", "item")`, or the only one)

    Returns:
        :obj:`{'recall@20': ..., 'ndcg@20': ..., ...}`
    """
    ranked = as_model(model)
    view = read_for(ranked, data, edge_type)
    positives = held_out_of(view)
    user, item = embed_view(ranked, view, score)
    return evaluate_embeddings(user, item, positives, view.edge_index, k,
                               batch_size, per_user, metrics)


def read_for(model: RankingModel, data: HeteroData,
             edge_type: tuple[str, str, str] | None = None) -> InteractionData:
    r"""Reads a graph, with the features that a model has lost."""
    lost = not model.has_features
    return read_graph(data, edge_type, model.modalities if lost else None,
                      need_features=lost, check_finite=lost)


def embed_view(model: RankingModel, view: InteractionData,
               score: str | None = None) -> tuple[Tensor, Tensor]:
    r"""Returns the embeddings of a model, where it is, over a graph of
    :func:`read_for`. A model that has lost its features takes those of the
    graph.

    Args:
        model (RankingModel): The model.
        view (InteractionData): The graph.
        score (str, optional): :obj:`"dot"` or :obj:`"cosine"`.
            (default: what the model was trained with, else :obj:`"dot"`)
    """
    if not model.has_features:
        model.give_features(view)
    device = next((p.device for p in model.parameters()), None)
    graph = UserItemGraph(view.edge_index, view.num_users, view.num_items)
    return embed(model, graph.to(device), score or model.score or 'dot')


def check_k(k: int | Sequence[int], num_items: int) -> tuple[int, ...]:
    r"""Returns :obj:`k` as a tuple of cut-offs within the catalogue."""
    if isinstance(k, Integral):
        ks: tuple[Any, ...] = (k, )
    elif isinstance(k, Iterable):
        ks = tuple(k)
    else:
        raise TypeError(f"'k' must be an integer or several (got {k!r} of "
                        f"type '{type(k).__name__}')")
    if len(ks) == 0:
        raise ValueError("'k' must have at least one cut-off (got none)")
    for each in ks:
        check_int('k', each, 1)
        if each > num_items:
            raise ValueError(f"'k' must not be larger than the catalogue of "
                             f"{num_items} items (got {each})")
    return tuple(int(each) for each in ks)


@torch.no_grad()
def evaluate_embeddings(
    user_emb: Tensor,
    item_emb: Tensor,
    held_out: Tensor,
    known: Tensor | None = None,
    k: int | Sequence[int] = (20, 50),
    batch_size: int | None = None,
    per_user: bool = False,
    metrics: Sequence[Metric] = ('recall', 'ndcg'),
) -> dict[str, Any]:
    r"""Ranks every item for every user with held-out positives.

    Recall@K is the number of hits over the number of the user's positives,
    NDCG@K has binary gains and the ideal DCG cut at :math:`\min(K,
    \textrm{positives})`; both are averaged over users. Built on
    :mod:`torch_geometric.metrics`.

    Args:
        user_emb (torch.Tensor): User embeddings :math:`(U, d)`.
        item_emb (torch.Tensor): Item embeddings :math:`(I, d)`; scores are
            dot products.
        held_out (torch.Tensor): The positives :math:`(2, P)`, each one once.
        known (torch.Tensor, optional): Interactions :math:`(2, E)` that are
            not ranked. (default: :obj:`None`)
        k (int or list of int, optional): Cut-offs. (default:
            :obj:`(20, 50)`)
        batch_size (int, optional): Users in a chunk. (default: as many as
            64 MiB of scores hold)
        per_user (bool, optional): If :obj:`True`, returns a tensor with a
            value for each user with positives, in the order of their ids,
            and the users under :obj:`"user"`. (default: :obj:`False`)
        metrics (list, optional): Any of PyG's :obj:`LinkPred*` metrics by
            name: :obj:`"recall"`, :obj:`"ndcg"`, :obj:`"precision"`,
            :obj:`"f1"`, :obj:`"map"`, :obj:`"mrr"`, :obj:`"hit_ratio"`,
            :obj:`"coverage"`, :obj:`"personalization"`,
            :obj:`"popularity"` (the mean number of :obj:`known` interactions
            of what is recommended); or a function that makes another one
            from a cut-off, such as
            :obj:`lambda k: LinkPredDiversity(k, category)`, whose class name
            is its name. (default: :obj:`("recall", "ndcg")`)

    Returns:
        :obj:`{'recall@20': ..., 'ndcg@20': ..., ...}`
    """
    num_users, num_items = user_emb.size(0), item_emb.size(0)
    ks = check_k(k, num_items)
    device = user_emb.device
    if held_out.dim() != 2 or held_out.size(0) != 2 or held_out.numel() == 0:
        raise ValueError(f"'held_out' must be of shape [2, P] with at least "
                         f"one positive (got {list(held_out.shape)})")
    held_out = held_out.to(device)
    held_out = held_out[:, held_out[0].argsort(stable=True)]
    degree = torch.bincount(held_out[0], minlength=num_users)
    offset = torch.nn.functional.pad(degree.cumsum(0), (1, 0)).tolist()
    users = degree.nonzero().view(-1)
    mask = None if known is None else KnownItems(known.to(device), num_users)
    made = {
        name: metric.to(device)
        for each in ks
        for name, metric in _make(metrics, each, num_items, known).items()
    }
    names = list(made)
    hits = {k: v for k, v in made.items() if isinstance(v, LinkPredMetric)}
    lists = {k: v for k, v in made.items() if k not in hits}
    together = LinkPredMetricCollection(hits) if hits else None
    if per_user and lists:
        raise ValueError(f"'metrics' has {list(lists)[0].partition('@')[0]!r}"
                         f", which has no value of each user: set "
                         f"per_user=False")
    values: dict[str, list[Tensor]] = {name: [] for name in names}
    for user, item, score in top_items(user_emb, item_emb, users, max(ks),
                                       mask, batch_size):
        # What is masked may fill up a list, but is never a hit; PyG's
        # metrics take a pad of -1 for the previous row's last item.
        left_out = score.isneginf()
        label = held_out[:, offset[int(user[0])]:offset[int(user[-1]) + 1]]
        row = torch.searchsorted(user, label[0])
        for metric in lists.values():
            _update(metric, user, item, left_out, (row, label[1]), num_items)
        item = torch.where(left_out, num_items, item)
        if per_user:
            data = LinkPredMetricData(item, (row, label[1]))
            for name, metric in hits.items():
                values[name].append(metric._compute(data))
        elif together is not None:
            together.update(item, (row, label[1]))
    if per_user:
        return {'user': users} | {
            name: torch.cat(value)
            for name, value in values.items()
        }
    out = {} if together is None else together.compute()
    out |= {name: metric.compute() for name, metric in lists.items()}
    return {name: float(out[name]) for name in names}


def _update(metric: Any, user: Tensor, item: Tensor, left_out: Tensor,
            label: tuple[Tensor, Tensor], num_items: int) -> None:
    r"""Gives a metric the lists of users, of which some may be too short:
    each as long as it is."""
    row, positive = label
    if not bool(left_out.any()):
        metric.update(item, label)
    elif isinstance(metric, LinkPredPersonalization):
        # Lists of one length for this one, with pads that no other list has.
        k = item.size(1)
        pad = user.view(-1, 1) * k + torch.arange(k, device=item.device)
        metric.update(torch.where(left_out, num_items + pad, item), label)
    else:
        length = (~left_out).sum(dim=1)
        for each in length[length > 0].unique().tolist():
            rows = (length == each).nonzero().view(-1)
            kept = torch.isin(row, rows)
            metric.update(item[rows, :each],
                          (torch.searchsorted(rows, row[kept]),
                           positive[kept]))


def _make(metrics: Sequence[Metric], k: int, num_items: int,
          known: Tensor | None) -> dict[str, Any]:
    if isinstance(metrics, str) or not isinstance(metrics, Iterable):
        raise TypeError(f"'metrics' must be a list of names (got "
                        f"{metrics!r})")
    out: dict[str, Any] = {}
    for metric in metrics:
        if callable(metric):
            made = metric(k)
            name = f'{type(made).__name__}@{k}'
            if name in out:
                raise ValueError(f"'metrics' has two {name!r}: evaluate them "
                                 f"one at a time")
            out[name] = made
        elif metric in HITS:
            out[f'{metric}@{k}'] = HITS[metric](k)
        elif metric == 'coverage':
            out[f'{metric}@{k}'] = LinkPredCoverage(k, num_items)
        elif metric == 'personalization':
            out[f'{metric}@{k}'] = LinkPredPersonalization(k)
        elif metric == 'popularity':
            if known is None:
                raise ValueError("'popularity' counts 'known' interactions "
                                 "(got None)")
            out[f'{metric}@{k}'] = LinkPredAveragePopularity(
                k, torch.bincount(known[1].cpu(), minlength=num_items))
        else:
            raise ValueError(f"'metrics' must be of "
                             f"{', '.join([*HITS, *LISTS])}, or functions "
                             f"that make a metric (got {metric!r})")
    if not out:
        raise ValueError("'metrics' must have at least one metric (got none)")
    return out
