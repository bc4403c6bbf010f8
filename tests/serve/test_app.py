"""The service in this process: answers, limits, token, batches."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
import torch

pytest.importorskip('fastapi')
pytest.importorskip('httpx')
pytest.importorskip('prometheus_client')

from serving import ITEMS, USERS, make_model, talk  # noqa: E402

from torch_promptmm.serve.app import create_app, from_env  # noqa: E402


def expected(found) -> list[tuple[list, list]]:
    """The lists of a recommender's answer, without empty places."""
    items, scores = found
    out = []
    for item, score in zip(items, scores.tolist(), strict=True):
        n = sum(x is not None for x in item)
        out.append((item[:n], score[:n]))
    return out


def check_answer(reply, wanted) -> None:
    assert reply.status_code == 200, reply.text
    results = reply.json()['results']
    assert [x['items'] for x in results] == [x for x, _ in wanted]
    for result, (_, scores) in zip(results, wanted, strict=True):
        assert result['scores'] == pytest.approx(scores, rel=1e-5, abs=1e-6)


def post(path: str, body, app=None, **kwargs):
    app = create_app(make_model()) if app is None else app
    return talk(app, lambda client: client.post(path, json=body, **kwargs))


@pytest.mark.parametrize('options', [
    {},
    {'exclude_known': False},
    {'candidates': [101, 107, 130, 155]},
    {'exclude': [100, 101, 102, 103]},
    {'candidates': [101, 107, 130], 'exclude': [107],
     'exclude_known': False},
])
def test_recommend_is_that_of_the_recommender(options: dict) -> None:
    model, users = make_model(), ['u3', 'u0', 'u39', 'u3']
    k = min(7, len(options.get('candidates', range(7))))
    reply = post('/recommend', {'users': users, 'k': k, **options})
    check_answer(reply, expected(model.recommend(users, k, raw=True,
                                                 **options)))


def test_similar_and_history_are_those_of_the_recommender() -> None:
    model = make_model()
    reply = post('/similar', {'items': [103, 100], 'k': 5})
    check_answer(reply, expected(model.similar_items([103, 100], 5,
                                                     raw=True)))
    histories = [[103, 100, 120], [159]]
    reply = post('/history', {'histories': histories, 'k': 5})
    wanted = expected(model.recommend_from_history(histories, 5, raw=True))
    check_answer(reply, wanted)
    assert not {103, 100, 120} & set(wanted[0][0])


def test_a_model_without_ids_is_asked_by_rows() -> None:
    model = make_model(ids=False)
    app = create_app(model)
    reply = post('/recommend', {'users': [5], 'k': 4}, app)
    assert reply.json()['results'][0]['items'] == model.recommend(
        [5], 4)[0][0].tolist()
    for bad in (USERS, -1, '5'):
        assert post('/recommend', {'users': [bad]},
                    create_app(model)).status_code == 404


def test_a_list_is_never_longer_than_the_catalogue() -> None:
    # Short where fewer items are left, with no place that is empty.
    reply = post('/recommend', {'users': ['u0'], 'k': 1000})
    known = int((make_model().known[0] == 0).sum())
    row = reply.json()['results'][0]
    assert len(row['items']) == len(row['scores']) == ITEMS - known
    reply = post('/similar', {'items': [100], 'k': 1000})
    assert len(reply.json()['results'][0]['items']) == ITEMS - 1


def test_requests_at_once_are_computed_together() -> None:
    app, model = create_app(make_model(), max_wait=0.05), make_model()

    async def story(client):
        replies = await asyncio.gather(*(
            client.post('/recommend', json={'users': [f'u{i}'], 'k': 5})
            for i in range(USERS)))
        return replies, (await client.get('/metrics')).text

    replies, text = talk(app, story)
    for i, reply in enumerate(replies):
        check_answer(reply, expected(model.recommend([f'u{i}'], 5,
                                                     raw=True)))
    assert 'promptmm_batch_requests_sum 40.0' in text
    count = float(text.split('promptmm_batch_requests_count ')[1].split()[0])
    assert count <= 4
    assert ('promptmm_requests_total{path="/recommend",status="200"} 40.0'
            in text)


BAD = {
    'no body': b'',
    'no JSON': b'{"users": [',
    'not UTF-8': b'{"users": ["\xff"]}',
    'no object': b'[]',
    'nothing asked for': b'{}',
    'no users': b'{"users": []}',
    'null': b'{"users": null}',
    'a number': b'{"users": 3}',
    'a user that is a list': b'{"users": [["u0"]]}',
    'a user that is true': b'{"users": [true]}',
    'a user that is a fraction': b'{"users": [1.5]}',
    'an integer beyond 64 bits': b'{"users": [9223372036854775808]}',
    'an id without end': json.dumps({'users': ['u' * 513]}).encode(),
    'too many users': json.dumps({'users': ['u0'] * 257}).encode(),
    'k of 0': b'{"users": ["u0"], "k": 0}',
    'k below 0': b'{"users": ["u0"], "k": -1}',
    'k too large': b'{"users": ["u0"], "k": 1001}',
    'k a text': b'{"users": ["u0"], "k": "5"}',
    'k a fraction': b'{"users": ["u0"], "k": 2.0}',
    'k infinite': b'{"users": ["u0"], "k": 1e999}',
    'k not a number': b'{"users": ["u0"], "k": NaN}',
    'a flag that is a text': b'{"users": ["u0"], "exclude_known": "no"}',
    'no candidates': b'{"users": ["u0"], "candidates": []}',
    'a name that is wrong': b'{"users": ["u0"], "exclud": [100]}',
    'deep': b'{"users": ' + b'[' * 5000 + b']' * 5000 + b'}',
}


@pytest.mark.parametrize('what', BAD)
def test_a_malformed_request_is_a_clear_422(what: str) -> None:
    app = create_app(make_model())

    async def story(client):
        bad = await client.post('/recommend', content=BAD[what], headers={
            'content-type': 'application/json'})
        return bad, await client.post('/recommend', json={'users': ['u0']})

    bad, good = talk(app, story)
    assert bad.status_code in (400, 422), bad.text
    assert bad.json()['detail']
    assert 'Traceback' not in bad.text and '.py' not in bad.text
    assert good.status_code == 200


@pytest.mark.parametrize('path,body,text', [
    ('/recommend', {'users': ['u0', 'nobody']}, "'nobody'"),
    ('/recommend', {'users': [7]}, 'their ids are strings'),
    ('/recommend', {'users': ['u0'], 'candidates': [1]}, 'unknown items'),
    ('/recommend', {'users': ['u0'], 'exclude': ['100']}, 'integers'),
    ('/recommend', {'users': ['x' * 512]}, '...'),
    ('/similar', {'items': [1]}, 'unknown items'),
    ('/history', {'histories': [[100], [1]]}, 'unknown items'),
])
def test_an_unknown_id_is_a_404(path: str, body: dict, text: str) -> None:
    reply = post(path, body)
    assert reply.status_code == 404
    assert text in reply.json()['detail'] and len(reply.text) < 200


def test_an_unknown_id_leaves_the_others_of_its_batch_alone() -> None:
    app = create_app(make_model(), max_wait=0.05)

    async def story(client):
        return await asyncio.gather(*(
            client.post('/recommend', json={'users': [user]})
            for user in ('u0', 'nobody', 'u1')))

    assert [x.status_code for x in talk(app, story)] == [200, 404, 200]


@pytest.mark.parametrize('says_length', [True, False])
def test_a_huge_request_is_refused(says_length: bool) -> None:
    app, sent = create_app(make_model(), max_body=1000), 0

    async def chunks():
        nonlocal sent
        for _ in range(1000):
            sent += 100
            yield b' ' * 100

    content = b' ' * 100_000 if says_length else chunks()
    reply = talk(app, lambda client: client.post(
        '/recommend', content=content,
        headers={'content-type': 'application/json'}))
    assert reply.status_code == 413
    assert 'Too Large' in reply.text
    assert sent <= 2000  # The rest is not even read.


def test_a_slow_request_is_ended() -> None:
    app = create_app(make_model(), timeout=0.1)

    async def slow():
        yield b'{"users": '
        await asyncio.sleep(5)
        yield b'["u0"]}'

    reply = talk(app, lambda client: client.post(
        '/recommend', content=slow(),
        headers={'content-type': 'application/json'}))
    assert reply.status_code == 408
    assert reply.headers['connection'] == 'close'
    assert 'body' in reply.json()['detail']


class HeldUp:
    """Holds up what an app computes."""
    def __init__(self, app) -> None:
        self.free, self.begun = threading.Event(), threading.Event()
        batcher = app.state.service.batcher
        compute = batcher.compute

        def held_up(*args):
            self.begun.set()
            assert self.free.wait(10)
            return compute(*args)

        batcher.compute = held_up


def test_an_answer_that_takes_too_long_is_ended() -> None:
    app = create_app(make_model(), timeout=0.1)
    held = HeldUp(app)

    async def story(client):
        reply = await client.post('/recommend', json={'users': ['u0']})
        held.free.set()
        return reply

    reply = talk(app, story)
    assert reply.status_code == 503
    assert 'answer' in reply.json()['detail']


def test_a_full_queue_is_503_and_those_who_wait_are_answered() -> None:
    app = create_app(make_model(), max_queue=3, max_wait=0.0)
    held = HeldUp(app)

    async def story(client):
        def ask():
            return asyncio.create_task(
                client.post('/recommend', json={'users': ['u0']}))

        first = ask()
        await asyncio.to_thread(held.begun.wait, 10)
        waiting = [ask() for _ in range(3)]
        while app.state.service.batcher.waiting < 3:
            await asyncio.sleep(0.001)
        refused = await ask()
        health = await client.get('/health')
        held.free.set()
        return refused, health, await asyncio.gather(first, *waiting)

    refused, health, answered = talk(app, story)
    assert refused.status_code == 503
    assert refused.headers['retry-after'] == '1'
    assert health.json()['waiting'] == 3
    assert [x.status_code for x in answered] == [200] * 4


def test_an_error_of_the_inside_says_nothing_of_it() -> None:
    model = make_model()
    app = create_app(model)

    def broken(*args, **kwargs):
        raise RuntimeError('secret of the inside')

    model.recommend = broken

    async def story(client):
        return (await client.post('/recommend', json={'users': ['u0']}),
                await client.get('/metrics'))

    reply, metrics = talk(app, story)
    assert reply.status_code == 500
    assert reply.json() == {'detail': 'internal error'}
    assert 'path="/recommend",status="500"} 1.0' in metrics.text


@pytest.mark.parametrize('header', [None, 'Bearer wrong', 'Bearer ',
                                    'Basic c2VjcmV0', 'Bearer \xe9'])
def test_without_the_token_there_is_no_answer(header: str | None) -> None:
    app = create_app(make_model(), token='secret')

    async def story(client):
        headers = {} if header is None else {
            'authorization': header.encode('latin-1')}
        return [
            await client.post('/recommend', json={'users': ['u0']},
                              headers=headers),
            await client.post('/similar', json={'items': [1]},
                              headers=headers),
            await client.get('/metrics', headers=headers),
            await client.get('/health'),
            await client.post('/recommend', json={'users': ['u0']},
                              headers={'authorization': 'Bearer secret'}),
        ]

    statuses = [x.status_code for x in talk(app, story)]
    assert statuses == [401, 401, 401, 200, 200]


def test_health_and_metrics() -> None:
    app = create_app(make_model())

    async def story(client):
        await client.get('/nowhere/1')
        await client.get('/nowhere/2')
        return await client.get('/health'), await client.get('/metrics')

    health, metrics = talk(app, story)
    body = health.json()
    assert body['status'] == 'ok' and body['error'] is None
    assert (body['users'], body['items']) == (USERS, ITEMS)
    assert metrics.headers['content-type'].startswith('text/plain')
    # Paths of others' making are one line.
    assert ('promptmm_requests_total{path="other",status="404"} 2.0'
            in metrics.text)
    assert 'nowhere' not in metrics.text
    assert 'promptmm_model_failures 0.0' in metrics.text


def test_limits_are_in_the_openapi() -> None:
    schema = create_app(make_model(), token='x').openapi()
    body = schema['components']['schemas']['RecommendBody']
    assert body['properties']['k']['maximum'] == 1000
    assert body['properties']['users']['maxItems'] == 256
    assert body['additionalProperties'] is False
    for path in ('/recommend', '/similar', '/history'):
        operation = schema['paths'][path]['post']
        assert {'200', '401', '404', '413', '422', '503'} <= set(
            operation['responses'])
        assert operation['security']


@pytest.mark.parametrize('kwargs', [
    {'timeout': 0.0}, {'reload_every': -1.0}, {'max_queue': 0},
    {'token': ' '}, {'max_wait': float('nan')},
])
def test_bad_arguments(kwargs: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        create_app(make_model(), **kwargs)


def test_the_environment_names_the_model(monkeypatch) -> None:
    monkeypatch.delenv('PROMPTMM_MODEL', raising=False)
    with pytest.raises(ValueError, match='PROMPTMM_MODEL is not set'):
        from_env()


def test_answers_of_a_device_are_lists() -> None:
    model = make_model().to(torch.device('cpu'))
    reply = post('/recommend', {'users': ['u1'], 'k': 2}, create_app(model))
    assert len(reply.json()['results'][0]['items']) == 2
