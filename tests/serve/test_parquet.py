"""Tables that other engines read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from torch_promptmm.ids import IdMap
from torch_promptmm.serve import Recommender
from torch_promptmm.serve.parquet import write_parquet

pa = pytest.importorskip('pyarrow', reason='needs the extra "tables"')
pq = pytest.importorskip('pyarrow.parquet')

U, I, D = 6, 5, 3
EDGES = torch.tensor([[5, 0, 0, 1, 2, 5], [3, 4, 1, 0, 3, 1]])


@pytest.fixture
def rec() -> Recommender:
    torch.manual_seed(0)
    return Recommender(torch.randn(U, D), torch.randn(I, D), EDGES, dict(
        user=IdMap([f'u{i}' for i in range(U)]),
        item=IdMap(list(range(10, 10 + I)))))


def test_what_pyarrow_reads(rec: Recommender, tmp_path: Path) -> None:
    rec.to_parquet(tmp_path / 'a/out')
    assert sorted(os.listdir(tmp_path / 'a/out')) == ['items.parquet',
                                                      'users.parquet']
    for side, x in (('user', rec.user_emb), ('item', rec.item_emb)):
        table = pq.read_table(tmp_path / f'a/out/{side}s.parquet')
        assert table.schema.field('vector').type == pa.list_(pa.float32(), D)
        assert table['id'].to_pylist() == rec.ids[side].to_list()
        vectors = np.array(table['vector'].to_pylist(), np.float32)
        assert np.array_equal(vectors, x.numpy())
    users = pq.read_table(tmp_path / 'a/out/users.parquet')
    assert users['popularity'].to_pylist() == [2, 1, 1, 0, 0, 2]
    assert users['cold'].to_pylist() == [False, False, False, True, True,
                                         False]


def test_rows_are_ids_where_there_are_none(tmp_path: Path) -> None:
    Recommender(torch.eye(3), torch.eye(3).half()).to_parquet(tmp_path)
    table = pq.read_table(tmp_path / 'items.parquet')
    assert table.column_names == ['id', 'vector']
    assert table['id'].to_pylist() == [0, 1, 2]
    assert table['vector'].to_pylist() == np.eye(3).tolist()


def test_items_of_a_side(tmp_path: Path) -> None:
    path = tmp_path / 'x.parquet'
    write_parquet(path, torch.zeros(2, 1), IdMap(['a', 'b']),
                  torch.tensor([3, 0]), torch.tensor([False, True]))
    table = pq.read_table(path)
    assert [str(x.type) for x in table.schema][::2] == ['string', 'int64']
    assert table['popularity'].to_pylist() == [3, 0]
    assert table['cold'].to_pylist() == [False, True]


def test_of_nobody(tmp_path: Path) -> None:
    Recommender(torch.zeros(0, 2), torch.zeros(0, 2)).to_parquet(tmp_path)
    assert pq.read_table(tmp_path / 'users.parquet').num_rows == 0


def test_a_file_is_no_folder(rec: Recommender, tmp_path: Path) -> None:
    (tmp_path / 'x').write_text('mine', 'utf-8')
    with pytest.raises(ValueError, match="'folder' must name a folder"):
        rec.to_parquet(tmp_path / 'x')


def test_ranked_in_duckdb(rec: Recommender, tmp_path: Path) -> None:
    duckdb = pytest.importorskip('duckdb', reason='needs duckdb')
    rec.to_parquet(tmp_path)
    rows = duckdb.execute(f"""
        SELECT i.id, array_inner_product(u.vector::FLOAT[{D}],
                                         i.vector::FLOAT[{D}]) AS score
        FROM '{tmp_path}/users.parquet' u, '{tmp_path}/items.parquet' i
        WHERE u.id = 'u3' ORDER BY score DESC LIMIT 4""").fetchall()
    items, scores = rec.recommend(['u3'], 4, raw=True)
    assert [x for x, _ in rows] == items[0]
    assert [x for _, x in rows] == pytest.approx(scores[0].tolist(), rel=1e-5)


def test_of_int8(rec: Recommender, tmp_path: Path) -> None:
    rec.to_dtype('int8').to_parquet(tmp_path)
    vectors = np.array(pq.read_table(tmp_path / 'items.parquet')[
        'vector'].to_pylist())
    assert np.abs(vectors - rec.item_emb.numpy()).max() < 0.02
    table = pq.read_table(tmp_path / 'items.parquet')
    assert table['popularity'].to_pylist() == [1, 2, 0, 2, 1]
    assert table['cold'].to_pylist() == [False, False, True, False, False]
