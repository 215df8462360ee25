# SPDX-License-Identifier: MIT
"""kill -9, cuts and flips: what was answered holds."""

import contextlib
import http.client
import json
import os
import random
import shutil
import tempfile
import threading
import time

import support
from support import Server, Stream, TestCase, iso


class Client(threading.Thread):
    """Schedules and cancels until its connection is gone."""

    def __init__(self, port, seed):
        super().__init__()
        self.port = port
        self.random = random.Random(seed)
        self.stored, self.cancelled, self.unsure = set(), set(), set()

    def run(self):
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=10)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            while True:
                ahead = self.random.choice([0, 0.05, 3600, 3600])
                body = json.dumps({'timestamp': iso(ahead), 'message': 'some text'})
                connection.request('POST', '/schedule', body)
                task = json.loads(connection.getresponse().read())['id']
                self.stored.add(task)
                if self.random.random() < 0.3:
                    victim = self.random.choice(list(self.stored))
                    self.unsure.add(victim)
                    connection.request('DELETE', '/tasks/' + victim)
                    answer = connection.getresponse()
                    answer.read()
                    self.unsure.discard(victim)
                    if answer.status == 200:
                        self.stored.discard(victim)
                        self.cancelled.add(victim)


class Crashes(TestCase):
    def test_kill_9_loses_nothing_and_a_reader_resumes_without_gap_or_repeat(self):
        seed = random.randrange(1 << 30)
        print(f'seed {seed} ', end='')
        chance = random.Random(seed)
        server = self.server('--history', '1000000')
        stored, cancelled, unsure, seen = set(), set(), set(), []
        last = 'earliest'
        for _ in range(200 if support.LONG else 5):
            clients = [Client(server.port, chance.random()) for _ in range(8)]
            for client in clients:
                client.start()
            time.sleep(chance.uniform(0.05, 0.5))
            server.kill()
            for client in clients:
                client.join()
                stored |= client.stored
                cancelled |= client.cancelled
                unsure |= client.unsure
            server.start()
            stored -= cancelled
            with Stream(server, last) as stream:
                marker = server.schedule('marker')
                while True:
                    name, event_id, _ = stream.event()
                    self.assertEqual(name, 'message')
                    seen.append(event_id)
                    if event_id == marker:
                        break
                last = stream.last_event_id
        self.assertEqual(len(seen), len(set(seen)), 'an event came twice')
        pending, after = set(), ''
        while True:
            page = server.request('GET', '/tasks?limit=1000' + after)[2]
            pending |= {task['id'] for task in page['data']}
            if not page['page_info']['end_cursor']:
                break
            after = '&after=' + page['page_info']['end_cursor']
        present = pending | set(seen)
        print(f'{len(stored)} kept, {len(cancelled)} cancelled ', end='')
        missing = {task for task in stored - unsure - present
                   if server.request('GET', '/tasks/' + task)[0] == 404}
        self.assertEqual(missing, set())
        self.assertEqual(cancelled & present, set())

    def test_a_journal_cut_or_flipped_anywhere_starts_and_keeps_the_rest(self):
        server = self.server()
        for number in range(20):
            server.schedule(str(number), 3600)
        server.stop()
        with open(server.journal, 'rb') as file:
            whole = file.read()
        server.start()
        chance = random.Random(5)
        for round_number in range(200 if support.LONG else 20):
            directory = tempfile.mkdtemp(dir=support.WORK)
            text = bytearray(whole)
            at = chance.randrange(len(text))
            if round_number % 2:
                text[at] ^= 1 << chance.randrange(8)
                least = 18
            else:
                del text[at:]
                least = max(0, text.count(b'\n') - 1)
            with open(os.path.join(directory, 'tasks.jsonl'), 'wb') as file:
                file.write(text)
            with Server(directory=directory) as damaged:
                self.assertGreaterEqual(damaged.pending(), least)
            shutil.rmtree(directory, ignore_errors=True)
