# SPDX-License-Identifier: MIT
"""Three nodes on one PostgreSQL, as docs/cluster.md has a reader start them: examples/cluster.sh.

What nodes survive is for others to show; this is the first quarter of an hour of a newcomer.
"""
import glob
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile

import support
from support import TestCase, wait_for

ROOT = pathlib.Path(__file__).resolve().parents[2]
NODE = re.compile(r'a node answers at (http://127\.0\.0\.1:(\d+)), process (\d+)\n')


class Try(TestCase):
    def setUp(self):
        super().setUp()
        if not glob.glob('/usr/lib/postgresql/*/bin/initdb'):
            self.skipTest('PostgreSQL is not installed')
        if b'PQconnect' not in pathlib.Path(support.BINARY).read_bytes():
            self.skipTest('this binary was built without libpq')
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.folder.chmod(0o755)  # PostgreSQL is another user's
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(('SCHEDULER_', 'PG'))}
        # It runs for as long as the command that it is given, and that for as long as we say.
        self.script = subprocess.Popen(
            [ROOT / 'examples/cluster.sh', 'cat'], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={**kept, 'TASK_SCHEDULER': os.path.abspath(support.BINARY),
                 'PORT': str(support.free_port(3)), 'TMPDIR': str(self.folder)})
        self.addCleanup(self.end_script)
        self.nodes = {}
        for _ in range(3):
            line = self.script.stdout.readline()
            found = NODE.fullmatch(line)
            self.assertTrue(found, line or self.script.stderr.read())
            self.nodes[found[1]] = int(found[3])

    def end_script(self):
        if self.script.poll() is None:
            os.killpg(self.script.pid, signal.SIGKILL)
        self.script.wait()
        for pipe in (self.script.stdin, self.script.stdout, self.script.stderr):
            pipe.close()

    def run_verb(self, url, *words):
        done = subprocess.run([support.BINARY, *words, '--url', url], capture_output=True,
                              text=True, timeout=30)
        self.assertEqual(done.returncode, 0, f'{words} {done.stderr}')
        return done.stdout

    def owner(self, url):
        """Whom a node takes for the owner, if it knows one."""
        cluster = json.loads(self.run_verb(url, 'status', '--json'))['cluster']
        return cluster['owner_url'] if cluster['owner'] else None

    def roles(self, url):
        """The roles of the nodes that one lists, by their URLs."""
        rows = [line.split('\t') for line in self.run_verb(url, 'nodes').splitlines()]
        return {row[2]: row[1] for row in rows}

    def emitted(self, url):
        return [line.split('\t')[0] for line in self.run_verb(url, 'events').splitlines()]

    def haproxy(self):
        """HAProxy as the page has it, before these nodes; returns its URL."""
        program = shutil.which('haproxy', path=os.environ['PATH'] + ':/usr/sbin')
        if not program:
            self.assertNotIn('TESTS_PROXIES', os.environ)
            self.skipTest('haproxy is not installed')
        page = (ROOT / 'docs/cluster.md').read_text(encoding='utf-8')
        shown = re.search('```haproxy\n(.*?)```', page, re.S)[1]
        address = f'127.0.0.1:{support.free_port()}'
        shown = shown.replace('bind :8080', f'bind {address}')
        for name, url in zip('abc', self.nodes):
            shown, count = re.subn(rf'(server {name}) \S+', rf'\1 {url[7:]}', shown)
            self.assertEqual(count, 1)
        file = self.folder / 'haproxy.cfg'
        file.write_text('global\n    maxconn 1000\n' + shown)
        proxy = subprocess.Popen([program, '-db', '-f', file], stdout=subprocess.DEVNULL,
                                 stderr=subprocess.DEVNULL,
                                 preexec_fn=support.end_with_parent())
        self.addCleanup(lambda: (proxy.kill(), proxy.wait()))
        return 'http://' + address

    def test_behind_the_load_balancer_of_the_page_the_owner_may_die(self):
        url = self.haproxy()
        wait_for(lambda: not subprocess.run(
            [support.BINARY, 'health', '--ready', '--url', url], capture_output=True).returncode,
            what='the first node behind HAProxy')
        ids = [self.run_verb(url, 'add', '--in', '1h', 'x').strip() for _ in range(6)]
        os.kill(self.nodes[next(iter(self.nodes))], signal.SIGKILL)

        def add():
            done = subprocess.run([support.BINARY, 'add', '--in', '1h', 'x', '--url', url],
                                  capture_output=True, text=True)
            return done.returncode == 0 and done.stdout.strip()
        ids.append(wait_for(add, what='a node that takes a task'))
        for other in list(self.nodes)[1:]:
            wait_for(lambda: {line.split('\t')[0] for line
                              in self.run_verb(other, 'ls').splitlines()} >= set(ids))

    def test_three_nodes_are_started_shared_and_survive_the_owner_and_nothing_is_left(self):
        a, b, c = self.nodes
        wait_for(lambda: {self.owner(url) for url in self.nodes} == {a}, what='one owner')
        wait_for(lambda: self.roles(b) == {a: 'owner', b: 'follower', c: 'follower'},
                 what='a list of all nodes')  # each tells of itself every few seconds
        # What one node has answered for is emitted at all of them.
        first = self.run_verb(c, 'add', '--in', '0s', 'first').strip()
        wait_for(lambda: all(self.emitted(url) == [first] for url in self.nodes))
        later = self.run_verb(b, 'add', '--in', '1s', 'after the owner').strip()
        os.kill(self.nodes[a], signal.SIGKILL)
        wait_for(lambda: self.owner(b) == self.owner(c) and self.owner(b) in (b, c),
                 what='another owner')
        wait_for(lambda: self.emitted(b) == self.emitted(c) == [first, later], what='its event')
        third = self.run_verb(c, 'add', '--in', '0s', 'third').strip()
        wait_for(lambda: self.emitted(b) == self.emitted(c) == [first, later, third])
        self.script.stdin.close()
        self.assertEqual(self.script.wait(60), 0, self.script.stderr.read())
        self.assertEqual(list(self.folder.iterdir()), [])
        for process in self.nodes.values():
            self.assertFalse(os.path.exists(f'/proc/{process}'))
