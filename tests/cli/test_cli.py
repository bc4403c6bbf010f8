"""The command line, from a table to answers; and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('jsonargparse')
pytest.importorskip('docstring_parser')
pytest.importorskip('pandas')

from torch_promptmm.cli import main  # noqa: E402
from torch_promptmm.serve import Recommender  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
FAST = ['--epochs', '1', '--hidden_channels', '8', '--seed', '0',
        '--progress', 'false', '--k', '5', '10']
COLUMNS = ['--user', 'customer', '--item', 'sku']


def make_shop(folder: Path, users: int = 24, items: int = 30) -> None:
    rng = np.random.RandomState(0)
    goods = [f'{n:03d}-{kind}' for n, kind in enumerate(
        ['tea', 'cup'] * (items // 2))]
    with open(folder / 'orders.csv', 'w') as f:
        f.write('customer,sku,day\n')
        for n in range(users):
            mine = [i for i in range(items) if i % 2 == n % 2]
            for day, i in enumerate(rng.permutation(mine)[:7]):
                f.write(f'C-{n:02d},{goods[i]},2024-01-{day + 1:02d}\n')
    (folder / 'features').mkdir()
    np.save(folder / 'features/visual.npy', np.stack(
        [np.eye(4)[i % 2] + .1 * rng.standard_normal(4)
         for i in range(items)]).astype(np.float32))
    (folder / 'features/visual_ids.txt').write_text('\n'.join(goods))


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('shop')
    make_shop(folder)
    assert main(['train', str(folder / 'orders.csv'), '--features',
                 str(folder / 'features'), '--out', str(folder / 'model'),
                 *COLUMNS, *FAST]) == 0
    return folder


@pytest.fixture
def shop(tmp_path: Path, monkeypatch) -> Path:
    make_shop(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(trained: Path) -> Recommender:
    return Recommender.load(trained / 'model')


def run(capsys, *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        code = main([str(x) for x in words])
    except SystemExit as error:
        code = error.code
    out, err = capsys.readouterr()
    return code, out, err


def rows_of(text: str) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        assert int(row['rank']) == len(out.setdefault(row['user'], [])) + 1
        out[row['user']].append(row['item'])
    return out


def test_train_says_what_it_did(shop: Path, capsys) -> None:
    before = {x for x in shop.rglob('*')}
    code, out, err = run(capsys, 'train', 'orders.csv', '--features',
                         'features', '--out', 'model', *COLUMNS, '--time',
                         'day', *FAST, '--json')
    assert code == 0, err
    result = json.loads(out)
    assert (result['users'], result['items']) == (24, 30)
    assert result['interactions'] == 24 * 7
    assert set(result['metrics']) == {'recall@5', 'ndcg@5', 'recall@10',
                                      'ndcg@10'}
    made = {x.relative_to(shop).parts[0] for x in shop.rglob('*')
            if x not in before}
    assert made == {'model'}  # And nothing else.
    model = Recommender.load('model')
    # What was held out is known as well, or it would be recommended.
    assert model.known.size(1) == 24 * 7
    assert model.meta['metrics'] == pytest.approx(result['metrics'])


def test_a_preset_and_its_changes_go_through_a_config(
        shop: Path, capsys) -> None:
    code, out, _ = run(
        capsys, 'train', 'orders.csv', '--features', 'features', '--out',
        'model', *COLUMNS, *FAST, '--setting', 'faithful', '--settings.lr',
        '0.003', '--print_config')
    assert code == 0 and not (shop / 'model').exists()
    (shop / 'run.yaml').write_text(out)
    assert 'list_weight' not in out  # Only what was said.
    from torch_promptmm.cli import train
    from torch_promptmm.cli.parser import parse
    args = parse('train', train, ['--config', 'run.yaml'])
    assert args.table == 'orders.csv' and args.hidden_channels == 8
    assert args.settings.lr == 0.003
    assert args.settings.ranking_loss == 'bpr'
    assert args.settings.list_weight == 0.1  # Of the preset.
    args = parse('train', train, ['--config', 'run.yaml', '--settings.lr',
                                  '0.1', '--setting', 'default'])
    assert args.settings.lr == 0.1 and args.settings.ranking_loss == 'softmax'


def test_settings_in_a_file_of_their_own(shop: Path) -> None:
    from torch_promptmm.cli import train
    from torch_promptmm.cli.parser import parse
    (shop / 'settings.yaml').write_text('lr: 0.02\nnum_negatives: 7\n')
    args = parse('train', train, [
        'orders.csv', '--features', 'features', '--out', 'model',
        '--settings', 'settings.yaml'])
    assert (args.settings.lr, args.settings.num_negatives) == (0.02, 7)


def test_recommend_is_that_of_the_recommender(
        trained: Path, model: Recommender, capsys) -> None:
    users = ['C-03', 'C-00']
    wanted, scores = model.recommend(users, 4, raw=True)
    code, out, _ = run(capsys, 'recommend', trained / 'model', '--users',
                       *users, '--k', '4')
    assert code == 0
    assert rows_of(out) == dict(zip(users, wanted, strict=True))
    code, out, _ = run(capsys, 'recommend', trained / 'model', '--users',
                       *users, '--k', '4', '--json')
    found = [json.loads(line) for line in out.splitlines()]
    assert [x['user'] for x in found] == users
    assert [x['items'] for x in found] == wanted
    assert [x['scores'] for x in found] == [
        pytest.approx(x) for x in scores.tolist()]


def test_recommend_all_to_a_file(trained: Path, model: Recommender,
                                 tmp_path: Path, capsys) -> None:
    out = tmp_path / 'lists.csv'
    words = ('recommend', trained / 'model', '--all', '--k', '3', '--out',
             out)
    assert run(capsys, *words)[:2] == (0, '')
    users = model.ids['user'].to_list()
    wanted = model.recommend(users, 3, raw=True)[0]
    text = out.read_text('utf-8')
    assert rows_of(text) == dict(zip(users, wanted, strict=True))
    code, _, err = run(capsys, *words)
    assert code == 1 and '--force' in err
    assert run(capsys, *words, '--force')[0] == 0


def test_recommend_of_a_list_of_users(trained: Path, tmp_path: Path, capsys,
                                      monkeypatch) -> None:
    (tmp_path / 'users.txt').write_text('C-05\n\nC-01\n')
    words = ('recommend', trained / 'model', '--k', '2', '--users_file')
    first = run(capsys, *words, tmp_path / 'users.txt')[1]
    assert list(rows_of(first)) == ['C-05', 'C-01']
    monkeypatch.setattr('sys.stdin', io.StringIO('C-05\nC-01\n'))
    assert run(capsys, *words, '-')[1] == first


def test_recommend_among_and_without(trained: Path, model: Recommender,
                                     capsys) -> None:
    items = model.ids['item'].to_list()
    words = ('recommend', trained / 'model', '--users', 'C-00', '--k', '30',
             '--include_known')
    out = run(capsys, *words, '--candidates', *items[:6])[1]
    assert set(rows_of(out)['C-00']) == set(items[:6])
    out = run(capsys, *words, '--exclude', *items[:6])[1]
    assert set(rows_of(out)['C-00']) == set(items[6:])


def test_recommend_to_a_new_user(trained: Path, model: Recommender,
                                 capsys) -> None:
    history = model.ids['item'].to_list()[:3]
    out = run(capsys, 'recommend', trained / 'model', '--history', *history,
              '--k', '5')[1]
    wanted = model.recommend_from_history([history], 5, raw=True)[0][0]
    assert list(rows_of(out).values()) == [wanted]


def test_evaluate_is_that_of_the_ranking(trained: Path, model: Recommender,
                                         tmp_path: Path, capsys) -> None:
    from torch_promptmm.evaluate import evaluate_embeddings
    users, items = model.ids['user'], model.ids['item']
    edges = model.known.t().tolist()[::9] + [[0, 1]]
    edges = sorted(set(map(tuple, edges)))
    table = tmp_path / 'held.csv'
    table.write_text('\n'.join(['user,item', 'nobody,thing', *(
        f'{users[u]},{items[i]}' for u, i in edges)]))
    held = torch.tensor(edges).t()
    known = {tuple(x) for x in model.known.t().tolist()}
    rest = torch.tensor(sorted(known - set(edges))).t()
    wanted = evaluate_embeddings(model.user_emb, model.item_emb, held, rest,
                                 [5, 10])
    code, out, err = run(capsys, 'evaluate', trained / 'model', table, '--k',
                         '5', '10', '--json')
    assert code == 0, err
    result = json.loads(out)
    assert result['metrics'] == pytest.approx(wanted)
    assert result['interactions'] == len(edges)
    assert result['known to the model'] == len(known & set(edges))


def test_info(trained: Path, model: Recommender, capsys) -> None:
    code, out, _ = run(capsys, 'info', trained / 'model', '--json')
    result = json.loads(out)
    assert (result['users'], result['items'], result['channels']) == (
        model.num_users, model.num_items, 8)
    assert result['ids'] == {'user': 'str', 'item': 'str'}
    assert result['bytes'] == sum(
        x.stat().st_size for x in (trained / 'model').rglob('*'))
    assert result['metrics']['recall@5'] >= 0
    text = run(capsys, 'info', trained / 'model')[1]
    assert 'users' in text and 'metrics.recall@5' in text


def test_export_of_a_smaller_model(trained: Path, model: Recommender,
                                   tmp_path: Path, capsys) -> None:
    words = ('export', trained / 'model', '--to', 'model', '--dtype', 'int8',
             '--out', tmp_path / 'small', '--json')
    code, out, err = run(capsys, *words)
    assert code == 0, err
    small = Recommender.load(tmp_path / 'small')
    assert small.user_emb.dtype == torch.int8
    assert small.meta == model.meta
    assert json.loads(out)['bytes'] < sum(
        x.stat().st_size for x in (trained / 'model').iterdir())
    assert run(capsys, *words)[0] == 1  # It exists by now.
    # And it is ranked and measured by its scales.
    found = []
    for path in (trained / 'model', tmp_path / 'small'):
        table = trained / 'orders.csv'
        out = run(capsys, 'evaluate', path, table, *COLUMNS, '--k', '10',
                  '--json')[1]
        found.append(json.loads(out)['metrics']['recall@10'])
    assert found[1] == pytest.approx(found[0], abs=0.05)


def test_export_to_parquet_and_a_program(trained: Path, model: Recommender,
                                         tmp_path: Path, capsys) -> None:
    import pyarrow.parquet as pq
    code, _, err = run(capsys, 'export', trained / 'model', '--to',
                       'parquet', '--out', tmp_path / 'vectors')
    assert code == 0, err
    table = pq.read_table(tmp_path / 'vectors/items.parquet')
    assert table['id'].to_pylist() == model.ids['item'].to_list()
    code, _, err = run(capsys, 'export', trained / 'model', '--to',
                       'program', '--k', '3', '--out', tmp_path / 'top.pt2')
    assert code == 0, err
    program = torch.export.load(tmp_path / 'top.pt2').module()
    users = torch.tensor([4, 0])
    items, _ = program(users, torch.full((2, 2), -1))
    assert items.tolist() == model.recommend(users, 3)[0].tolist()


USAGE = {
    'no command': [],
    'an unknown command': ['learn'],
    'no arguments': ['train'],
    'no out': ['train', 'orders.csv', '--features', 'features'],
    'an unknown option': ['info', 'model', '--no_such'],
    'no number': ['recommend', 'model', '--users', 'a', '--k', 'many'],
    'an unknown preset': ['train', 'orders.csv', '--features', 'features',
                          '--out', 'm', '--setting', 'best'],
    'nobody asked for': ['recommend', 'model'],
    'two ways to ask': ['recommend', 'model', '--all', '--users', 'a'],
    'a config that is not there': ['train', '--config', 'nope.yaml'],
    'an unknown setting': ['train', 'orders.csv', '--features', 'features',
                           '--out', 'm', '--settings.speed', '3'],
}


@pytest.mark.parametrize('what', USAGE)
def test_wrong_usage_is_2(what: str, shop: Path, capsys) -> None:
    before = sorted(shop.rglob('*'))
    code, out, err = run(capsys, *USAGE[what])
    assert code == 2 and out == ''
    assert 'error' in err and 'Traceback' not in err
    assert sorted(shop.rglob('*')) == before


TRAIN = ['train', 'orders.csv', '--features', 'features', '--out', 'new',
         *COLUMNS, *FAST]
ERRORS = {
    'no table': (['train', 'none.csv', *TRAIN[2:]], 'none.csv'),
    'no features': ([*TRAIN, '--features', 'none'], 'none'),
    'a column that is not there': ([*TRAIN, '--user', 'buyer'], 'buyer'),
    'a bad setting': ([*TRAIN, '--settings.lr', '-1'], "'lr'"),
    'a bad core': ([*TRAIN, '--core', '99'], '99'),
    'nothing to train on': ([*TRAIN, '--val', '0.6', '--test', '0.6'],
                            "'val' and 'test'"),
    'a time that the split needs': ([*TRAIN, '--split', 'time'], 'time'),
    'an out that exists': ([*TRAIN, '--out', 'features'], '--force'),
    'a device that is not there': ([*TRAIN, '--device', 'abacus'], 'abacus'),
    'no model': (['info', 'none'], 'none'),
    'a folder that is no model': (['info', 'features'], 'features'),
    'a file that is no model': (['info', 'orders.csv'], 'orders.csv'),
    'an unknown user': (['recommend', 'MODEL', '--users', 'C-99'], "'C-99'"),
    'an unknown item': (['recommend', 'MODEL', '--users', 'C-00',
                         '--candidates', 'x'], "'x'"),
    'k of 0': (['recommend', 'MODEL', '--users', 'C-00', '--k', '0'], "'k'"),
    'k beyond the catalogue': (['recommend', 'MODEL', '--users', 'C-00',
                                '--k', '31'], "'k'"),
    'no file of users': (['recommend', 'MODEL', '--users_file', 'none'],
                         'none'),
    'nothing held out': (['evaluate', 'MODEL', 'empty.csv'], 'empty.csv'),
    'an unknown metric': (['evaluate', 'MODEL', 'orders.csv', *COLUMNS,
                           '--k', '5', '--metrics', 'luck'], "'luck'"),
    'a served model that is none': (['serve', 'features'], 'features'),
}


@pytest.mark.parametrize('what', ERRORS)
def test_an_error_is_one_clear_line(what: str, shop: Path, trained: Path,
                                    capsys) -> None:
    words, text = ERRORS[what]
    (shop / 'empty.csv').write_text('user,item\n')
    words = [str(trained / 'model') if x == 'MODEL' else x for x in words]
    before = sorted(shop.rglob('*'))
    code, out, err = run(capsys, *words)
    assert code == 1 and out == '', (out, err)
    lines = [x for x in err.splitlines() if 'warning' not in x]
    assert len(lines) == 1, err
    assert lines[0].startswith(f'promptmm {words[0]}: error: ')
    assert text in lines[0]
    assert sorted(shop.rglob('*')) == before  # Nothing half-written.


def test_debug_shows_where(capsys) -> None:
    code, _, err = run(capsys, 'info', 'none', '--debug')
    assert code == 1 and 'Traceback' in err


def test_force_replaces_a_model_and_leaves_other_files(
        shop: Path, trained: Path, capsys) -> None:
    shutil.copytree(trained / 'model', 'model')
    (shop / 'model/notes.txt').write_text('mine')
    words = [*TRAIN, '--out', 'model']
    assert run(capsys, *words)[0] == 1
    code, _, err = run(capsys, *words, '--force')
    assert code == 0, err
    assert (shop / 'model/notes.txt').read_text() == 'mine'


@pytest.mark.parametrize('command', ['train', 'evaluate', 'recommend',
                                     'info', 'serve', 'export'])
def test_help_has_examples_and_no_markup(command: str, capsys) -> None:
    code, out, _ = run(capsys, command, '--help')
    assert code == 0
    assert f'  promptmm {command} ' in out
    # A backslash ends a line of an example, and is nowhere else.
    for mark in (':obj:', ':class:', ':func:', '``', '<locals>'):
        assert mark not in out, mark
    assert '\\' not in out.replace(' \\\n', '')


def test_help_and_version(capsys) -> None:
    code, out, _ = run(capsys, '--help')
    assert code == 0 and 'serve' in out
    assert run(capsys, '--version')[1].startswith('promptmm 0')


def test_as_a_module_and_into_a_pipe_that_closes(trained: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, '-m', 'torch_promptmm.cli', 'recommend',
         str(trained / 'model'), '--all', '--k', '20'],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()  # Before anything is written.
    assert process.stderr.read() == b''
    assert process.wait(60) == 0
    process.stderr.close()
