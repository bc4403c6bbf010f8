"""New versions of a directory that is served: taken, or refused."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from serving import make_model, talk

from torch_promptmm.serve import Recommender
from torch_promptmm.serve.live import LiveModel

SEEDS = range(1, 7)


def lists(model, k: int = 5) -> list:
    return model.recommend([f'u{i}' for i in range(5)], k, raw=True)[0]


def damage(folder: Path) -> None:
    """One byte of the tables, of the same size and place."""
    path = next(folder.glob('tables-*.safetensors'))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_new_version_is_taken_once(tmp_path: Path) -> None:
    path = tmp_path / 'model'
    make_model(0).save(path)
    live = LiveModel(path)
    first = live.current
    assert not live.refresh() and live.current is first
    make_model(1).save(path)
    assert live.refresh() and live.current is not first
    assert live.current.name != first.name
    assert lists(live.current.recommender) == lists(make_model(1))
    # Whoever still computes with the old one can, though its file is gone.
    assert lists(first.recommender) == lists(make_model(0))
    assert not live.refresh()
    # The name is that of the contents.
    assert LiveModel(path).current.name == live.current.name


def test_a_name_is_that_of_the_tables(tmp_path: Path,
                                      monkeypatch: pytest.MonkeyPatch
                                      ) -> None:
    """Also where a writer comes in while the tables are read."""
    path = tmp_path / 'model'
    make_model(0).save(path)
    load, writers = Recommender.load, [1]

    def interrupted(*args, **kwargs) -> Recommender:
        out = load(*args, **kwargs)
        if writers:
            make_model(writers.pop()).save(path)
        return out

    monkeypatch.setattr(Recommender, 'load', interrupted)
    live = LiveModel(path)
    assert not writers
    assert lists(live.current.recommender) == lists(make_model(1))
    assert live.current.name == LiveModel(path).current.name


@pytest.mark.parametrize('how', ['a byte', 'cut off', 'no manifest',
                                 'gone', 'another folder'])
def test_a_damaged_version_leaves_the_old_one(tmp_path: Path,
                                              how: str) -> None:
    path = tmp_path / 'model'
    make_model(0).save(path)
    live = LiveModel(path)
    before = lists(live.current.recommender)
    # Copied: what is mapped must not change under a reader's hands.
    other = tmp_path / 'other'
    make_model(1).save(other)
    if how == 'a byte':
        damage(other)
    elif how == 'cut off':
        table = next(other.glob('tables-*'))
        table.write_bytes(table.read_bytes()[:-8])
    elif how == 'no manifest':
        (other / 'recommender.json').unlink()
    elif how == 'another folder':
        shutil.rmtree(other)
        other.mkdir()
        (other / 'note.json').write_text('{}')
    path.rename(tmp_path / 'old')
    if how != 'gone':
        other.rename(path)
    assert not live.refresh()
    assert live.error and '\n' not in live.error
    assert str(tmp_path) not in live.error
    assert live.failures == 1
    assert lists(live.current.recommender) == before
    # And a good one after it is taken.
    make_model(2).save(tmp_path / 'good')
    shutil.rmtree(path, ignore_errors=True)
    (tmp_path / 'good').rename(path)
    assert live.refresh() and live.error is None
    assert lists(live.current.recommender) == lists(make_model(2))


def test_a_damaged_directory_is_not_served_at_all(tmp_path: Path) -> None:
    make_model(0).save(tmp_path / 'model')
    damage(tmp_path / 'model')
    with pytest.raises(ValueError, match='checksum'):
        LiveModel(tmp_path / 'model')


def test_versions_are_swapped_under_load(tmp_path: Path) -> None:
    """Every answer is that of one version, whole; none is lost."""
    pytest.importorskip('fastapi')
    from torch_promptmm.serve.app import create_app

    path = tmp_path / 'model'
    make_model(0).save(path)
    app = create_app(path, reload_every=0.01)
    right = {}
    for seed in (0, *SEEDS):
        make_model(seed).save(tmp_path / 'copy')
        right[LiveModel(tmp_path / 'copy').current.name] = lists(
            make_model(seed))

    async def story(client):
        stop, replies = asyncio.Event(), []

        async def ask():
            while not stop.is_set():
                replies.append(await client.post('/recommend', json={
                    'users': [f'u{i}' for i in range(5)], 'k': 5}))

        async def version() -> str:
            return (await client.get('/health')).json()['version']

        async def swap():
            for seed in SEEDS:
                old = await version()
                await asyncio.to_thread(make_model(seed).save, path)
                for _ in range(1000):
                    if await version() != old:
                        break
                    await asyncio.sleep(0.005)
            table = next(path.glob('tables-*'))
            table.rename(path / 'gone')
            for _ in range(1000):
                health = (await client.get('/health')).json()
                if health['error']:
                    break
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.05)
            stop.set()
            return health

        *_, health = await asyncio.gather(*(ask() for _ in range(4)), swap())
        return replies, health

    replies, health = talk(app, story)
    assert {x.status_code for x in replies} == {200}
    assert {x.json()['version'] for x in replies} == set(right)
    for reply in replies:
        body = reply.json()
        assert [x['items'] for x in body['results']] == right[
            body['version']]
    assert health['status'] == 'degraded' and 'missing' in health['error']
    assert health['version'] == replies[-1].json()['version']
