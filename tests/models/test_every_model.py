"""One suite that every model must pass: baseline, teacher and student.

A model joins by a subclass of :class:`ModelSuite` with ``make(seed)``, whatever
width it has. What else it may say of itself stands at the head of the class.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from allocations import Largest
from baselines import MF, BiasedMF, Content
from random_data import WIDTHS, random_data, relabelled
from torch import Tensor
from torch.testing import assert_close
from torch_geometric import EdgeIndex
from torch_geometric.data import HeteroData
from torch_geometric.typing import WITH_TORCH_SPARSE, SparseTensor

from torch_promptmm import PromptMMDistiller
from torch_promptmm.data import held_out, read_graph
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.evaluate import evaluate, evaluate_embeddings
from torch_promptmm.loader import InteractionLoader
from torch_promptmm.models import LightGCN, RankingModel, as_output, embed
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


@functools.cache
def other_data(num_users: int, num_items: int, num_edges: int = 150,
               modalities: tuple[str, ...] = ('visual', 'textual'),
               ) -> HeteroData:
    return random_data(num_users, num_items, num_edges,
                       {name: WIDTHS[name] for name in modalities})


def graph_of(data: HeteroData) -> UserItemGraph:
    return UserItemGraph(data['user', 'interacts', 'item'].edge_index,
                         data['user'].num_nodes, data['item'].num_nodes)


def tensors(output: Any) -> list[Tensor]:
    """All that a model yields."""
    out = as_output(output)
    return [out.user, out.item,
            *(x for pair in out.modalities.values() for x in pair)]


def same_bits(a: Any, b: Any) -> bool:
    return all(map(torch.equal, tensors(a), tensors(b)))


class ModelSuite:
    """Subclasses make a task (and so its model) from a seed."""
    epochs = 10  # In which it learns the blocks.
    # Whether a single batch's gradient reaches every parameter; within an
    # epoch it must.
    every_batch = True
    # Whether training draws at random what evaluation does not.
    dropout = False
    # The users and items that the memory test has.
    big = (20_000, 20_000)

    def make(self, seed: int = 0) -> Task:
        """The task on the blocks, whose model has the width D."""
        raise NotImplementedError

    def model(self, task: Task) -> torch.nn.Module:
        return task.model

    def build(self, data: HeteroData, seed: int = 0) -> RankingModel:
        """A model like the task's for another graph. By default it has the
        configuration of that one, but for the sizes.
        """
        model = self.model(self.make())
        kwargs = {k: v for k, v in model.config().items()
                  if k not in ('num_users', 'num_items', 'in_channels')}
        return type(model).from_data(data, seed=seed, **kwargs)

    def twin(self, model: RankingModel, data: HeteroData) -> RankingModel:
        """A new model with the state of another one, as if from a file."""
        twin = type(model).from_config(model.config())
        twin.load_state_dict(model.state_dict())
        twin.keep_score(model.score)
        twin.give_features(read_graph(data, need_features=False))
        return twin

    def permute(self, model: RankingModel, twin: RankingModel, user: Tensor,
                item: Tensor) -> None:
        """Gives ``twin`` the weights of ``model``, in which user u is called
        ``user[u]``, item i ``item[i]``. By default a table is known by its
        number of rows.
        """
        num_users, num_items = model.num_users, model.num_items
        order = {num_users: user, num_items: item, num_users + num_items:
                 torch.cat([user, num_users + item])}
        have, weights = twin.state_dict(), dict(model.named_parameters())
        for name, x in model.state_dict().items():
            index = order.get(x.size(0)) if x.dim() > 0 else None
            if index is not None:
                have[name].index_copy_(0, index, x)
            elif name in weights:  # Others are computed from the data.
                have[name].copy_(x)

    def other_task(self, model: RankingModel, data: HeteroData) -> RankingTask:
        """Trains a model of :meth:`build` as the task does."""
        objective = getattr(self.make(), 'objective', None)
        return RankingTask(model, graph_of(data),
                           data['user', 'interacts', 'item'].edge_index,
                           objective=objective, l2=1e-3, extra=model.prompt)

    def epoch(self, task: Task, batch_size: int = 64) -> set[str]:
        """Trains for an epoch, and returns the names of those parameters
        that no gradient reached.
        """
        left = {name for name, p in task.named_parameters()
                if p.requires_grad}
        optimizer = torch.optim.AdamW(task.parameter_groups(), lr=0.01)
        task.train()
        task.on_epoch_start(1)
        torch.manual_seed(0)
        for batch in task.loader(batch_size):
            total, _ = task(batch)
            assert total.isfinite()
            optimizer.zero_grad()
            total.backward()
            for name, p in task.named_parameters():
                if p.grad is not None:
                    assert p.grad.isfinite().all(), name
                    left -= {name} if p.grad.abs().sum() > 0 else set()
            optimizer.step()
        return left

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
            if parameter.requires_grad and self.every_batch:
                assert parameter.grad is not None, name
                assert parameter.grad.isfinite().all(), name
                assert parameter.grad.abs().sum() > 0, name

    def test_an_epoch_reaches_every_parameter(self):
        assert not self.epoch(self.make())

    def test_rows_are_those_of_the_whole(self):
        task = self.make()
        model = self.model(task).eval()
        whole = as_output(model(GRAPH))
        for user, item in (([3, 3, 40], [35, 0]), ([7], [1])):
            user_id, item_id = torch.tensor(user), torch.tensor(item)
            rows = as_output(model(GRAPH, user_id, item_id))
            assert_close(rows.user, whole.user[user_id])
            assert_close(rows.item, whole.item[item_id])
            assert rows.modalities.keys() == whole.modalities.keys()
            for name, (x_user, x_item) in rows.modalities.items():
                assert_close(x_user, whole.modalities[name][0][user_id])
                assert_close(x_item, whole.modalities[name][1][item_id])
            assert_close(as_output(model(GRAPH, user_id)).item, whole.item)

    def test_every_adjacency(self):
        model = self.model(self.make()).eval()
        wanted = as_output(model(GRAPH))
        edge_index = STORE.edge_index
        coo = torch.sparse_coo_tensor(edge_index,
                                      torch.ones(edge_index.size(1)), (U, I))
        layouts = [edge_index, edge_index.int(), edge_index.flip(1),
                   EdgeIndex(edge_index, sparse_size=(U, I)),
                   coo, coo.to_sparse_csr(), coo.to_sparse_csc()]
        if WITH_TORCH_SPARSE:
            layouts.append(SparseTensor.from_edge_index(
                edge_index, sparse_sizes=(U, I)))
        for adj in layouts:
            out = as_output(model(adj))
            assert_close(out.user, wanted.user)
            assert_close(out.item, wanted.item)

    # Any graph

    @pytest.mark.parametrize('sizes', [(29, 23), (23, 29)],
                             ids=['more users', 'more items'])
    def test_any_sizes_and_nodes_without_an_edge(self, sizes):
        data = other_data(*sizes)
        model = self.build(data)
        task = self.other_task(model, data)
        # A batch's rows alone would leave these nodes out.
        out = tensors(model(task.graph))
        assert [len(x) for x in out[:2]] == list(sizes)
        sum(x.square().sum() for x in out).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                assert parameter.grad.isfinite().all(), name
        assert not self.epoch(task)
        for x in (*out, *task.embeddings()):
            assert x.isfinite().all()

    def test_other_names_of_users_and_items(self):
        data = other_data(29, 23)
        user, item = torch.randperm(29), torch.randperm(23)
        model = self.build(data).eval()
        other = relabelled(data, user, item)
        twin = self.build(other, seed=1).eval()
        self.permute(model, twin, user, item)
        outputs = []
        for each, graph in ((model, graph_of(data)), (twin, graph_of(other))):
            each.on_epoch_start(1, graph)
            with torch.no_grad():
                outputs.append(tensors(each(graph)))
        assert len(outputs[0]) == len(outputs[1])
        for i, (a, b) in enumerate(zip(*outputs, strict=True)):
            assert_close(b[item if i % 2 else user], a, rtol=1e-4, atol=1e-5)

    def test_nothing_is_quadratic(self):
        num_users, num_items = self.big
        data = other_data(num_users, num_items, 3 * num_users)
        task = self.other_task(self.build(data), data)
        batch = next(iter(task.loader(256)))
        with Largest() as largest:
            # Made anew, since it may compute something from the data.
            task.model = self.build(data)
            task.on_epoch_start(1)
            task(batch)[0].backward()
            task.embeddings()
        # Blocks of rows pass.
        assert largest.numel < min(num_users, num_items)**2 / 4, largest.shape

    # Content

    def test_any_number_of_modalities(self):
        if not self.model(self.make()).modalities:
            pytest.skip('reads no content')
        for names in (('visual', ), ('visual', 'textual'), tuple(WIDTHS)):
            data = other_data(29, 23, modalities=names)  # Some lack the last.
            model = self.build(data)
            task = self.other_task(model, data)
            out = as_output(model(task.graph))
            assert model.modalities == list(names)
            assert set(out.modalities) <= set(names)
            assert not self.epoch(task), names
            for x in (*tensors(out), *task.embeddings()):
                assert x.isfinite().all()

    def test_what_an_item_lacks(self):
        if not self.model(self.make()).modalities:
            pytest.skip('reads no content')
        data = other_data(29, 23)
        graph, mask = graph_of(data), data['item'].textual_mask
        # What a mask hides may be anything, and does not matter.
        other = data.clone()
        other['item'].textual = torch.where(mask.view(-1, 1),
                                            data['item'].textual, 100.0)
        # Without the mask, such a row is one of zeros.
        bare = data.clone()
        del bare['item'].textual_mask
        out = []
        for each in (data, other, bare):
            model = self.build(each).eval()
            model.on_epoch_start(1, graph)
            with torch.no_grad():
                out.append(tensors(model(graph)))
            assert not self.epoch(self.other_task(model, each))
            for x in out[-1]:
                assert x.isfinite().all()
        assert_close(out[1], out[0])

    # Evaluation

    def test_training_differs_by_dropout_alone(self):
        model = self.model(self.make())
        out = []
        for training in (False, False, True, True):
            model.train(training)
            with torch.no_grad():
                out.append(model(GRAPH))  # From another random state each.
            torch.rand(3)
        assert same_bits(out[0], out[1])
        if self.dropout:
            assert not same_bits(out[2], out[0])
            assert not same_bits(out[2], out[3])
        else:
            assert same_bits(out[2], out[0])

    def test_nothing_stale_is_ranked(self):
        task = self.trained(epochs=1)
        model = self.model(task)
        model.keep_score(task.score)
        options = {'k': (5, 10), 'metrics': ('recall', 'ndcg', 'mrr')}
        before = evaluate(model, TEST, **options)
        assert evaluate(model, TEST, **options) == before
        assert evaluate(self.twin(model, TEST), TEST, **options) == before
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter))
        after = evaluate(model, TEST, **options)
        assert after != before
        assert evaluate(self.twin(model, TEST), TEST, **options) == after

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

    # Devices

    def test_on_device(self, device):
        task, twin = self.make(), self.make()
        batch = self.batch(task)
        twin = twin.to(device)
        moved = type(batch)(*(x.to(device) for x in batch))
        for each in (task, twin):
            each.on_epoch_start(1)
        if not self.dropout:
            assert_close(twin(moved)[0].cpu(), task(batch)[0])
        twin(moved)[0].backward()
        for x, wanted in zip(twin.embeddings(), task.embeddings(),
                             strict=True):
            assert x.device.type == device.type
            assert_close(x.cpu(), wanted, rtol=1e-3, atol=1e-4)

    def test_makes_nothing_on_the_default_device(self):
        # What forgets to say where it is made would be here, not on the GPU.
        task = self.make()
        batch, model = self.batch(task), self.model(task)
        ids = torch.tensor([3, 1])
        with torch.device('meta'):
            task.on_epoch_start(1)
            task(batch)[0].backward()
            out = [*task.embeddings(), *tensors(model(GRAPH, ids, ids))]
        assert all(x.device.type == 'cpu' for x in out)

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

    def test_is_a_teacher(self, tmp_path):
        model = self.model(self.trained(epochs=1))
        distiller = PromptMMDistiller.from_data(
            TRAIN, hidden_channels=D, teacher=copy.deepcopy(model), seed=0,
            num_negatives=16, **({'score': model.score} if model.score else {}))
        distiller.fit_student(TRAIN, epochs=1, batch_size=64, seed=0,
                              progress=False)
        distiller.save(tmp_path / 'x')
        loaded = PromptMMDistiller.load(tmp_path / 'x')
        for a, b in zip(loaded.recommend([0, 1], k=5),
                        distiller.recommend([0, 1], k=5), strict=True):
            assert torch.equal(a, b)

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

    def build(self, data: HeteroData, seed: int = 0) -> RankingModel:
        return PromptMMDistiller.from_data(data, hidden_channels=D, seed=seed,
                                           **self.kwargs).teacher

    # A prompt belongs to no teacher, and is not in its state.

    def twin(self, model: RankingModel, data: HeteroData) -> RankingModel:
        twin = super().twin(model, data)
        twin.inject(copy.deepcopy(model.prompt))
        return twin

    def permute(self, model: RankingModel, twin: RankingModel, user: Tensor,
                item: Tensor) -> None:
        super().permute(model, twin, user, item)
        prompt = copy.deepcopy(twin.prompt)
        prompt.load_state_dict(model.prompt.state_dict())
        prompt.basis.index_copy_(0, item, model.prompt.basis)
        twin.inject(prompt)

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
