r"""New interactions: the student goes on from where it is, without its
teacher."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from tqdm.auto import tqdm

from torch_promptmm.checks import check_bool, check_device, check_float
from torch_promptmm.data import held_out
from torch_promptmm.data._edges import difference_edges, union_edges
from torch_promptmm.distill.arrivals import Arrivals, Ids, read_arrivals
from torch_promptmm.distill.content_stages import spread
from torch_promptmm.distill.distillation import Distillation, Seen
from torch_promptmm.distill.new_rows import start_new_rows
from torch_promptmm.distill.top_lists import top_lists
from torch_promptmm.distill.update_task import AnchoredTask
from torch_promptmm.evaluate import evaluate_embeddings
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.nn.content_map import new_items
from torch_promptmm.train import (
    History,
    RankingObjective,
    RankingTask,
    Task,
    train,
)
from torch_promptmm.train.loop import check_names

# Users whose known items are ranked, to see what is forgotten.
_NUM_USERS = 1000
_ANCHOR = 3.0  # The weight of the teacher's lists, where there are any.


@dataclass(frozen=True)
class Update:
    r"""What an update did.

    Attributes:
        history (History): The losses of each epoch.
        new_users (int): How many users are new.
        new_items (int): How many items are new.
        new_interactions (int): How many interactions are new.
        before (dict): Recall@20 before the update: :obj:`"known"`, of the
            interactions that were known, for a sample of users, and
            :obj:`"validation"`, if there was validation data.
        after (dict): The same after it, among the same items.
        seconds (float): The time that it took, without these two.
    """
    history: History
    new_users: int
    new_items: int
    new_interactions: int
    before: dict[str, float]
    after: dict[str, float]
    seconds: float

    def __str__(self) -> str:
        recall = ', '.join(f'{name} {value:.4f} -> {self.after[name]:.4f}'
                           for name, value in self.before.items())
        return (f'update: {self.new_interactions} new interactions, '
                f'{self.new_users} new users, {self.new_items} new items, '
                f'{self.seconds:.1f} s; Recall@20 of what was: {recall}')


def update(
    training: Distillation,
    data: HeteroData | Tensor,
    val_data: HeteroData | None = None,
    *,
    epochs: int = 2,
    lr: float | None = None,
    anchor: float | None = None,
    users: Ids = None,
    items: Ids = None,
    features: Mapping[str, Tensor] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    calibrate: bool = True,
    device: Any = None,
    progress: bool = True,
    **kwargs: Any,
) -> Update:
    r"""Takes in what has arrived, and trains the student on it and on what
    was known, by its ranking loss, from where it is. Neither the teacher nor
    features of old items are needed.

    Args:
        training (Distillation): What was trained.
        data (HeteroData or torch.Tensor): A graph, or interactions
            :math:`(2, E)`, new ones alone or all of them. Users and items
            may be new, see :func:`~torch_promptmm.distill.read_arrivals`.
        val_data (HeteroData, optional): The validation graph of before, on
            which it is measured too what is forgotten.
            (default: :obj:`None`)
        epochs (int, optional): Epochs over old and new interactions.
            (default: :obj:`2`)
        lr (float, optional): The learning rate. (default: a fifth of that of
            the settings)
        anchor (float, optional): The weight of the teacher's lists, of the
            users and items that it knows; see
            :class:`~torch_promptmm.distill.AnchoredTask`. Those of a loaded
            distiller are in its file, else the teacher says them, which
            needs its features. (default: 3.0 where they are there, else 0)
        users (Iterable, optional): With a plain tensor, the raw ids of the
            new users. (default: :obj:`None`)
        items (Iterable, optional): The same for items.
            (default: :obj:`None`)
        features (dict, optional): With a plain tensor, the features of the
            new items :math:`(n, d_m)`. (default: :obj:`None`)
        masks (dict, optional): Where these have a modality.
            (default: :obj:`None`)
        calibrate (bool, optional): See :func:`add_items`.
            (default: :obj:`True`)
        device (torch.device, optional): Where to train. (default: where the
            student is)
        progress (bool, optional): Shows a progress bar, and prints what was
            forgotten. (default: :obj:`True`)
        **kwargs (optional): Other arguments of
            :func:`~torch_promptmm.train.train`.
    """
    seen = training.require_seen('update')
    check_names(kwargs)
    check_bool('progress', progress)
    if anchor is not None:
        check_float('anchor', anchor)
    device = training.device if device is None else check_device(device)
    arrived = read_arrivals(seen, data, training.edge_type, users, items,
                            features, masks)
    rows = _placed(training, arrived, calibrate)
    forgetting = _Forgetting(training, arrived, val_data)
    before = forgetting.measure(training)
    start = time.perf_counter()
    anchor = _keep_lists(training, anchor)
    training.module.to(device)
    grow(training, arrived, rows)
    task = _task(training, anchor)
    settings = training.parts.settings
    history = train(task, epochs=epochs, progress=progress, name='update', **{
        'batch_size': settings.batch_size,
        'lr': settings.learning_rate / 5 if lr is None else lr,
        'weight_decay': settings.weight_decay, **kwargs})
    seconds = time.perf_counter() - start
    now = training.require_seen()
    out = Update(history, now.graph.num_users - seen.graph.num_users,
                 now.graph.num_items - seen.graph.num_items,
                 now.known.size(1) - seen.known.size(1), before,
                 forgetting.measure(training), seconds)
    if progress:
        tqdm.write(str(out))
    return out


def add_items(
    training: Distillation,
    features: Mapping[str, Tensor],
    ids: Ids = None,
    masks: Mapping[str, Tensor] | None = None,
    calibrate: bool = True,
) -> Tensor:
    r"""Adds items that nobody has had yet to the student and to what it was
    trained on, where their content says. Once somebody has had one, an
    :func:`update` trains it.

    Args:
        training (Distillation): What was trained.
        features (dict): Features :math:`(n, d_m)` of one or more of the
            modalities.
        ids (Iterable, optional): Their raw ids, where the others have some.
            (default: :obj:`None`)
        masks (dict, optional): For some modalities, True where the item has
            it :math:`(n)`. (default: :obj:`None`)
        calibrate (bool, optional): If :obj:`False`, they rise as high as the
            map puts them, not as validation has found best.
            (default: :obj:`True`)

    Returns:
        Their numbers :math:`(n)`.
    """
    seen = training.require_seen('add_items')
    num_users, start = seen.graph.num_users, seen.graph.num_items
    rows, item_ids = new_items(training.growth.content_map,
                               seen.ids.get('item'), features, ids, masks,
                               calibrate)
    num_items = start + rows.size(0)
    all_ids = seen.ids if item_ids is None else {**seen.ids, 'item': item_ids}
    grow(training, Arrivals(seen.known.new_empty(2, 0).cpu(), num_users,
                            num_items, all_ids, {}, {}), rows)
    return torch.arange(start, num_items)


def grow(training: Distillation, arrived: Arrivals,
         rows: Tensor | None = None) -> None:
    r"""Makes room for new users and items in the student and in what it
    propagates over, and places them.

    Args:
        training (Distillation): What was trained.
        arrived (Arrivals): What is new.
        rows (torch.Tensor, optional): Embeddings of the new items.
            (default: :obj:`None`)
    """
    student, seen, growth = (training.parts.student, training.require_seen(),
                             training.growth)
    num_users, num_items = arrived.num_users, arrived.num_items
    old = seen.graph.num_users, seen.graph.num_items
    graph = UserItemGraph(
        union_edges(seen.graph.edge_index.cpu(), arrived.edge_index,
                    num_items), num_users, num_items)
    known = union_edges(seen.known.cpu(), arrived.edge_index, num_items)
    if (num_users, num_items) != old:
        student.grow(num_users, num_items)
        training.outgrow()
    training.keep_old_teacher()
    if rows is not None:
        growth.add(torch.arange(old[1], num_items), rows.cpu())
    training.seen = Seen(graph.to(training.device),
                         known.to(training.device), arrived.ids)
    warm_users, warm_items = (
        x.crow.diff() > 0 for x in (graph.user_item, graph.item_user))
    # Who had no interaction before is as new as who was not there.
    new_users, new_items = warm_users.clone(), warm_items.clone()
    new_users[:old[0]] &= (seen.graph.user_item.crow.diff() == 0).cpu()
    new_items[:old[1]] = False
    placed = growth.drop(warm_items)
    if placed is not None:
        new_items[placed[0]] = True
    start_new_rows(student, training.seen.graph, new_users, new_items, placed)


def _keep_lists(training: Distillation, anchor: float | None) -> float:
    r"""Keeps what the teacher says, if that is to hold the student, and
    returns the weight of it."""
    growth, teacher = training.growth, training.parts.teacher
    if anchor == 0.0 or growth.anchor is not None:
        return _ANCHOR if anchor is None else anchor
    if anchor is None and (growth.grown or training.saved is None and (
            teacher is None or not teacher.has_features)):
        return 0.0
    if growth.grown:
        raise ValueError("'anchor' needs what the teacher said, which was not "
                         "kept when users or items came: update first, or "
                         "load the distiller from its file, and let it grow "
                         "then")
    growth.anchor = training.embeddings('teacher')
    return _ANCHOR if anchor is None else anchor


def _placed(training: Distillation, arrived: Arrivals,
            calibrate: bool) -> Tensor | None:
    r"""Returns where content places the new items, if it is known."""
    content_map = training.growth.content_map
    num = arrived.num_items - training.require_seen().graph.num_items
    if content_map is None or num == 0:
        return None
    known = content_map.in_channels
    features = {k: x for k, x in arrived.features.items() if k in known}
    if not features:
        return None
    rows = content_map(features, {k: x for k, x in arrived.masks.items()
                                  if k in features}, calibrate)
    if rows.size(0) != num:
        raise ValueError(f"'features' must have a row for each of the {num} "
                         f"new items (got {rows.size(0)})")
    return rows


def _task(training: Distillation, anchor: float) -> Task:
    r"""Returns the task of the student as it is now."""
    seen, settings = training.require_seen(), training.parts.settings
    student = training.parts.student.requires_grad_(True)
    lists = settings.knowledge == 'lists'
    objective = RankingObjective('softmax', 'dot', None,
                                 settings.num_negatives,
                                 settings.warm_negatives
                                 ) if lists else settings.objective()
    task = RankingTask(student, seen.graph, seen.known, seen.known, objective,
                       0.0 if lists else settings.ego_l2)
    if anchor == 0.0:
        return task
    assert training.growth.anchor is not None
    user, item = (x.to(seen.known.device) for x in training.growth.anchor)
    known = seen.known[:, (seen.known[0] < user.size(0))
                       & (seen.known[1] < item.size(0))]
    found = top_lists(user, item, known, settings.top_items)
    temperature = (settings.top_temperature * spread(found.scores) if lists
                   else objective.temperature)
    return AnchoredTask(task, found, temperature, anchor,
                        settings.uniform_items, settings.user_batch_size)


class _Forgetting:
    r"""Ranks what was known, and what was held out, before and after an
    update: the same users among the same items."""
    def __init__(self, training: Distillation, arrived: Arrivals,
                 val_data: HeteroData | None) -> None:
        seen = training.require_seen()
        graph = seen.graph
        self.sizes = graph.num_users, graph.num_items
        known = seen.known.cpu()
        generator = torch.Generator().manual_seed(0)
        some = known[0].unique()
        order = torch.randperm(some.numel(), generator=generator)
        chosen = torch.zeros(self.sizes[0], dtype=torch.bool)
        chosen[some[order[:_NUM_USERS]]] = True
        self.parts: dict[str, tuple[Tensor, Tensor | None]] = {
            'known': (known[:, chosen[known[0]]], None)}
        if val_data is None:
            return
        view = training.read(val_data, name='val_data')
        new = arrived.edge_index
        new = new[:, (new[0] < self.sizes[0]) & (new[1] < self.sizes[1])]
        mask = union_edges(union_edges(known, new, self.sizes[1]),
                           view.edge_index, self.sizes[1])
        left = difference_edges(held_out(view), mask, self.sizes[1])
        if left.size(1) > 0:
            self.parts['validation'] = (left, mask)

    def measure(self, training: Distillation) -> dict[str, float]:
        user, item = training.embeddings('student')
        user, item = user[:self.sizes[0]], item[:self.sizes[1]]
        k = min(20, self.sizes[1])
        return {
            name: float(evaluate_embeddings(
                user, item, positives.to(user.device),
                None if mask is None else mask.to(user.device), (k, ),
                metrics=('recall', ))[f'recall@{k}'])
            for name, (positives, mask) in self.parts.items()}
