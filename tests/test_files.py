from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from torch_promptmm.files import atomic_path


def test_takes_the_place_of_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / 'new' / 'file.bin'
    for content in (b'one', b'two'):
        with atomic_path(path) as temporary:
            assert temporary.parent == path.parent
            temporary.write_bytes(content)
            assert not path.exists() or path.read_bytes() == b'one'
        assert path.read_bytes() == content
    assert os.listdir(path.parent) == ['file.bin']


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / 'file.bin'
    path.write_bytes(b'old')
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_bytes(b'half')
        raise KeyboardInterrupt
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['file.bin']


def test_a_file_that_was_not_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / 'file'):
        pass
    assert os.listdir(tmp_path) == []


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='is a folder'):
        with atomic_path(tmp_path):
            pass


def test_strings_and_relative_paths(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with atomic_path('file.bin') as temporary:
        temporary.write_bytes(b'x')
    assert (tmp_path / 'file.bin').read_bytes() == b'x'


PROGRAM = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location('files', sys.argv[1])
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
with files.atomic_path(sys.argv[2]) as temporary:
    temporary.write_bytes(b'half')
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_the_old_file_is_whole(tmp_path: Path) -> None:
    import torch_promptmm.files as module
    path = tmp_path / 'file.bin'
    path.write_bytes(b'old')
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM, module.__file__, str(path)],
        check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b'old'
    # What it left behind is removed by the next one.
    assert len(os.listdir(tmp_path)) == 2
    with atomic_path(path) as temporary:
        temporary.write_bytes(b'new')
    assert os.listdir(tmp_path) == ['file.bin']


def test_two_calls_have_a_name_each(tmp_path: Path) -> None:
    path = tmp_path / 'file.bin'
    with atomic_path(path) as first:
        first.write_bytes(b'first')
        with atomic_path(path) as second:
            assert second != first
            second.write_bytes(b'second')
        assert path.read_bytes() == b'second'
    assert path.read_bytes() == b'first'
    assert os.listdir(tmp_path) == ['file.bin']


WRITER = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location('files', sys.argv[1])
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
print('ready', flush=True)
sys.stdin.readline()
for _ in range(200):
    with files.atomic_path(sys.argv[2]) as temporary:
        with open(temporary, 'wb') as file:
            for _ in range(4):
                file.write(sys.argv[3].encode() * 1000)
                file.flush()
"""


def test_two_processes_write_one_path(tmp_path: Path) -> None:
    import torch_promptmm.files as module
    path = tmp_path / 'file.bin'
    writers = [
        subprocess.Popen(
            [sys.executable, '-c', WRITER, module.__file__, str(path), letter],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE) for letter in 'ab'
    ]
    for writer in writers:
        assert writer.stdout.readline() == b'ready\n'
    for writer in writers:  # Both begin now.
        writer.stdin.write(b'\n')
        writer.stdin.flush()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            assert path.read_bytes() in (b'a' * 4000, b'b' * 4000)
    for writer in writers:
        assert writer.communicate(timeout=60)[1] == b''
        assert writer.returncode == 0
    assert os.listdir(tmp_path) == ['file.bin']
