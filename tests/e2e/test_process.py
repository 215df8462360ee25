# SPDX-License-Identifier: MIT
"""How the process starts, stops, idles and refuses."""

import os
import shutil
import signal
import socket
import subprocess
import time
import unittest

import support
from support import Server, Stream, TestCase


class Starting(TestCase):
    def test_help_and_version_go_to_standard_output(self):
        self.assertEqual(self.run_binary('--version')[0], 0)
        status, output, _ = self.run_binary('--help')
        self.assertEqual(status, 0)
        for flag in ('--port', '--journal', '--fsync', '--secret-file', '--max-tasks'):
            self.assertIn(flag, output)

    def test_a_bad_flag_is_one_clear_line_and_status_2(self):
        for flags in (['--nonsense'], ['--port'], ['--port', 'x'], ['--port', '65536'],
                      ['--fsync', 'sometimes'], ['--max-body', '-1'], ['extra'],
                      ['--secret-file', '/nowhere'], ['--max-lateness', 'long']):
            status, _, errors = self.run_binary(*flags)
            self.assertEqual(status, 2, flags)
            self.assertEqual(errors.count('\n'), 1, errors)

    def test_the_environment_says_the_same_as_flags(self):
        status, _, errors = self.run_binary(env={'SCHEDULER_PORT': 'x'})
        self.assertEqual(status, 2)
        self.assertIn('SCHEDULER_PORT', errors)
        server = self.server(env={'SCHEDULER_SECRET': 's3cret', 'SCHEDULER_MAX_BODY': '100'})
        self.assertEqual(server.request('GET', '/tasks')[0], 401)
        headers = {'x-pd-secret': 's3cret'}
        self.assertEqual(server.request('GET', '/tasks', headers=headers)[0], 200)
        self.assertEqual(server.request('POST', '/schedule', 'x' * 101, headers)[0], 413)

    def test_secrets_that_cannot_work_are_refused(self):
        server = self.server()
        path = os.path.join(server.directory, 'secret')
        for text in ('', '\n', 'a b\n', 'a%20\n', 'a\tb\n', 'a\nb\nc\n'):
            with open(path, 'w') as file:
                file.write(text)
            self.assertEqual(self.run_binary('--secret-file', path)[0], 2, repr(text))

    def test_what_cannot_be_opened_is_one_clear_line_and_status_1(self):
        server = self.server()
        other = os.path.join(server.directory, 'other')
        with open(other, 'w') as file:
            file.write('somebody else\'s file\n')
        for journal, reason in ((server.journal, 'in use'), (server.directory, 'directory'),
                                (other, 'not a journal'), ('/nowhere/at/all', 'No such file')):
            status, _, errors = self.run_binary('--port', '0', '--journal', journal)
            self.assertEqual(status, 1)
            self.assertEqual(errors.count('\n'), 1, errors)
            self.assertIn(reason, errors)
        with open(other) as file:
            self.assertEqual(file.read(), 'somebody else\'s file\n')

    def test_a_taken_port_is_one_clear_line_and_status_1(self):
        server = self.server()
        status, _, errors = self.run_binary('--port', str(server.port), '--journal',
                                            os.path.join(server.directory, 'second.jsonl'))
        self.assertEqual(status, 1)
        self.assertIn(f'port {server.port}', errors)
        self.assertEqual(errors.count('\n'), 1, errors)

    def test_the_line_at_start_tells_address_journal_and_tasks(self):
        server = self.server()
        for _ in range(3):
            server.schedule('x', 3600)
        server.stop()
        server.start()
        self.assertIn(f'http://127.0.0.1:{server.port}', server.line)
        self.assertIn(server.journal, server.line)
        self.assertIn('3 pending tasks recovered', server.line)


class Stopping(TestCase):
    def test_signals_end_it_cleanly_with_a_thousand_streams_open(self):
        for how in (signal.SIGTERM, signal.SIGINT):
            server = self.server()
            server.schedule('x', 3600)
            streams = [Stream(server) for _ in range(1000)]
            server.wire()
            status, seconds = server.stop(how)
            print(f'{how.name}: {seconds:.2f} s ', end='')
            self.assertEqual(status, 0)
            self.assertLess(seconds, 2)  # one, and room for a busy machine
            for stream in streams:
                self.assertRaises(ConnectionError, stream.event)
                stream.close()


class Streams(TestCase):
    def test_scheduling_answers_at_once_beside_many_streams(self):
        server = self.server()
        streams = []
        for count in (8, 1000):
            while len(streams) < count:
                streams.append(self.enterContext(Stream(server)))
            begin = time.monotonic()
            task = server.schedule('x')
            self.assertLess(time.monotonic() - begin, 1)
            self.assertEqual({stream.message()[0] for stream in streams}, {task})

    def test_over_the_limit_a_client_is_told_to_come_back(self):
        server = self.server('--max-streams', '1')
        self.enterContext(Stream(server))
        with server.wire(b'GET /sse HTTP/1.1\r\nHost: localhost\r\n\r\n') as connection:
            answer = support.read_all(connection)
        self.assertIn(b'200 OK', answer)
        self.assertTrue(answer.endswith(b'retry: 30000\n\n'))

    def test_a_burst_comes_whole_and_in_order_to_live_and_resuming_readers(self):
        count = 100_000 if support.LONG else 20_000
        server = self.server('--fsync', 'no', '--history', '1000')
        live = self.enterContext(Stream(server))
        moment = support.iso(2)
        ids = []
        for _ in range(count // 1000):
            tasks = [{'timestamp': moment, 'message': 'x'}] * 1000
            ids += server.request('POST', '/schedule', tasks)[2]['ids']
        self.assertEqual([live.message()[0] for _ in range(count // 2)], ids[:count // 2])
        resumed = self.enterContext(Stream(server, ids[99]))
        self.assertEqual([resumed.message()[0] for _ in range(count - 100)], ids[100:])
        self.assertEqual([live.message()[0] for _ in range(count - count // 2)], ids[count // 2:])

    def test_a_reader_that_stalls_costs_little_and_gets_all(self):
        server = self.server('--fsync', 'no')
        stalled = self.enterContext(Stream(server))
        quick = self.enterContext(Stream(server))
        ids = []
        for _ in range(100):
            ids.append(server.schedule('x' * 200_000))
            self.assertEqual(quick.message()[0], ids[-1])
        self.assertEqual([stalled.message()[0] for _ in ids], ids)


class Idling(TestCase):
    def test_nothing_wakes_up_with_one_task_an_hour_ahead(self):
        if not shutil.which('strace'):
            self.skipTest('there is no strace')
        server = self.server()
        server.schedule('x', 3600)
        time.sleep(0.5)
        trace = os.path.join(server.directory, 'trace')
        tracer = subprocess.Popen(['strace', '-f', '-o', trace, '-p', str(server.process.pid)],
                                  stderr=subprocess.PIPE)
        attached = tracer.stderr.readline().decode()
        if 'attached' not in attached:
            tracer.wait()
            tracer.stderr.close()
            self.skipTest('strace may not attach: ' + attached.strip())
        time.sleep(10 if support.LONG else 3)
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
        tracer.stderr.close()
        with open(trace) as file:
            calls = [line for line in file if 'detached' not in line and 'resuming' not in line
                     and '<unfinished ...>' not in line]
        self.assertEqual(calls, [])


class Disk(TestCase):
    def setUp(self):
        self.mount = os.path.join(support.WORK, 'small-disk')
        os.makedirs(self.mount, exist_ok=True)
        done = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', self.mount],
                              capture_output=True, text=True)
        if done.returncode != 0:
            self.skipTest('no small disk can be mounted: ' + done.stderr.strip())
        self.addCleanup(subprocess.run, ['umount', '-l', self.mount], check=True)

    def test_a_full_disk_refuses_tasks_and_goes_on_with_everything_else(self):
        filler = os.path.join(self.mount, 'filler')
        server = self.server(directory=self.mount)
        stream = self.enterContext(Stream(server))
        ids = [server.schedule('due', 4) for _ in range(20)]
        unwanted = server.schedule('unwanted', 3600)
        with open(filler, 'wb') as file:
            with self.assertRaises(OSError):
                for _ in range(100):
                    file.write(b'x' * 65536)
                    file.flush()
        statuses = set()
        for _ in range(200):
            status, headers, answer = server.request(
                'POST', '/schedule', {'delay': 3600, 'message': 'x' * 8000})
            statuses.add(status)
            if status != 200:
                break
        self.assertEqual(status, 507)
        self.assertIn('No space left', answer['errors'][0])
        self.assertIn('Retry-After', headers)
        self.assertEqual(server.request('DELETE', '/tasks/' + unwanted)[0], 200)
        self.assertEqual(server.request('GET', '/tasks?limit=1')[0], 200)
        self.assertEqual([stream.message()[0] for _ in ids], ids)
        kept = server.pending()
        server.kill()
        server.start()
        self.assertEqual(server.pending(), kept)
        self.assertEqual(server.request('GET', '/tasks/' + unwanted)[0], 404)
        page = server.request('GET', '/events?after=earliest')[2]['data']
        self.assertEqual([event['id'] for event in page], ids)
        os.unlink(filler)
        server.schedule('again', 3600)


if __name__ == '__main__':
    unittest.main()
