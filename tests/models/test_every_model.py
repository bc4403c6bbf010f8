"""One suite that every model must pass: baseline, teacher and student.

A model joins by a subclass of :class:`ModelSuite`, with whatever width it
has.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from baselines import MF, BiasedMF, Content
from torch.testing import assert_close
from torch_geometric import EdgeIndex
from torch_geometric.typing import WITH_TORCH_SPARSE, SparseTensor

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import held_out, read_graph
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.evaluate import evaluate, evaluate_embeddings
from torch_promptmm.loader import InteractionLoader
from torch_promptmm.models import LightGCN, as_output, embed
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.serve import Recommender, recommend
from torch_promptmm.train import (
    RankingObjective,
    RankingTask,
    Task,
    fit,
    train,
)

TRAIN, VAL, TEST = SyntheticMultimodal.blocks(users_per_block=12)
U, I, D = 48, 36, 8
STORE = TRAIN['user', 'interacts', 'item']
GRAPH = UserItemGraph(STORE.edge_index, U, I)


class ModelSuite:
    """Subclasses make a task (and so its model) from a seed."""
    epochs = 10  # In which it learns the blocks.

    def make(self, seed: int = 0) -> Task:
        raise NotImplementedError

    def model(self, task: Task) -> torch.nn.Module:
        return task.model

    def trained(self, **kwargs: Any) -> Task:
        task = self.make()
        train(task, **{'epochs': 3, 'lr': 0.02, 'batch_size': 64, 'seed': 0,
                       'progress': False, **kwargs})
        return task

    def batch(self, task: Task):
        torch.manual_seed(0)
        return next(iter(InteractionLoader(task.positives, task.known, U, I,
                                           50, task.batch_spec)))

    # Shapes and gradients

    def test_shapes(self):
        task = self.make()
        width = self.model(task).width
        user, item = task.embeddings()
        assert user.shape == (U, width) and item.shape == (I, width)
        out = as_output(self.model(task)(GRAPH))
        assert out.user.shape == (U, width) and out.item.shape == (I, width)
        for pair in out.modalities.values():
            assert pair[0].size(0) == U and pair[1].size(0) == I
        if task.score == 'cosine':
            assert_close(user.norm(dim=1), torch.ones(U))

    def test_loss_and_gradients(self):
        task = self.make()
        total, terms = task(self.batch(task))
        assert total.dim() == 0 and total.isfinite()
        assert 'rank' in terms
        total.backward()
        for name, parameter in task.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
                assert parameter.grad.abs().sum() > 0, name

    def test_rows_are_those_of_the_whole(self):
        task = self.make()
        model = self.model(task).eval()
        user_id, item_id = torch.tensor([3, 3, 40]), torch.tensor([35, 0])
        whole = as_output(model(GRAPH))
        rows = as_output(model(GRAPH, user_id, item_id))
        assert_close(rows.user, whole.user[user_id])
        assert_close(rows.item, whole.item[item_id])

    def test_every_adjacency(self):
        model = self.model(self.make()).eval()
        wanted = as_output(model(GRAPH))
        edge_index = STORE.edge_index
        coo = torch.sparse_coo_tensor(edge_index,
                                      torch.ones(edge_index.size(1)), (U, I))
        layouts = [edge_index, edge_index.flip(1),
                   EdgeIndex(edge_index, sparse_size=(U, I)),
                   coo, coo.to_sparse_csr()]
        if WITH_TORCH_SPARSE:
            layouts.append(SparseTensor.from_edge_index(
                edge_index, sparse_sizes=(U, I)))
        for adj in layouts:
            out = as_output(model(adj))
            assert_close(out.user, wanted.user)
            assert_close(out.item, wanted.item)

    # Training

    def test_training_helps(self):
        # The nine items of a user's block, six of them trained on, come
        # before those of the others.
        task, losses = self.make(), []
        train(task, epochs=self.epochs, lr=0.02, batch_size=64, seed=0,
              progress=False,
              callback=lambda record: losses.append(record['loss']))
        assert losses[-1] < losses[0]
        out = evaluate_embeddings(*task.embeddings(), STORE.edge_index, k=9)
        assert out['recall@9'] > 0.9

    def test_same_seed_same_bits(self):
        a, b = self.trained().state_dict(), self.trained().state_dict()
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
        c = self.trained(seed=1).state_dict()
        assert not all(torch.equal(a[key], c[key]) for key in a)

    def test_resume(self, tmp_path):
        wanted = self.trained(epochs=4).state_dict()
        self.trained(epochs=2, checkpoint=tmp_path / 'x')
        out = self.trained(epochs=4, checkpoint=tmp_path / 'x', resume=True)
        for key, value in out.state_dict().items():
            assert torch.equal(value, wanted[key]), key

    # Use

    def test_embeddings_are_no_live_tensors(self):
        task = self.make()
        out = task.embeddings()
        before = [x.clone() for x in out]
        for x in out:
            assert not x.requires_grad and x.grad_fn is None
        with torch.no_grad():
            for parameter in self.model(task).parameters():
                parameter.add_(1.0)
        assert_close(out, tuple(before), rtol=0, atol=0)
        assert not torch.equal(task.embeddings()[0], before[0])

    def test_one_call_each(self):
        # fit, evaluate and Recommender take the bare model.
        model = copy.deepcopy(self.model(self.make()))
        history = fit(model, TRAIN, VAL, epochs=2, batch_size=64, seed=0,
                      num_negatives=16, progress=False)
        assert len(history) == 2
        out = evaluate(model, TEST, k=5)
        rec = Recommender.from_model(model, TRAIN)
        graph = UserItemGraph(TEST['user', 'interacts', 'item'].edge_index,
                              U, I)
        user, item = embed(model, graph, model.score)
        assert_close(rec.user_emb, user)
        view = read_graph(TEST)
        assert out == evaluate_embeddings(user, item, held_out(view),
                                          view.edge_index, k=5)

    def test_configuration_gives_the_same_shapes(self):
        model = self.model(self.make())
        other = type(model)(**model.config())
        assert {k: x.shape for k, x in other.state_dict().items()} == {
            k: x.shape for k, x in model.state_dict().items()}
        model = copy.deepcopy(model)
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, 7.0)
        model.reset_parameters()
        for name, parameter in model.named_parameters():
            assert not (parameter == 7.0).any(), name

    def test_state_round_trip(self, tmp_path):
        task, other = self.trained(), self.make(seed=1)
        assert not torch.equal(task.embeddings()[0], other.embeddings()[0])
        torch.save(task.state_dict(), tmp_path / 'x')
        other.load_state_dict(torch.load(tmp_path / 'x', weights_only=True))
        for model in (self.model(task), self.model(other)):
            assert len(list(model.parameters())) > 0
        self.model(other).load_state_dict(self.model(task).state_dict())
        assert_close(task.embeddings(), other.embeddings(), rtol=0, atol=0)

    def test_copy_is_whole(self):
        task = self.make()
        other = copy.deepcopy(task)
        assert_close(task.embeddings(), other.embeddings(), rtol=0, atol=0)

    def test_one_user_is_a_batch_of_one(self):
        user, item = self.trained().embeddings()
        items, scores = recommend(user, item, range(U), 10, STORE.edge_index)
        known = set(map(tuple, STORE.edge_index.t().tolist()))
        for each in range(U):
            one, score = recommend(user, item, [each], 10, STORE.edge_index)
            assert_close(score[0], scores[each])
            assert not known & {(each, i) for i in one[0].tolist()}

    def test_embeddings_leave_the_mode_alone(self):
        task = self.make()
        for mode in (True, False):
            task.train(mode)
            task.embeddings()
            assert task.training is mode


class TestLightGCN(ModelSuite):
    ranking_loss = 'bpr'

    def make(self, seed: int = 0) -> Task:
        torch.manual_seed(seed)
        return RankingTask(LightGCN(U, I, D), GRAPH, STORE.edge_index,
                           objective=RankingObjective(self.ranking_loss,
                                                      num_negatives=16),
                           l2=1e-3)


class TestLightGCNSoftmax(TestLightGCN):
    ranking_loss = 'softmax'


class TestMF(ModelSuite):
    epochs = 100
    cls: type[MF] = MF
    objective: dict[str, Any] = {'ranking_loss': 'softmax',
                                 'num_negatives': 16}

    def make(self, seed: int = 0) -> Task:
        return RankingTask(self.cls.from_data(TRAIN, D, seed=seed), GRAPH,
                           STORE.edge_index, l2=1e-3,
                           objective=RankingObjective(**self.objective))


class TestBiasedMF(TestMF):
    cls = BiasedMF
    objective = {'ranking_loss': 'bpr'}


class TestContent(TestMF):
    cls = Content


class TestTeacher(ModelSuite):
    kwargs: dict[str, Any] = {}

    def make(self, seed: int = 0) -> Task:
        distiller = PromptMMDistiller.from_data(
            TRAIN, hidden_channels=D, seed=seed, num_negatives=16,
            **self.kwargs)
        return distiller.prepare(TRAIN, 'teacher')


class TestFaithfulTeacher(TestTeacher):
    kwargs = {'setting': 'faithful', 'normalize': 'row'}


class TestStudent(ModelSuite):
    kwargs: dict[str, Any] = {}

    def model(self, task: Task) -> torch.nn.Module:
        return task.student

    def make(self, seed: int = 0) -> Task:
        distiller = copy.deepcopy(self.distiller(seed))
        return distiller.prepare(TRAIN, 'student')

    @classmethod
    @functools.cache
    def distiller(cls, seed: int) -> PromptMMDistiller:
        # With a teacher that knows something, which is trained once.
        distiller = PromptMMDistiller.from_data(
            TRAIN, hidden_channels=D, seed=seed, num_negatives=16,
            **cls.kwargs)
        distiller.fit_teacher(TRAIN, epochs=15, lr=0.02, batch_size=64,
                              seed=0, progress=False)
        return distiller


class TestFaithfulStudent(TestStudent):
    kwargs = {'setting': 'faithful'}


def test_a_task_of_ones_own_says_what_it_lacks():
    task = Task(GRAPH, STORE.edge_index, STORE.edge_index, 'dot')
    for call in (lambda: task.batch_spec, lambda: task(None),
                 task.embeddings):
        with pytest.raises(NotImplementedError):
            call()
    assert task.device == GRAPH.device
