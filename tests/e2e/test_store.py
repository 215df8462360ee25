# SPDX-License-Identifier: MIT
"""The options of a store in PostgreSQL, and what the command line shows of its nodes."""
import datetime
import http.server
import json
import os
import shutil
import subprocess
import tempfile
import threading

import support
from support import TestCase, iso

STORE = 'postgres://nobody@127.0.0.1:1/nowhere'
HAS_POSTGRES = b'PQconnect' in open(support.BINARY, 'rb').read() if support.BINARY else False


class Options(TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(dir=support.WORK)
        self.addCleanup(shutil.rmtree, self.folder)

    def run_binary(self, *arguments, **env):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(('SCHEDULER_', 'PG'))}
        return subprocess.run([support.BINARY, *arguments], capture_output=True, text=True,
                              timeout=60, cwd=self.folder, env={**kept, **env})

    def assert_refused(self, *arguments, says, **env):
        done = self.run_binary(*arguments, '--port', '0', **env)
        self.assertEqual((done.returncode, done.stdout), (2, ''), done.stderr)
        self.assertRegex(done.stderr, r'^[^\n]+\n$')
        for words in says:
            self.assertIn(words, done.stderr)
        self.assertEqual(os.listdir(self.folder), [])

    def test_what_does_not_go_together_is_refused_and_why(self):
        for name, value in (('postgres-schema', 'a'), ('node', 'a'), ('lease', '10s'),
                            ('advertise', 'http://a'), ('max-clock-error', '1s')):
            self.assert_refused('--' + name, value, says=[f'--{name} goes with --store'])
        self.assert_refused('--store', STORE, '--journal', 'x', says=['--journal', '--store'])
        self.assert_refused('--store', STORE, '--journal', 'x', says=['--journal', '--store'],
                            SCHEDULER_JOURNAL='tasks.jsonl')
        self.assert_refused('--store', STORE, '--fsync', 'no', says=['synchronous_commit'])

    def test_stores_that_cannot_be_told_apart_are_refused_and_why(self):
        if not HAS_POSTGRES:
            self.skipTest('this binary was built without libpq')
        long = '/' + 'x' * 60
        for first, second, says in (
                ('', '', 'needs a prefix'), ('/a=', '', 'needs a prefix'),
                ('/a=', '/a=', '"/a" is given twice'), ('/a=', '/a/b=', 'another one lies behind'),
                ('/a-b=', '/A_b=', '/a-b and /A_b would both be kept in the schema '
                                   'task_scheduler_a_b'),
                ('/a=', long + '=', 'must be 1 to 63'), ('a=', '/b=', 'the prefix "a" must be'),
                ('/a/=', '/b=', 'the prefix "/a/" must be'), ('=', '/b=', '/PREFIX=')):
            with self.subTest(first, second=second):
                self.assert_refused('--store', first + STORE, '--store', second + STORE,
                                    says=['--store', says])
                self.assert_refused(SCHEDULER_STORE=f'{first}{STORE} {second}{STORE}', says=[says])
        self.start_without_database(store='/a=' + STORE)  # one alone may have a prefix

    def test_values_that_mean_nothing_are_refused(self):
        for name, value, says in (
                ('store', 'tasks.jsonl', 'postgres://HOST/DATABASE'),
                ('store', 'host=db password=hidden', 'postgres://HOST/DATABASE'),
                ('postgres-schema', 'Tasks;', 'small letters'), ('postgres-schema', '', '1 to 63'),
                ('node', 'a b', '1 to 128'), ('node', 'x' * 129, '1 to 128'),
                ('advertise', 'ftp://a', 'http'), ('advertise', '', 'http'),
                ('advertise', 'http://a:b@c', 'http'), ('advertise', 'unix:/a', 'http'),
                ('lease', '10ms', 'from 1000ms to 600s'), ('lease', 'soon', 'seconds'),
                ('max-clock-error', '0', 'from 1ms')):
            with self.subTest(name, value=value):
                self.assert_refused(f'--{name}={value}', says=['--' + name, says])
        self.assertNotIn('hidden', self.run_binary('--store', 'password=hidden').stderr)

    def test_verbs_that_read_a_file_say_who_looks_after_a_database(self):
        for verb in ('verify', 'compact'):
            done = self.run_binary(verb, STORE)
            self.assertEqual(done.returncode, 2)
            self.assertIn('pg_dump', done.stderr)

    def start_without_database(self, *arguments, store=STORE):
        """What one says that cannot reach its database; it makes no file, and ends at once."""
        if not HAS_POSTGRES:
            self.skipTest('this binary was built without libpq')
        done = self.run_binary('--store', store, '--port', '0', *arguments,
                               SCHEDULER_JOURNAL='tasks.jsonl')
        self.assertEqual((done.returncode, done.stdout), (1, ''), done.stderr)
        self.assertIn('Connection refused', done.stderr)
        self.assertNotIn('hidden', done.stderr)
        self.assertEqual(os.listdir(self.folder), [])
        return done.stderr

    def test_a_password_on_the_command_line_is_warned_of_and_never_shown(self):
        for uri in ('postgres://me:hidden@127.0.0.1:1/nowhere',
                    'postgres://127.0.0.1:1/nowhere?user=me&password=hidden'):
            said = self.start_without_database(store=uri)
            for words in ('store.password', 'PGPASSFILE', 'PGSERVICE'):
                self.assertIn(words, said)
        self.assertNotIn('store.password', self.start_without_database(store=STORE))

    def test_an_address_that_other_machines_cannot_reach_is_warned_of(self):
        self.assertRegex(self.start_without_database(),
                         r'store\.advertise: .* http://127\.0\.0\.1:\d+; --advertise')
        for flag, value in (('--advertise', 'https://tasks.example'), ('--host', '0.0.0.0')):
            self.assertNotIn('store.advertise', self.start_without_database(flag, value))

    def test_a_binary_without_libpq_says_how_to_get_it(self):
        if HAS_POSTGRES:
            self.skipTest('this one has it')
        for store in (STORE, 'postgres:', 'postgresql:///a'):
            self.assert_refused('--store', store, says=['libpq-dev', '-Dpostgres=enabled'])


class Nodes(TestCase):
    """What is printed of the answer of a server that has others beside it."""

    CLUSTER = {"node": "b:8082", "role": "follower", "owner": "a:8081",
               "owner_url": "http://a:8081", "epoch": 3, "stored": 120, "applied": 118, "lag": 2,
               "connected": True, "problem": None, "clock_ahead_ms": -4,
               "nodes": [{"node": "a:8081", "url": "http://a:8081", "applied": 120, "seen": iso(0)},
                         {"node": "b:8082", "url": None, "applied": 118, "seen": iso(-3600)}]}

    def setUp(self):
        super().setUp()
        self.status = {"version": "0", "ready": True, "cluster": self.CLUSTER,
                       "journal": {"file": "postgres:", "bytes": 7, "fsync": "always"}}
        test = self

        class Answers(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                content = json.dumps(test.status).encode()
                self.send_response(200)
                self.send_header('Content-Length', str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        server = http.server.HTTPServer(('127.0.0.1', 0), Answers)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(lambda: (server.shutdown(), thread.join(), server.server_close()))
        self.url = f'http://127.0.0.1:{server.server_port}'

    def run_verb(self, *words):
        done = subprocess.run([support.BINARY, *words, '--url', self.url], capture_output=True,
                              text=True, timeout=20)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def test_nodes_lists_them_with_their_roles_and_what_they_lack(self):
        a, b = self.run_verb('nodes').stdout.splitlines()
        self.assertRegex(a, r'^a:8081\towner\thttp://a:8081\tepoch 3\tapplied 120\tlag 0\tseen ')
        self.assertRegex(b, r'^b:8082\tfollower\t-\tepoch 3\tapplied 118\tlag 2\t'
                            r'seen 1 h \d+ min ago')
        a, b = map(json.loads, self.run_verb('nodes', '--json').stdout.splitlines())
        self.assertEqual((a['role'], a['lag'], a['url']), ('owner', 0, 'http://a:8081'))
        self.assertEqual((b['role'], b['lag'], b['url'], b['epoch']), ('follower', 2, None, 3))
        datetime.datetime.strptime(b['seen'], '%Y-%m-%dT%H:%M:%S.%fZ')

    def test_status_shows_who_owns_and_what_is_wrong(self):
        self.assertRegex(self.run_verb('status').stdout,
                         r'\njournal\tpostgres:, 7 bytes\n'
                         r'(.*\n)*cluster\tnode b:8082, owner a:8081, epoch 3, lag 2\n')
        self.status['cluster'] = {**self.CLUSTER, "owner": None, "connected": False,
                                  "problem": "the database is away"}
        self.assertIn('NO OWNER, epoch 3, lag 2; NOT CONNECTED; the database is away',
                      self.run_verb('status').stdout)

    def test_a_server_that_keeps_its_tasks_in_a_file_has_no_nodes(self):
        del self.status['cluster']
        done = self.run_verb('nodes')
        self.assertEqual((done.stdout, '--store' in done.stderr), ('', True))
        done = self.run_verb('nodes', '--json')
        self.assertEqual((done.stdout, done.stderr), ('', ''))
        self.assertNotIn('cluster', self.run_verb('status').stdout)
