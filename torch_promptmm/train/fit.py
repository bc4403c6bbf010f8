r"""One call that trains any model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch_geometric.data import HeteroData

from torch_promptmm.checks import check_device
from torch_promptmm.data import held_out, read_graph
from torch_promptmm.data.contract import (
    check_same_entities,
    known_interactions,
    supervision,
)
from torch_promptmm.models import RankingModel, as_model
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.seeding import seeded
from torch_promptmm.train.history import History
from torch_promptmm.train.loop import check_names, train
from torch_promptmm.train.objective import OWN, RankingObjective
from torch_promptmm.train.task import RankingTask
from torch_promptmm.train.validation import METRIC, Validation, cut_off


def fit(
    model: torch.nn.Module,
    train_data: HeteroData,
    val_data: HeteroData | None = None,
    *,
    ranking_loss: str | None = None,
    score: str | None = None,
    temperature: float | None = None,
    num_negatives: int | None = None,
    warm_negatives: bool | None = None,
    l2: float | None = None,
    modality_weight: float | None = None,
    user_weight: float | None = None,
    metric: str = METRIC,
    device: Any = None,
    edge_type: tuple[str, str, str] | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> History:
    r"""Trains a model by a ranking loss; with validation data, the weights
    of its best epoch are kept.

    .. code-block:: python

        model = LightGCN.from_data(train_data, seed=0)
        fit(model, train_data, val_data, ranking_loss='bpr', seed=0)
        evaluate(model, test_data, k=(20, 50))

    What is not given here is what the model names in its :obj:`defaults`, or
    in its :obj:`loss_defaults` for this ranking loss, else what suits the
    ranking loss.

    Args:
        model (torch.nn.Module): Any model: a
            :class:`~torch_promptmm.models.RankingModel`, or a module for
            which :obj:`model(graph)` yields user and item embeddings. It
            goes to :obj:`device`, its :obj:`score` is set, and it is marked
            as :obj:`trained`.
        train_data (HeteroData): The training graph.
        val_data (HeteroData, optional): The validation graph.
            (default: :obj:`None`)
        ranking_loss (str, optional): :obj:`"softmax"`, :obj:`"bpr"`, or
            :obj:`"own"`, for a model that has a loss of its own.
            (default: :obj:`"softmax"`)
        score (str, optional): :obj:`"cosine"` or :obj:`"dot"`. (default:
            what the model needs, else :obj:`"cosine"` for the softmax,
            :obj:`"dot"` for BPR, and what suits a model's own loss)
        temperature (float, optional): Temperature of the softmax.
            (default: 0.2 for cosine, 1.0 for dot scores)
        num_negatives (int, optional): Shared negatives of the softmax.
            (default: :obj:`512`)
        warm_negatives (bool, optional): Draw negatives from items with an
            interaction only. (default: :obj:`False`)
        l2 (float, optional): L2 on the batch's rows before propagation, in
            the loss. (default: 1e-3 for the softmax, 0.05 for BPR, 0 for a
            model's own loss)
        modality_weight (float, optional): Weight of each modality's own
            ranking loss. (default: :obj:`0.0`)
        user_weight (float, optional): With :math:`\alpha`, interactions are
            drawn in proportion to :math:`\deg(u)^{-\alpha}`: with 1 as often
            for each user, as the code of NGCF, LightGCN and others does;
            with 0 each one once an epoch. (default: :obj:`0.0`)
        metric (str, optional): The metric that decides.
            (default: :obj:`"recall@20"`)
        device (torch.device, optional): Where to train. (default: where the
            model is)
        edge_type (tuple, optional): The edge type of the interactions.
            (default: :obj:`("user", "interacts", "item")`, or the only one)
        seed (int, optional): The seed of the run. (default: torch's global
            generator)
        **kwargs (optional): Other arguments of
            :func:`~torch_promptmm.train.train`: :obj:`epochs`,
            :obj:`batch_size`, :obj:`lr` (default: 5e-3 for the softmax, 1e-2
            for BPR, 1e-3 for a model's own loss), :obj:`patience`,
            :obj:`progress`, :obj:`logger`, :obj:`checkpoint`,
            :obj:`resume`, ...

    Returns:
        The :class:`~torch_promptmm.train.History` of losses and metrics.
    """
    ranked = as_model(model)
    given = {
        'ranking_loss': ranking_loss,
        'score': score,
        'temperature': temperature,
        'num_negatives': num_negatives,
        'warm_negatives': warm_negatives,
        'l2': l2,
        'modality_weight': modality_weight,
        'user_weight': user_weight,
    }
    plan = plan_of(ranked, {
        **{key: value for key, value in given.items() if value is not None},
        **kwargs,
    })
    objective = plan.objective
    check_names(plan.options)
    view = read_graph(train_data, edge_type, ranked.modalities or None,
                      need_features=bool(ranked.modalities))
    cut_off(metric, view.num_items)
    val_view = positives = None
    if val_data is not None:
        val_view = read_graph(val_data, edge_type, check_finite=False)
        check_same_entities(view, val_view)
        positives = held_out(val_view)
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("'model' has no parameter to train")
    ranked.give_features(view)
    device = next(model.parameters()).device if device is None else (
        check_device(device))
    with seeded(seed, device):
        task = RankingTask(
            ranked, UserItemGraph(view.edge_index, view.num_users,
                                  view.num_items), supervision(view),
            known_interactions(view), objective, plan.l2,
            plan.modality_weight, ranked.prompt, plan.user_weight).to(device)
    ranked.keep_score(objective.score)
    validate = None
    if val_view is not None and positives is not None:
        validate = Validation(task, val_view, positives, metric)
    history = train(task, validate=validate, metric=metric, seed=seed,
                    name=type(model).__name__, **plan.options)
    ranked.keep_trained()
    return history


class Plan(NamedTuple):
    r"""How a model is trained.

    Attributes:
        objective (RankingObjective): The ranking loss.
        l2 (float): The weight of the L2 term.
        modality_weight (float): The weight of each modality's own ranking
            loss.
        user_weight (float): How users are drawn.
        options (dict): Arguments of :func:`~torch_promptmm.train.train`.
    """
    objective: RankingObjective
    l2: float
    modality_weight: float
    user_weight: float
    options: dict[str, Any]


def plan_of(model: RankingModel, given: Mapping[str, Any]) -> Plan:
    r"""Returns how :func:`fit` trains a model: with what is given, else
    what the model names in its :obj:`defaults`, for this ranking loss, else
    what suits the ranking loss."""
    options = {'modality_weight': 0.0, 'user_weight': 0.0,
               **model.defaults_of(given.get('ranking_loss')), **given}
    objective = _objective(model, options)
    return Plan(objective, options.pop('l2', objective.default_l2),
                options.pop('modality_weight'), options.pop('user_weight'), {
                    'lr': objective.default_lr, 'batch_size': 2048, **options
                })


def _objective(model: RankingModel,
               options: dict[str, Any]) -> RankingObjective:
    r"""Takes what is of the ranking loss out of options, and returns it as
    the model needs it.

    Raises:
        ValueError: If the model needs another score function.
    """
    names = ('ranking_loss', 'score', 'temperature', 'num_negatives',
             'warm_negatives')
    chosen = {k: options.pop(k) for k in names if k in options}
    if chosen.get('ranking_loss') == OWN:
        chosen.setdefault('score', model.own_score)
    needed = model.needed_score
    if needed is not None and chosen.setdefault('score', needed) != needed:
        raise ValueError(f"'score' must be {needed!r} for "
                         f"'{type(model).__name__}' (got {chosen['score']!r})")
    return RankingObjective(**chosen)
