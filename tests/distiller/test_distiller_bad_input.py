"""Bad input is refused at the door, by name, value and way out."""

from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import from_interactions
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.nn import LightGCNStudent, MultimodalTeacher, SoftPrompt
from torch_promptmm.serve import load_student, recommend, save_student
from torch_promptmm.train import (
    RankingObjective,
    RankingTask,
    Settings,
    load_checkpoint,
    seeded,
    train,
)

EDGE = ('user', 'interacts', 'item')
TRAIN, VAL, TEST = SyntheticMultimodal.blocks()
NAN, INF = float('nan'), float('inf')


def graph(like=TRAIN, **changes):
    """A block graph with something wrong in it."""
    data = copy.deepcopy(like)
    for key, value in changes.items():
        if key in ('edge_index', 'edge_label_index', 'edge_label'):
            data[EDGE][key] = value
        elif key in ('num_users', 'num_items'):
            data[key[4:-1]].num_nodes = value
        elif value is None:
            del data['item'][key]
        else:
            data['item'][key] = value
    return data


def feature(value=None, at=(3, 5), shape=(36, 48)):
    x = torch.zeros(shape)
    if value is not None:
        x[at] = value
    return x


def build(data=TRAIN, **kwargs):
    return PromptMMDistiller.from_data(
        data, **{'hidden_channels': 4, 'seed': 0, **kwargs})


def fit(train_data=TRAIN, val_data=None, **kwargs):
    return build().fit(train_data, val_data,
                       **{'epochs': 1, 'progress': False, **kwargs})


def sparse():
    index = TRAIN[EDGE].edge_index
    return torch.sparse_coo_tensor(index, torch.ones(index.size(1)), (40, 36))


SMALL = from_interactions([[0, 1], [1, 0]], {'visual': np.ones((2, 3), 'f')},
                          edge_label_index=[[0], [0]])
PROMPT = SoftPrompt(torch.randn(7, 4))


class Stranger(torch.nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, graph):
        return self.output


def stranger(output):
    distiller = PromptMMDistiller(Stranger(output), LightGCNStudent(40, 36, 4))
    return distiller.prepare(TRAIN, 'student')


T, V = TypeError, ValueError
CASES = {
    # Data.
    'data is no graph': (lambda: build([1, 2]), T, "'data'.*list"),
    'data is a dict': (lambda: fit({'user': 1}), T, "'data'.*dict"),
    'no modality': (lambda: build(graph(visual=None, textual=None)), V,
                    'no modality'),
    'modality gone': (lambda: fit(graph(visual=None)), V, "'visual'"),
    'unknown modality': (lambda: build(modalities=['smell']), V, "'smell'"),
    'modalities a string': (lambda: build(modalities='visual'), T,
                            "'modalities'.*visual"),
    'NaN': (lambda: build(graph(visual=feature(NAN))), V,
            'visual.*finite.*nan.*row 3'),
    'infinite': (lambda: fit(graph(visual=feature(-INF))), V,
                 'visual.*finite.*-inf'),
    'integer features': (lambda: build(graph(visual=feature().long()),
                                       modalities=['visual']), T,
                         'visual.*int64'),
    'too few rows': (lambda: build(graph(visual=feature(shape=(35, 48)))), V,
                     'visual.*35 rows.*36'),
    'other width': (lambda: fit(graph(visual=feature(shape=(36, 47)))), V,
                    r'visual.*48.*47'),
    'features of one dimension': (
        lambda: build(graph(visual=feature(shape=(36, ))),
                      modalities=['visual']), V, r'visual.*\[36\]'),
    'mask shape': (lambda: build(graph(visual_mask=torch.ones(5).bool())), V,
                   r'visual_mask.*\[5\]'),
    'mask type': (lambda: build(graph(visual_mask=torch.ones(36))), V,
                  'visual_mask.*float32'),
    'user out of range': (lambda: build(graph(
        edge_index=torch.tensor([[40], [0]]))), V, 'edge_index.*user id 40'),
    'negative item': (lambda: fit(graph(
        edge_index=torch.tensor([[0], [-1]]))), V, 'edge_index.*item id -1'),
    'label out of range': (lambda: build().evaluate(graph(
        VAL, edge_label_index=torch.tensor([[0], [36]]))), V,
        'edge_label_index.*36'),
    'float ids': (lambda: build(graph(edge_index=torch.zeros(2, 3))), T,
                  'edge_index.*float32'),
    'pairs': (lambda: build(graph(
        edge_index=TRAIN[EDGE].edge_index.t())), V, r'edge_index.*\[240, 2\]'),
    'sparse in data': (lambda: build(graph(edge_index=sparse())), T,
                       'edge_index.*sparse'),
    'empty graph': (lambda: build(graph(
        edge_index=torch.empty(2, 0).long())), V, 'edge_index.*empty'),
    'rows swapped': (lambda: build(graph(
        edge_index=TRAIN[EDGE].edge_index.flip(0))), V, 'edge_index.*swapped'),
    'unknown edge type': (lambda: build(edge_type=('user', 'x', 'item')), V,
                          "'edge_type'.*'x'"),
    'edge type of two': (lambda: build(edge_type=('user', 'item')), T,
                         "'edge_type'.*three"),
    'no positive supervision': (lambda: fit(graph(
        edge_label_index=torch.tensor([[0], [1]]),
        edge_label=torch.zeros(1))), V, 'edge_label_index.*no positive'),
    'other users in val': (lambda: fit(TRAIN, graph(VAL, num_users=41)), V,
                           "'val_data' has 41 users.*40"),
    'other items in val': (lambda: fit(TRAIN, SMALL), V, "'val_data' has 2"),
    'other items in train': (lambda: fit(SMALL), V, "'train_data' has 2"),
    'other items in evaluate': (lambda: build().evaluate(SMALL), V,
                                "'data' has 2 users.*40"),
    'val without positives': (lambda: fit(TRAIN, TRAIN), V,
                              "no 'edge_label_index'"),
    'evaluate without positives': (lambda: build().evaluate(TRAIN, k=5), V,
                                   "no 'edge_label_index'"),
    'val is no graph': (lambda: fit(TRAIN, 5), T, 'int'),
    # Building.
    'hidden_channels 0': (lambda: build(hidden_channels=0), V,
                          "'hidden_channels'.*0"),
    'hidden_channels float': (lambda: build(hidden_channels=8.0), T,
                              "'hidden_channels'.*8.0"),
    'hidden_channels bool': (lambda: build(hidden_channels=True), T,
                             "'hidden_channels'.*True"),
    'num_layers': (lambda: build(num_layers=-1), V, "'num_layers'.*-1"),
    'teacher_channels': (lambda: build(teacher_channels=-4), V,
                         "'teacher_channels'.*-4"),
    'teacher_layers': (lambda: build(teacher_layers='two'), T,
                       "'teacher_layers'.*two"),
    'fusion_weight': (lambda: build(fusion_weight=-0.1), V,
                      "'fusion_weight'.*-0.1"),
    'self_weight': (lambda: build(self_weight=NAN), V, "'self_weight'.*nan"),
    'prompt': (lambda: build(prompt='tsne'), V, "'prompt'.*'pca'.*'tsne'"),
    'prompt_weight': (lambda: build(prompt_weight=INF), V,
                      "'prompt_weight'.*inf"),
    'prompt_layers': (lambda: build(prompt_layers=0), V,
                      "'prompt_layers'.*0"),
    'normalize': (lambda: build(normalize='column'), V,
                  "'normalize'.*'column'"),
    'standardize': (lambda: build(standardize=1), T, "'standardize'.*1"),
    'dropout': (lambda: build(dropout=1.5), V, "'dropout'.*1.5"),
    'seed in from_data': (lambda: build(seed='one'), T, "'seed'.*one"),
    'unknown keyword': (lambda: build(learning_rate=1e-3), T,
                        "'learning_rate' is no argument"),
    'setting': (lambda: build(setting='fancy'), V, "'setting'.*'fancy'"),
    'ranking_loss': (lambda: build(ranking_loss='hinge'), V,
                     "'ranking_loss'.*'hinge'"),
    'score': (lambda: build(score='euclid'), V, "'score'.*'euclid'"),
    'temperature': (lambda: build(temperature=0.0), V, "'temperature'.*0"),
    'kd_temperature': (lambda: build(kd_temperature=-1.0), V,
                       "'kd_temperature'.*-1"),
    'num_negatives': (lambda: build(num_negatives=0), V,
                      "'num_negatives'.*0"),
    'setting lr': (lambda: build(lr=0), V, "'lr'.*0"),
    'l2': (lambda: build(l2=-1e-3), V, "'l2'.*-0.001"),
    'pair_weight': (lambda: build(pair_weight=-1), V, "'pair_weight'.*-1"),
    'list_weight': (lambda: build(list_weight=None), T,
                    "'list_weight'.*None"),
    'emb_weight': (lambda: build(emb_weight='much'), T, "'emb_weight'.*much"),
    'list_size': (lambda: build(list_size=1), V, "'list_size'.*1"),
    'gamma': (lambda: build(gamma=0.5), V, "'gamma'.*0.5"),
    'tune_prompt': (lambda: build(tune_prompt='yes'), T,
                    "'tune_prompt'.*yes"),
    'teacher is no module': (
        lambda: PromptMMDistiller(print, LightGCNStudent(4, 5, 3)), T,
        "'teacher'.*builtin"),
    'student is no student': (
        lambda: PromptMMDistiller(None, torch.nn.Linear(2, 3)), T,
        "'student'.*Linear"),
    'teacher of other users': (
        lambda: PromptMMDistiller(
            MultimodalTeacher(41, 36, {'visual': 48}, 4),
            LightGCNStudent(40, 36, 4)), V, "'num_users'.*41 and 40"),
    'prompt of other items': (
        lambda: PromptMMDistiller(
            MultimodalTeacher(40, 36, {'visual': 48}, 4),
            LightGCNStudent(40, 36, 4), PROMPT), V, "'prompt'.*36 items.*7"),
    'prompt without our teacher': (
        lambda: PromptMMDistiller(Stranger(None), LightGCNStudent(40, 36, 4),
                                  PROMPT), V, "'prompt' needs"),
    'foreign teacher yields a tensor': (
        lambda: stranger(torch.zeros(40, 3)), T, "teacher' must.*'Tensor'"),
    'foreign teacher of other users': (
        lambda: stranger((torch.zeros(39, 3), torch.zeros(36, 3))), V,
        r'user embeddings of shape \[40, channels\].*39'),
    'foreign modality of other items': (
        lambda: stranger((torch.zeros(40, 3), torch.zeros(36, 3), {
            'x': (torch.zeros(40, 3), torch.zeros(36))
        })), V, r"item embeddings.*'x'.*\[36\]"),
    # Training.
    'epochs': (lambda: fit(epochs=-1), V, "'epochs'.*-1"),
    'epochs float': (lambda: fit(epochs=2.5), T, "'epochs'.*2.5"),
    'epochs text': (lambda: fit(epochs='10'), T, "'epochs'.*10"),
    'batch_size': (lambda: fit(batch_size=0), V, "'batch_size'.*0"),
    'lr': (lambda: fit(lr=-1e-3), V, "'lr'.*-0.001"),
    'lr text': (lambda: fit(lr='fast'), T, "'lr'.*fast"),
    'lr None': (lambda: fit(lr=None), T, "'lr'.*None"),
    'weight_decay': (lambda: fit(weight_decay=-1), V, "'weight_decay'.*-1"),
    'patience': (lambda: fit(patience=0), V, "'patience'.*0"),
    'min_epochs': (lambda: fit(min_epochs=-1), V, "'min_epochs'.*-1"),
    'eval_every': (lambda: fit(eval_every=0), V, "'eval_every'.*0"),
    'checkpoint_every': (lambda: fit(checkpoint_every=0), V,
                         "'checkpoint_every'.*0"),
    'seed': (lambda: fit(seed=1.5), T, "'seed'.*1.5"),
    'seed too large': (lambda: fit(seed=2**64), V, "'seed'"),
    'progress': (lambda: fit(progress='bar'), T, "'progress'.*bar"),
    'callback': (lambda: fit(callback=5), T, "'callback'.*5"),
    'optimizer': (lambda: fit(optimizer='adam'), T, "'optimizer'.*adam"),
    'optimizer makes nothing': (lambda: fit(optimizer=lambda groups: None), T,
                                "'optimizer'.*None"),
    'scheduler': (lambda: fit(scheduler=0.1), T, "'scheduler'.*0.1"),
    'scheduler makes nothing': (lambda: fit(scheduler=lambda opt: 5), T,
                                "'scheduler'.*5"),
    'metric': (lambda: fit(TRAIN, VAL, metric='auc'), V, "'metric'.*'auc'"),
    'metric without K': (lambda: fit(TRAIN, VAL, metric='recall@x'), V,
                         "'metric'.*'recall@x'"),
    'metric type': (lambda: fit(TRAIN, VAL, metric=20), V, "'metric'.*20"),
    'metric beyond the catalogue': (lambda: fit(TRAIN, VAL,
                                                metric='recall@37'), V,
                                    "'metric'.*36.*'recall@37'"),
    'device': (lambda: fit(device='gpu'), V, "'device' 'gpu'"),
    'checkpoint type': (lambda: fit(checkpoint=5), T, "'checkpoint'.*5"),
    'checkpoint a folder': (lambda: fit(checkpoint='/tmp'), V,
                            "'checkpoint'.*'/tmp'.*folder"),
    'resume without checkpoint': (lambda: fit(resume=True), V,
                                  "'resume=True' needs"),
    'resume type': (lambda: fit(checkpoint='x', resume='yes'), T,
                    "'resume'.*yes"),
    'unknown fit keyword': (lambda: fit(epoch=3), T, "'epoch'"),
    'not for users': (lambda: build().fit_student(TRAIN, module=None), T,
                      "'module'"),
    'stage': (lambda: build().prepare(TRAIN, 'both'), V, "'stage'.*'both'"),
    'loss before prepare': (lambda: build().student_loss(None), V,
                            'prepare'),
    'other stage prepared': (lambda: _other_stage(), V,
                             "stage='student'.*'teacher'"),
    'batch': (lambda: _bad_batch(), T, "'batch'.*'list'"),
    'task': (lambda: train(torch.nn.Linear(2, 2)), T, "'task'.*'Linear'"),
    'objective': (lambda: RankingObjective('bpr', warm_negatives=1), T,
                  "'warm_negatives'.*1"),
    'settings': (lambda: Settings(batch_size=2.0), T, "'batch_size'.*2.0"),
    'seeded': (lambda: seeded('x', torch.device('cpu')).__enter__(), T,
               "'seed'.*'x'"),
    # Using.
    'k 0': (lambda: build().recommend([0], k=0), V, "'k'.*0"),
    'k float': (lambda: build().recommend([0], k=2.5), T, "'k'.*2.5"),
    'k beyond the catalogue': (lambda: build().recommend([0], k=37), V,
                               "'k'.*36 items.*37"),
    'evaluate k': (lambda: build().evaluate(TEST, k=(5, 37)), V,
                   "'k'.*36 items.*37"),
    'evaluate k 0': (lambda: build().evaluate(TEST, k=0), V, "'k'.*0"),
    'evaluate without k': (lambda: build().evaluate(TEST, k=()), V, "'k'"),
    'evaluate model': (lambda: build().evaluate(TEST, model='both'), V,
                       "'model'.*'both'"),
    'evaluate batch_size': (lambda: build().evaluate(TEST, k=5,
                                                     batch_size=0), V,
                            "'batch_size'.*0"),
    'unknown user': (lambda: build().recommend([40]), V,
                     "'user_ids'.*40.*40 users"),
    'negative user': (lambda: build().recommend([-1]), V, "'user_ids'.*-1"),
    'float users': (lambda: build().recommend([0.5]), T,
                    "'user_ids'.*float32"),
    'named users': (lambda: build().recommend(['ann']), T,
                    "'user_ids'.*ann"),
    'users of two dimensions': (lambda: build().recommend([[0, 1]]), V,
                                r"'user_ids'.*\[1, 2\]"),
    'recommend model': (lambda: build().recommend([0], model='x'), V,
                        "'model'.*'x'"),
    'recommend data': (lambda: build().recommend([0], k=5, data=SMALL), V,
                       "'data' has 2"),
    'recommend batch_size': (lambda: build().recommend([0], k=5,
                                                       batch_size=-1), V,
                             "'batch_size'.*-1"),
    'unknown item': (lambda: build().predict([0], [36]), V,
                     "'item_ids'.*36"),
    'predict lengths': (lambda: build().predict([0, 1], [1]), V,
                        "'user_ids' and 'item_ids'.*2 and 1"),
    'embeddings model': (lambda: build().embeddings('best'), V,
                         "'model'.*'best'"),
    'widths of serve.recommend': (
        lambda: recommend(torch.zeros(3, 4), torch.zeros(5, 6), [0], 2), V,
        r"'item_emb'.*4 columns.*\[5, 6\]"),
    'known of serve.recommend': (
        lambda: recommend(torch.zeros(3, 4), torch.zeros(5, 4), [0], 2,
                          known=torch.tensor([[0], [7]])), V, "'known'.*7"),
    # Files.
    'save to nothing': (lambda: build().save(None), T, "'path'.*None"),
    'save to a folder': (lambda: build().save('/tmp'), V,
                         "'path'.*'/tmp'.*folder"),
    'load nothing': (lambda: PromptMMDistiller.load('/nowhere/at.all'), V,
                     "'path' '/nowhere/at.all'"),
    'load type': (lambda: PromptMMDistiller.load(5), T, "'path'.*5"),
    'load teacher': (lambda: PromptMMDistiller.load(__file__, teacher='x'), T,
                     "'teacher'.*'str'"),
    'load another file': (lambda: PromptMMDistiller.load(__file__), V,
                          "'path'.*damaged or no safetensors"),
    'load_student another file': (lambda: load_student(__file__), V,
                                  "'path'.*damaged or no safetensors"),
    'load_checkpoint another file': (lambda: load_checkpoint(__file__), V,
                                     "'checkpoint'.*damaged or no"),
    'resume another file': (lambda: fit(checkpoint=__file__, resume=True), V,
                            "'checkpoint'.*damaged or no"),
    'save_student': (lambda: save_student('x', torch.nn.Linear(2, 2)), T,
                     "'student'.*Linear"),
    'save_student score': (
        lambda: save_student('x', LightGCNStudent(4, 5, 2), score='l2'), V,
        "'score'.*'l2'"),
    'save_student graph': (
        lambda: save_student('x', LightGCNStudent(4, 5, 2),
                             torch.tensor([[4], [0]])), V, 'edge_index.*4'),
}


def _other_stage():
    distiller = build()
    distiller.prepare(TRAIN, 'teacher')
    distiller.student_loss(None)


def _bad_batch():
    distiller = build()
    distiller.prepare(TRAIN, 'student')
    distiller.student_loss([1, 2])


def test_there_are_enough_cases():
    assert len(CASES) >= 40


@pytest.mark.parametrize('name', CASES)
def test_bad_input(name, monkeypatch):
    call, kind, message = CASES[name]

    def never(*args, **kwargs):
        raise AssertionError('something was trained or written')

    # At the door: nothing is computed or written before.
    monkeypatch.setattr(torch.Tensor, 'backward', never)
    monkeypatch.setattr('torch_promptmm.files.os.replace', never)
    with pytest.raises((TypeError, ValueError)) as info:
        call()
    assert info.type is kind, info.value
    assert re.search(message, str(info.value), re.DOTALL), info.value
    assert len(str(info.value)) < 1000


def test_adjacency_transposed():
    from torch_promptmm.nn import UserItemGraph
    student = LightGCNStudent(40, 36, 4)
    for adj in (sparse().t(), sparse().t().to_sparse_csr()):
        with pytest.raises(ValueError, match=r'transposed'):
            student(adj)
        with pytest.raises(ValueError, match=r'transposed'):
            UserItemGraph(adj, 40, 36)


def test_bad_input_leaves_the_distiller_usable():
    distiller = build()
    before = distiller.embeddings()[0]
    for wrong in ({'lr': 'fast'}, {'device': 'gpu'}, {'patience': 0}):
        with pytest.raises((TypeError, ValueError)):
            distiller.fit(TRAIN, VAL, epochs=1, progress=False, **wrong)
    assert torch.equal(distiller.embeddings()[0], before)
    distiller.evaluate(TEST, k=5)
    task = RankingTask(distiller.student, distiller.graph,
                       TRAIN[EDGE].edge_index)
    assert task.device.type == 'cpu'
