"""Raw files of Amazon in the exact formats, made up, and a server for them.

    write_amazon_raw(folder)             # reviews, metadata, image features
    with serve(folder) as address:       # 'http://127.0.0.1:<port>'
        AmazonReviews(root, base_url=address)
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

COLORS = ['red', 'blue', 'green', 'black']
THINGS = ['cable', 'camera', 'speaker', 'battery']


def asin(item: int) -> str:
    """Ten characters; every third one is all digits, with leading zeros."""
    return f'{item:010d}' if item % 3 == 0 else f'B{item:09X}'


def write_amazon_raw(
    folder: Path,
    category: str = 'Electronics',
    num_users: int = 40,
    num_items: int = 30,
    literals: bool = True,
    without_image: tuple[int, ...] = (2,),
    without_text: tuple[int, ...] = (5,),
) -> Path:
    """Every user reviews the items of one half, so that there is something to
    be learnt; each item is reviewed by every other user."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.RandomState(0)
    with gzip.open(folder / f'reviews_{category}_5.json.gz', 'wt',
                   encoding='utf-8') as f:
        for user in range(num_users):
            mine = [i for i in range(num_items) if i % 2 == user % 2]
            for item in rng.permutation(mine)[:10]:
                f.write(json.dumps({
                    'reviewerID': f'A{user:013d}',
                    'asin': asin(int(item)),
                    'reviewerName': 'J. "Quote" O\u2019Neil',
                    'helpful': [0, 1],
                    'reviewText': 'Works, mostly.\nAs described.',
                    'overall': float(rng.randint(1, 6)),
                    'summary': 'ok',
                    'unixReviewTime': int(1_300_000_000
                                          + rng.randint(0, 10**8)),
                    'reviewTime': '07 13, 2011',
                }) + '\n')
    with gzip.open(folder / f'meta_{category}.json.gz', 'wt',
                   encoding='utf-8') as f:
        for item in range(num_items + 5):  # More than were reviewed.
            record: dict = {'asin': asin(item), 'price': 9.99}
            if item not in without_text:
                record['title'] = (f"{COLORS[item % 4]} "
                                   f"{THINGS[item // 4 % 4]} isn't \u00fc")
                record['brand'] = 'Acme'
                record['categories'] = [['Electronics', THINGS[item % 4]]]
                record['description'] = 'A "fine" thing.'
            record['related'] = {'also_bought': [asin(item + 1)]}
            f.write((repr(record) if literals else json.dumps(record)) + '\n')
    with open(folder / f'image_features_{category}.b', 'wb') as f:
        for item in rng.permutation(num_items + 5):
            if item not in without_image:
                f.write(image_record(int(item)))
    return folder


def image(item: int) -> np.ndarray:
    x = np.random.RandomState(item).random_sample(4096).astype('<f4')
    x[item % 2] += 10.0
    return x


def image_record(item: int) -> bytes:
    return struct.pack('10s', asin(item).encode()) + image(item).tobytes()


class Handler(BaseHTTPRequestHandler):
    """Files with ``Range``, ``ETag``; breaks off where it is told to."""
    folder: Path
    break_after: list[int]  # Bytes of each of the next replies; then none.
    weak = False

    def do_GET(self) -> None:
        path = self.folder / self.path.lstrip('/')
        self.server.requests.append(  # type: ignore[attr-defined]
            (self.path, self.headers.get('Range')))
        if not path.is_file():
            self.send_error(404)
            return
        body = path.read_bytes()
        tag = '"' + hashlib.md5(body).hexdigest() + '"'
        start = 0
        wanted = self.headers.get('Range')
        if wanted and self.headers.get('If-Range') == tag:
            start = int(wanted.removeprefix('bytes=').rstrip('-'))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header('Content-Range',
                             f'bytes {start}-{len(body) - 1}/{len(body)}')
        else:
            self.send_response(200)
        self.send_header('Content-Length', str(len(body) - start))
        self.send_header('ETag', 'W/' + tag if self.weak else tag)
        self.end_headers()
        part = body[start:]
        if self.break_after:
            part = part[:self.break_after.pop(0)]
            self.close_connection = True
        with contextlib.suppress(ConnectionError):
            self.wfile.write(part)

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def serve(
    folder: Path,
    break_after: tuple[int, ...] = (),
    requests: list | None = None,
    weak: bool = False,
) -> Iterator[str]:
    """Serves a folder on the loopback interface; yields its address."""
    handler = type('FolderHandler', (Handler,), {
        'folder': Path(folder),
        'break_after': list(break_after),
        'weak': weak,
    })
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    server.requests = [] if requests is None else requests
    thread = threading.Thread(target=server.serve_forever,
                              kwargs={'poll_interval': 0.02}, daemon=True)
    thread.start()
    try:
        yield f'http://127.0.0.1:{server.server_address[1]}'
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
