"""The service as a process of its own, on a socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from serving import make_model

pytest.importorskip('uvicorn')
pytest.importorskip('fastapi')
pytest.importorskip('jsonargparse')

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def post(port: int, body: bytes, path: str = '/recommend') -> tuple[int, str]:
    request = urllib.request.Request(
        f'http://127.0.0.1:{port}{path}', body,
        {'content-type': 'application/json'})
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def lists(port: int) -> list:
    code, text = post(port, b'{"users": ["u3", "u0"], "k": 6}')
    assert code == 200, text
    return [x['items'] for x in json.loads(text)['results']]


def wait_for(condition, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'it never came'
        time.sleep(0.1)


def is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(
                f'http://127.0.0.1:{port}/health', timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


@contextmanager
def serving(folder: Path, *words: str) -> Iterator[tuple[int, int]]:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    log = open(folder.parent / 'log', 'w+')
    process = subprocess.Popen(
        [sys.executable, '-m', 'torch_promptmm.cli', 'serve', str(folder),
         '--port', str(port), *words],
        cwd=ROOT, stdout=log, stderr=log)
    try:
        wait_for(lambda: process.poll() is not None or is_up(port))
        log.seek(0)
        assert process.poll() is None, log.read()
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        log.close()


def talk_raw(port: int, *parts: bytes, wait: float = 0.0) -> bytes:
    with socket.create_connection(('127.0.0.1', port), 20) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(wait)
        out = b''
        while True:
            try:
                part = connection.recv(65536)
            except ConnectionResetError:
                return out
            if not part:
                return out
            out += part


def test_garbage_slow_and_cut_off(tmp_path: Path) -> None:
    make_model().save(tmp_path / 'model')
    wanted = make_model().recommend(['u3', 'u0'], 6, raw=True)[0]
    head = (b'POST /recommend HTTP/1.1\r\nHost: x\r\n'
            b'content-type: application/json\r\n')
    with serving(tmp_path / 'model', '--timeout', '1') as (port, _):
        assert lists(port) == wanted
        replies = [
            talk_raw(port, b'\x00\xff garbage\r\n\r\n'),
            talk_raw(port, b'GET /' + b'a' * 100_000 + b' HTTP/1.1\r\n\r\n'),
            talk_raw(port, head + b'content-length: -1\r\n\r\n'),
            talk_raw(port, head + b'content-length: 99999999999\r\n\r\n{'),
            # A body that never comes to its end.
            talk_raw(port, head + b'content-length: 40\r\n\r\n{"users"'),
        ]
        for reply in replies[:3]:
            assert reply.split(b' ')[1] in (b'400', b'431'), reply[:80]
        assert b' 413 ' in replies[3], replies[3]
        assert b' 408 ' in replies[4], replies[4]
        # Gone in the middle: nobody to answer.
        with socket.create_connection(('127.0.0.1', port)) as connection:
            connection.sendall(head + b'content-length: 40\r\n\r\n{"us')
        assert not [x for x in replies if b'Traceback' in x or b'.py' in x]
        assert lists(port) == wanted
    assert 'Traceback' not in (tmp_path / 'log').read_text()


@pytest.mark.skipif(os.name != 'posix', reason='signals')
def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    psutil = pytest.importorskip('psutil')
    make_model().save(tmp_path / 'model')
    wanted = make_model().recommend(['u3', 'u0'], 6, raw=True)[0]

    def workers(pid: int) -> set[int]:
        out = set()
        for child in psutil.Process(pid).children():
            with suppress(psutil.Error):  # A zombie has no command line.
                if 'spawn_main' in ' '.join(child.cmdline()):
                    out.add(child.pid)
        return out

    with serving(tmp_path / 'model', '--workers', '2') as (port, pid):
        wait_for(lambda: len(workers(pid)) == 2)
        before = workers(pid)
        assert lists(port) == wanted
        os.kill(min(before), signal.SIGKILL)
        wait_for(lambda: len(workers(pid) - before) == 1)
        wait_for(lambda: is_up(port))
        for _ in range(20):
            assert lists(port) == wanted
    assert not [x for x in before if psutil.pid_exists(x)]


def test_fuzzed_by_its_own_openapi(tmp_path: Path) -> None:
    pytest.importorskip('schemathesis')
    make_model(ids=False).save(tmp_path / 'model')  # Some rows are right.
    with serving(tmp_path / 'model') as (port, _):
        done = subprocess.run(
            [str(Path(sys.executable).parent / 'schemathesis'), 'run',
             f'http://127.0.0.1:{port}/openapi.json', '--max-examples', '40',
             '--seed', '0', '--generation-database', 'none', '--checks',
             'not_a_server_error,status_code_conformance,'
             'content_type_conformance,response_schema_conformance',
             '--phases', 'examples,coverage,fuzzing'],
            cwd=tmp_path, capture_output=True, text=True, timeout=300,
            check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr
        assert post(port, b'{"users": [3]}')[0] == 200
    assert 'Traceback' not in (tmp_path / 'log').read_text()


def test_a_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    make_model().save(tmp_path / 'model')
    with serving(tmp_path / 'model') as (port, _):
        done = subprocess.run(
            [sys.executable, '-m', 'torch_promptmm.cli', 'serve',
             str(tmp_path / 'model'), '--port', str(port)],
            cwd=ROOT, capture_output=True, text=True, timeout=60,
            check=False)
    assert done.returncode != 0
    assert 'address already in use' in done.stderr
    assert 'Traceback' not in done.stderr
