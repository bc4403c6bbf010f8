"""An interrupted run with ``setting='content'`` resumes bit for bit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from torch_promptmm import PromptMMDistiller
from torch_promptmm.datasets.blocks import BlockDataset
from torch_promptmm.models import Fusion
from torch_promptmm.train import History, load_checkpoint

EPOCHS = 3


class Interrupt(Exception):
    pass


def assert_same(a: PromptMMDistiller, b: PromptMMDistiller) -> None:
    x, y = a.state_dict(), b.state_dict()
    assert x.keys() == y.keys() and 'teacher._fusion' in x
    for key in x:
        assert torch.equal(x[key], y[key]), key


def records(history: dict[str, History]) -> dict[str, Any]:
    return {stage: ([{k: v for k, v in record.items() if k != 'time'}
                     for record in each], each.chosen, each.best_epoch)
            for stage, each in history.items()}


def stop_at(number: int) -> Callable[[Any], None]:
    calls = []

    def callback(record: Any) -> None:
        calls.append(record)
        if len(calls) == number:
            raise Interrupt

    return callback


@pytest.mark.parametrize('seed', [3, None])
def test_resume_of_the_whole_chain(content, blocks: BlockDataset,
                                   tmp_path: Path, seed: int | None) -> None:
    run: dict[str, Any] = dict(epochs=EPOCHS, seed=seed, progress=False)
    torch.manual_seed(7)
    wanted = content()
    history = wanted.fit(*blocks[:2], **run)
    total = sum(map(len, history.values()))
    assert total == 3 * EPOCHS
    names = set()
    for call in range(1, total + 1):
        path = tmp_path / f'{call}'
        torch.manual_seed(7)
        with pytest.raises(Interrupt):
            content().fit(*blocks[:2], checkpoint=path,
                          callback=stop_at(call), **run)
        torch.manual_seed(7 if not path.exists() else 100 + call)
        resumed = content(seed=99 if path.exists() else 0)
        if path.exists():
            names.add(load_checkpoint(path)['name'])
        out = resumed.fit(*blocks[:2], checkpoint=path, resume=True, **run)
        assert_same(resumed, wanted)
        assert resumed.teacher.fusion == wanted.teacher.fusion
        assert records(out) == records(history)
    assert names == {'teacher 1 of 2', 'teacher 2 of 2', 'student'}


@pytest.mark.parametrize('kwargs', [{'prompt': 'pca'},
                                    {'prompt': 'pca', 'prompt_layers': 2},
                                    {'train_content': True}])
def test_resume_with_a_member_that_learns_content(
        content, blocks: BlockDataset, tmp_path: Path,
        kwargs: dict[str, Any]) -> None:
    run: dict[str, Any] = dict(epochs=EPOCHS, seed=3, progress=False)
    fusion = Fusion({'visual': 0.5, 'textual': 0.5}, prompted=1.0)
    kwargs = {'num_members': 1, 'fusion': fusion, **kwargs}
    wanted = content(**kwargs)
    # Without validation the fusion stays, and with it the member's weight.
    history = wanted.fit(blocks[0], **run)
    total = sum(map(len, history.values()))
    assert total == 3 * EPOCHS
    names = set()
    for call in range(1, total + 1):
        path = tmp_path / f'{call}'
        with pytest.raises(Interrupt):
            content(**kwargs).fit(blocks[0], checkpoint=path,
                                  callback=stop_at(call), **run)
        resumed = content(**kwargs, seed=99 if path.exists() else 0)
        if path.exists():
            names.add(load_checkpoint(path)['name'])
        out = resumed.fit(blocks[0], checkpoint=path, resume=True, **run)
        assert_same(resumed, wanted)
        assert records(out) == records(history)
    assert names == {'teacher', 'teacher of content', 'student'}


def test_interrupted_again_and_again(content, blocks: BlockDataset,
                                     tmp_path: Path) -> None:
    run: dict[str, Any] = dict(epochs=EPOCHS, seed=3, progress=False)
    wanted = content(num_members=3)
    wanted.fit(*blocks[:2], **run)
    for attempt in range(20):
        resumed = content(num_members=3, seed=attempt)
        with contextlib.suppress(Interrupt):
            resumed.fit(*blocks[:2], checkpoint=tmp_path / 'x', resume=True,
                        callback=stop_at(2), **run)
            break
    assert attempt > 3
    assert_same(resumed, wanted)


def test_resume_of_a_finished_run(content, blocks: BlockDataset,
                                  tmp_path: Path) -> None:
    run: dict[str, Any] = dict(epochs=2, seed=3, progress=False,
                               checkpoint=tmp_path / 'x')
    wanted, calls = content(), []
    history = wanted.fit(*blocks[:2], **run)
    resumed = content(seed=98)
    out = resumed.fit(*blocks[:2], resume=True, callback=calls.append, **run)
    assert_same(resumed, wanted)
    assert records(out) == records(history) and not calls


def test_a_checkpoint_of_another_run(content, make, blocks: BlockDataset,
                                     tmp_path: Path) -> None:
    path = tmp_path / 'x'
    run: dict[str, Any] = dict(epochs=2, progress=False, checkpoint=path)
    content().fit_teacher(*blocks[:2], **run)
    size = path.stat().st_size
    again = dict(run, resume=True)
    with pytest.raises(ValueError, match="'teacher 2 of 2'.*'student'"):
        content().fit_student(*blocks[:2], **again)
    with pytest.raises(ValueError, match="'teacher 2 of 2'.*'teacher 1 of 3"):
        content(num_members=3).fit_teacher(*blocks[:2], **again)
    with pytest.raises(ValueError, match="'teacher 2 of 2'.*'teacher'"):
        make().fit(*blocks[:2], **again)
    assert path.stat().st_size == size
    # Nor does stage 1 of a run that is in stage 2 go for done.
    for build in (make, content):
        build().fit(*blocks[:2], **run)
        with pytest.raises(ValueError, match="named 'student'.*'teacher"):
            build().fit_teacher(*blocks[:2], **again)
