"""The systems that the tables compare: how each is built and trained, and the
space that `tune.py` searches.

A system is a class of `torch_promptmm.models` by name, looked up when it is
used, so that a table of what is there can be printed while others are still
written. Where nothing is said here a system has its own defaults, those of
its paper. One more system is one more entry of `SYSTEMS`.

Every system is searched over the same ranking losses, learning rates and L2
weights, so that none wins by its loss; what is its own is from its paper or
its code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch_promptmm import models
from torch_promptmm.distill import Settings
from torch_promptmm.models import RankingModel


@dataclass(frozen=True)
class Choice:
    """One of a few values, where another argument has the value that `when`
    says."""
    values: tuple[Any, ...]
    when: tuple[str, Any] | None = None


@dataclass(frozen=True)
class LogUniform:
    """A number between two bounds, uniform in its logarithm."""
    low: float
    high: float
    when: tuple[str, Any] | None = None


# From `fit.NAME` and `model.NAME` to values: arguments of `train.fit`, and of
# the model's `from_data`.
Space = Mapping[str, Choice | LogUniform]

SOFTMAX = ('fit.ranking_loss', 'softmax')
OPTIMISER: Space = {
    'fit.lr': LogUniform(1e-4, 3e-2),
    'fit.l2': LogUniform(1e-6, 1e-1),
}
RANKING: Space = {
    'fit.ranking_loss': Choice(('bpr', 'softmax')),
    **OPTIMISER,
    'fit.temperature': Choice((0.1, 0.15, 0.2, 0.25, 0.3), SOFTMAX),
    'fit.num_negatives': Choice((512, 1024), SOFTMAX),
    # Interactions as they are, or each user as often as another one.
    'fit.user_weight': Choice((0.0, 0.5, 1.0)),
}
# Of systems with a loss in the place of a ranking loss.
OWN: Space = {
    **RANKING,
    'fit.ranking_loss': Choice(('own', 'bpr', 'softmax')),
}
# Where an item without an interaction has its content alone, being a negative
# teaches that new content is bad.
WARM: Space = {'fit.warm_negatives': Choice((False, True))}
LAYERS, NEIGHBORS = Choice((1, 2, 3)), Choice((5, 10, 20))


@dataclass(frozen=True)
class System:
    """A system of the tables.

    Args:
        name: What it is called.
        model: The name of its class in `torch_promptmm.models`.
        multimodal: Whether it reads content.
        space: What is searched.
        build: Arguments of `from_data`.
        fit: Arguments of `train.fit`.
    """
    name: str
    model: str
    multimodal: bool
    space: Space = field(default_factory=lambda: RANKING)
    build: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cls(self) -> type[RankingModel] | None:
        """The class, or None while there is none."""
        return getattr(models, self.model, None)


SYSTEMS: dict[str, System] = {system.name: system for system in (
    System('MF', 'MF', False),
    System('NGCF', 'NGCF', False, {
        **RANKING,
        'model.num_layers': LAYERS,
        'model.dropout': Choice((0.0, 0.1, 0.2, 0.4)),
        'model.node_dropout': Choice((0.0, 0.1)),
    }),
    System('LightGCN', 'LightGCN', False, {
        **RANKING,
        'model.num_layers': Choice((1, 2, 3, 4)),
    }),
    # The other students of Table 9, trained alone.
    System('GCN', 'GCN', False, {**RANKING, 'model.num_layers': LAYERS}),
    System('MLP', 'MLP', False, {**RANKING, 'model.num_layers': LAYERS}),
    System('VBPR', 'VBPR', True, {
        **RANKING,
        'model.content_channels': Choice((16, 32, 64)),
    }),
    System('MMGCN', 'MMGCN', True, {
        **RANKING,
        **WARM,
        'model.num_layers': LAYERS,
        'model.combine': Choice(('concat', 'add')),
        'model.fusion': Choice(('mean', 'concat')),
    }),
    System('GRCN', 'GRCN', True, {
        **RANKING,
        **WARM,
        'model.num_routing': LAYERS,
        'model.num_layers': Choice((1, 2)),
        'model.refine': Choice(('confidence', 'max', 'mean')),
    }),
    System('CLCRec', 'CLCRec', True, {
        **OWN,
        'model.content_weight': Choice((0.3, 0.5, 0.7, 0.9)),
        'model.hybrid': Choice((0.3, 0.5, 0.7)),
        'model.temperature': Choice((0.2, 0.5, 1.0, 2.0)),
        'model.norm_weight': Choice((1e-3, 1e-2, 1e-1)),
    }),
    System('SLMRec', 'SLMRec', True, {
        **OWN,
        'model.num_layers': LAYERS,
        'model.ssl_weight': Choice((0.01, 0.05, 0.1, 0.5, 1.0)),
        'model.ssl_temperature': Choice((0.1, 0.2, 0.5, 1.0)),
    }),
    System('LATTICE', 'LATTICE', True, {
        **RANKING,
        'model.num_layers': LAYERS,
        'model.k': NEIGHBORS,
        'model.feature_weight': Choice((0.5, 0.7, 0.9)),
    }),
    System('FREEDOM', 'FREEDOM', True, {
        **RANKING,
        'model.num_layers': LAYERS,
        'model.k': NEIGHBORS,
        'model.edge_keep': Choice((0.1, 0.2, 0.5, 1.0)),
        'fit.modality_weight': Choice((0.0, 1e-5, 1e-4, 1e-3)),
    }),
    System('MGCN', 'MGCN', True, {
        **RANKING,
        'model.num_layers': LAYERS,
        'model.k': NEIGHBORS,
        'model.contrast_weight': Choice((0.001, 0.01, 0.1)),
    }),
    System('SMORE', 'SMORE', True, {
        **RANKING,
        'model.num_layers': Choice((2, 3, 4)),
        'model.k': Choice((5, 10, 20, 40)),
        'model.dropout': Choice((0.0, 0.1)),
        'model.contrast_weight': Choice((0.001, 0.01, 0.1)),
    }),
    System('BM3', 'BM3', True, {
        **OWN,
        'model.num_layers': Choice((1, 2)),
        'model.dropout': Choice((0.3, 0.5)),
        'model.content_weight': Choice((0.5, 1.0, 2.0)),
    }),
)}


def _settings(space: Space) -> Space:
    """The same search for a distiller, whose settings are all arguments of
    its `from_data`, and which draws interactions as they are."""
    def renamed(name: str) -> str:
        return name.replace('fit.', 'model.')

    return {
        renamed(name): replace(each, when=each.when and (
            renamed(each.when[0]), each.when[1]))
        for name, each in space.items() if name != 'fit.user_weight'
    }


TEACHER: Space = {
    **_settings(RANKING),
    'model.num_layers': LAYERS,
    'model.dropout': Choice((0.0, 0.1, 0.2, 0.4, 0.6)),
    'model.prompt_weight': Choice((0.1, 0.3, 1.0, 3.0, 10.0)),
    'model.fusion_weight': Choice((0.05, 0.1, 0.3, 1.0)),
    'model.modality_weight': Choice((0.0, 0.01, 0.1, 1.0)),
}
CONTENT_TEACHER: Space = {
    **_settings(RANKING),
    'model.num_layers': LAYERS,
    'model.num_members': Choice((1, 2, 4)),
    'model.hop': Choice((1.0, 2.0, 4.0)),
}
# The paper's grid of the weights of PairKD and ListKD, and of EmbKD.
PAPER_GRID = Choice((0.0, 1e-2, 1e-1, 1.0, 1e1, 1e2))
EMBEDDING_GRID = Choice((0.0, 0.02, 0.05, 0.1, 0.5))
STUDENT: Space = {
    **_settings(OPTIMISER),
    'model.fused_list_weight': LogUniform(1.0, 300.0),
    'model.fused_emb_weight': Choice((0.0, 0.1, 0.5, 1.0)),
    'model.emb_weight': EMBEDDING_GRID,
}
FAITHFUL_STUDENT: Space = {
    **_settings(OPTIMISER),
    'model.pair_weight': PAPER_GRID,
    'model.list_weight': PAPER_GRID,
    'model.emb_weight': EMBEDDING_GRID,
}
LISTS_STUDENT: Space = {
    'model.list_lr': LogUniform(3e-3, 1e-1),
    'model.l2': LogUniform(1e-6, 1e-1),
    'model.top_items': Choice((50, 100, 200, 400)),
    'model.top_temperature': Choice((0.5, 1.0, 2.0)),
}
TEACHER_SPACES = {'default': TEACHER, 'faithful': TEACHER,
                  'content': CONTENT_TEACHER}
STUDENT_SPACES = {'default': STUDENT, 'faithful': FAITHFUL_STUDENT,
                  'content': LISTS_STUDENT}


def by_lists(setting: str) -> bool:
    """Whether a setting distils lists, whose epochs it sets itself."""
    return Settings.preset(setting).knowledge == 'lists'


def resolve(names: Iterable[str] | None) -> tuple[list[System], list[str]]:
    """The systems of some names, all by default, and a line for each that is
    not there yet."""
    names = list(SYSTEMS if names is None else names)
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown:
        raise SystemExit(f'No system is called {unknown[0]!r}; there are '
                         f'{", ".join(SYSTEMS)}')
    found = [SYSTEMS[name] for name in names]
    missing = [f'{x.name}: torch_promptmm.models has no {x.model} yet, left '
               f'out' for x in found if x.cls is None]
    return [x for x in found if x.cls is not None], missing


def split(params: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Arguments of `fit` and of the model, from the names of a space."""
    out: dict[str, dict[str, Any]] = {'model': {}, 'fit': {}}
    for name, value in params.items():
        where, _, argument = name.partition('.')
        out[where][argument] = value
    return out


def arguments(space: Space) -> Iterator[tuple[str, str]]:
    """Where each argument of a space goes, and its name."""
    for name in space:
        where, _, argument = name.partition('.')
        yield where, argument
