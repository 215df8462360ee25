# SPDX-License-Identifier: MIT
"""A pause holds back every emission until it is ended, whatever happens to the process."""
import json
import threading
import time

import support
from support import Closed, TestCase, Wire, body, iso, millis, wait_for

LOST = (Closed, ConnectionError, TimeoutError)


class Pause(TestCase):
    def test_a_pause_survives_kill_9_and_nothing_is_emitted_in_one(self):
        """Clients schedule what falls due at once while another pauses, resumes and kills."""
        server = self.server()
        stopping = threading.Event()
        acked = set()

        def schedule():
            while not stopping.is_set():
                try:
                    with Wire(server.port) as wire:
                        while not stopping.is_set():
                            answer = wire.call('POST', '/schedule', body('x', iso(0.002)))
                            if answer.status == 200:
                                acked.add(answer.json['id'])
                            time.sleep(0.001)
                except LOST:
                    time.sleep(0.005)

        threads = [threading.Thread(target=schedule, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        pauses = []  # from the answer of a pause to the request of the resume
        try:
            for number in range(60 if support.LONG else 12):
                reason = f'round {number}'
                self.assertEqual(server.ask('POST', '/pause', {'reason': reason})[0], 200)
                answered = support.utc_now()
                before = server.page('/status')['emitted']
                self.assertEqual(server.page('/status')['emitted'], before)
                if number % 3 != 2:
                    server.kill()
                    server.start()
                    status = server.page('/status')
                    self.assertEqual(status['paused']['reason'], reason)
                    self.assertEqual(status['emitted'], 0)
                wait_for(lambda: server.page('/status')['overdue'] > 3)
                self.assertEqual(server.ask('GET', '/readyz')[0], 200)
                pauses.append((millis(iso(answered)), millis(iso(support.utc_now()))))
                self.assertEqual(server.ask('POST', '/resume')[0], 200)
                wait_for(lambda: server.page('/status')['emitted'] > 0)
                if number % 4 == 3:
                    server.kill()
                    server.start()
                    self.assertIsNone(server.page('/status')['paused'])
        finally:
            stopping.set()
            for thread in threads:
                thread.join()
        wait_for(lambda: server.pending() == 0)
        events = server.walk('/events')
        self.assertLessEqual(acked, {event['id'] for event in events})
        for event in events:
            at = millis(event['emitted_at'])
            for begin, end in pauses:
                self.assertFalse(begin < at < end, (event, begin, end))
        self.note(f'{len(events)} events around {len(pauses)} pauses')

    def test_a_paused_server_takes_everything_but_emits_nothing(self):
        server = self.server()
        server.ask('POST', '/pause')
        gone, kept = server.schedule('gone', 0), server.schedule('kept', 0)
        self.assertEqual(server.ask('PATCH', '/tasks/' + kept, {'message': 'changed'})[0], 200)
        self.assertEqual(server.ask('DELETE', '/tasks/' + gone)[0], 200)
        with server.stream() as stream:
            stream.silent_for(0.3)
            server.ask('POST', '/resume')
            event = stream.next()
            self.assertEqual(event.id, kept)
            self.assertEqual(event.message, 'changed')

    def test_a_hostile_reason_is_refused_and_changes_nothing(self):
        server = self.server()
        self.assertEqual(server.ask('POST', '/pause', {'reason': 'x' * 500})[0], 200)
        for value in (7, None, True, [], {}, 'x' * 501, 'x' * 10_000, 'a\nb', 'a\0b', '\x1b[31m',
                      '\x7f', '\u20ac' * 167):
            errors = server.ask('POST', '/pause', {'reason': value})
            self.assertEqual(errors[0], 400, value)
            self.assertIn('reason', errors[2]['errors'][0])
        for content in ('[]', '"x"', '{', '{"reason":"a","reason":"b"}', '{"reasons":"a"}', '{"a":1}x',
                        '{"reason":"\\ud800"}'):
            self.assertEqual(server.ask('POST', '/pause', content)[0], 400, content)
        for content in ('[]', '{"reason":"a"}', '{'):
            self.assertEqual(server.ask('POST', '/resume', content)[0], 400, content)
        paused = server.page('/status')['paused']
        self.assertEqual(paused['reason'], 'x' * 500)
        foreign = 'quoted " back\\slash \u20ac \u0085'
        self.assertEqual(server.ask('POST', '/pause', {'reason': foreign})[0], 200)
        self.assertEqual(server.page('/status')['paused'],
                         {'since': paused['since'], 'reason': foreign})
        metrics = server.ask('GET', '/metrics')[2].decode()
        self.assertIn('task_scheduler_pause_info{reason="quoted \\" back\\\\slash', metrics)

    def test_pausing_is_for_those_who_have_the_secret(self):
        server = self.server(env={'SCHEDULER_SECRET': 's', 'SCHEDULER_READ_SECRET': 'r'})
        for path in ('/pause', '/resume'):
            self.assertEqual(server.ask('POST', path)[0], 401)
            self.assertEqual(server.ask('POST', path, {'secret': 'no'})[0], 401)
            self.assertEqual(server.ask('POST', path, None, {'x-pd-secret': 'r'})[0], 403)
            self.assertEqual(server.ask('POST', path, {'secret': 's'})[0], 200)
        self.assertEqual(server.ask('GET', '/status')[0], 401)
        self.assertEqual(server.ask('GET', '/status', None, {'x-pd-secret': 'r'})[0], 200)
