# SPDX-License-Identifier: MIT
"""Too little memory, as a limit of the address space gives it: real threads that cannot be made
and real blocks that cannot be had, in the real binary."""

import contextlib
import json
import re
import resource

import support
from support import TestCase

MIB = 1 << 20


class Memory(TestCase):
    def address_space(self, server):
        with open(f'/proc/{server.process.pid}/status') as file:
            return int(re.search(r'VmSize:\s+(\d+)', file.read())[1]) * 1024

    def limit(self, server, size):
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))

    def ask(self, server, method, path, content=None):
        """The status, and the id if there is one; None: there is no answer."""
        with contextlib.suppress(support.Closed, OSError):
            answer = server.call(method, path, content)
            return answer.status, answer.json.get('id') if answer.status == 200 else None
        return None, None

    def starve(self, server, room):
        """Schedules and cancels with so many bytes to spare until there are no more of them, not
        for ever smaller messages either; returns what was answered, by message."""
        answers = {}
        self.limit(server, self.address_space(server) + room)
        failures = number = 0
        while failures < 200 and number < 4 * room // 8192 + 5000:
            number += 1
            name = f'{room}-{number}'
            text = json.dumps({'delay': 3600 if number % 3 else 0,
                               'message': {'name': name, 'padding': 'x' * (8000 >> failures // 20)}})
            status, id = self.ask(server, 'POST', '/schedule', text)
            answers[name] = (status, id)
            failures += status != 200
            if status == 200 and number % 5 == 1:  # of those that are due later
                self.cancelled[id] = self.ask(server, 'DELETE', '/tasks/' + id)[0]
        self.limit(server, resource.RLIM_INFINITY)
        return answers

    def check(self, server, answers):
        known = {}
        for path in '/tasks', '/events':
            for item in server.walk(path):
                known[item['payload']['message']['name']] = item['id']
        for name, (status, id) in answers.items():
            if status == 200 and self.cancelled.get(id) == 200:
                self.assertNotIn(name, known, 'it was cancelled')
            elif status == 200 and self.cancelled.get(id, 404) is not None:
                self.assertEqual(known.get(name), id, 'it was answered')
            elif status is not None and status != 200:
                self.assertNotIn(name, known, f'it was refused with {status}')

    def run_out(self, *flags):
        # Each further arena of the C library would reserve 64 MiB of addresses ahead.
        server = self.server('--journal', 'tasks.jsonl', '--history', '100000',
                             '--fsync', 'everysec', *flags, env={'MALLOC_ARENA_MAX': '1'})
        self.cancelled = {}
        answers = {}
        for room in (MIB // 4, 2 * MIB, 9 * MIB):
            answers.update(self.starve(server, room))
            self.assertIsNone(server.process.poll(), server.stderr()[-2000:])
            support.wait_for(lambda: self.ask(server, 'GET', '/healthz')[0] == 200)
        statuses = [status for status, _ in answers.values()]
        self.note(f'{statuses.count(200)} stored, {statuses.count(None)} not answered, '
                  f'{len(statuses) - statuses.count(200) - statuses.count(None)} refused')
        self.assertGreater(statuses.count(200), 100)
        self.assertGreater(len(statuses) - statuses.count(200), 30)
        server.schedule({'name': 'the last one'}, 0)
        support.wait_for(lambda: server.page('/events?limit=1')['data'][0]['payload']['message'] ==
                         {'name': 'the last one'}, 20)
        self.check(server, answers)
        server.restart()
        self.check(server, answers)

    def test_a_lack_of_memory_ends_nothing_and_every_answer_holds(self):
        self.run_out()

    def test_a_lack_of_memory_ends_nothing_beside_sinks_either(self):
        self.run_out('--exec', 'true')
