"""Writes the files; to be run by the version of which they are."""

import json
import sys
from pathlib import Path

import torch

import torch_promptmm
from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import set_ids
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.nn import LightGCNStudent
from torch_promptmm.serve import save_student

WHERE = Path(sys.argv[1])
TRAIN, VAL, TEST = SPLITS = list(SyntheticMultimodal.blocks(
    num_blocks=2, users_per_block=4, items_per_block=5,
    features={'visual': 5, 'textual': 3}))
U, I = TRAIN['user'].num_nodes, TRAIN['item'].num_nodes


class Tables(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.user = torch.nn.Embedding(U, 3)
        self.item = torch.nn.Embedding(I, 3)

    def forward(self, graph):
        return self.user.weight, self.item.weight


def said(distiller, raw=False):
    out = {'score': distiller.score, 'settings': distiller.settings.to_dict()}
    users = [f'u{i}' for i in range(U)] if raw else range(U)
    for model in ('student', 'teacher'):
        items, scores = distiller.recommend(users, k=4, model=model,
                                            **({'raw': True} if raw else {}))
        out[model] = {
            'metrics': distiller.evaluate(TEST, k=(2, 4), model=model),
            'items': items if raw else items.tolist(),
            'scores': scores.tolist(),
        }
    return out


def make(**kwargs):
    return PromptMMDistiller.from_data(TRAIN, **{
        'hidden_channels': 4, 'num_negatives': 6, 'item_samples': 12,
        'seed': 0, **kwargs})


RUN = dict(epochs=3, batch_size=16, seed=0, progress=False)
wanted = {'version': torch_promptmm.__version__, 'torch': torch.__version__}

for name, kwargs in {
    'default': {},
    'faithful': {'setting': 'faithful', 'teacher_channels': 6,
                 'teacher_layers': 1},
}.items():
    distiller = make(**kwargs)
    distiller.fit(TRAIN, VAL, **RUN)
    distiller.save(WHERE / f'{name}.safetensors')
    wanted[name] = said(distiller)
    if name == 'default':
        save_student(WHERE / 'student.safetensors', distiller.student,
                     TRAIN['user', 'interacts', 'item'].edge_index,
                     distiller.score)

torch.manual_seed(0)
distiller = PromptMMDistiller(Tables(), LightGCNStudent(U, I, 4),
                              num_negatives=6, item_samples=12)
distiller.fit(TRAIN, VAL, **RUN)
distiller.save(WHERE / 'foreign.safetensors')
wanted['foreign'] = said(distiller)

for data in SPLITS:
    set_ids(data, [f'u{i}' for i in range(U)], [f'i{i}' for i in range(I)])
distiller = make()
distiller.fit(TRAIN, VAL, **RUN)
distiller.save(WHERE / 'raw_ids.safetensors')
wanted['raw_ids'] = said(distiller, raw=True)

path = WHERE / 'student.checkpoint'
make().fit(TRAIN, VAL, checkpoint=path, **RUN)
content = path.read_bytes()
distiller = make(seed=1)
distiller.fit(TRAIN, VAL, checkpoint=path, resume=True, **{**RUN, 'epochs': 5})
path.write_bytes(content)
wanted['resumed'] = said(distiller)
(WHERE / 'wanted.json').write_text(json.dumps(wanted) + '\n')
