"""Bad calls: the error names the argument, the value and what to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from torch_promptmm.ids import IdMap
from torch_promptmm.serve import FoldIn, Recommender

USER, ITEM = torch.ones(3, 2), torch.ones(4, 2)
KNOWN = torch.tensor([[0, 2], [3, 0]])
REC = Recommender(USER, ITEM, KNOWN)
NAN = torch.tensor([[1.0, 1.0], [float('nan'), 1.0]])
IDS = {'user': IdMap(['a', 'b', 'c']), 'item': IdMap([7, 8, 9, 10])}
NAMED = Recommender(USER, ITEM, ids=IDS)

CONSTRUCTORS: dict[str, tuple[str, dict[str, Any]]] = {
    'known, a list': ("'known' must be a torch.Tensor", {'known': [[0], [1]]}),
    'known, transposed': (r"'known' must be of shape \[2, E\] .*\[5, 2\]",
                          {'known': torch.zeros(5, 2).long()}),
    'known, of another catalogue': ("'known' has item id 4, but there are 4",
                                    {'known': torch.tensor([[0], [4]])}),
    'a diverged model': ("'item_emb' must be finite, but row 1 is not",
                         {'item_emb': NAN}),
    'ids of others': ("'ids' has 3 item ids for 4 items; give one a row",
                      {'ids': {'item': IDS['user']}}),
    'cold': (r"'cold' must be a boolean tensor of shape \[4\]",
             {'cold': torch.ones(3, dtype=torch.bool)}),
    'popularity': (r"'popularity' must be of shape \[4\] .got \[3\]",
                   {'popularity': torch.ones(3)}),
    'fold': (r"'fold' must have rows of shape \[4, 2\]",
             {'fold': FoldIn(USER, torch.tensor(False))}),
    'int8 without scales': (r"'scales' must have a tensor of shape \[4\].*"
                            r'to_dtype', {'item_emb': ITEM.to(torch.int8)}),
    'scales without int8': ("'scales' are for tables of int8",
                            {'scales': {'item': torch.ones(4)}}),
    'an index that is none': ("'index' must be one of None, 'faiss-flat'",
                              {'index': 'annoy'}),
    'options of none': (r"\['num_links'\] are arguments of an index",
                        {'num_links': 3}),
    'two devices': ('must be on one device .got cpu and meta',
                    {'item_emb': torch.empty(4, 2, device='meta')}),
}


@pytest.mark.parametrize('name', CONSTRUCTORS)
def test_what_it_is_made_of(name: str) -> None:
    match, kwargs = CONSTRUCTORS[name]
    with pytest.raises((TypeError, ValueError), match=match):
        Recommender(**{'user_emb': USER, 'item_emb': ITEM, **kwargs})


CALLS: dict[str, tuple[str, Any]] = {
    'an unknown user': ("'user_ids' has user id 3, but there are 3 users",
                        lambda: REC.recommend([3])),
    'a user that is no number': ("'user_ids' must hold integer user ids",
                                 lambda: REC.recommend(['a'], 2)),
    'a large k': ("'k' must not be larger than the catalogue of 4",
                  lambda: REC.recommend([0], 5)),
    'k, a float': ("'k' must be an integer .got 2.0",
                   lambda: REC.recommend([0], 2.0)),
    'raw, not a bool': ("'raw' must be True or False",
                        lambda: REC.recommend([0], 2, raw='yes')),
    'raw without ids': ("'raw=True' needs the users' own ids",
                        lambda: REC.recommend(['a'], 2, raw=True)),
    'a raw user': ("1 unknown ids, such as 'z'",
                   lambda: NAMED.recommend(['z'], 2, raw=True)),
    'a raw item': (r"'exclude\[1\]': 1 unknown ids, such as 3",
                   lambda: NAMED.recommend(['a', 'b'], 2, raw=True,
                                           exclude=[[7], [3]])),
    'batch_size': ("'batch_size' must be at least 1",
                   lambda: REC.recommend([0], 2, batch_size=0)),
    'no candidates': ("'candidates' is empty; leave it out",
                      lambda: REC.recommend([0], 2, candidates=[])),
    'a candidate': ("'candidates' has item id 4, but there are 4 items",
                    lambda: REC.recommend([0], 2, candidates=[1, 4])),
    'lists for others': ("'exclude' must be one list for all, or one for each "
                         "of the 1 users .got 2 lists",
                         lambda: REC.recommend([0], 2, exclude=[[1], [2]])),
    'a list in a list': (r"'candidates\[0\]' must be one-dimensional",
                         lambda: REC.recommend([0], 2, candidates=[[[1]]])),
    'exclude, negative': ("'exclude' has item id -1",
                          lambda: REC.recommend([0], 2, exclude=[-1])),
    'one history': (r'a list of items for each user.*\[\[3, 7\]\]',
                    lambda: REC.recommend_from_history([3, 1], 2)),
    'a history that is a word': ("'histories' must hold a list",
                                 lambda: REC.recommend_from_history('ab', 2)),
    'an empty history': (r"'histories\[1\]' is empty.*give one item",
                         lambda: REC.recommend_from_history([[1], []], 2)),
    'a history of others': (r"'histories\[0\]' has item id 4",
                            lambda: REC.recommend_from_history([[4]], 2)),
    'fold_in': ("'fold_in' must be one of 'propagate', 'mean'",
                lambda: REC.recommend_from_history([[1]], 2, fold_in='sum')),
    'no fold': ("the recommender has no 'fold'.*fold_in='mean'",
                lambda: REC.recommend_from_history([[1]], 2,
                                                   fold_in='propagate')),
    'all similar': ("'k' must be below the number of items, 4",
                    lambda: REC.similar_items([0], 4)),
    'dtype': ("'dtype' must be one of 'float32', 'float16', 'int8'",
              lambda: REC.to_dtype('int4')),
    'too large for half': ("'dtype' 'float16' holds no number above 65504",
                           lambda: Recommender(USER * 1e5, ITEM).to_dtype(
                               'float16')),
}


@pytest.mark.parametrize('name', CALLS)
def test_what_it_is_asked(name: str) -> None:
    match, call = CALLS[name]
    with pytest.raises((TypeError, ValueError), match=match):
        call()
