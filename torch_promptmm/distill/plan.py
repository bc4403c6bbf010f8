r"""How the teachers of stage 1 are trained."""

from __future__ import annotations

from torch_promptmm.distill.settings import Settings
from torch_promptmm.models import Ensemble, RankingModel
from torch_promptmm.train import RankingObjective
from torch_promptmm.train.fit import Plan, plan_of
from torch_promptmm.train.objective import OWN

# What settings say of the training of any model; the ranking loss of one that
# names its own is no matter of theirs.
_COMMON = ('num_negatives', 'warm_negatives', 'lr', 'weight_decay', 'l2',
           'batch_size', 'modality_weight')


def teacher_plan(model: RankingModel, settings: Settings) -> Plan:
    r"""Returns how a teacher, or a member of several, is trained: one that
    names :obj:`defaults` of its own as :func:`~torch_promptmm.train.fit`
    trains it, where settings were not changed; any other one by the
    settings."""
    if model.defaults:
        plain = Settings()
        changed = {name: getattr(settings, name) for name in _COMMON
                   if getattr(settings, name) != getattr(plain, name)}
        if model.defaults.get('ranking_loss') == OWN:
            changed.pop('modality_weight', None)  # No loss of a modality.
        return plan_of(model, changed)
    objective = settings.objective()
    needed = model.needed_score
    if needed not in (None, objective.score):
        objective = RankingObjective(settings.ranking_loss, needed,
                                     settings.temperature,
                                     settings.num_negatives,
                                     settings.warm_negatives)
    return Plan(objective, settings.ego_l2, settings.modality_weight, 0.0, {
        'batch_size': settings.batch_size,
        'lr': settings.learning_rate,
        'weight_decay': settings.weight_decay,
    })


def trained_models(teacher: RankingModel) -> list[RankingModel]:
    r"""Returns what stage 1 trains, one after another."""
    if not isinstance(teacher, Ensemble):
        return [teacher]
    members: list[RankingModel] = list(
        teacher.members)  # type: ignore[arg-type]
    return members if teacher.prompted is None else [*members,
                                                     teacher.prompted]


def keep_scores(teacher: RankingModel, settings: Settings) -> None:
    r"""Writes down the score functions that models will be trained with,
    where these are not the settings'."""
    usual = settings.objective().score
    given = isinstance(teacher, Ensemble) and teacher.member_weights
    for model in trained_models(teacher):
        if model.score is None:
            score = teacher_plan(model, settings).objective.score
            if score != usual or given:
                model.keep_score(score)
