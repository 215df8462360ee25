# SPDX-License-Identifier: MIT
"""Bad input of every kind: a clear answer or a closed connection, and life goes on."""

import contextlib
import json
import random
import time

import support
from support import TestCase, iso, read_all

GOOD = '2027-01-01T00:00:00Z'


class Hostile(TestCase):
    def setUp(self):
        self.one = self.server('--max-connections', '2000')
        self.one.schedule('x', 3600)

    def tearDown(self):
        self.assertEqual(self.one.request('GET', '/healthz')[0], 200)
        self.assertLess(self.one.resident_kib(), 100_000)

    def test_bodies_that_are_no_task_are_400_with_errors(self):
        bodies = ['', ' ', 'null', '5', '"x"', '{', '{}x', 'no json', '[1]', '[' * 100_000,
                  '{"a":' * 100_000, '{"timestamp":1e999,"message":"x"}',
                  json.dumps({'message': 'x'}), json.dumps({'timestamp': GOOD}),
                  json.dumps({'timestamp': 5, 'message': 'x'}),
                  json.dumps({'timestamp': GOOD, 'message': 5}),
                  json.dumps({'timestamp': GOOD, 'message': None}),
                  json.dumps({'timestamp': '2026-02-30', 'message': 'x'}),
                  json.dumps({'timestamp': 'tomorrow', 'message': 'x'}),
                  json.dumps({'timestamp': '9999-01-01', 'message': 'x'}),
                  b'{"timestamp":"2027-01-01","message":"\xff"}',
                  b'{"timestamp":"2027-01-01","message":"\xed\xa0\x80"}',
                  b'{"timestamp":"2027-01-01","message":"\xc0\xaf"}',
                  '{"timestamp":"2027-01-01","message":"\\x"}',
                  '{"timestamp":"2027-01-01","message":["a",]}']
        for body in bodies:
            status, _, answer = self.one.request('POST', '/schedule', body)
            self.assertEqual(status, 400, body[:60])
            self.assertTrue(all(error.endswith('.') for error in answer['errors']), answer)

    def test_odd_messages_come_back_as_they_went_in(self):
        for message in ('[1e999,-0.0,1.10,12345678901234567890]', '{"a":1,"a":2}', '"\\ud800"',
                        '"\\u00e9\\/"', '[' * 90 + ']' * 90, '{"":{"":[]}}'):
            body = f'{{"timestamp":"{iso(3600)}" , "message" : {message} }}'
            status, _, answer = self.one.request('POST', '/schedule', body)
            self.assertEqual(status, 200, answer)
            with self.one.wire(f'GET /tasks/{answer["id"]} HTTP/1.0\r\n\r\n'.encode()) as connection:
                self.assertIn(('"message":' + message + '}').encode(), read_all(connection))

    def test_a_body_of_a_hundred_megabytes_is_413(self):
        part = b'x' * (1 << 20)
        for head in (b'Content-Length: 104857600', b'Transfer-Encoding: chunked'):
            with self.one.wire(b'POST /schedule HTTP/1.1\r\nHost: localhost\r\n' + head +
                               b'\r\n\r\n') as connection:
                with contextlib.suppress(ConnectionError):
                    for _ in range(100):
                        connection.sendall(b'100000\r\n' + part + b'\r\n' if b'chunked' in head else part)
                self.assertIn(b' 413 ', read_all(connection)[:20])

    def test_heads_that_are_too_much_are_refused(self):
        start = b'GET /healthz HTTP/1.1\r\nHost: localhost\r\n'
        for text, status in ((b'GET /' + b'x' * 60_000 + b' HTTP/1.1\r\nHost: a\r\n\r\n', b'414'),
                             (start + b'a: b\r\n' * 5_000 + b'\r\n', b'431'),
                             (start + b'a: ' + b'b' * 60_000_000 + b'\r\n\r\n', b'431')):
            with self.one.wire() as connection:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(text)
                self.assertIn(b' ' + status + b' ', read_all(connection)[:20])

    def test_a_good_client_is_answered_beside_a_thousand_slow_ones(self):
        slow = [self.one.wire(b'POST /schedule HTTP/1.1\r\nHost: localhost\r\nContent-Le')
                for _ in range(500)]
        slow += [self.one.wire(b'POST /schedule HTTP/1.1\r\nHost: localhost\r\n'
                               b'Content-Length: 100\r\n\r\n{"') for _ in range(500)]
        worst = 0.0
        for number in range(50):
            for connection in slow[number::50]:
                connection.sendall(b'n')
            begin = time.monotonic()
            self.one.schedule('x', 3600)
            worst = max(worst, time.monotonic() - begin)
        print(f'worst {worst * 1000:.0f} ms ', end='')
        self.assertLess(worst, 1)
        for connection in slow:
            connection.close()

    def test_clients_that_hang_up_early_harm_nobody(self):
        for text in (b'', b'\x00' * 100, b'GET', b'POST /schedule HTTP/1.1\r\nContent-Length: 9\r\n\r\n{',
                     b'GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n', bytes(range(256))):
            for _ in range(20):
                self.one.wire(text).close()

    def test_random_requests_never_hang_or_crash_it(self):
        seed = random.randrange(1 << 30)
        print(f'seed {seed} ', end='')
        chance = random.Random(seed)
        pieces = [b'GET', b'POST', b'DELETE', b' ', b'  ', b'/', b'/schedule', b'/tasks?limit=', b'/sse',
                  b'%00', b'%', b'?', b'#', b'HTTP/1.1', b'HTTP/1.0', b'\r\n', b'\n', b'\r', b'\r\n\r\n',
                  b'Host: localhost', b'Content-Length: 5', b'Content-Length: 99999999999',
                  b'Transfer-Encoding: chunked', b'Connection: close', b'Range: bytes=0-1,2-3',
                  b'Accept-Encoding: br, gzip', b'Expect: 100-continue', b'Content-Type: multipart/form-data',
                  b'Origin: http://a', b'Last-Event-ID: \xff', b'Accept: */*;q=x', b'Upgrade: websocket',
                  b'5\r\nhello\r\n', b'0\r\n\r\n', b'ffffffffffffffff\r\n', b'{"timestamp":', b'"2027"',
                  b',"message":', b'{}', b'}', b'[', b'\x00', b'\xff' * 5, b': ', b'x' * 3000]
        usual = (b'POST /schedule HTTP/1.1\r\nHost: localhost\r\nContent-Length: 44\r\n\r\n'
                 b'{"timestamp":"2027-01-01T00:00","message":""}')
        for _ in range(10_000 if support.LONG else 500):
            if chance.random() < 0.5:
                text = bytearray(usual)
                for _ in range(chance.randrange(1, 6)):
                    at = chance.randrange(len(text))
                    text[at:at + chance.randrange(3)] = chance.choice(pieces)
            else:
                text = b''.join(chance.choice(pieces) for _ in range(chance.randrange(1, 30)))
            with self.one.wire(seconds=5) as connection:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(text)
                    connection.shutdown(1)
                    if chance.random() < 0.7:
                        connection.settimeout(5)
                        with contextlib.suppress(TimeoutError):
                            connection.recv(65536)
