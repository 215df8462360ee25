# SPDX-License-Identifier: MIT
"""What the end-to-end tests share: the real binary, and plain ways to talk to it."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest
from datetime import datetime, timedelta, timezone

BINARY = ''
WORK = ''
LONG = False


def iso(seconds_ahead=0.0):
    moment = datetime.now(timezone.utc) + timedelta(seconds=seconds_ahead)
    return moment.strftime('%Y-%m-%dT%H:%M:%S.') + f'{moment.microsecond // 1000:03d}Z'


def eventually(condition, seconds=10.0):
    """Waits, within a limit, until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


class Server:
    """The binary on a free port, with its journal in a directory of its own."""

    def __init__(self, *flags, directory=None, port=0, env=None):
        self.directory = directory or tempfile.mkdtemp(dir=WORK)
        self.flags = flags
        self.port = port
        self.env = env or {}
        self.start()

    def start(self):
        self.log = open(os.path.join(self.directory, 'log'), 'ab')
        self.process = subprocess.Popen(
            [BINARY, '--port', str(self.port), '--journal', self.journal, *self.flags],
            stdout=subprocess.PIPE, stderr=self.log, env={**os.environ, **self.env})
        self.line = self.process.stdout.readline().decode()
        found = re.search(r'http://127\.0\.0\.1:(\d+)', self.line)
        if not found:
            raise AssertionError('it did not start: ' + self.errors())
        self.port = int(found.group(1))
        self.url = f'http://127.0.0.1:{self.port}'

    @property
    def journal(self):
        return os.path.join(self.directory, 'tasks.jsonl')

    def errors(self):
        with open(os.path.join(self.directory, 'log'), errors='replace') as file:
            return file.read()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()

    def stop(self, how=signal.SIGTERM):
        """Ends it as a person would; returns exit status and seconds."""
        begin = time.monotonic()
        self.process.send_signal(how)
        status = self.process.wait(timeout=10)
        self.process.stdout.close()
        self.log.close()
        return status, time.monotonic() - begin

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def request(self, method, path, body=None, headers=None):
        """One request; returns status, headers and the body, read as JSON if it is."""
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            text = answer.read()
        with contextlib.suppress(ValueError):
            return answer.status, answer.headers, json.loads(text)
        return answer.status, answer.headers, text

    def schedule(self, message, seconds_ahead=0.0, **others):
        status, _, answer = self.request(
            'POST', '/schedule', {'timestamp': iso(seconds_ahead), 'message': message, **others})
        if status != 200:
            raise AssertionError(f'{status}: {answer}')
        return answer['id']

    def pending(self):
        return self.request('GET', '/tasks?limit=1')[2]['page_info']['total_count']

    def resident_kib(self):
        with open(f'/proc/{self.process.pid}/status') as file:
            return int(re.search(r'VmRSS:\s+(\d+)', file.read()).group(1))

    def wire(self, text=b'', seconds=20):
        """A bare connection that has sent `text`."""
        connection = socket.create_connection(('127.0.0.1', self.port), timeout=seconds)
        connection.sendall(text)
        return connection


def read_all(connection):
    data = b''
    with contextlib.suppress(ConnectionError, TimeoutError):
        while chunk := connection.recv(65536):
            data += chunk
    return data


class Stream:
    """A subscriber: reads the event stream, event by event."""

    def __init__(self, server, last_event_id=None, query='', seconds=20):
        head = f'GET /sse{query} HTTP/1.1\r\nHost: localhost\r\n'
        if last_event_id:
            head += f'Last-Event-ID: {last_event_id}\r\n'
        self.connection = server.wire(head.encode() + b'\r\n', seconds)
        self.buffer = b''
        self.head = self.block(b'\r\n\r\n')
        self.last_event_id = last_event_id
        self.cursor = self.event()

    def block(self, mark=b'\n\n'):
        while mark not in self.buffer:
            chunk = self.connection.recv(65536)
            if not chunk:
                raise ConnectionError('the stream ended')
            self.buffer += chunk
        text, self.buffer = self.buffer.split(mark, 1)
        return text.decode()

    def event(self):
        """The next event as (name, id, data); comments are passed over."""
        while True:
            fields = dict(line.split(': ', 1) for line in self.block().split('\n')
                          if not line.startswith(':'))
            if 'data' in fields:
                self.last_event_id = fields.get('id', self.last_event_id)
                return fields.get('event', 'message'), fields.get('id'), fields['data']

    def message(self):
        """The next message: its id and its payload."""
        name, event_id, data = self.event()
        if name != 'message':
            raise AssertionError(f'an event {name}: {data}')
        return event_id, json.loads(data)

    def close(self):
        self.connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class TestCase(unittest.TestCase):
    maxDiff = 2000

    def server(self, *flags, **options):
        return self.enterContext(Server(*flags, **options))

    def run_binary(self, *flags, env=None):
        """Runs it to its end; returns exit status, output and errors."""
        done = subprocess.run([BINARY, *flags], capture_output=True, text=True, timeout=20,
                              env={**os.environ, **(env or {})})
        return done.returncode, done.stdout, done.stderr
