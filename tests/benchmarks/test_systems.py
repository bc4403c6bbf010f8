"""The registry of systems."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from types import ModuleType

import pytest

from torch_promptmm.distill import Settings
from torch_promptmm.models import RankingModel
from torch_promptmm.train import fit
from torch_promptmm.train.loop import train


def test_every_argument_of_a_space_exists(
        script: Callable[[str], ModuleType]) -> None:
    """What is searched is an argument of the model or of `fit`."""
    systems = script('systems')
    of_fit = {*inspect.signature(fit).parameters,
              *inspect.signature(train).parameters}
    found, missing = systems.resolve(None)
    assert [x.name for x in found] and len(found) + len(missing) == len(
        systems.SYSTEMS)
    for system in found:
        assert issubclass(system.cls, RankingModel)
        of_model = {*inspect.signature(system.cls).parameters,
                    *inspect.signature(system.cls.from_view).parameters}
        given = {*systems.arguments(system.space),
                 *(('model', x) for x in system.build),
                 *(('fit', x) for x in system.fit)}
        for where, name in given:
            known = of_model if where == 'model' else of_fit
            assert name in known, f'{system.name}: {name}'
    if missing:
        warnings.warn(f'not tested: {missing}', stacklevel=1)


def test_every_setting_of_a_student_exists(
        script: Callable[[str], ModuleType]) -> None:
    systems = script('systems')
    for setting, space in systems.STUDENT_SPACES.items():
        names = [name for where, name in systems.arguments(space)]
        settings = Settings.preset(setting).to_dict()
        assert names and set(names) <= set(settings)


def test_every_system_is_searched_over_the_same_losses(
        script: Callable[[str], ModuleType]) -> None:
    systems = script('systems')
    for system in systems.SYSTEMS.values():
        for name in ('fit.lr', 'fit.l2'):
            assert system.space[name] == systems.RANKING[name]
        *own, bpr, softmax = system.space['fit.ranking_loss'].values
        assert (bpr, softmax) == ('bpr', 'softmax') and own in ([], ['own'])


def test_unknown_system(script: Callable[[str], ModuleType]) -> None:
    with pytest.raises(SystemExit, match="No system is called 'LightCGN'"):
        script('systems').resolve(['LightCGN'])
