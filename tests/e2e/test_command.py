# SPDX-License-Identifier: MIT
"""The command line: what a person types, and what a script reads."""

import datetime
import json
import os
import pty
import re
import select
import signal
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import support
from support import TestCase, iso


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
        two = self.add('--at', iso(30 * 86_400), 'plain text')
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

    def test_a_task_is_added_with_a_topic_and_a_lateness_of_its_own(self):
        one = self.add('--in', '1h', '--topic', 'garden/roses', '--max-lateness', '90s', 'water')
        two = self.add('--in', '1h', '--name', 'valve', '--topic', 'garden', '--only-new', 'open')
        listed = [json.loads(line) for line in self.run_verb('ls', '--topic', 'garden*', '--json')[1].splitlines()]
        self.assertEqual([(task['id'], task['payload']['topic']) for task in listed],
                         [(one, 'garden/roses'), (two, 'garden')])
        self.assertEqual(listed[0]['payload']['max_lateness'], '90000ms')
        again = ('add', '--in', '1h', '--name', 'valve', 'close')
        self.assertEqual(self.run_verb(*again, '--only-new')[0], 1)
        self.assertEqual(self.run_verb(*again, '--only-pending')[1].strip(), two)
        for wrong in (['--topic', 'a b'], ['--max-lateness', '0'], ['--only-new'],
                      ['--name', 'valve', '--only-new', '--only-pending']):
            status, _, errors = self.run_verb('add', '--in', '1h', *wrong, 'x')
            self.assertIn(status, (1, 2), wrong)
            self.assertNotEqual(errors, '', wrong)

    def test_a_task_is_added_moved_and_removed_by_its_name(self):
        one = self.add('--name', 'valve', '--in', '2h', 'first')
        self.assertEqual(self.add('--name', 'valve', '--at', iso(30 * 86_400)[:10], 'second'), one)
        self.assertIn('"message":"second"', self.run_verb('ls', '--json')[1])
        self.assertEqual(self.run_verb('mv', 'valve', '--in', '1h')[0], 0)
        self.assertEqual(self.run_verb('ls', '--due', '61m')[1].split('\t')[0], one)
        self.assertIn(one, self.run_verb('show', 'valve')[1])
        self.assertEqual(self.run_verb('rm', 'valve'), (0, '', ''))
        status, _, errors = self.run_verb('rm', 'valve')
        self.assertEqual(status, 1)
        self.assertIn('no task valve', errors)

    def test_tasks_are_searched_for_and_removed_when_somebody_says_yes(self):
        for n in range(7):
            self.add('--in', f'{n + 1}h', f'needle {n}' if n % 2 else f'hay {n}')
        self.assertEqual(self.run_verb('ls', '--grep', 'needle')[1].count('\n'), 3)
        self.assertEqual(self.run_verb('ls', '--grep', 'needle', '--due', '3h')[1].count('\n'), 1)
        self.assertEqual(self.run_verb('ls', '--limit', '2')[1].count('\n'), 2)
        self.assertEqual(self.run_verb('ls', '--all')[1].count('\n'), 7)
        self.assertEqual(self.run_verb('ls', '--grep', 'nothing')[::2],
                         (0, "task-scheduler: no tasks are pending and hold 'nothing'\n"))
        status, _, errors = self.run_verb('rm', '--grep', 'needle', text='y\n')
        self.assertEqual(status, 2)  # nobody sees what is asked
        self.assertIn('--yes', errors)
        self.assertEqual(self.one.pending(), 7)
        self.assertEqual(self.run_verb('rm', '--grep', 'needle', '--due', '3h', '--yes')[:2],
                         (0, '1\n'))
        self.assertEqual(self.ask('n', 'rm', '--grep', 'needle'), 1)
        self.assertEqual(self.one.pending(), 6)
        self.assertEqual(self.ask('y', 'rm', '--grep', 'needle'), 0)
        self.assertEqual(self.one.pending(), 4)
        for wrong in (['rm', '--yes'], ['rm', '--grep', ''], ['rm', '--grep', 'x', 'y', '--yes'],
                      ['ls', '--grep', ''], ['ls', '--limit', '0'], ['ls', '--limit', '3', '--all'],
                      ['rm']):
            self.assertEqual(self.run_verb(*wrong)[0], 2, wrong)
        self.assertEqual(self.one.pending(), 4)

    # Runs a verb for a person who answers its question, which says how many tasks there are.
    def ask(self, answer, *arguments):
        master, slave = pty.openpty()
        try:
            process = subprocess.Popen([support.BINARY, *arguments, '--url', self.one.url],
                                       stdin=slave, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE, text=True)
            os.write(master, (answer + '\n').encode())
            errors = process.communicate(timeout=20)[1]
            self.assertIn("2 tasks are pending and hold 'needle'; cancel them? [y/N]", errors)
            return process.returncode
        finally:
            os.close(master)
            os.close(slave)

    def test_topics_choose_what_is_listed_removed_and_shown(self):
        def add(seconds, *topics):
            return [self.one.schedule('x', seconds, topic=topic) for topic in topics]

        tasks = add(3600, 'garden/roses', 'garden/tulips', 'house')
        past = add(0, 'garden/roses', 'house', 'garden')
        support.wait_for(lambda: len(self.one.walk('/events')) == 3)

        def listed(*arguments):
            return [line.split('\t')[0] for line in self.run_verb(*arguments)[1].splitlines()]

        self.assertEqual(listed('ls', '--topic', 'garden/*'), tasks[:2])
        self.assertEqual(listed('ls', '--topic=garden/tulips', '--topic', 'house'), tasks[1:])
        self.assertEqual(listed('events', '--topic', 'garden*'), [past[0], past[2]])
        follower = self.follow('-f', '--topic', 'house')
        news = []

        def comes():  # those that are emitted before it has asked are not followed
            news.extend(add(0, 'garden', 'house')[1:])
            return select.select([follower.stdout], [], [], 0.05)[0]

        support.wait_for(comes)
        self.assertIn(follower.stdout.readline().split('\t')[0], news)
        self.assertEqual(self.run_verb('rm', '--topic', 'garden/*', '--yes')[1], '2\n')
        self.assertEqual(listed('ls'), tasks[2:])
        for wrong in (['ls', '--topic', ''], ['ls', '--topic', '*a'], ['events', '--topic', 'a b'],
                      ['rm', '--topic', 'a**', '--yes']):
            self.assertEqual(self.run_verb(*wrong)[0], 2, wrong)

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
        master, slave = self.open_terminal()
        done = subprocess.run([support.BINARY, 'ls', '--url', self.one.url], stdout=slave, timeout=20)
        os.close(slave)
        text = os.read(master, 4096).decode()
        os.close(master)
        self.assertEqual(done.returncode, 0)
        self.assertRegex(text, r'^[0-9a-f-]{36}  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  in 1 h 59 min  "x"')

    def open_terminal(self):
        """Both ends of a pseudo-terminal; a chroot without /dev/pts has none."""
        try:
            return pty.openpty()
        except OSError as error:
            self.skipTest(f"there is no pseudo-terminal here: {error}")

    def terminal(self, *arguments):
        """What a verb writes to a terminal, standard error included."""
        master, slave = self.open_terminal()
        process = subprocess.Popen([support.BINARY, *arguments], stdout=slave, stderr=slave,
                                   env={**os.environ, 'SCHEDULER_URL': self.one.url})
        os.close(slave)
        text = b''
        while True:
            try:
                chunk = os.read(master, 65536)
            except OSError:  # nobody has it open any more
                break
            if not chunk:
                break
            text += chunk
        os.close(master)
        self.assertEqual(process.wait(timeout=20), 0, text)
        return text.decode()

    def follow(self, *arguments):
        """`events` with these arguments, as a process that is ended after 30 s at the latest."""
        process = subprocess.Popen([support.BINARY, 'events', *arguments, '--url', self.one.url],
                                   stdout=subprocess.PIPE, text=True)
        timer = threading.Timer(30, process.kill)
        timer.start()
        self.addCleanup(lambda: (timer.cancel(), process.kill(), process.wait(),
                                 process.stdout.close()))
        return process

    def assert_misused(self, *arguments, says=()):
        status, output, errors = self.run_verb(*arguments)
        self.assertEqual((status, output), (2, ''), (arguments, errors))
        self.assertRegex(errors, r'^task-scheduler: [^\n]+\n$')
        for word in says:
            self.assertIn(word, errors)

    def test_a_task_lies_as_far_ahead_as_a_calendar_year(self):
        for ahead in ('12d', '100d', '365d', '8760h', '31536000'):
            self.add('--in', ahead, 'x')
        status, _, errors = self.run_verb('add', '--in', '367d', 'x')
        self.assertEqual(status, 1)
        self.assertIn('year', errors)
        today = datetime.date.today()
        days = (today.replace(year=today.year + 1, day=min(today.day, 28)) -
                today.replace(day=min(today.day, 28))).days
        task = self.add('--in', '1d', 'x')
        self.assertEqual(self.run_verb('mv', task, '--in', f'{days}d')[0], 0)

    def test_a_number_without_a_unit_is_seconds(self):
        task = self.add('--in', '90', 'x')
        self.assertEqual(self.run_verb('mv', task, '--in', '3600')[0], 0)
        self.assertEqual(self.run_verb('ls', '--due', '3601')[1].count('\n'), 1)
        self.assertEqual(self.run_verb('ls', '--due', '3000')[1].count('\n'), 0)
        self.assert_misused('add', '--in', '-90', 'x', says=('--in', '-90'))

    def test_text_that_begins_like_json_must_be_json_or_called_text(self):
        for text in ('{bad json', '[1,', '"open', ' {"a":}', '{} {}', '{"a":01}'):
            self.assert_misused('add', '--in', '1h', text, says=('JSON', '--text'))
        self.assertEqual(self.one.pending(), 0)
        for text in ('{bad json', '{"a":1}', '"quoted"', 'plain', '-'):
            self.add('--in', '1h', '--text', text, text='{from input\n')
        self.assertEqual([task['payload']['message'] for task in self.one.walk('/tasks')],
                         ['{bad json', '{"a":1}', '"quoted"', 'plain', '{from input'])
        for text in ('42', 'true', "it's", '', 'a {b}'):
            self.add('--in', '2h', text)
        self.assertEqual([task['payload']['message'] for task in self.one.walk('/tasks')][5:],
                         ['42', 'true', "it's", '', 'a {b}'])

    def test_output_that_cannot_be_written_is_a_failure_that_is_told(self):
        self.add('--in', '1h', 'x')
        self.add('--in', '0s', 'past')
        support.wait_for(lambda: self.run_verb('events')[1])
        for arguments in (['ls'], ['ls', '--json'], ['events'], ['events', '-n', '1', '-f'],
                          ['add', '--in', '1h', 'y'], ['--help'], ['--version'], ['help'],
                          ['ls', '--help']):
            with self.subTest(arguments), open('/dev/full', 'w') as full:
                done = subprocess.run([support.BINARY, *arguments], stdout=full,
                                      stderr=subprocess.PIPE, text=True, timeout=20,
                                      env={**os.environ, 'SCHEDULER_URL': self.one.url})
                self.assertEqual(done.returncode, 1)
                self.assertRegex(done.stderr, r'^task-scheduler: cannot write [^\n]*space[^\n]*\n$')

    def test_a_reader_that_has_seen_enough_is_no_failure_to_tell_of(self):
        self.one.call('POST', '/schedule',
                      json.dumps([{'delay': 3600, 'message': 'x' * 200}] * 2000))
        for verb in (['ls'], ['ls', '--json']):
            done = subprocess.run(['/bin/sh', '-c', '"$0" "$@" | head -n 1', support.BINARY, *verb,
                                   '--url', self.one.url],
                                  capture_output=True, text=True, timeout=20)
            self.assertEqual((done.stdout.count('\n'), done.stderr), (1, ''))

    def test_nothing_that_others_wrote_controls_the_terminal(self):
        message = 'a\x7fb\x9bc\x9dd\u00a0e'
        self.add('--in', '0s', message)
        self.add('--in', '1h', message)
        support.wait_for(lambda: self.run_verb('events')[1])
        for arguments in (['ls'], ['ls', '--json'], ['events'], ['events', '--json']):
            with self.subTest(arguments):
                text = self.terminal(*arguments)
                self.assertNotRegex(text.replace('\r\n', ''), r'[\x00-\x1f\x7f-\x9f]')
                self.assertIn('a\\u007fb\\u009bc\\u009dd\u00a0e', text)
        # For a program it stays as it is.
        self.assertIn('b\x9bc\x9dd', self.run_verb('ls')[1])
        self.assertEqual(json.loads(self.run_verb('ls', '--json')[1])['payload']['message'],
                         message)

    def test_a_servers_errors_do_not_control_the_terminal(self):
        class Foul(BaseHTTPRequestHandler):
            def do_GET(self):
                content = json.dumps({'errors': ['no \x1b[31m\x9b31m\x7f\r\n way']}).encode()
                self.send_response(400)
                self.send_header('Content-Length', str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        foul = HTTPServer(('127.0.0.1', 0), Foul)
        thread = threading.Thread(target=foul.serve_forever)
        thread.start()
        self.addCleanup(lambda: (foul.shutdown(), thread.join(), foul.server_close()))
        done = subprocess.run(
            [support.BINARY, 'ls', '--url', f'http://127.0.0.1:{foul.server_port}'],
            capture_output=True, timeout=20)
        self.assertEqual(done.returncode, 1)
        errors = done.stderr.decode()
        self.assertIn('no \\u001b[31m', errors)
        self.assertNotRegex(errors[:-1], r'[\x00-\x1f\x7f-\x9f]')

    def test_a_long_text_is_cut_between_characters(self):
        for width in range(4):
            self.add('--in', '1h', 'x' * width + '\u20ac' * 100)
            self.add('--in', '1h', 'x' * width + '\U0001f40c' * 100)
        text = self.terminal('ls')  # which decodes it
        self.assertEqual(text.count('...'), 8)
        for line in text.splitlines():
            self.assertEqual(len(line.split('  "')[1]), 59, line)

    def test_a_slash_at_the_end_of_the_url_means_nothing(self):
        self.assertEqual(self.run_verb('ls', '--url', self.one.url + '/')[0], 0)
        for url in (self.one.url + '/a//b', self.one.url + '/?a', 'ftp://127.0.0.1', '', 'http://',
                    'http://a b', 'http://127.0.0.1:99999', 'http://127.0.0.1:x'):
            self.assert_misused('ls', '--url', url, says=('http://127.0.0.1:8080',))

    def test_who_reaches_no_server_is_asked_whether_it_runs(self):
        self.one.stop()
        status, _, errors = self.run_verb('ls')
        self.assertEqual(status, 3)
        self.assertEqual(errors, f'task-scheduler: cannot reach {self.one.url}: '
                                 'Connection refused; is the server running?\n')
        self.assertEqual(self.run_verb('events', '-f')[0], 3)

    def test_help_is_where_people_look_for_it(self):
        usage = self.run_verb('--help')[1]
        for arguments in (['-h'], ['help']):
            self.assertEqual(self.run_verb(*arguments), (0, usage, ''))
        for verb in ('add', 'ls', 'show', 'rm', 'mv', 'events', 'sinks', 'status', 'pause',
                     'resume'):
            text = self.run_verb(verb, '--help')[1]
            self.assertRegex(text, f'^Usage: task-scheduler {verb}\\b')
            for arguments in (['help', verb], [verb, '-h'], [verb, 'x', '--help']):
                self.assertEqual(self.run_verb(*arguments), (0, text, ''))
        self.assert_misused('help', 'evnts', says=('events?',))
        self.assert_misused('help', 'ls', 'rm')

    def test_flags_are_taken_as_they_are_usually_written(self):
        for n in range(7):
            self.add('--in', '0s', str(n))
        support.wait_for(lambda: self.run_verb('events')[1].count('\n') == 7)
        for arguments in (['-n5'], ['-n', '5'], ['-n=5']):
            self.assertEqual(self.run_verb('events', *arguments)[1].count('\n'), 5)
        for arguments in (['-n2', '--follow'], ['-fn2'], ['-f', '-n', '2']):
            process = self.follow(*arguments)
            self.assertIn('"5"', process.stdout.readline())
            self.assertIn('"6"', process.stdout.readline())

    def test_the_nearest_name_is_suggested_for_one_that_is_misspelt(self):
        for arguments, near in ((['evnets'], 'events?'), (['lss'], 'ls?'), (['sl'], 'ls?'),
                                (['sink'], 'sinks?'), (['hlep'], 'help?'),
                                (['ls', '--deu', '1h'], '--due?'), (['ls', '--jsno'], '--json?'),
                                (['events', '--folow'], '--follow?'),
                                (['add', '--att=1', 'x'], '--at?'),
                                (['ls', '--secret-fiel', 'x'], '--secret-file?'),
                                (['sinks', 'pase', 'x'], 'pause?'),
                                (['--jurnal', 'x'], '--journal?'), (['--prot=1'], '--port?')):
            self.assert_misused(*arguments, says=(f'did you mean {near}',))
        for arguments in (['frobnicate'], ['ls', '--frobnicate'], ['--frobnicate'], ['-x'],
                          ['x' * 100_000]):
            status, _, errors = self.run_verb(*arguments)
            self.assertEqual(status, 2)
            self.assertNotIn('did you mean', errors)

    def test_a_word_is_said_where_nothing_is_to_be_shown(self):
        words = ((['ls'], 'no tasks are pending'), (['ls', '--due', '1h'], 'no tasks are due'),
                 (['events'], 'no events'), (['sinks'], 'no sinks'))
        for arguments, word in words:
            status, output, errors = self.run_verb(*arguments)
            self.assertEqual((status, output), (0, ''))
            self.assertIn(word, errors)
            self.assertIn(word, self.terminal(*arguments))
            self.assertEqual(self.run_verb(*arguments, '--json'), (0, '', ''))
        self.add('--in', '1h', 'x')
        self.assertEqual(self.run_verb('ls')[2], '')

    def test_events_as_json_have_all_their_members_also_those_that_are_followed(self):
        ids = [self.add('--in', '0s', str(n)) for n in range(3)]
        wanted = support.wait_for(lambda: (data := self.one.walk('/events'))[2:] and data)
        status, output, _ = self.run_verb('events', '--json')
        self.assertEqual([json.loads(line) for line in output.splitlines()], wanted)
        self.assertEqual(set(wanted[0]), {'id', 'due', 'emitted_at', 'late_ms', 'payload'})
        process = self.follow('-n', '1', '-f', '--json')
        self.assertEqual(json.loads(process.stdout.readline()), wanted[2])
        self.one.call('POST', '/schedule',
                      json.dumps([{'delay': 0, 'message': str(n)} for n in range(1500)]))
        followed = [json.loads(process.stdout.readline()) for _ in range(1500)]
        ids = [self.add('--in', '0s', str(n)) for n in range(3)]
        followed += [json.loads(process.stdout.readline()) for _ in ids]
        self.assertEqual(followed, self.one.walk('/events')[3:])

    def test_what_is_followed_from_the_first_event_on_has_all_members_too(self):
        process = self.follow('-f', '--json')

        def comes():  # those that are emitted before it has connected are not followed
            self.add('--in', '0s', 'x')
            return select.select([process.stdout], [], [], 0.05)[0]

        support.wait_for(comes)
        self.assertIn(json.loads(process.stdout.readline()), self.one.walk('/events'))

    def test_all_that_is_due_is_listed_when_it_takes_more_than_a_page(self):
        self.one.call('POST', '/schedule',
                      json.dumps([{'delay': 60 + n % 7, 'message': str(n)} for n in range(2500)]))
        self.add('--in', '2h', 'later')
        lines = self.run_verb('ls', '--due', '1h')[1].splitlines()
        self.assertEqual(len(set(lines)), 2500)
        self.assertNotIn('later', ''.join(lines))
        self.assertEqual(len(self.run_verb('ls', '--json')[1].splitlines()), 2501)

    def test_a_server_is_paused_and_resumed_and_says_why(self):
        self.assertEqual(self.run_verb('pause', '--reason', 'a "reason"'), (0, '', ''))
        self.add('--in', '0s', 'waits')
        lines = dict(line.split('\t', 1) for line in self.run_verb('status')[1].splitlines())
        self.assertRegex(lines['state'], f'^PAUSED since {support.STAMP}: a "reason"$')
        self.assertRegex(lines['pending'], '^1, .*; 1 overdue, by up to ')
        status = json.loads(self.run_verb('status', '--json')[1])
        self.assertEqual(status['paused']['reason'], 'a "reason"')
        self.assertEqual(set(status), set(self.one.page('/status')))
        self.assertEqual(self.run_verb('resume'), (0, '', ''))
        support.wait_for(lambda: self.run_verb('events')[1].count('\n') == 1)
        self.assertIn('state\tready\n', self.run_verb('status')[1])
        self.assertEqual(self.run_verb('pause', '--reason', 'a\nb')[0], 1)
        for wrong in (['pause', 'x'], ['resume', 'x'], ['status', 'x'], ['show'], ['show', 'a', 'b'],
                      ['ls', '--missed', '--due', '1h']):
            self.assertEqual(self.run_verb(*wrong)[0], 2, wrong)

    def test_what_became_of_a_task_is_told(self):
        task = self.add('--in', '1h', '{"n":1.10}')
        lines = dict(line.split('\t', 1) for line in self.run_verb('show', task)[1].splitlines())
        self.assertEqual(lines['id'], task)
        self.assertRegex(lines['stored'], f'^{support.STAMP}$')
        self.assertRegex(lines['pending'], f'^{support.STAMP} \\(in 59 min')
        self.assertEqual(lines['message'], '{"n":1.10}')
        self.one.restart('--exec', 'false')
        past = self.add('--in', '0s', 'x')
        support.wait_for(lambda: 'failed' in self.run_verb('show', past)[1])
        text = self.run_verb('show', past)[1]
        self.assertRegex(text, f'(?m)^emitted\t{support.STAMP}, [0-9]+ ms late$')
        self.assertRegex(text, '(?m)^sink exec-[0-9a-f]+\tis still to get it, [0-9]+ attempts? failed')
        story = json.loads(self.run_verb('show', past, '--json')[1])
        self.assertEqual(story['id'], past)
        self.assertEqual(story['sinks'][0]['state'], 'waiting')
        self.assertEqual(self.run_verb('show', 'no-such-task')[::2],
                         (1, 'task-scheduler: There is no task no-such-task.\n'))

    def test_what_was_missed_is_listed(self):
        self.assertIn('no tasks are missed', self.run_verb('ls', '--missed')[2])
        self.run_verb('pause')
        task = self.one.schedule('late', 0, max_lateness=1)
        support.wait_for(lambda: self.one.page('/status')['overdue_ms'] > 1000)
        self.run_verb('resume')
        support.wait_for(lambda: self.one.page('/status')['missed'] == 1)
        self.assertEqual([line.split('\t')[::2] for line in
                          self.run_verb('ls', '--missed')[1].splitlines()], [[task, '"late"']])
        self.assertIn(', so it was not emitted\n', self.run_verb('show', task)[1])
        self.assertEqual(self.run_verb('ls')[1], '')

    def test_exit_status_tells_refused_from_misused_from_unreachable(self):
        self.assertEqual(self.run_verb('add', '--at', '2999-01-01', 'x')[0], 1)
        for arguments in (['add', 'x'], ['add', '--in', 'soon', 'x'], ['add', '--in', '1s'], ['rm'],
                          ['rm', 'no/name'], ['mv'], ['add', '--name', '..', '--in', '1s', 'x'], ['ls', '--nonsense'], ['nonsense'],
                          ['events', '-n', 'x'], ['add', '--at', 'x', 'y'], ['ls', '--due'],
                          ['show', 'no/name'], ['sinks', 'dead'], ['sinks', 'dead', 'no/name'],
                          *(['add', '--in', '1s', *wrong, 'x'] for wrong in (
                              ['--topic', 'a b'], ['--topic', 'a*'], ['--topic', ''], ['--key', ''],
                              ['--key', 'é'], ['--max-lateness', '0'], ['--max-lateness', '367d']))):
            status, _, errors = self.run_verb(*arguments)
            self.assertEqual(status, 2, arguments)
            self.assertEqual(errors.count('\n'), 1, errors)
        self.one.stop()
        status, _, errors = self.run_verb('ls')
        self.assertEqual(status, 3)
        self.assertIn(self.one.url, errors)

    def test_the_help_names_the_exit_statuses(self):
        for verb, words in (('add', '3 no server'), ('health', '1 it is not or there is no server'),
                            ('verify', '1 damaged'), ('compact', '1 it failed')):
            self.assertIn(words, self.run_verb('help', verb)[1])

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
        status, _, errors = self.run_verb('ls', '--url', guarded.url)
        self.assertEqual(status, 1)
        self.assertIn('--secret-file', errors)
        self.assertEqual(errors.count('\n'), 1)
        self.assertEqual(self.run_verb('events', '-f', '--url', guarded.url)[0], 1)
        self.assertEqual(self.run_verb('ls', '--url', guarded.url, '--secret-file', path)[0], 0)
