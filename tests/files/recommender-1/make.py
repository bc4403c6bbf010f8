"""Writes the folder; to be run by a version that writes format 1."""

import json
import sys
from pathlib import Path

import torch

from torch_promptmm.ids import IdMap
from torch_promptmm.serve import Recommender
from torch_promptmm.serve.fold_in import FoldIn

WHERE = Path(sys.argv[1])
gen = torch.Generator().manual_seed(0)
rec = Recommender(
    torch.randn(4, 3, generator=gen), torch.randn(6, 3, generator=gen),
    torch.tensor([[0, 0, 2, 3], [5, 1, 4, 0]]),
    {'user': IdMap([f'u{i}' for i in range(4)]),
     'item': IdMap(list(range(10, 16)))},
    fold=FoldIn(torch.randn(6, 3, generator=gen), torch.tensor(False)),
    meta={'metrics': {'recall@20': 0.25}}).to_dtype('int8')
rec.save(WHERE)
items, scores = rec.recommend(['u0', 'u3'], 4, raw=True)
folded, _ = rec.recommend_from_history([[1, 2]], 3)
(WHERE / 'wanted.json').write_text(json.dumps({
    'items': items, 'scores': scores.tolist(), 'folded': folded.tolist(),
    'meta': rec.meta}), 'utf-8')
