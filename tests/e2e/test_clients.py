# SPDX-License-Identifier: MIT
"""Clients of other makers: curl, Node, eventsource, Chromium, Python."""

import json
import os
import subprocess

import support
from support import Stream, TestCase, iso


def curl(*arguments):
    return subprocess.run(['curl', '-sS', '--max-time', '20', *arguments], capture_output=True,
                          text=True, check=True).stdout


class Clients(TestCase):
    def follow_with_curl(self, server):
        process = subprocess.Popen(['curl', '-sSN', '--max-time', '60', server.url + '/sse'],
                                   stdout=subprocess.PIPE, text=True)
        self.addCleanup(lambda: (process.kill(), process.wait(), process.stdout.close()))
        while process.stdout.readline() != 'data: {}\n':
            pass
        return process

    def curl_event(self, process):
        lines = [process.stdout.readline() for _ in range(3)]
        while not lines[-2].startswith('data: '):
            lines.append(process.stdout.readline())
        return json.loads(lines[-2][6:])

    def test_the_request_of_the_original_documentation_comes_out_at_once(self):
        server = self.server()
        process = self.follow_with_curl(server)
        answer = json.loads(curl(
            '-d', '{ "timestamp": "2020-08-21T04:29:00.951Z", "message": '
                  '{ "name": "Luke", "title": "Jedi" }}',
            '-H', 'Content-Type: application/json', server.url + '/schedule'))
        self.assertEqual(answer['message'], 'Scheduled task at 2020-08-21T04:29:00.951Z')
        self.assertEqual(self.curl_event(process), {'timestamp': '2020-08-21T04:29:00.951Z',
                                                    'message': {'name': 'Luke', 'title': 'Jedi'}})

    def test_a_bare_curl_works_with_bodies_of_any_size(self):
        server = self.server()
        for size in (10, 9_000, 500_000):
            body = json.dumps({'timestamp': iso(3600), 'message': 'x' * size})
            path = os.path.join(server.directory, 'body')
            with open(path, 'w') as file:
                file.write(body)
            self.assertIn('Scheduled task', curl('-d', '@' + path, server.url + '/schedule'))
            self.assertIn('Scheduled task', curl('--http1.0', '-d', '@' + path, server.url + '/schedule'))
            self.assertIn('Scheduled task', curl('-H', 'Transfer-Encoding: chunked', '-d', '@' + path,
                                                 server.url + '/schedule'))
        self.assertEqual(server.pending(), 9)

    def test_a_task_arrives_on_time_at_curl_eventsource_and_chromium(self):
        server = self.server()
        process = self.follow_with_curl(server)
        seconds = 30 if support.LONG else 2
        done = subprocess.run(['node', 'clients.mjs', 'arrive', server.url, str(seconds)],
                              cwd=support.WORK, capture_output=True, text=True, timeout=90)
        self.assertEqual(done.returncode, 0, done.stderr)
        result = json.loads(done.stdout)
        self.assertEqual(result['scheduled']['status'], 200)
        for client in ('node', 'chromium'):
            late = result[client]['at'] - result['due']
            print(f'{client}: {late} ms late ', end='')
            self.assertGreaterEqual(late, 0)
            self.assertLess(late, 500)
            self.assertEqual(result[client]['id'], result['scheduled']['id'])
            self.assertEqual(json.loads(result[client]['data'])['message'],
                             {'name': 'Luke', 'title': 'Jedi'})
        self.assertEqual(self.curl_event(process)['message'], {'name': 'Luke', 'title': 'Jedi'})

    def test_eventsource_misses_nothing_across_a_restart(self):
        server = self.server()
        process = subprocess.Popen(['node', 'clients.mjs', 'follow', server.url, '6'],
                                   cwd=support.WORK, stdout=subprocess.PIPE, text=True)
        self.addCleanup(lambda: (process.kill(), process.wait(), process.stdout.close()))
        self.assertEqual(process.stdout.readline(), 'connected\n')
        for number in range(3):
            server.schedule(str(number))
            self.assertEqual(process.stdout.readline(), f'{number}\n')
        server.schedule('3', 0.3)
        server.kill()
        server.start()
        server.schedule('4', 0.4)
        server.schedule('5', 0.5)
        rest = [line for line in process.stdout if line != 'connected\n']
        self.assertEqual(rest, ['3\n', '4\n', '5\n'])

    def test_a_keyed_retry_schedules_once(self):
        server = self.server()
        body = {'delay': '1h', 'message': 'once'}
        first = server.request('POST', '/schedule', body, {'Idempotency-Key': 'k'})[2]
        server.kill()
        server.start()
        self.assertEqual(server.request('POST', '/schedule', body, {'Idempotency-Key': 'k'})[2], first)
        self.assertEqual(server.pending(), 1)

    def test_python_schedules_cancels_and_resumes(self):
        server = self.server()
        with Stream(server) as stream:
            first = server.schedule('first')
            self.assertEqual(stream.message()[0], first)
            last = stream.last_event_id
        second = server.schedule({'n': 1}, 0.1)
        cancelled = server.schedule('cancelled', 0.2)
        self.assertEqual(server.request('DELETE', '/tasks/' + cancelled)[0], 200)
        third = server.schedule('third', 0.3)
        with Stream(server, last) as stream:
            self.assertEqual([stream.message()[0], stream.message()[0]], [second, third])
