"""The protocol of a model, and the one door for modules of other classes."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from baselines import MF, BiasedMF, Content, Tables, Wrapper
from graphs import NUM_ITEMS, NUM_USERS, random_edges
from torch.testing import assert_close

from torch_promptmm.data import read_graph
from torch_promptmm.datasets import SyntheticMultimodal
from torch_promptmm.loader import BatchSpec, InteractionLoader
from torch_promptmm.models import (
    ForeignModel,
    LightGCN,
    ModelOutput,
    MultimodalTeacher,
    TeacherOutput,
    as_model,
    as_output,
    embed,
)
from torch_promptmm.nn import UserItemGraph
from torch_promptmm.train import RankingObjective, RankingTask, fit, train

TRAIN, VAL, TEST = SyntheticMultimodal.blocks(
    num_blocks=2, users_per_block=6, items_per_block=6,
    features={'visual': 5, 'textual': 3})
EDGES = TRAIN['user', 'interacts', 'item'].edge_index
U, I, D = TRAIN['user'].num_nodes, TRAIN['item'].num_nodes, 4
GRAPH = UserItemGraph(EDGES, U, I)


def ranking_task(model, l2: float = 1.0, **kwargs) -> RankingTask:
    return RankingTask(model, GRAPH, EDGES,
                       objective=RankingObjective('bpr'), l2=l2, **kwargs)


def batch_of(task: RankingTask):
    torch.manual_seed(0)
    return next(iter(task.loader(20)))


# What a model yields


def test_output_unpacks_as_three() -> None:
    x = [torch.randn(2, 3) for _ in range(6)]
    out = ModelOutput(x[0], x[1], {'a': (x[2], x[3])}, (x[4], x[5]))
    user, item, modalities = out
    assert user is out.user is x[0] and item is out.item is x[1]
    assert modalities is out.modalities and len(out) == 3
    assert out.ego == (x[4], x[5])
    assert TeacherOutput is ModelOutput
    bare = ModelOutput(x[0], x[1])
    assert bare.modalities == {} and bare.ego is None


def test_output_is_copied_whole() -> None:
    out = ModelOutput(torch.ones(2, 3), torch.ones(4, 3),
                      ego=(torch.ones(2, 1), torch.ones(4, 1)))
    for other in (copy.copy(out), copy.deepcopy(out),
                  pickle.loads(pickle.dumps(out))):
        assert isinstance(other, ModelOutput)
        assert_close(other.ego, out.ego)
        assert_close(tuple(other[:2]), tuple(out[:2]))


def test_as_output() -> None:
    x = torch.randn(2, 3), torch.randn(4, 3)
    out = ModelOutput(*x)
    assert as_output(out) is out
    for given in (x, list(x), (*x, {})):
        assert as_output(given)[:2] == x and as_output(given).modalities == {}
    assert as_output((*x, {'a': x})).modalities == {'a': x}


@pytest.mark.parametrize('given', [
    None,
    torch.randn(2, 3),
    (torch.randn(2, 3), ),
    (torch.randn(2, 3), None),
    (torch.randn(2, 3), torch.randn(4, 3), torch.randn(4, 3)),
    (torch.randn(2, 3), torch.randn(4, 3), {'a': torch.randn(2, 3)}),
    (torch.randn(2, 3), torch.randn(4, 3), {'a': (torch.randn(2, 3), )}),
    (torch.randn(2, 3), torch.randn(4, 3), {'a': (torch.randn(2, 3), 1)}),
    (torch.randn(2, 3), torch.randn(4, 3), {}, {}),
    {'user': torch.randn(2, 3), 'item': torch.randn(4, 3)},
])
def test_output_of_another_form(given) -> None:
    with pytest.raises(TypeError, match="'abc' must return .user embeddings"):
        as_output(given, 'abc')


@pytest.mark.parametrize('out, match', [
    ((torch.randn(U + 1, 3), torch.randn(I, 3)), rf'user .*\[{U}, channels\]'),
    ((torch.randn(U, 3), torch.randn(I)), rf'item .*\[{I}, channels\]'),
    ((torch.randn(U, 3), torch.randn(I, 3),
      {'a': (torch.randn(U, 3), torch.randn(U, 3))}), "for modality 'a'"),
])
def test_rows_that_are_missing(out, match) -> None:
    class Fixed(torch.nn.Module):
        def forward(self, graph):
            return out

    with pytest.raises(ValueError, match=match):
        embed(Fixed(), GRAPH, 'dot')


# The door


def test_a_model_passes_as_it_is() -> None:
    model = MF(U, I, D)
    assert as_model(model) is model


@pytest.mark.parametrize('given', [None, 'MF', MF, torch.randn(2, 3)])
def test_what_is_no_module(given) -> None:
    with pytest.raises(TypeError, match="'teacher' must be a torch.nn.Module"):
        as_model(given, 'teacher')


def test_a_foreign_module_is_wrapped() -> None:
    module = Tables(U, I)
    model = as_model(module)
    assert isinstance(model, ForeignModel) and model.module is module
    assert model.modalities == [] and model.prompt is None
    user_id, item_id = torch.tensor([3, 3]), torch.tensor([1])
    out = model(GRAPH, user_id, item_id)
    assert torch.equal(out.user, module.user.weight[user_id])
    assert torch.equal(out.item, module.item.weight[item_id])
    # The term falls on what it yields, and reaches its parameters.
    task = ranking_task(module)
    batch = batch_of(task)
    _, terms = task(batch)
    assert_close(terms['l2'], (
        module.user.weight[batch.user].square().sum() +
        module.item.weight[batch.positive].square().sum() +
        module.item.weight[batch.negative[:, 0]].square().sum()) / 40)


def test_modalities_of_a_foreign_module() -> None:
    class Views(Tables):
        def forward(self, graph):
            out = super().forward(graph)
            return (*out, {'a': out})

    task = ranking_task(Views(U, I), l2=0.0, modality_weight=0.5)
    total, terms = task(batch_of(task))
    assert_close(terms['modality'], terms['rank'])
    assert_close(total, 1.5 * terms['rank'])


class Compiled(torch.nn.Module):
    """What torch.compile makes of a module, as far as we are concerned."""
    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self._orig_mod = module

    def forward(self, *args, **kwargs):
        return self._orig_mod(*args, **kwargs)


def l2_of(model, **kwargs) -> float:
    task = ranking_task(model, **kwargs)
    return float(task(batch_of(task))[1]['l2'].detach())


def test_compiled_models_keep_the_rows_of_the_l2_term() -> None:
    model = LightGCN(U, I, D)
    want = l2_of(model)
    batch = batch_of(ranking_task(model))
    free = (model.user_embedding.weight[batch.user].square().sum() +
            model.item_embedding.weight[batch.positive].square().sum() +
            model.item_embedding.weight[batch.negative[:, 0]].square().sum())
    assert want == pytest.approx(float(free.detach()) / 40, rel=1e-5)
    for compiled in (Compiled(model), torch.compile(model, backend='eager')):
        with pytest.warns(UserWarning, match='compiled.*Compile the task'):
            assert l2_of(compiled) == want
    # And what the warning says to do.
    task = ranking_task(model)
    total, terms = torch.compile(task, backend='eager')(batch_of(task))
    assert float(terms['l2'].detach()) == pytest.approx(want, rel=1e-6)
    assert_close(total, task(batch_of(task))[0])


def test_a_compiled_model_trains_as_the_bare_one() -> None:
    states = []
    for wrap in (lambda x: x, Compiled):
        torch.manual_seed(0)
        model = LightGCN(U, I, D)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', UserWarning)
            fit(wrap(model), TRAIN, ranking_loss='bpr', epochs=3, seed=0,
                progress=False)
        states.append(model.state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key])


def test_parallel_wrappers_are_refused(tmp_path) -> None:
    model = LightGCN(U, I, D)
    with pytest.raises(ValueError, match="'DataParallel'.*wrap the task"):
        ranking_task(torch.nn.DataParallel(model))
    if not torch.distributed.is_available():
        return
    torch.distributed.init_process_group(
        'gloo', init_method=(tmp_path / 'x').as_uri(), rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        with pytest.raises(ValueError, match="'DistributedDataParallel'"):
            fit(wrapped, TRAIN, epochs=1, progress=False)
        # What the error says to do.
        task = ranking_task(model)
        want = task(batch_of(task))[0]
        wrapped = torch.nn.parallel.DistributedDataParallel(task)
        assert_close(wrapped(batch_of(task))[0], want)
    finally:
        torch.distributed.destroy_process_group()


def test_a_wrapper_that_hides_the_rows_says_so() -> None:
    with pytest.warns(UserWarning, match="'model' .Wrapper. wraps a model.*"
                      'falls on its output'):
        hidden = l2_of(Wrapper(LightGCN(U, I, D)))
    assert hidden > 0
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ranking_task(Wrapper(LightGCN(U, I, D)), l2=0.0)
        ranking_task(Wrapper(Tables(U, I)))
        ranking_task(LightGCN(U, I, D))


# What a model says for itself


def test_extra_loss_is_in_total_and_gradients() -> None:
    class Extra(MF):
        def extra_loss(self, batch, output):
            assert output.user.size(0) == batch.user.numel()
            return {'own': 3.0 * self.item.weight[0].sum(),
                    'other': 2.0 * output.user.square().sum()}

    torch.manual_seed(0)
    plain, extra = MF(U, I, D), Extra(U, I, D)
    extra.load_state_dict(plain.state_dict())
    tasks = ranking_task(plain), ranking_task(extra)
    batch = batch_of(tasks[0])
    (a, _), (b, terms) = (task(batch) for task in tasks)
    rows = plain.user.weight[batch.user]
    assert_close(terms['own'], 3.0 * plain.item.weight[0].sum())
    assert_close(terms['other'], 2.0 * rows.square().sum())
    assert_close(b, a + terms['own'] + terms['other'])
    a.backward()
    b.backward()
    want = plain.item.weight.grad.clone()
    want[0] += 3.0
    assert_close(extra.item.weight.grad, want)
    want = plain.user.weight.grad.clone()
    want.index_add_(0, batch.user, 4.0 * rows.detach())
    assert_close(extra.user.weight.grad, want)


@pytest.mark.parametrize('name', ['rank', 'l2', 'modality', 'loss', 'epoch',
                                  'time'])
def test_extra_loss_overwrites_no_entry_of_the_history(name: str) -> None:
    class Extra(MF):
        def extra_loss(self, batch, output):
            return {name: output.user.sum()}

    task = ranking_task(Extra(U, I, D), l2=0.0)
    with pytest.raises(ValueError, match=f"'extra_loss' of 'Extra' must give "
                       f"its term another name than '{name}'"):
        task(batch_of(task))


def test_the_best_epoch_is_restored_with_its_buffers() -> None:
    """What is made anew between epochs is kept in buffers."""
    class Rebuilt(MF):
        def __init__(self):
            super().__init__(U, I, D)
            self.register_buffer('graph', torch.zeros(3))
            self.plain = 0

        def on_epoch_start(self, epoch, graph):
            self.graph.fill_(epoch)
            self.plain = epoch

    model = Rebuilt()
    values = iter([0.1, 0.5, 0.2, 0.3])
    history = train(ranking_task(model), epochs=4, progress=False,
                    validate=lambda: {'recall@20': next(values)})
    assert history.best_epoch == 2
    assert model.graph.tolist() == [2.0] * 3
    assert model.plain == 4  # As 'on_epoch_start' says.


def test_hooks_are_called() -> None:
    class Hooks(MF):
        def __init__(self):
            super().__init__(U, I, D)
            self.epochs, self.samples = [], set()

        def batch_spec(self, spec):
            return spec.merge(BatchSpec(num_negatives=3, item_samples=7))

        def on_epoch_start(self, epoch, graph):
            assert self.training
            self.epochs.append((epoch, graph))

        def extra_loss(self, batch, output):
            assert batch.negative.size(1) == 3
            self.samples.add(batch.item.numel())
            assert output.item.size(0) == 4 * batch.user.numel() + 7
            return {}

    model = Hooks()
    task = ranking_task(model)
    assert task.batch_spec == BatchSpec(num_negatives=3, item_samples=7)
    train(task, epochs=2, batch_size=20, progress=False)
    assert [epoch for epoch, _ in model.epochs] == [1, 2]
    assert all(graph is task.graph for _, graph in model.epochs)
    assert model.samples == {7}
    fit(model, TRAIN, epochs=1, ranking_loss='bpr', progress=False)
    assert len(model.epochs) == 3


def test_hooks_of_a_resumed_run(tmp_path) -> None:
    epochs = []

    class Hooks(MF):
        def on_epoch_start(self, epoch, graph):
            epochs.append(epoch)

    for number in (2, 4):
        train(ranking_task(Hooks(U, I, D)), epochs=number, progress=False,
              checkpoint=tmp_path / 'x', resume=True)
    assert epochs == [1, 2, 3, 4]


@pytest.mark.parametrize('cls', [MF, BiasedMF, LightGCN])
def test_from_data(cls) -> None:
    before = torch.get_rng_state()
    a, b = (cls.from_data(TRAIN, hidden_channels=D, seed=1) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert (a.num_users, a.num_items) == (U, I)
    assert as_output(a(GRAPH)).item.size(1) == a.width
    for key, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[key])
    again = cls(**a.config())
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in a.state_dict().items()}


def test_from_data_with_features() -> None:
    model = Content.from_data(TRAIN, hidden_channels=D, seed=1)
    assert model.modalities == ['visual', 'textual']
    assert model.item_features.tensors['visual'] is TRAIN['item'].visual
    assert Content.from_data(
        TRAIN, modalities=['textual']).modalities == ['textual']
    bare = TRAIN.clone()
    del bare['item'].visual
    with pytest.raises(ValueError, match="'modalities' names 'visual', which"):
        fit(model, bare, epochs=1, progress=False)
    with pytest.raises(ValueError, match="'MF' reads no features"):
        MF(U, I).set_features({'visual': TRAIN['item'].visual})
    with pytest.raises(ValueError, match="'data' lacks the modality 'visual'"):
        model.give_features(read_graph(bare))
    # Those who read none need none.
    del bare['item'].textual
    MF.from_data(bare)
    with pytest.raises(ValueError, match='no modality'):
        Content.from_data(bare)


def test_a_subclass_says_what_it_must() -> None:
    from torch_promptmm.models import RankingModel
    model = RankingModel(U, I)
    for call in (lambda: model.width, lambda: model(GRAPH), model.config,
                 model.reset_parameters):
        with pytest.raises(NotImplementedError):
            call()


# Embeddings


def live(model: torch.nn.Module) -> set[int]:
    return {x.untyped_storage().data_ptr()
            for x in (*model.parameters(), *model.buffers())}


class Buffers(Tables):
    def __init__(self):
        super().__init__(U, I)
        for name in ('user', 'item'):
            table = getattr(self, name).weight.detach()
            delattr(self, name)
            self.register_buffer(name, table)

    def forward(self, graph):
        return self.user, self.item[:, :2].expand(-1, 2)


@pytest.mark.parametrize('score', ['dot', 'cosine'])
@pytest.mark.parametrize('make', [
    lambda: MF(U, I), lambda: BiasedMF(U, I), lambda: Tables(U, I),
    lambda: LightGCN(U, I, D, num_layers=0), lambda: LightGCN(U, I, D),
    Buffers])
def test_embeddings_are_no_live_tensors(make, score) -> None:
    model = make()
    out = embed(model, GRAPH, score)
    for x in out:
        assert not x.requires_grad and x.grad_fn is None
        assert x.untyped_storage().data_ptr() not in live(model)
    before = [x.clone() for x in out]
    with torch.no_grad():
        for x in (*model.parameters(), *model.buffers()):
            x.add_(1.0)
    assert_close(out, tuple(before), rtol=0, atol=0)
    raw = as_output(model(GRAPH)).user
    assert not torch.equal(raw, before[0])  # It would have been seen.


def test_embeddings_are_what_the_score_sees() -> None:
    model = LightGCN(U, I, D)
    user, item = model(GRAPH)
    dot, cosine = (embed(model, GRAPH, score) for score in ('dot', 'cosine'))
    assert_close(dot, (user.detach(), item.detach()))
    for x, y in zip(cosine, (user, item), strict=True):
        assert_close(x, torch.nn.functional.normalize(y, dim=1).detach())
    with pytest.raises(ValueError, match="'score' must be one of"):
        embed(model, GRAPH, 'l2')


def test_embed_leaves_each_part_its_mode() -> None:
    model = Wrapper(torch.nn.Sequential(torch.nn.Dropout(0.5)))
    model.tables = Tables(U, I)
    model.forward = lambda graph: [
        model.module(x) for x in model.tables(graph)]
    model.train()
    model.tables.eval()  # A part that is frozen.
    want = model.tables.user.weight.detach()
    assert_close(embed(model, GRAPH, 'dot')[0], want, rtol=0, atol=0)
    assert model.training and model.module.training
    assert model.module[0].training and not model.tables.training
    model.forward = lambda graph: None
    with pytest.raises(TypeError):
        embed(model, GRAPH, 'dot')
    assert model.training and not model.tables.training


def test_random_edges_have_no_part_in_a_table_model() -> None:
    graph = UserItemGraph(random_edges(), NUM_USERS, NUM_ITEMS)
    model = MF(NUM_USERS, NUM_ITEMS)
    assert torch.equal(embed(model, graph, 'dot')[0], model.user.weight)


def test_a_loader_of_ones_own() -> None:
    class Own(RankingTask):
        def loader(self, batch_size):
            return InteractionLoader(self.positives[:, :5], self.known, U, I,
                                     batch_size, self.batch_spec)

    task = Own(MF(U, I), GRAPH, EDGES, objective=RankingObjective('bpr'))
    before = task.model.user.weight.detach().clone()
    train(task, epochs=1, progress=False)
    moved = (task.model.user.weight != before).any(dim=1)
    assert set(moved.nonzero().view(-1).tolist()) <= set(
        EDGES[0, :5].tolist())


def test_the_teacher_names_the_rows_of_its_ids() -> None:
    teacher = MultimodalTeacher.from_data(TRAIN, hidden_channels=D, seed=0)
    task = ranking_task(teacher)
    batch = batch_of(task)
    ids = teacher.backbone
    free = (ids.user_embedding.weight[batch.user].square().sum() +
            ids.item_embedding.weight[batch.positive].square().sum() +
            ids.item_embedding.weight[batch.negative[:, 0]].square().sum())
    assert_close(task(batch)[1]['l2'], free / 40)


def test_a_model_with_a_sparse_buffer_is_embedded() -> None:
    class Sparse(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer('adj', torch.eye(3).to_sparse_csr())

        def forward(self, graph):
            x = self.adj @ torch.ones(3, 2)
            return x, x[:2]

    graph = UserItemGraph(torch.tensor([[0, 1], [1, 0]]), 3, 2)
    user, item = embed(Sparse(), graph, 'dot')
    assert torch.equal(user, torch.ones(3, 2)) and item.shape == (2, 2)
