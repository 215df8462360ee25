# SPDX-License-Identifier: MIT
"""Journals as an operator meets them: verified, compacted, backed up, restored and moved, by the
command line and as docs/operate.md says."""

import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import zlib

import support
from support import TestCase, body, iso

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Journals(TestCase):
    def setUp(self):
        super().setUp()
        self.dir = tempfile.mkdtemp(prefix='journals-', dir=support.WORK)
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)

    def run_verb(self, *arguments, url='', text=None, cwd=None, **options):
        done = subprocess.run([support.BINARY, *arguments], input=text, capture_output=True,
                              timeout=60, cwd=cwd or self.dir, text=True,
                              env={**os.environ, 'SCHEDULER_URL': url}, **options)
        return done.returncode, done.stdout, done.stderr

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, content):
        with open(self.path(name), 'wb') as file:
            file.write(content)
        return self.path(name)

    def report(self, path, status=0):
        got, output, errors = self.run_verb('verify', '--json', path)
        self.assertEqual(got, status, output + errors)
        return json.loads(output)

    def journal_of(self, count):
        """The bytes of a journal with so many pending tasks."""
        server = self.server()
        for i in range(count):
            server.schedule(f'task {i}')
        server.kill()
        with open(server.journal, 'rb') as file:
            return file.read()

    def names(self, folder=None):
        return sorted(os.listdir(folder or self.dir))


class Verify(Journals):
    def test_damage_is_told_by_its_line_and_a_torn_tail_apart_from_it(self):
        whole = self.journal_of(4)
        lines = whole.splitlines(keepends=True)
        self.assertEqual(len(lines), 5)
        flipped = bytearray(whole)
        flipped[len(lines[0]) + len(lines[1]) + 60] ^= 4
        huge = b'{"op":"' + b'x' * 3_000_000 + b'\n'
        cases = {  # name: (bytes, exit status, damaged lines, pending, torn)
            'whole': (whole, 0, [], 4, False),
            'flipped': (bytes(flipped), 1, [3], 3, False),
            'torn': (whole[:-20], 0, [], 3, True),
            'unfinished': (whole[:-1], 0, [], 4, False),
            'glued': (whole.replace(b'"}\n', b'"} ', 3).replace(b'"} ', b'"}\n', 1), 1, [2], 4, False),
            'zeroes': (lines[0] + b'x' + b'\0' * 5000 + b'\n' + b''.join(lines[2:]), 1, [2], 3, False),
            'garbage': (b''.join(lines[:3]) + os.urandom(400).replace(b'\n', b'?') + b'\n' +
                        b''.join(lines[3:]), 1, [4], 4, False),
            'huge': (lines[0] + huge + b''.join(lines[1:]), 1, [2], 4, False),
            'empty': (b'', 0, [], 0, False),
            'headless': (b''.join(lines[1:]), 1, [1], 4, False),
        }
        for name, (content, status, damaged, pending, torn) in cases.items():
            with self.subTest(name):
                path = self.write(name, content)
                report = self.report(path, status)
                self.assertEqual(report['sound'], status == 0)
                self.assertEqual([one['line'] for one in report['damage']], damaged)
                self.assertEqual(report['pending'], pending)
                self.assertEqual(report['torn_bytes'] > 0, torn)
                self.assertEqual(report['bytes'], len(content))
                shown = self.run_verb('verify', path)
                self.assertEqual(shown[::2], (status, ''))
                if torn:
                    self.assertRegex(shown[1], r'sound, but [0-9]+ bytes? of a torn last record would')
                for line in damaged:
                    self.assertIn(f'line {line}\t', shown[1])
                with open(path, 'rb') as file:
                    self.assertEqual(file.read(), content, 'it is only read')
        self.assertEqual(self.names(), sorted(cases), 'nothing is made beside them')

    def test_what_a_server_finds_in_a_damaged_journal_is_what_was_told(self):
        server = self.server()
        for i in range(20):
            server.schedule(f'task {i}')
        server.kill()
        with open(server.journal, 'r+b') as file:
            content = bytearray(file.read())
            for at in range(300, len(content), 700):
                content[at] ^= 2
            file.seek(0)
            file.write(content)
        report = self.report(server.journal, 1)
        self.assertGreater(len(report['damage']), 1)
        server.start()
        self.assertEqual(server.pending(), report['pending'])
        told = f"has {len(report['damage'])} damaged line"  # by a thread of its own
        support.wait_for(lambda: told in server.stderr(), what=told)

    def test_what_cannot_be_read_is_told_in_a_sentence(self):
        whole = self.journal_of(1)
        unknown = b'{"op":"levitate"'
        unknown += b',"crc":"%08x"}\n' % zlib.crc32(unknown)
        head = b'{"journal":"task-scheduler","version":2'
        head += b',"crc":"%08x"}\n' % zlib.crc32(head)
        cases = {
            self.path('missing'): 'No such file',
            self.dir: 'not a regular file',
            self.write('other', b'[client]\nname = somebody\n' * 9): 'not a journal',
            self.write('binary', os.urandom(5000)): 'not a journal',
            self.write('operation', whole + unknown): "line 3: .*'levitate'",
            self.write('version', head): 'newer version',
        }
        for path, words in cases.items():
            with self.subTest(words):
                status, output, errors = self.run_verb('verify', path)
                self.assertEqual((status, output), (2, ''))
                self.assertRegex(errors, words)
                self.assertEqual(errors.count('\n'), 1)
        for wrong in ((), ('a', 'b'), ('--xml', 'a')):
            self.assertEqual(self.run_verb('verify', *wrong)[0], 2)

    def test_a_journal_is_verified_as_it_comes_out_of_a_pipe(self):
        server = self.server()
        server.schedule('x')
        copied = self.run_verb('backup', '--to', '-', url=server.url)
        self.assertEqual(copied[::2], (0, ''))
        with open(server.journal) as file:
            self.assertEqual(copied[1], file.read())
        status, output, _ = self.run_verb('verify', '--json', '-', text=copied[1])
        self.assertEqual((status, json.loads(output)['pending']), (0, 1))
        self.assertEqual(self.run_verb('verify', '-', text=copied[1][40:])[0], 1)
        for text, words in (('no journal\n', 'standard input: is not a journal'),
                            ('', 'nothing on standard input')):
            status, output, errors = self.run_verb('verify', '-', text=text)
            self.assertEqual((status, output), (2, ''))
            self.assertIn(words, errors)
        self.assertEqual(self.names(), [])

    def test_a_file_that_may_not_be_read_is_told(self):
        folder = tempfile.mkdtemp(dir='/tmp')
        self.addCleanup(shutil.rmtree, folder)
        os.chmod(folder, 0o755)
        path = self.write(os.path.join(folder, 'tasks.jsonl'), self.journal_of(1))
        os.chmod(path, 0)
        binary = shutil.copy(support.BINARY, folder)
        options = {}
        if os.getuid() == 0:
            options = {'user': 'nobody', 'group': 'nogroup', 'extra_groups': []}
        try:
            done = subprocess.run([binary, 'verify', path], capture_output=True, text=True,
                                  cwd='/', **options)
        except PermissionError:
            self.skipTest('nobody may run what is in /tmp')
        self.assertEqual(done.returncode, 2)
        self.assertIn('Permission denied', done.stderr)

    def test_a_running_server_is_told_of_and_undisturbed(self):
        server = self.server()
        server.schedule('x', name='no name')
        report = self.report(server.journal)
        self.assertRegex(report['used_by'], rf'^process {server.process.pid} on ')
        self.assertIn('in use', self.run_verb('verify', server.journal)[1])
        status, _, errors = self.run_verb('compact', server.journal)
        self.assertEqual(status, 1)
        self.assertIn(f'in use by process {server.process.pid}', errors)
        server.schedule('y')
        server.stop()
        report = self.report(server.journal)
        self.assertEqual((report['used_by'], report['pending']), (None, 2))

    def test_a_journal_of_the_first_release_is_sound(self):
        report = self.report(str(ROOT / 'tests/data/journal_v1.jsonl'))
        self.assertEqual((report['pending'], report['keys']), (2, 1))


class Compact(Journals):
    def test_only_what_is_live_stays(self):
        server = self.server()
        kept = server.schedule('kept')
        with server.wire() as wire:
            for _ in range(200):
                wire.request('POST', '/schedule', body('gone'))
                gone = wire.answer().json['id']
                wire.request('DELETE', '/tasks/' + gone)
                self.assertEqual(wire.answer().status, 200)
        server.stop()
        before = os.path.getsize(server.journal)
        status, output, errors = self.run_verb('compact', server.journal)
        self.assertEqual((status, errors), (0, ''))
        after = os.path.getsize(server.journal)
        self.assertEqual(output, f'{before} bytes before, {after} after, with 1 pending task\n')
        self.assertLess(after, before / 50)
        self.assertEqual(self.report(server.journal)['operations'].keys() & {'cancel', 'emit'},
                         set())
        server.start()
        self.assertEqual([task['id'] for task in server.walk('/tasks')], [kept])

    def test_damage_is_mended_and_what_cannot_be_opened_is_left_alone(self):
        lines = self.journal_of(3).splitlines(keepends=True)
        path = self.write('tasks.jsonl', lines[0] + b'{"op":"damage"}\n' + b''.join(lines[1:]))
        status, output, errors = self.run_verb('compact', path)
        self.assertEqual(status, 0, errors)
        self.assertIn('3 pending tasks', output)
        self.assertIn('1 damaged line, moved to', errors)
        self.assertEqual(self.report(path)['pending'], 3)
        other = self.write('other', b'somebody else\n')
        for wrong, words in ((other, 'not a journal'), (self.path('missing'), 'No such file')):
            status, output, errors = self.run_verb('compact', wrong)
            self.assertEqual((status, output), (1, ''))
            self.assertIn(words, errors)
        self.assertNotIn('missing', self.names())


class SmallDisk(Journals):
    def setUp(self):
        super().setUp()
        self.mount = self.path('small-disk')
        os.makedirs(self.mount)
        done = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', self.mount],
                              capture_output=True, text=True)
        if done.returncode != 0:
            self.skipTest('no small disk can be mounted: ' + done.stderr.strip())
        self.addCleanup(subprocess.run, ['umount', '-l', self.mount], check=True)

    def test_a_backup_that_does_not_fit_leaves_nothing_and_the_server_goes_on(self):
        server = self.server()
        batch = json.dumps([{'delay': 3600, 'message': 'x' * 1000}] * 500)
        for _ in range(4):
            self.assertEqual(server.ask('POST', '/schedule', batch)[0], 200)
        target = os.path.join(self.mount, 'backup.jsonl')
        status, output, errors = self.run_verb('backup', '--to', target, url=server.url)
        self.assertEqual((status, output), (1, ''))
        self.assertRegex(errors, r'^task-scheduler: cannot write to .*backup\.jsonl: No space left')
        self.assertEqual(os.listdir(self.mount), [])
        with open(target, 'w') as file:
            file.write('precious')
        self.assertEqual(self.run_verb('backup', '--to', target, '--force', url=server.url)[0], 1)
        with open(target) as file:
            self.assertEqual(file.read(), 'precious')
        stream = self.opened(server.stream())
        here = server.schedule('still here', 0)
        self.assertEqual(stream.messages(1)[0].id, here)

    def test_a_compaction_that_does_not_fit_leaves_the_journal_as_it_was(self):
        path = os.path.join(self.mount, 'tasks.jsonl')
        server = self.server('--journal', path)
        batch = json.dumps([{'delay': 3600, 'message': 'x' * 1000}] * 500)
        self.assertEqual(server.ask('POST', '/schedule', batch)[0], 200)
        server.stop()
        with open(path, 'rb') as file:
            before = file.read()
        status, output, errors = self.run_verb('compact', path)
        self.assertEqual((status, output), (1, ''))
        self.assertRegex(errors, 'tasks.jsonl: No space left')
        with open(path, 'rb') as file:
            self.assertEqual(file.read(), before)
        self.assertEqual(self.report(path)['pending'], 500)
        self.assertEqual(self.names(self.mount), ['tasks.jsonl', 'tasks.jsonl.lock'])


class Backup(Journals):
    def test_a_backup_under_load_holds_all_that_was_answered_and_a_server_starts_with_it(self):
        server = self.server('--fsync', 'no')
        answered, stop = [], threading.Event()

        def schedule():
            with server.wire() as wire:
                while not stop.is_set():
                    answer = wire.call('POST', '/schedule', body('load ' + 'x' * 300))
                    answered.append(answer.json['id'])
                    if len(answered) % 3 == 0:  # which makes the journal worth a replacement
                        wire.call('PATCH', '/tasks/' + answered[-1], '{"delay": 7200}')

        threads = [threading.Thread(target=schedule) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for i in range(5):
                support.wait_for(lambda: len(answered) > 100 * i + 100)
                before = list(answered)
                name = self.path(f'backup-{i}.jsonl')
                status, _, errors = self.run_verb('backup', '--to', name, url=server.url)
                self.assertEqual(status, 0, errors)
                report = self.report(name)
                self.assertEqual((report['torn_bytes'], report['used_by']), (0, None))
                self.assertGreaterEqual(report['pending'], len(before))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        other = self.server('--journal', name)
        self.assertLessEqual(set(before), {task['id'] for task in other.walk('/tasks')})

    def test_a_server_that_is_killed_midway_leaves_an_error_and_no_file(self):
        server = self.server('--fsync', 'no')
        batch = json.dumps([{'delay': 3600, 'message': 'x' * 1000}] * 1000)
        for _ in range(8):
            self.assertEqual(server.ask('POST', '/schedule', batch, {})[0], 200)
        with server.wire(receive_buffer=4096) as wire:  # it takes the head, and some of the rest
            wire.request('GET', '/backup')
            head = wire.head()
            self.assertEqual(head.status, 200)
            self.assertGreater(int(head.header('Content-Length')), 8_000_000)
            server.kill()
            self.assertLess(len(wire.rest()), 8_000_000)
        status, _, errors = self.run_verb('backup', '--to', 'none.jsonl', url=server.url)
        self.assertEqual(status, 3)
        self.assertIn('is the server running?', errors)
        server.start()
        self.assertEqual(server.pending(), 8000)
        self.assertEqual(self.names(), [])

    def test_a_copy_is_there_whole_or_not_at_all_whenever_the_server_is_killed(self):
        server = self.server('--fsync', 'no')
        batch = json.dumps([{'delay': 3600, 'message': 'x' * 1000}] * 1000)
        for _ in range(20):
            self.assertEqual(server.ask('POST', '/schedule', batch)[0], 200)
        whole = 0
        for i in range(8):
            copying = subprocess.Popen(
                [support.BINARY, 'backup', '--to', self.path(f'{i}.jsonl')], cwd=self.dir,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                env={**os.environ, 'SCHEDULER_URL': server.url})
            support.wait_for(lambda: copying.poll() is not None or any(
                '.part-' in name for name in self.names()))
            time.sleep(i * 0.02)
            server.kill()
            errors = copying.communicate(timeout=60)[1]
            if copying.returncode == 0:
                whole += 1
                self.assertEqual(self.report(self.path(f'{i}.jsonl'))['pending'], 20_000)
            else:
                self.assertEqual(copying.returncode, 3, errors)
                self.assertIn('task-scheduler: ', errors)
            self.assertEqual(len(self.names()), whole)
            server.start()
        self.note(f'{whole} of 8 were whole')

    def answering(self, answer):
        """The address of a server that gives one answer and closes."""
        listener = socket.create_server(('127.0.0.1', 0))
        self.addCleanup(listener.close)

        def serve():
            with listener.accept()[0] as client:
                client.recv(65536)
                client.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        self.addCleanup(thread.join, 10)
        return f'http://127.0.0.1:{listener.getsockname()[1]}'

    def test_a_connection_that_is_lost_midway_leaves_an_error_and_no_file(self):
        journal = self.journal_of(3)
        head = b'HTTP/1.1 200 OK\r\nContent-Type: application/jsonl\r\nContent-Length: %d\r\n\r\n'
        url = self.answering(head % (len(journal) + 5) + journal)
        status, output, errors = self.run_verb('backup', '--to', 'copy.jsonl', url=url)
        self.assertEqual((status, output), (3, ''))
        self.assertIn(f'broke off after {len(journal)} bytes', errors)
        other = b'<html>hello</html>'
        url = self.answering(head % len(other) + other)
        status, output, errors = self.run_verb('backup', '--to', 'copy.jsonl', url=url)
        self.assertEqual((status, output), (3, ''))
        self.assertIn('not a journal', errors)
        self.assertEqual(self.names(), [])

    def test_no_file_is_overwritten_unasked_and_never_a_journal_in_use(self):
        server = self.server()
        server.schedule('x')
        target = self.write('copy.jsonl', b'precious')
        status, _, errors = self.run_verb('backup', '--to', target, url=server.url)
        self.assertEqual(status, 1)
        self.assertIn('--force', errors)
        status, _, errors = self.run_verb('backup', '--to', server.journal, '--force', url=server.url)
        self.assertEqual(status, 1)
        self.assertIn('in use by process', errors)
        link = self.path('link.jsonl')
        os.symlink('copy.jsonl', link)
        status, output, _ = self.run_verb('backup', '--to', link, '--force', url=server.url)
        self.assertEqual(status, 0)
        self.assertTrue(os.path.islink(link))
        self.assertEqual(self.report(target)['pending'], 1)
        self.assertEqual(os.stat(target).st_mode & 0o777, 0o600)
        self.assertEqual(self.run_verb('backup', url=server.url)[0], 2)
        status, _, errors = self.run_verb('backup', '--to', '/no/such/folder/x', url=server.url)
        self.assertEqual(status, 1)
        self.assertIn('No such file', errors)

    def test_the_read_secret_is_enough_and_none_is_not(self):
        server = self.server(env={'SCHEDULER_SECRET': 'all', 'SCHEDULER_READ_SECRET': 'reads'})
        self.assertEqual(server.call('GET', '/backup').status, 401)
        answer = server.call('GET', '/backup', headers=[('x-pd-secret', 'reads')])
        self.assertEqual(answer.status, 200)
        head = server.call('HEAD', '/backup', headers=[('x-pd-secret', 'reads')])
        self.assertEqual(head.header('Content-Length'), str(len(answer.body)))
        secret = self.write('secret', b'reads')
        for verb in (('backup', '--to', 'copy.jsonl'), ('export',)):
            status, _, errors = self.run_verb(*verb, '--secret-file', secret, url=server.url)
            self.assertEqual(status, 0, errors)
            self.assertEqual(self.run_verb(*verb, url=server.url)[0], 1)

    def test_slow_readers_have_four_copies_at_most_and_hold_up_nobody(self):
        server = self.server('--fsync', 'no')
        batch = json.dumps([{'delay': 3600, 'message': 'x' * 1000}] * 1000)
        for _ in range(10):
            self.assertEqual(server.ask('POST', '/schedule', batch)[0], 200)
        base, threads = server.resident_mib(), server.threads()
        wires = []
        for _ in range(4):
            wires.append(self.opened(server.wire(receive_buffer=4096, seconds=30)))
            wires[-1].request('GET', '/backup')
            self.assertEqual(wires[-1].head().status, 200)
        answer = server.call('GET', '/backup')
        self.assertEqual(self.assert_errors(answer, 503)[0][:15], 'Too many copies')
        self.assertEqual(server.threads(), threads)
        stream = self.opened(server.stream())
        meanwhile = server.schedule('meanwhile', 0)
        self.assertEqual(stream.messages(1)[0].id, meanwhile)
        if not support.SANITIZED:
            self.assertLess(server.resident_mib(), base + 16)
        wires.pop().close()
        support.wait_for(lambda: server.call('HEAD', '/backup').status == 200)


class Lines(Journals):
    def tasks(self, server):
        """What is pending, without what an import gives anew."""
        text = server.call('GET', '/tasks').body.decode()
        return re.sub(r'"id":"[^"]*"|"(start|end)_cursor":"[^"]*"', '', text)

    def test_what_is_exported_and_imported_is_the_same_to_the_letter(self):
        here, there = self.server(), self.server()
        stamp = iso(7200)
        raw = [
            '{"timestamp":"%s","message":{"n":12345678901234567890,"f":1.10,"e":1E400}}' % stamp,
            '{"message":"caf\\u00e9 \\ud83d\\ude00 \\/","z":1,"a":2,"z":3,"timestamp":"%s"}' % stamp,
            '{"timestamp":"%s+02:00","message":[],"topic":"a/b","max_lateness":"5m"}' % iso(9000)[:19],
            '{"timestamp":"%s","message":{},"name":"not the name of a task"}' % stamp,
            '{"n\\u0061me":7,"timestamp":"%s","message":"\\u0000"}' % stamp,
        ]
        for text in raw:
            self.assertEqual(here.call('POST', '/schedule', text).status, 200, text)
        for name in ('valve', 'a.b~c'):
            self.assertEqual(here.call('PUT', '/tasks/' + name, raw[0]).status, 201)
        self.assertEqual(here.call('PUT', '/tasks/pump', raw[3]).status, 201)
        status, lines, errors = self.run_verb('export', url=here.url)
        self.assertEqual((status, errors), (0, ''))
        for text in (raw[0], raw[1], raw[2]):
            self.assertIn(text + '\n', lines)
        for line in lines.splitlines():
            self.assertNotIn('secret', json.loads(line))
        self.assertEqual(self.run_verb('import', '-', url=there.url, text=lines),
                         (0, '8 tasks imported\n', ''))
        self.assertEqual(self.tasks(there), self.tasks(here))
        again = self.run_verb('export', url=there.url)[1]
        self.assertEqual(again, lines)
        self.assertEqual(self.run_verb('import', '-', url=there.url, text=lines),
                         (0, '0 tasks imported; 3 replaced, by their names; '
                             '5 imported before, and left as they are\n', ''))
        self.assertEqual(self.tasks(there), self.tasks(here), 'nothing twice')
        status = self.run_verb('import', '--idempotency-prefix', 'again', '-', url=there.url, text=lines)[0]
        self.assertEqual(status, 0)
        self.assertEqual(there.pending(), 8 + 5, 'those without a name')

    def test_many_lines_are_imported_in_order_and_exported_in_pages(self):
        server = self.server('--fsync', 'no')
        stamp = iso(7200)
        lines = ''.join(json.dumps({'timestamp': stamp, 'message': f'{i}'}) + '\n' for i in range(2500))
        path = self.write('lines', lines.encode())
        self.assertEqual(self.run_verb('import', path, url=server.url)[1], '2500 tasks imported\n')
        self.assertEqual(self.run_verb('import', path, url=server.url)[1],
                         '0 tasks imported; 2500 imported before, and left as they are\n')
        exported = self.run_verb('export', url=server.url)[1].splitlines()
        self.assertEqual([json.loads(line)['message'] for line in exported],
                         [str(i) for i in range(2500)])

    def test_it_stops_at_a_refused_line_and_goes_on_when_that_is_corrected(self):
        server = self.server()
        good = [json.dumps({'delay': '1h', 'message': f'{i}'}) for i in range(1200)]
        bad = list(good)
        bad[700] = '{"delay": "1h"}'
        status, output, errors = self.run_verb('import', '-', url=server.url, text='\n'.join(bad))
        self.assertEqual(status, 1)
        self.assertIn('line 701: "message" is missing', errors)
        done = int(re.search(r'lines 1 to (\d+) were imported', errors)[1])
        self.assertIn('and none behind them', errors)
        self.assertEqual(output, f'{done} tasks imported; 1 refused\n')
        self.assertEqual(server.pending(), done)
        status, _, errors = self.run_verb('import', '-', url=server.url, text='\n'.join(good))
        self.assertEqual((status, errors), (0, ''))
        self.assertEqual(server.pending(), 1200)

    def test_refused_and_past_lines_are_passed_over_where_that_is_asked_for(self):
        server = self.server()
        lines = [
            json.dumps({'delay': 3600, 'message': 'one'}), 'no JSON', '7', '', '  ',
            json.dumps({'timestamp': '2001-01-01', 'message': 'past'}),
            json.dumps({'timestamp': '2999-01-01', 'message': 'too far ahead'}),
            json.dumps({'name': 'not a name', 'delay': 1, 'message': 'x'}),
            json.dumps({'name': 'valve', 'delay': 3600, 'message': 'named'}),
        ]
        status, output, errors = self.run_verb(
            'import', '--keep-going', '--skip-past', '-', url=server.url, text='\n'.join(lines))
        self.assertEqual(status, 1)
        self.assertEqual(output, '2 tasks imported; 1 skipped, being past; 4 refused\n')
        for number in (2, 3, 7, 8):
            self.assertIn(f'line {number}: ', errors)
        self.assertEqual([task.get('name') for task in server.walk('/tasks')].count('valve'), 1)
        self.assertEqual(server.walk('/events'), [])
        self.run_verb('import', '-', url=server.url, text=lines[5])
        support.wait_for(lambda: len(server.walk('/events')) == 1)
        status, _, errors = self.run_verb('import', 'missing', url=server.url)
        self.assertEqual(status, 1)
        self.assertIn('cannot read missing: No such file', errors)

    def test_a_line_that_is_too_large_for_the_server_is_named_and_no_other_is_lost(self):
        lines = [json.dumps({'delay': '1h', 'message': text}) for text in ('one', 'b' * 2_000_000, 'three')]
        lines.append(json.dumps({'name': 'valve', 'delay': '1h', 'message': 'b' * 2_000_000}))
        text = '\n'.join(lines)
        server = self.server()
        status, output, errors = self.run_verb('import', '-', url=server.url, text=text)
        self.assertEqual((status, output), (1, '1 task imported; 1 refused\n'))
        self.assertIn('line 2: The body is too large', errors)
        self.assertIn('stopped: lines 1 to 1 were imported, and none behind them', errors)
        status, output, errors = self.run_verb('import', '--keep-going', '-', url=server.url, text=text)
        self.assertEqual((status, output), (1, '1 task imported; 1 imported before, and left as they '
                                               'are; 2 refused\n'))
        self.assertEqual(re.findall(r'line (\d+): The body is too large', errors), ['2', '4'])
        self.assertEqual(server.pending(), 2)

    def test_a_server_that_takes_small_bodies_gets_each_line_alone(self):
        server = self.server('--max-body', '1000')
        lines = [json.dumps({'delay': '1h', 'message': f'{i}'}) for i in range(50)]
        lines[30] = json.dumps({'delay': '1h', 'message': 'b' * 2000})
        for told in ('49 tasks imported; 1 refused\n',
                     '0 tasks imported; 49 imported before, and left as they are; 1 refused\n'):
            status, output, errors = self.run_verb('import', '--keep-going', '-', url=server.url,
                                                   text='\n'.join(lines))
            self.assertEqual((status, output), (1, told))
            self.assertEqual(re.findall(r'line (\d+): ', errors), ['31'])
        self.assertEqual([json.loads(line)['message'] for line in
                          self.run_verb('export', url=server.url)[1].splitlines()],
                         [f'{i}' for i in range(50) if i != 30])

    def test_a_server_that_is_full_or_gone_stops_it_and_the_rest_comes_later(self):
        server = self.server('--max-tasks', '900')
        lines = '\n'.join(json.dumps({'delay': '1h', 'message': f'{i}'}) for i in range(1200))
        status, output, errors = self.run_verb('import', '-', url=server.url, text=lines)
        self.assertEqual((status, output), (1, ''))
        done = int(re.search(r'lines 1 to (\d+) were imported', errors)[1])
        self.assertEqual(server.pending(), done)
        server.restart('--max-tasks', '5000')
        status, output, errors = self.run_verb('import', '-', url=server.url, text=lines)
        self.assertEqual((status, errors), (0, ''))
        self.assertEqual(server.pending(), 1200)
        server.kill()
        status, _, errors = self.run_verb('import', '-', url=server.url, text=lines)
        self.assertEqual((status, errors.count('\n')), (3, 1), errors)
        self.assertEqual(self.run_verb('export', url=server.url)[0], 3)


class Recipes(Journals):
    """What the commands in the section on journals do, as they stand there.  test_docs types the
    whole page; those that start a server are left to that."""

    def setUp(self):
        super().setUp()
        if not shutil.which('jq'):
            self.skipTest('there is no jq')
        text = (ROOT / 'docs/operate.md').read_text()
        section = text[text.index('\n## Journals\n'):text.index('\n## The clock\n')]
        self.recipes = [recipe for recipe in re.findall(r'```sh\n(.*?)```', section, re.S)
                        if 'task-scheduler --journal' not in recipe]
        os.makedirs(self.path('bin'))
        os.symlink(os.path.abspath(support.BINARY), self.path('bin/task-scheduler'))

    def recipe(self, words, server):
        found = [recipe for recipe in self.recipes if words in recipe]
        self.assertEqual(len(found), 1, words)
        self.recipes.remove(found[0])
        text = found[0].replace('http://127.0.0.1:8080', server.url)
        done = subprocess.run(['bash', '-euo', 'pipefail', '-c', text], capture_output=True, text=True,
                              cwd=server.dir, timeout=60,
                              env={**os.environ, 'SCHEDULER_URL': server.url,
                                   'PATH': self.path('bin') + ':' + os.environ['PATH']})
        self.assertEqual((done.returncode, done.stderr), (0, ''), text)
        return done.stdout

    def test_the_commands_of_the_section_on_journals_do_what_they_say(self):
        server = self.server()
        in_garden = server.schedule('roses', 4000.5, topic='garden/roses')
        server.schedule('tea', 90_000, topic='kitchen')
        gone = server.schedule('gone')
        self.assertEqual(server.ask('DELETE', '/tasks/' + gone)[0], 200)
        self.assertEqual(server.call('PUT', '/tasks/valve', body('named')).status, 201)
        due = {task['id']: task['due'] for task in server.walk('/tasks')}
        days = self.recipe('uniq -c', server).split()
        self.assertEqual(sum(map(int, days[::2])), 3)
        self.assertEqual(set(days[1::2]), {when[:10] for when in due.values()})
        self.recipe('startswith', server)
        with open(os.path.join(server.dir, 'garden.export')) as file:
            self.assertEqual([json.loads(line)['message'] for line in file], ['roses'])
        self.recipe('fromdate', server)
        for task in server.walk('/tasks'):
            self.assertEqual(support.millis(task['due']) - support.millis(due[task['id']]),
                             3_600_000)
        self.assertEqual(server.ask('GET', '/tasks/' + in_garden)[0], 200)
        self.assertEqual(self.recipe('"cancel"', server).split('\t')[1], gone + '\n')
        self.assertEqual(self.recipe('.damage[]', server), '')
        self.recipe('tasks.export', server)
        self.assertEqual(server.pending(), 5, 'all again, but for the one with a name')
        self.assertIn('sound', self.recipe('backup --to backup', server))
        self.assertIn('sound', self.recipe('gzip', server))
        os.unlink(os.path.join(server.dir, 'backup.jsonl'))
        self.recipe('curl', server)
        server.schedule('later')
        server.stop()
        shutil.copy(os.path.join(server.dir, 'backup.jsonl'), server.journal)
        self.assertEqual(self.recipes, [])
        server.start()
        self.assertEqual(server.pending(), 5, 'as when the copy was made')
