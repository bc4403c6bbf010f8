"""A recommender in a directory: whole, checked, and the same when it is read
again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from torch_promptmm.ids import IdMap
from torch_promptmm.serve import Recommender
from torch_promptmm.serve.directory import (
    MANIFEST,
    read_directory,
    read_manifest,
    write_directory,
)
from torch_promptmm.serve.fold_in import FoldIn

U, I, D = 6, 5, 3
EDGES = torch.tensor([[5, 0, 0, 1, 2, 5, 0], [3, 4, 1, 0, 2, 1, 3]])


def make(seed: int = 0, ids: bool = True) -> Recommender:
    gen = torch.Generator().manual_seed(seed)
    return Recommender(
        torch.randn(U, D, generator=gen), torch.randn(I, D, generator=gen),
        EDGES, dict(user=IdMap([f'u{i}' for i in range(U)]),
                    item=IdMap(list(range(10, 10 + I)))) if ids else None)


def same(a: Recommender, b: Recommender) -> bool:
    return all(
        x.dtype == y.dtype and torch.equal(x, y)
        for x, y in [(a.user_emb, b.user_emb), (a.item_emb, b.item_emb)]
    ) and a.ids == b.ids and pairs(a.known) == pairs(b.known)


def pairs(edges: torch.Tensor | None) -> list | None:
    return None if edges is None else sorted(map(tuple, edges.t().tolist()))


def tables(folder: Path) -> Path:
    return next(folder.glob('tables-*.safetensors'))


def listed(folder: Path) -> dict[str, bytes]:
    return {x.name: x.read_bytes() for x in folder.iterdir()}


def crc(data: bytes) -> str:
    return f'{zlib.crc32(data):08x}'


def edit(folder: Path, change: Callable[[dict], Any]) -> None:
    """Changes the JSON, and gives it the checksum that it then has."""
    path = folder / MANIFEST
    body = json.loads(path.read_text('utf-8'))
    change(body)
    rest = {key: x for key, x in body.items() if key != 'crc32'}
    if 'crc32' in body:
        body['crc32'] = crc(json.dumps(rest, sort_keys=True,
                                       separators=(',', ':')).encode())
    path.write_text(json.dumps(body), 'utf-8')


def forge(folder: Path, change: Callable[[dict], Any],
          declare: bool = True) -> None:
    """Changes the tables, and says so in the JSON."""
    path = tables(folder)
    tensors = load_file(path)
    path.unlink()
    change(tensors)
    save_file(tensors, path)
    told = dict(bytes=path.stat().st_size, crc32=crc(path.read_bytes()))
    if declare:
        names = {torch.float32: 'F32', torch.uint8: 'U8', torch.int64: 'I64',
                 torch.int32: 'I32', torch.float16: 'F16', torch.bool: 'BOOL',
                 torch.int8: 'I8'}
        told['tensors'] = {
            name: dict(dtype=names[x.dtype], shape=list(x.shape))
            for name, x in tensors.items()}
    edit(folder, lambda body: body['tables'].update(told))


@pytest.mark.parametrize('mmap', [True, False])
@pytest.mark.parametrize('verify', [True, False])
def test_the_same_again(tmp_path: Path, mmap: bool, verify: bool) -> None:
    rec = make()
    rec.save(tmp_path / 'a/model')
    loaded = Recommender.load(tmp_path / 'a/model', mmap, verify)
    assert same(rec, loaded)
    want, got = (x.recommend(['u5', 'u3'], 3, raw=True) for x in (rec, loaded))
    assert want[0] == got[0] and torch.equal(want[1], got[1])
    assert sorted(listed(tmp_path / 'a/model')) == sorted(
        [MANIFEST, tables(tmp_path / 'a/model').name])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16,
                                   torch.float64])
def test_types_stay(tmp_path: Path, dtype: torch.dtype) -> None:
    rec = Recommender(make().user_emb.to(dtype), make().item_emb.to(dtype))
    rec.save(tmp_path)
    loaded = Recommender.load(str(tmp_path))
    assert same(rec, loaded) and loaded.known is None and loaded.ids == {}


@pytest.mark.parametrize('num_items', [200, 60_000, 70_000])
def test_known_items_are_narrow(tmp_path: Path, num_items: int) -> None:
    known = torch.tensor([[1, 0, 1, 0], [num_items - 1, 3, 0, 3]])
    rec = Recommender(torch.zeros(3, 1), torch.zeros(num_items, 1), known)
    rec.save(tmp_path)
    wide = {200: 'U8', 60_000: 'U16', 70_000: 'I32'}[num_items]
    told = read_manifest(tmp_path)['tables']['tensors']
    assert told['known.item'] == dict(dtype=wide, shape=[4])
    assert told['known.degree'] == dict(dtype='U8', shape=[3])
    loaded = Recommender.load(tmp_path).known
    assert pairs(loaded) == pairs(known) and loaded.dtype == torch.long


def test_of_nobody_and_nothing(tmp_path: Path) -> None:
    rec = Recommender(torch.zeros(0, 2), torch.zeros(0, 2),
                      torch.zeros(2, 0, dtype=torch.long))
    rec.save(tmp_path)
    assert same(rec, Recommender.load(tmp_path))


def test_the_same_recommender_is_the_same_bytes(tmp_path: Path) -> None:
    for name in 'ab':
        make().save(tmp_path / name)
    make().save(tmp_path / 'a')  # Over itself.
    assert listed(tmp_path / 'a') == listed(tmp_path / 'b')


def test_a_new_one_takes_the_place_of_the_old(tmp_path: Path) -> None:
    make(0).save(tmp_path)
    (tmp_path / 'README.md').write_text('mine', 'utf-8')
    old = Recommender.load(tmp_path)
    make(1).save(tmp_path)
    assert same(Recommender.load(tmp_path), make(1))
    assert len(listed(tmp_path)) == 3  # The old tables are gone,
    assert same(old, make(0))  # but not for those that have them.
    assert (tmp_path / 'README.md').read_text('utf-8') == 'mine'


def test_memory_mapped(tmp_path: Path) -> None:
    make().save(tmp_path)
    maps = Path('/proc/self/maps')
    if not maps.exists():
        pytest.skip('this system has no /proc to look into')
    name = str(tables(tmp_path).resolve())
    rec = Recommender.load(tmp_path, mmap=False)
    assert name not in maps.read_text()
    rec = Recommender.load(tmp_path)
    assert name in maps.read_text()
    before = tables(tmp_path).read_bytes()
    rec.user_emb.zero_()  # Its own pages; the file is not written.
    assert tables(tmp_path).read_bytes() == before


@pytest.mark.parametrize('what', ['tables', 'manifest', 'swap'])
def test_a_failed_write_leaves_the_old_one(
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch_promptmm.serve import directory

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError('No space left on device')

    old = tmp_path / 'old'
    make(0).save(old)
    before = listed(old)
    if what == 'tables':
        def half(tensors: Any, path: Path) -> None:
            path.write_bytes(b'half')
            fail()

        monkeypatch.setattr(directory, 'save_file', half)
    elif what == 'manifest':
        monkeypatch.setattr(Path, 'write_text', fail)
    else:
        real = os.replace
        monkeypatch.setattr(os, 'replace', lambda a, b: (
            fail() if str(b).endswith(MANIFEST) else real(a, b)))
    for folder in (old, tmp_path / 'new/model'):
        with pytest.raises(OSError, match='No space left'):
            make(1).save(folder)
    assert listed(old) == before
    assert sorted(os.listdir(tmp_path)) == ['old']  # Nor is a folder left.


@pytest.mark.parametrize(('changed', 'match'), [
    (dict(user_emb=torch.full((U, D), torch.nan)), "'user_emb' has a NaN"),
    (dict(ids=dict(user=IdMap(['a']))), "'ids' has 1 users instead of 6"),
    (dict(known=torch.tensor([[0], [I]])), "'known.item' has the item 5, but "
     'there are 5'),
    (dict(known=torch.tensor([[U], [0]])), "'known.degree' has the shape "
     r'\[7\] instead of \[6\]'),
    (dict(meta={'recall': float('nan')}), "'meta' must hold plain values"),
    (dict(meta={'model': torch.nn.Linear(1, 1)}), "'meta' must hold plain"),
])
def test_what_could_not_be_read_is_not_written(
    changed: dict,
    match: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match=match):
        write_directory(tmp_path / 'model', {**make().parts(), **changed})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'int8'])
def test_all_that_it_holds(dtype: str, tmp_path: Path) -> None:
    rec = make()
    rec = Recommender(
        rec.user_emb, rec.item_emb, rec.known, rec.ids,
        cold=torch.tensor([True, False, False, True, False]),
        popularity=torch.tensor([3, 0, 70_000, 1, 2]),
        fold=FoldIn(rec.item_emb + 1, torch.tensor(True)),
        meta={'metrics': {'recall@20': 0.25}, 'name': 'x', 'tags': [1, None]},
    ).to_dtype(dtype)
    rec.save(tmp_path)
    for mmap in (True, False):
        got = Recommender.load(tmp_path, mmap)
        assert same(rec, got) and got.meta == rec.meta
        for key in ('cold', 'popularity'):
            assert torch.equal(getattr(got, key), getattr(rec, key))
            assert getattr(got, key).dtype == getattr(rec, key).dtype
        assert got.fold.rows.dtype == rec.fold.rows.dtype
        assert all(map(torch.equal, got.fold, rec.fold))
        assert (got.scales is None) == (dtype != 'int8')
        for kind, x in (rec.scales or {}).items():
            assert torch.equal(got.scales[kind], x)
        for call in (lambda x: x.recommend([5, 0], 2),
                     lambda x: x.recommend_from_history([[1, 2]], 2)):
            assert all(map(torch.equal, call(got), call(rec)))


def test_a_file_is_not_overwritten_by_a_folder(tmp_path: Path) -> None:
    path = tmp_path / 'model'
    path.write_text('mine', 'utf-8')
    with pytest.raises(ValueError, match="'path' must name a folder, but "
                                         ".*model' is a file"):
        make().save(path)
    assert path.read_text('utf-8') == 'mine'
    with pytest.raises(TypeError, match="'path' must be the path of a folder"):
        make().save(3)  # type: ignore[arg-type]


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    make().save(tmp_path)
    # The first is what safetensors writes before it renames.
    for name in ('.tmpTd2SkY', f'.tables-{"0" * 32}.tmp',
                 'tables-00000000.safetensors', '.tmp', 'notes.txt'):
        (tmp_path / name).write_text('x', 'utf-8')
    make().save(tmp_path)
    names = {x.name for x in tmp_path.iterdir()}
    assert {'.tmp', 'notes.txt', 'recommender.json'} < names
    assert len(names) == 4


WRITER = """
import sys, torch
from torch_promptmm.serve import Recommender
print('ready', flush=True)
for i in range(int(sys.argv[2])):
    x = torch.full((500, 4), float(i + 1))
    Recommender(x, x).save(sys.argv[1])
"""


def writer(folder: Path, times: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, '-c', WRITER, str(folder), str(times)],
        cwd=Path(__file__).parents[2], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE)


def test_readers_and_writers_at_the_same_time(tmp_path: Path) -> None:
    x = torch.full((500, 4), 1.0)
    Recommender(x, x).save(tmp_path)
    writers = [writer(tmp_path, 60) for _ in range(2)]
    seen, mmap = set(), True
    while any(x.poll() is None for x in writers):
        mmap = not mmap
        rec = Recommender.load(tmp_path, mmap=mmap)
        values = {float(y) for x in (rec.user_emb, rec.item_emb)
                  for y in x.aminmax()}
        assert len(values) == 1
        seen |= values
    for each in writers:
        assert each.communicate(timeout=60)[1] == b'', 'a writer failed'
    assert len(seen) > 1  # It was read while it was written.
    assert float(Recommender.load(tmp_path).user_emb[0, 0]) == 60.0
    assert len(listed(tmp_path)) == 2


def test_killed_writers_leave_the_old_one_whole(tmp_path: Path) -> None:
    make().save(tmp_path)
    (tmp_path / f'.tables-{"0" * 32}.tmp').write_bytes(b'half')
    (tmp_path / 'tables-0123abcd.safetensors').write_bytes(b'not named')
    assert same(Recommender.load(tmp_path), make())
    process = writer(tmp_path, 10**6)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    Recommender.load(tmp_path)
    make().save(tmp_path)  # What they left behind is removed,
    assert len(listed(tmp_path)) == 2  # and no lock stays.
    assert same(Recommender.load(tmp_path), make())


def test_threads_wait_for_each_other(tmp_path: Path) -> None:
    threads = [threading.Thread(target=make(i).save, args=(tmp_path, ))
               for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(listed(tmp_path)) == 2
    assert any(same(Recommender.load(tmp_path), make(i)) for i in range(8))


# Bad inputs: what is done to a good directory, and what the error must name.
def cut(folder: Path) -> None:
    os.truncate(tables(folder), tables(folder).stat().st_size - 4)


def longer(folder: Path) -> None:
    with open(tables(folder), 'ab') as file:
        file.write(b'more')


def flip(folder: Path) -> None:
    data = bytearray(tables(folder).read_bytes())
    data[-1] ^= 1
    tables(folder).write_bytes(data)


def flip_json(folder: Path) -> None:
    text = (folder / MANIFEST).read_text('utf-8')
    (folder / MANIFEST).write_text(text.replace('"num_items": 5',
                                                '"num_items": 6'), 'utf-8')


def text(value: str | bytes) -> Callable[[Path], Any]:
    data = value.encode() if isinstance(value, str) else value
    return lambda folder: (folder / MANIFEST).write_bytes(data)


def put(**values: Any) -> Callable[[Path], Any]:
    return lambda folder: edit(folder, lambda body: body.update(values))


def put_table(**values: Any) -> Callable[[Path], Any]:
    return lambda folder: edit(folder,
                               lambda body: body['tables'].update(values))


def drop(name: str) -> Callable[[Path], Any]:
    return lambda folder: edit(folder, lambda body: body.pop(name))


def declared(name: str, **values: Any) -> Callable[[Path], Any]:
    return lambda folder: edit(
        folder, lambda body: body['tables']['tensors'][name].update(values))


def tensor(name: str, value: Any) -> Callable[[Path], Any]:
    return lambda folder: forge(folder, lambda x: x.update({
        name: value(x[name]) if callable(value) else value}))


def lose(*names: str) -> Callable[[Path], Any]:
    return lambda folder: forge(folder, lambda x: [x.pop(y) for y in names])


def set_value(x: torch.Tensor, value: float) -> torch.Tensor:
    x.view(-1)[-1] = value
    return x


def link(folder: Path, name: str, to: str) -> None:
    path = folder / name
    if path.exists():
        path.rename(folder.parent / 'outside')
    path.symlink_to(to)


def as_bytes(value: str) -> torch.Tensor:
    return torch.tensor(list(value.encode()), dtype=torch.uint8)


def pipe(folder: Path) -> None:
    name = tables(folder)
    name.unlink()
    os.mkfifo(name)


def garbage(folder: Path) -> None:
    size = tables(folder).stat().st_size
    tables(folder).write_bytes(b'\xff' * size)
    edit(folder, lambda body: body['tables'].update(
        crc32=crc(b'\xff' * size)))


IDS = '{"format": "torch_promptmm.IdMap/1", "kind": "str", "ids": %s}'
T, J = r'tables-\w{8}\.safetensors', r'recommender\.json'
BAD: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    # Files.
    'no manifest': (lambda x: (x / MANIFEST).unlink(), J, "'file' is missing"),
    'no tables': (lambda x: tables(x).unlink(), J,
                  "'tables.file' names .* missing"),
    'cut off': (cut, T, "'file' has .* bytes instead of .* cut off"),
    'empty tables': (lambda x: os.truncate(tables(x), 0), T, 'has 0 bytes'),
    'bytes added': (longer, T, "'file' has .* bytes instead of"),
    'one bit flipped': (flip, T, "'file' does not match the checksum"),
    'no safetensors': (garbage, T, "'file' is no safetensors file"),
    'tables are a link out': (
        lambda x: link(x, tables(x).name, '../outside'), T,
        "'file' is a link that leads out of the folder"),
    'manifest is a link out': (lambda x: link(x, MANIFEST, '../outside'), J,
                               'a link that leads out of the folder'),
    'a link to nothing': (lambda x: (tables(x).rename(x / 'y'), link(
        x, json.loads((x / MANIFEST).read_text())['tables']['file'],
        'nowhere')), T, 'is a link to nothing'),
    'a link to itself': (lambda x: ((x / MANIFEST).unlink(), link(
        x, MANIFEST, MANIFEST)), J, 'is a link to nothing'),
    'a pipe': (pipe, T, "'file' is no ordinary file"),
    'a folder': (lambda x: ((x / MANIFEST).unlink(), (x / MANIFEST).mkdir()),
                 J, "'file' is no ordinary file"),
    # JSON.
    'empty JSON': (text(''), J, "'file' is no JSON"),
    'half a JSON': (lambda x: os.truncate(x / MANIFEST, 99), J,
                    "'file' is no JSON"),
    'a list': (text('[1, 2]'), J, "'file' holds a JSON list instead of an "
               "object"),
    'null': (text('null'), J, 'holds a JSON NoneType instead'),
    'no UTF-8': (text(b'{"format": "\xff"}'), J, "'file' is no JSON"),
    'a NaN': (text('{"format": NaN}'), J, 'NaN is no number of JSON'),
    'a name twice': (text('{"format": 1, "format": 2}'), J, 'occurs twice'),
    'too deep': (text('[' * 10**5), J, "'file' is no JSON"),
    'too long': (text(' ' * (2**24 + 1)), J, "'file' has 16777217 bytes"),
    'something else': (put(format='torch_promptmm.IdMap/1'), J,
                       "'format' is 'torch_promptmm.IdMap/1' instead"),
    'no format': (drop('format'), J, "'format' is None instead"),
    'a changed number': (flip_json, J, "'crc32' does not match the rest"),
    'no checksum': (drop('crc32'), J, "has no 'crc32'"),
    'newer version': (put(version=2), J, "'version' is 2, newer than 1.*; "
                      "upgrade torch_promptmm"),
    'version 0': (put(version=0), J, "'version' is 0, which no version"),
    'version as text': (put(version='1'), J, "'version' is '1', which"),
    'version True': (put(version=True), J, "'version' is True, which"),
    'no sizes': (drop('num_users'), J, "has no 'num_users'"),
    'negative sizes': (put(num_items=-5), J, "'num_items' is -5 instead"),
    'sizes as text': (put(channels='3'), J, "'channels' is '3' instead"),
    'unknown field': (put(code='print(1)'), J, "has 'code', which is unknown"),
    'tables are a list': (put(tables=[]), J, "'tables' is no object"),
    'tables without file': (lambda x: edit(x, lambda y: y['tables'].pop(
        'file')), J, "'tables' has no 'file'"),
    'meta is a list': (put(meta=[1]), J, "'meta' is no object"),
    # Names.
    'a parent': (put_table(file='../outside.safetensors'), J,
                 "'tables.file' is '../outside.safetensors', not a name"),
    'hidden parent': (put_table(file='tables-0123abcd.safetensors/../x'), J,
                      "'tables.file' is .*, not a name"),
    'an absolute name': (put_table(file='/etc/passwd'), J,
                         "'tables.file' is '/etc/passwd', not a name"),
    'a name with a line': (put_table(file='tables-0123abcd.safetensors\n'),
                           J, "'tables.file' is .*, not a name"),
    'a number as name': (put_table(file=3), J, "'tables.file' is 3, not"),
    'size as text': (put_table(bytes='9'), J, "'tables.bytes' is '9'"),
    'tensors are a list': (put_table(tensors=[]), J,
                           "'tables.tensors' is no object"),
    # Sizes and types, as they are declared,
    'more users than rows': (put(num_users=U + 1), J, "'known.degree' has the "
                             r"shape \[6\] instead of \[7\]"),
    'other width': (put(channels=4), J, 'has the shape .* instead of'),
    'declared type': (declared('user_emb', dtype='F16'), T,
                      "'user_emb' is .*'F32'.* instead of .*'F16'"),
    'unknown type': (declared('user_emb', dtype='F8'), J, "'user_emb' is of "
                     "the type 'F8' instead of F64 or"),
    'type of a mask': (declared('user_emb', dtype='BOOL'), J,
                       "'user_emb' is of the type 'BOOL'"),
    'shape as text': (declared('item_emb', shape='[5, 3]'), J,
                      "'item_emb' has the shape .* which is none"),
    'negative shape': (declared('known.item', shape=[-7]), J,
                       r"'known.item' has the shape \[-7\], which is none"),
    'one dimension': (declared('item_emb', shape=[15]), J,
                      r"'item_emb' has the shape \[15\] instead of \[5, 3\]"),
    'declared and not there': (lambda x: forge(x, lambda y: y.pop(
        'known.item'), declare=False), T, "'known.item' is missing"),
    'there and not declared': (lambda x: forge(x, lambda y: y.update(
        more=torch.ones(1)), declare=False), T, "'more' is not in"),
    # and as they are.
    'no item table': (lose('item_emb'), J, "'tables.tensors.item_emb' is "
                      "missing"),
    'an unknown table': (tensor('weights', torch.ones(2)), J,
                         "'weights' is no table of a recommender"),
    'widths differ': (tensor('item_emb', torch.ones(I, D + 1)), J,
                      r"'item_emb' has the shape \[5, 4\] instead"),
    'NaN': (tensor('user_emb', lambda x: set_value(x, torch.nan)), T,
            "'user_emb' has a NaN or an infinite number"),
    'infinite': (tensor('item_emb', lambda x: set_value(x, -torch.inf)), T,
                 "'item_emb' has a NaN or an infinite number"),
    'int8 without scales': (tensor('item_emb', lambda x: x.to(torch.int8)), T,
                            "'item_scales' must be there"),
    'half of the known': (lose('known.degree'), T, "'known.degree' is missing "
                          "beside 'known.item'"),
    'known beyond': (tensor('known.item', lambda x: set_value(x, I)), T,
                     "'known.item' has the item 5, but there are 5"),
    'known negative': (tensor('known.item', lambda x: set_value(
        x.int(), -1)), T, "'known.item' has a negative number"),
    'degrees that add up to more': (
        tensor('known.degree', lambda x: set_value(x, 9)), T,
        "'known.degree' adds up to 14, but 'known.item' has 7"),
    'ids of another length': (tensor('ids.user', as_bytes(
        IDS % '["a", "b"]')), T, "'ids.user' has 2 ids for 6 rows"),
    'ids twice': (tensor('ids.user', as_bytes(IDS % '["a", "a"]')), T,
                  "'ids.user' is damaged .*more than once"),
    'ids no JSON': (tensor('ids.item', as_bytes('{')), T,
                    "'ids.item' is damaged"),
    'a mask of other bytes': (
        tensor('cold', torch.tensor([0, 1, 2, 0, 1], dtype=torch.uint8).view(
            torch.bool)), T, "'cold' has a byte that is neither 0 nor 1"),
    'a mask of other length': (tensor('cold', torch.ones(I + 1).bool()), J,
                               r"'cold' has the shape \[6\] instead of \[5\]"),
}


@pytest.mark.parametrize('name', BAD)
def test_bad_inputs(name: str, tmp_path: Path) -> None:
    spoil, file, match = BAD[name]
    folder = tmp_path / 'model'
    make().save(folder)
    (tmp_path / 'outside.safetensors').write_bytes(tables(folder).read_bytes())
    spoil(folder)
    before = sorted(os.listdir(folder)), sorted(os.listdir(tmp_path))
    for mmap in (True, False):
        with pytest.raises(ValueError, match=match) as caught:
            Recommender.load(folder, mmap=mmap)
        found = str(caught.value)
        assert found.startswith("'path': ") and '; ' in found  # And the fix.
        assert re.search(file, found), found
    assert before == (sorted(os.listdir(folder)), sorted(os.listdir(tmp_path)))
    if 'link' not in name and name != 'a folder':
        make(1).save(folder)  # The fix works.
        assert same(Recommender.load(folder), make(1))


def test_there_are_forty_bad_inputs() -> None:
    assert len(BAD) >= 40





@pytest.mark.parametrize('name', sorted(set(BAD) - {'one bit flipped'}))
def test_the_fast_path_raises_or_is_safe(name: str, tmp_path: Path) -> None:
    """Without `verify` all but the values are checked."""
    make().save(tmp_path / 'model')
    BAD[name][0](tmp_path / 'model')
    if name in ('NaN', 'infinite', 'a mask of other bytes'):
        read_directory(tmp_path / 'model', verify=False)
        return
    with pytest.raises(ValueError, match="'path': "):
        read_directory(tmp_path / 'model', verify=False)


def test_other_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'path' must name the folder of a "
                                         "recommender, but .*not there"):
        Recommender.load(tmp_path / 'nothing')
    (tmp_path / 'x').write_bytes(b'x')
    with pytest.raises(ValueError, match='PromptMMDistiller.load.*'
                                         r'recommender\(\).save\(folder\)'):
        Recommender.load(tmp_path / 'x')
    with pytest.raises(ValueError, match="'file' is missing; name a folder"):
        Recommender.load(tmp_path)
    for value in (None, 3):
        with pytest.raises(TypeError, match="'path' must be the path of"):
            Recommender.load(value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match='zero byte'):
        Recommender.load('a\0b')


def test_links_within_are_followed(tmp_path: Path) -> None:
    make().save(tmp_path / 'a')
    name = tables(tmp_path / 'a').name
    (tmp_path / 'a' / name).rename(tmp_path / 'a/blob')
    (tmp_path / 'a' / name).symlink_to('blob')
    assert same(Recommender.load(tmp_path / 'a'), make())
    (tmp_path / 'link').symlink_to('a')  # The folder itself may be one.
    assert same(Recommender.load(tmp_path / 'link'), make())
    (tmp_path / 'a/blob').rename(tmp_path / 'blob')
    (tmp_path / 'a' / name).unlink()
    (tmp_path / 'a' / name).symlink_to('../blob')
    with pytest.raises(ValueError, match='leads out of the folder'):
        Recommender.load(tmp_path / 'a')
    read_directory(tmp_path / 'a', within=tmp_path)


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    folder, other = tmp_path / 'model', tmp_path / 'other'
    folder.mkdir()
    other.write_text('mine', 'utf-8')
    make().save(tmp_path / 'like')
    for name in listed(tmp_path / 'like'):
        (folder / name).symlink_to('../other')
    make().save(folder)
    assert other.read_text('utf-8') == 'mine'
    assert same(Recommender.load(folder), make())
