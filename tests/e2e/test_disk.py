# SPDX-License-Identifier: MIT
"""A disk that is really full: a small tmpfs, which only root can mount."""

import os
import subprocess

import support
from support import TestCase


class Disk(TestCase):
    def setUp(self):
        super().setUp()
        self.mount = os.path.join(support.WORK, 'small-disk')
        os.makedirs(self.mount, exist_ok=True)
        done = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', self.mount],
                              capture_output=True, text=True)
        if done.returncode != 0:
            self.skipTest('no small disk can be mounted: ' + done.stderr.strip())
        self.addCleanup(subprocess.run, ['umount', '-l', self.mount], check=True)

    def test_a_full_disk_refuses_tasks_and_goes_on_with_everything_else(self):
        filler = os.path.join(self.mount, 'filler')
        server = self.server('--journal', os.path.join(self.mount, 'tasks.jsonl'))
        stream = self.opened(server.stream())
        ids = [server.schedule('due', 4) for _ in range(20)]
        unwanted = server.schedule('unwanted', 3600)
        with open(filler, 'wb', buffering=0) as file:  # to the last page
            with self.assertRaises(OSError):
                for _ in range(2000):
                    file.write(b'x' * 65536)
        statuses = set()
        for _ in range(200):
            status, headers, answer = server.ask(
                'POST', '/schedule', {'delay': 3600, 'message': 'x' * 8000})
            statuses.add(status)
            if status != 200:
                break
        self.assertEqual(status, 507)
        self.assertIn('No space left', answer['errors'][0])
        self.assertIn('Retry-After', headers)
        self.assertEqual(server.ask('DELETE', '/tasks/' + unwanted)[0], 200)
        self.assertEqual(server.ask('GET', '/tasks?limit=1')[0], 200)
        self.assertEqual([event.id for event in stream.messages(len(ids))], ids)
        kept = server.pending()
        server.kill()
        server.start()
        self.assertEqual(server.pending(), kept)
        self.assertEqual(server.ask('GET', '/tasks/' + unwanted)[0], 404)
        page = server.ask('GET', '/events?after=earliest')[2]['data']
        self.assertEqual([event['id'] for event in page], ids)
        os.unlink(filler)
        server.schedule('again', 3600)
