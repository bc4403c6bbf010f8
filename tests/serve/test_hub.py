"""The Hugging Face hub, without a network."""

from __future__ import annotations

import fnmatch
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from torch_promptmm.ids import IdMap
from torch_promptmm.serve import Recommender
from torch_promptmm.serve.directory import MANIFEST
from torch_promptmm.serve.hub import push

hub = pytest.importorskip('huggingface_hub', reason='needs the extra "hub"')
METRICS = {'recall@20': 0.31234, 'ndcg@20': 0.2}


class LocalApi:
    """What is used of an `HfApi`, on a folder; downloads lie in a cache as
    the hub's do, as links to blobs.
    """
    def __init__(self, root: Path) -> None:
        self.root, self.repos = root, {}

    def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> None:
        assert exist_ok or repo_id not in self.repos
        self.repos.setdefault(repo_id, private)
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)

    def upload_folder(self, repo_id: str, folder_path: str,
                      commit_message: str, delete_patterns: list) -> str:
        target = self.root / repo_id
        for path in list(target.iterdir()):
            if any(fnmatch.fnmatch(path.name, x) for x in delete_patterns):
                path.unlink()
        shutil.copytree(folder_path, target, dirs_exist_ok=True)
        return commit_message

    def snapshot_download(self, repo_id: str, revision: str | None,
                          allow_patterns: list, **kwargs: Any) -> str:
        assert revision in (None, 'main')
        cache = self.root / 'cache' / repo_id.replace('/', '--')
        shutil.rmtree(cache, ignore_errors=True)
        folder = cache / 'snapshots/0123'
        folder.mkdir(parents=True)
        (cache / 'blobs').mkdir()
        for i, path in enumerate(sorted((self.root / repo_id).iterdir())):
            if any(fnmatch.fnmatch(path.name, x) for x in allow_patterns):
                shutil.copy(path, cache / f'blobs/{i}')
                (folder / path.name).symlink_to(f'../../blobs/{i}')
        return str(folder)


@pytest.fixture
def api(tmp_path: Path) -> LocalApi:
    return LocalApi(tmp_path)


def make(seed: int = 0) -> Recommender:
    gen = torch.Generator().manual_seed(seed)
    return Recommender(torch.randn(3, 2, generator=gen),
                       torch.randn(4, 2, generator=gen),
                       torch.tensor([[0], [1]]),
                       dict(user=IdMap(['a', 'b', 'c'])))


@pytest.mark.parametrize('mmap', [True, False])
def test_there_and_back(api: LocalApi, mmap: bool) -> None:
    for seed in (0, 1):  # The second takes the place of the first.
        rec = make(seed)
        rec.push_to_hub('me/small', api=api, private=True)
        loaded = Recommender.from_hub('me/small', 'main', api=api, mmap=mmap)
        assert torch.equal(loaded.user_emb, rec.user_emb)
        assert torch.equal(loaded.item_emb, rec.item_emb)
        assert torch.equal(loaded.known, rec.known)
        assert loaded.ids == rec.ids
        names = sorted(x.name for x in (api.root / 'me/small').iterdir())
        assert names[:2] == ['README.md', MANIFEST] and len(names) == 3
    assert api.repos == {'me/small': True}


def test_card(api: LocalApi) -> None:
    make().push_to_hub('me/small', api=api, metrics=METRICS,
                       dataset='Electronics', license='mit',
                       description='Of 2018, for the shop.')
    text = (api.root / 'me/small/README.md').read_text('utf-8')
    card = hub.ModelCard(text)
    assert card.data.library_name == 'torch_promptmm'
    assert card.data.license == 'mit'
    assert {x.metric_type: x.metric_value
            for x in card.data.eval_results} == METRICS
    assert {x.dataset_name for x in card.data.eval_results} == {'Electronics'}
    for line in ('# small', 'Of 2018, for the shop.', '| users | 3 |',
                 '| items | 4 |', '| recall@20 | 0.3123 |',
                 '## Metrics on Electronics',
                 "recommender = Recommender.from_hub('me/small')"):
        assert line in text.splitlines(), line


def test_card_from_meta(api: LocalApi) -> None:
    parts = {**make().parts(), 'meta': {'metrics': METRICS, 'dataset': 'x',
                                        'description': 'Of meta.'}}
    push('me/small', parts, api)
    text = (api.root / 'me/small/README.md').read_text('utf-8')
    assert 'Of meta.' in text and '| ndcg@20 | 0.2000 |' in text
    make().push_to_hub('me/none', api=api)
    text = (api.root / 'me/none/README.md').read_text('utf-8')
    assert 'No metrics were given.' in text
    assert hub.ModelCard(text).data.eval_results is None


def test_a_damaged_download(api: LocalApi) -> None:
    make().push_to_hub('me/small', api=api)
    path = next((api.root / 'me/small').glob('tables-*'))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match='does not match the checksum'):
        Recommender.from_hub('me/small', api=api)


def test_a_link_out_of_the_cache(api: LocalApi,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    make().push_to_hub('me/small', api=api)
    folder = Path(api.snapshot_download('me/small', None, ['*']))
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).symlink_to(api.root / f'me/small/{MANIFEST}')
    monkeypatch.setattr(api, 'snapshot_download', lambda **_: str(folder))
    with pytest.raises(ValueError, match='a link that leads out'):
        Recommender.from_hub('me/small', api=api)
