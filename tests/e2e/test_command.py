# SPDX-License-Identifier: MIT
"""The command line: what a person types, and what a script reads."""

import os
import pty
import re
import signal
import subprocess

import support
from support import TestCase


class CommandLine(TestCase):
    def setUp(self):
        super().setUp()
        self.one = self.server()

    def run_verb(self, *arguments, text=None):
        done = subprocess.run([support.BINARY, *arguments], input=text, capture_output=True,
                              text=True, timeout=20,
                              env={**os.environ, 'SCHEDULER_URL': self.one.url})
        return done.returncode, done.stdout, done.stderr

    def add(self, *arguments, text=None):
        status, output, errors = self.run_verb('add', *arguments, text=text)
        self.assertEqual(status, 0, errors)
        self.assertRegex(output, r'^[0-9a-f-]{36}\n$')
        return output.strip()

    def test_tasks_are_added_listed_moved_and_removed(self):
        one = self.add('--in', '2h', '{"n":1.10}')
        two = self.add('--at', '2027-01-01T00:00:00Z', 'plain text')
        three = self.add('--in=90s', '-', text='["from", "standard input"]\n')
        status, output, _ = self.run_verb('ls')
        lines = [line.split('\t') for line in output.splitlines()]
        self.assertEqual([line[0] for line in lines], [three, one, two])
        self.assertEqual([line[2] for line in lines],
                         ['["from","standard input"]', '{"n":1.10}', '"plain text"'])
        self.assertEqual(self.run_verb('ls', '--due', '1h')[1].count('\n'), 1)
        self.assertIn('"status":"pending"', self.run_verb('ls', '--json')[1])
        self.assertEqual(self.run_verb('mv', two, '--in', '1s')[0], 0)
        self.assertEqual(self.run_verb('ls')[1].split('\t')[0], two)
        self.assertEqual(self.run_verb('rm', one, three)[0], 0)
        status, _, errors = self.run_verb('rm', one)
        self.assertEqual(status, 1)
        self.assertIn('no task', errors)

    def test_a_key_makes_a_retry_harmless(self):
        self.assertEqual(self.add('--in', '1h', '--key', 'k', 'x'), self.add('--in', '1h', '--key', 'k', 'x'))
        self.assertEqual(self.one.pending(), 1)

    def test_events_are_followed_across_a_restart(self):
        past = self.add('--in', '0s', 'past')
        support.wait_for(lambda: self.run_verb('events')[1] == f'{past}\t"past"\n')
        process = subprocess.Popen([support.BINARY, 'events', '-n', '1', '-f', '--url', self.one.url],
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.addCleanup(lambda: (process.kill(), process.wait(), process.stdout.close()))
        self.assertIn('"past"', process.stdout.readline())
        self.add('--in', '0s', 'live')
        self.assertIn('"live"', process.stdout.readline())
        self.one.kill()
        self.one.start()
        self.add('--in', '0s', 'after')
        self.assertIn('"after"', process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=10), 0)

    def test_a_person_at_a_terminal_reads_local_time_and_how_long_until(self):
        self.add('--in', '2h', 'x')
        master, slave = pty.openpty()
        done = subprocess.run([support.BINARY, 'ls', '--url', self.one.url], stdout=slave, timeout=20)
        os.close(slave)
        text = os.read(master, 4096).decode()
        os.close(master)
        self.assertEqual(done.returncode, 0)
        self.assertRegex(text, r'^[0-9a-f-]{36}  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  in 1 h 59 min  "x"')

    def test_exit_status_tells_refused_from_misused_from_unreachable(self):
        self.assertEqual(self.run_verb('add', '--at', '2999-01-01', 'x')[0], 1)
        for arguments in (['add', 'x'], ['add', '--in', 'soon', 'x'], ['add', '--in', '1s'], ['rm'],
                          ['rm', 'nonsense'], ['mv'], ['ls', '--nonsense'], ['nonsense'],
                          ['events', '-n', 'x'], ['add', '--at', 'x', 'y'], ['ls', '--due']):
            status, _, errors = self.run_verb(*arguments)
            self.assertEqual(status, 2, arguments)
            self.assertEqual(errors.count('\n'), 1, errors)
        self.one.stop()
        status, _, errors = self.run_verb('ls')
        self.assertEqual(status, 3)
        self.assertIn(self.one.url, errors)

    def test_every_command_explains_itself(self):
        for verb in ('add', 'ls', 'rm', 'mv', 'events'):
            status, output, _ = self.run_verb(verb, '--help')
            self.assertEqual(status, 0)
            self.assertTrue(re.match(rf'Usage: task-scheduler {verb} ', output))

    def test_a_secret_comes_from_a_file_or_the_environment(self):
        guarded = self.server(env={'SCHEDULER_SECRET': 's3cret'})
        path = os.path.join(guarded.dir, 'secret')
        with open(path, 'w') as file:
            file.write('s3cret\n')
        self.assertEqual(self.run_verb('ls', '--url', guarded.url)[0], 1)
        self.assertEqual(self.run_verb('ls', '--url', guarded.url, '--secret-file', path)[0], 0)
