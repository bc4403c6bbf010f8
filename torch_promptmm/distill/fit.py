r"""Training of the stages of a distillation, from data to history."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any, NamedTuple

from torch import Tensor
from torch_geometric.data import HeteroData
from tqdm.auto import tqdm

from torch_promptmm.checks import check_bool, check_path
from torch_promptmm.data import InteractionData, held_out
from torch_promptmm.data.contract import check_same_entities
from torch_promptmm.distill.choice import choose_fusion
from torch_promptmm.distill.cold_items import learn_content_map
from torch_promptmm.distill.content_stages import cosine_adam
from torch_promptmm.distill.distillation import Distillation
from torch_promptmm.distill.member_weights import choose_member_weights
from torch_promptmm.models import Ensemble, RankingModel
from torch_promptmm.seeding import seeded
from torch_promptmm.train import (
    History,
    Validation,
    load_checkpoint,
    load_weights,
    train,
)
from torch_promptmm.train.loop import check_names
from torch_promptmm.train.validation import METRIC, cut_off

# What suits batches of interactions, not of users.
_OF_INTERACTIONS = ('lr', 'batch_size', 'weight_decay', 'optimizer',
                    'scheduler')


def fit_both(
    training: Distillation,
    train_data: HeteroData,
    val_data: HeteroData | None,
    checkpoint: str | os.PathLike | None,
    resume: bool,
    **kwargs: Any,
) -> dict[str, History]:
    r"""Runs both stages; a resumed run goes on in the one that its
    checkpoint is of."""
    state = _checkpoint(checkpoint, resume)
    retrain = kwargs.pop('retrain', False)
    teacher = None
    if state is not None and state['name'] == 'student':
        if 'teacher' not in state['notes']:
            raise ValueError(f"'checkpoint' {str(checkpoint)!r} is of "
                             f"'fit_student' alone: resume that")
        teacher = History.from_state(state['notes']['teacher'])
    if teacher is None:
        teacher = fit_stage(training, 'teacher', train_data, val_data,
                            checkpoint=checkpoint, resume=resume,
                            retrain=retrain, **kwargs)
        resume = False
    settings = training.parts.settings
    if settings.knowledge == 'lists':  # Its settings say what suits these.
        kwargs = {k: v for k, v in kwargs.items()
                  if k not in _OF_INTERACTIONS}
        most = settings.list_epochs
        kwargs['epochs'] = min(kwargs.get('epochs', most), most)
    student = fit_stage(training, 'student', train_data, val_data,
                        checkpoint=checkpoint, resume=resume,
                        notes={'teacher': teacher.state()}, **kwargs)
    return {'teacher': teacher, 'student': student}


class _Held(NamedTuple):
    r"""What is validated on."""
    view: InteractionData
    positives: Tensor


def fit_stage(
    training: Distillation,
    stage: str,
    train_data: HeteroData,
    val_data: HeteroData | None = None,
    device: Any = None,
    metric: str = METRIC,
    seed: int | None = None,
    checkpoint: str | os.PathLike | None = None,
    resume: bool = False,
    retrain: bool = False,
    **kwargs: Any,
) -> History:
    r"""Runs a stage: each of its tasks, one after another. A teacher that
    :func:`~torch_promptmm.train.fit` has trained is left as it is, unless it
    is to be trained further."""
    check_bool('retrain', retrain)
    notes = dict(kwargs.pop('notes', {}))
    check_names(kwargs)
    train_view = training.read(train_data, name='train_data')
    cut_off(metric, train_view.num_items)
    held = None
    if val_data is not None:
        view = training.read(val_data, name='val_data')
        check_same_entities(train_view, view)
        held = _Held(view, held_out(view))
    names = training.run_names(stage)
    state = _checkpoint(checkpoint, resume)
    if state is not None:
        if state['name'] not in names:
            raise ValueError(f"'checkpoint' {str(checkpoint)!r} is of a run "
                             f"named {state['name']!r} (this one is "
                             f"{names[0]!r})")
        # Before 'prepare', which computes tables of the weights.
        _load_weights(training, state['module'], str(checkpoint))
    with seeded(seed, training.device):
        training.prepare(train_data, stage, device)
    assert training.prepared is not None
    tasks, was_training = training.prepared[1], training.module.training
    skipped = [not retrain and trained for trained in training.trained(stage)]
    histories: list[History] = []
    try:
        for number, (name, task) in enumerate(zip(names, tasks, strict=True)):
            if skipped[number]:
                histories.append(History())
                continue
            if not any(p.requires_grad for p in task.parameters()):
                raise ValueError(f"'{stage}' has no parameter to train (a "
                                 f"fixed teacher needs 'fit_student' alone)")
            if state is not None and name in state['notes']:
                notes[name] = state['notes'][name]
                histories.append(History.from_state(notes[name]))
                continue  # Trained before the run was killed.
            validate = None if held is None else Validation(task, *held,
                                                            metric)
            histories.append(train(
                task, validate=validate, metric=metric,
                seed=None if seed is None else seed + number,
                checkpoint=checkpoint, name=name, module=training.module,
                # Others of the stage begin anew.
                resume=state is not None and state['name'] == name,
                notes=dict(notes),
                **_options(training, stage, kwargs, number)))
            notes[name] = histories[-1].state()
    finally:
        training.module.train(was_training)
    progress = kwargs.get('progress', True)
    if progress and any(skipped):
        tqdm.write(f"teacher: {sum(skipped)} of {len(skipped)} trained "
                   f"already ('retrain=True' trains further)")
    if stage == 'teacher' and isinstance(training.teacher, Ensemble):
        return _fuse(training, histories, held, metric, progress)
    if stage == 'student':
        _learn_to_place(training, held)
    return histories[0]


def _learn_to_place(training: Distillation, held: _Held | None) -> None:
    r"""Learns where new items belong, if there is content that says it."""
    content = [part.item_features for part in training.teacher.modules()
               if isinstance(part, RankingModel)]
    features = next((x for x in content if x is not None and x.available),
                    None)
    if not training.parts.settings.content_map or features is None:
        return
    graph = training.require_seen().graph
    pair = training.embeddings('student')
    training.growth.content_map = learn_content_map(
        pair, graph, features.tensors, features.masks,
        None if held is None else held.positives,
        None if held is None else held.view.edge_index,
        min(20, graph.num_items)).cpu()


def _options(training: Distillation, stage: str,
             given: dict[str, Any], number: int) -> dict[str, Any]:
    out = {**training.stage(stage).options(number), **given}
    if stage == 'student' and training.parts.settings.knowledge == 'lists':
        return {**cosine_adam(out['lr'], out['epochs']), **out}
    return out


def _fuse(training: Distillation, histories: list[History],
          held: _Held | None, metric: str, progress: bool) -> History:
    r"""Chooses the fusion of an ensemble whose members are trained, and puts
    their histories in a row."""
    out = History([{'member': number, **record}
                   for number, each in enumerate(histories)
                   for record in each])
    if held is None:
        return out
    ensemble, device = training.teacher, training.device
    assert isinstance(ensemble, Ensemble)
    data = (ensemble, training.require_seen().graph,
            held.positives.to(device), held.view.edge_index.to(device),
            metric)
    if (ensemble.member_weights is not None
            and training.parts.settings.choose_weights):
        choose_member_weights(*data)
    fusion, value = choose_fusion(*data)
    out.chosen = {**asdict(fusion), metric: value}
    shown = str(fusion)
    if ensemble.member_weights is not None:
        out.chosen['member_weights'] = ensemble.member_weights
        shown += f', member_weights={ensemble.member_weights}'
    if progress:
        tqdm.write(f'teacher: {shown}, validation {metric} {value:.4f}')
    return out


def _load_weights(training: Distillation, state: dict[str, Tensor],
                  path: str) -> None:
    prefix = 'projections.'
    training.parts.projections.add_from({
        key.removeprefix(prefix): value
        for key, value in state.items() if key.startswith(prefix)
    }, training.device)
    load_weights(training.module, state, f"'checkpoint' {path!r}")


def _checkpoint(path: Any, resume: bool) -> dict[str, Any] | None:
    check_bool('resume', resume)
    if path is not None:
        check_path('checkpoint', path)
    elif resume:
        raise ValueError("'resume=True' needs 'checkpoint=path'")
    return load_checkpoint(path) if resume else None
