from __future__ import annotations

import copy
from typing import Any

import numpy as np
from torch_geometric.data import HeteroData
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from torch_promptmm.checks import check_choice, check_float, check_int
from torch_promptmm.data.contract import EdgeType
from torch_promptmm.data.report import Report
from torch_promptmm.data.split import (
    TEST,
    TRAIN,
    VAL,
    Split,
    make_split,
    read_unsplit,
)


class InteractionSplit(BaseTransform):
    r"""The base class of the splits. Each one returns ``train, val, test``:
    three graphs of the data contract over one storage, whose held-out
    interactions together with the training ones are those that came in.

    A subclass says where each interaction goes (:meth:`assign`).

    Args:
        known (str, optional): The interactions that the test graph knows of,
            :obj:`"train"` or :obj:`"train+val"`. (default: :obj:`"train"`)
        edge_type (tuple[str, str, str], optional): The edge type of the
            interactions. (default: :obj:`None`)
    """
    def __init__(self, known: str = 'train',
                 edge_type: EdgeType | None = None) -> None:
        self.known = known
        self.edge_type = edge_type

    def __call__(self, data: HeteroData) -> Split:
        return self.forward(copy.copy(data))

    def forward(self, data: HeteroData) -> Split:
        name = self.__class__.__name__
        data, graph, user, item = read_unsplit(data, self.edge_type, name)
        if len(user) != graph.edge_index.size(1):
            raise ValueError(f'{len(user) - graph.edge_index.size(1)} '
                             f'interactions are there more than once, and '
                             f'would be in two splits; build the graph with '
                             f'from_interactions or read_interactions')
        report = Report()
        time = data[graph.edge_type].get('time')
        part = self.assign(user, item, None if time is None else
                           time.numpy(force=True), report)
        return make_split(data, graph, part, self.known, report)

    def assign(self, user: np.ndarray, item: np.ndarray,
               time: np.ndarray | None, report: Report) -> np.ndarray:
        r"""Where each interaction goes :math:`[E]`: 0 for training, 1 for
        validation, 2 for test.

        Args:
            user (numpy.ndarray): The users :math:`[E]`.
            item (numpy.ndarray): The items :math:`[E]`.
            time (numpy.ndarray, optional): The times :math:`[E]`, if the
                graph has them.
            report (Report): For what cannot be split as asked.
        """
        raise NotImplementedError


@functional_transform('random_user_split')
class RandomUserSplit(InteractionSplit):
    r"""Holds out a random share of each user's interactions.

    Of a user with :math:`n` interactions :math:`\mathrm{round}(n \cdot
    \mathrm{test})` are tested, and likewise for validation, but the last one
    is never taken from the training; users who thus have nothing to be tested
    on are counted in :obj:`data.report`.

    .. code-block:: python

        train, val, test = RandomUserSplit(val=0.1, test=0.1, seed=0)(data)

    Args:
        val (float, optional): The share to validate on.
            (default: :obj:`0.1`)
        test (float, optional): The share to test on. (default: :obj:`0.1`)
        seed (int, optional): The seed. The split is the same on all
            machines. (default: :obj:`0`)
        known, edge_type (optional): See :class:`InteractionSplit`.
    """
    def __init__(
        self,
        val: float = 0.1,
        test: float = 0.1,
        seed: int = 0,
        known: str = 'train',
        edge_type: EdgeType | None = None,
    ) -> None:
        super().__init__(known, edge_type)
        self.val, self.test = _check_shares(val, test)
        self.seed = check_int('seed', seed)

    def assign(self, user: np.ndarray, item: np.ndarray,
               time: np.ndarray | None, report: Report) -> np.ndarray:
        rank, size = _rank(user, _draw(user, item, self.seed))
        # There is always one to train on.
        test = np.minimum(np.rint(size * self.test), size - 1)
        val = np.minimum(np.rint(size * self.val), size - 1 - test)
        part = np.full(len(user), TRAIN)
        part[rank < test + val] = VAL
        part[rank < test] = TEST
        if self.test > 0:
            report.note(len(np.unique(user[test == 0])),
                        'users have too few interactions to be tested on')
        return part

    def __repr__(self) -> str:
        return (f'{self.__class__.__name__}(val={self.val}, '
                f'test={self.test}, seed={self.seed})')


@functional_transform('leave_one_out_split')
class LeaveOneOutSplit(InteractionSplit):
    r"""Holds out each user's last interaction for the test and the one before
    for validation.

    Users with fewer than three interactions are trained on only (with two,
    they have a test interaction and none to validate on); they are counted in
    :obj:`data.report`.

    Args:
        order (str, optional): What makes an interaction the last:
            :obj:`"time"`, where ties go to the higher item, or
            :obj:`"random"`. (default: :obj:`"time"`)
        seed (int, optional): The seed of a random order.
            (default: :obj:`0`)
        known, edge_type (optional): See :class:`InteractionSplit`.
    """
    def __init__(
        self,
        order: str = 'time',
        seed: int = 0,
        known: str = 'train',
        edge_type: EdgeType | None = None,
    ) -> None:
        super().__init__(known, edge_type)
        self.order = check_choice('order', order, ('time', 'random'))
        self.seed = check_int('seed', seed)

    def assign(self, user: np.ndarray, item: np.ndarray,
               time: np.ndarray | None, report: Report) -> np.ndarray:
        value = (-_need_time(time, self) if self.order == 'time' else
                 _draw(user, item, self.seed))
        rank, size = _rank(user, value, -item)
        part = np.full(len(user), TRAIN)
        part[(rank == 0) & (size > 1)] = TEST
        part[(rank == 1) & (size > 2)] = VAL
        report.note(len(np.unique(user[size < 3])),
                    'users have fewer than three interactions, too few to '
                    'validate on')
        return part

    def __repr__(self) -> str:
        seed = f', seed={self.seed}' if self.order == 'random' else ''
        return f"{self.__class__.__name__}(order='{self.order}'{seed})"


@functional_transform('temporal_split')
class TemporalSplit(InteractionSplit):
    r"""Cuts time at two points for all users alike: training before the
    first, validation up to the second, the test from there.

    So nothing is learnt from the future. Users and items that begin only
    later are cold, and counted in :obj:`data.report`; they stay in the graph.

    Args:
        val (float, optional): The share of the interactions to validate on.
            (default: :obj:`0.1`)
        test (float, optional): The share to test on; the latest ones.
            Interactions of one moment are never parted.
            (default: :obj:`0.1`)
        val_time (int, optional): Where validation begins, in milliseconds
            since 1970, instead of :obj:`val`. (default: :obj:`None`)
        test_time (int, optional): Where the test begins, instead of
            :obj:`test`. (default: :obj:`None`)
        known, edge_type (optional): See :class:`InteractionSplit`.
    """
    def __init__(
        self,
        val: float = 0.1,
        test: float = 0.1,
        val_time: int | None = None,
        test_time: int | None = None,
        known: str = 'train',
        edge_type: EdgeType | None = None,
    ) -> None:
        super().__init__(known, edge_type)
        self.val, self.test = _check_shares(val, test)
        if val_time is None or test_time is None:
            if val_time is not test_time:
                raise ValueError(f"'val_time' and 'test_time' must be given "
                                 f"together (got {val_time} and {test_time})")
        elif val_time > test_time:
            raise ValueError(f"'val_time' must not be after 'test_time' (got "
                             f"{val_time} and {test_time})")
        self.val_time, self.test_time = val_time, test_time

    def assign(self, user: np.ndarray, item: np.ndarray,
               time: np.ndarray | None, report: Report) -> np.ndarray:
        time = _need_time(time, self)
        first, second = self.val_time, self.test_time
        part = np.full(len(user), TRAIN)
        if first is None or second is None:
            ordered = np.sort(time)
            end = len(ordered)
            to_test = end - int(np.rint(end * self.test))
            to_val = to_test - int(np.rint(end * self.val))
            later = ordered[-1] + 1
            second = ordered[to_test] if to_test < end else later
            first = ordered[to_val] if to_val < to_test else second
        part[time >= first] = VAL
        part[time >= second] = TEST
        for kind, value in [('users', user), ('items', item)]:
            new = np.setdiff1d(value[part != TRAIN], value[part == TRAIN])
            report.note(len(new), f'{kind} of validation and test have no '
                                  f'training interaction')
        return part

    def __repr__(self) -> str:
        cut = (f'val={self.val}, test={self.test}' if self.val_time is None
               else f'val_time={self.val_time}, test_time={self.test_time}')
        return f'{self.__class__.__name__}({cut})'


def _check_shares(val: float, test: float) -> tuple[float, float]:
    val = check_float('val', val, 0.0, 1.0)
    test = check_float('test', test, 0.0, 1.0)
    if val + test >= 1:
        raise ValueError(f"'val' and 'test' must leave something to train on "
                         f"(got {val} and {test})")
    return val, test


def _need_time(time: np.ndarray | None, split: Any) -> np.ndarray:
    if time is None:
        raise ValueError(f"{split.__class__.__name__} needs the times of the "
                         f"interactions, data[edge_type].time; read them "
                         f"with read_interactions(..., time='column')")
    return time


def _draw(user: np.ndarray, item: np.ndarray, seed: int) -> np.ndarray:
    r"""A random number for each interaction: the same for the same data,
    however its interactions are ordered."""
    out = np.empty(len(user))
    out[np.lexsort((item, user))] = np.random.RandomState(seed).random_sample(
        len(user))
    return out


def _rank(user: np.ndarray, value: np.ndarray,
          tie: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    r"""The place of each interaction among those of its user, by ascending
    value, and the number of them.
    """
    keys = (value, user) if tie is None else (tie, value, user)
    order = np.lexsort(keys)
    count = np.bincount(user)
    start = np.cumsum(count) - count
    rank = np.empty(len(user), dtype=np.int64)
    rank[order] = np.arange(len(user)) - start[user[order]]
    return rank, count[user]
