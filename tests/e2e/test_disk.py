# SPDX-License-Identifier: MIT
"""A disk that is really full: a small tmpfs, which only root can mount."""

import os
import shutil
import subprocess
import time

import support
from support import TestCase


class Disk(TestCase):
    def setUp(self):
        super().setUp()
        self.mount = os.path.join(support.WORK, 'small-disk')
        os.makedirs(self.mount, exist_ok=True)
        self.journal = os.path.join(self.mount, 'tasks.jsonl')

    def put(self, *words):
        """Mounts a small disk."""
        done = subprocess.run(['mount', *words, self.mount], capture_output=True, text=True)
        if done.returncode != 0:
            self.skipTest('no small disk can be mounted: ' + done.stderr.strip())
        self.addCleanup(subprocess.run, ['umount', '-l', self.mount], check=True)

    def put_tmpfs(self, size='2m'):
        self.put('-t', 'tmpfs', '-o', 'size=' + size, 'tmpfs')

    def fill(self):
        """Others take all that is left; returns what gives it back."""
        filler = os.path.join(self.mount, 'filler')
        with open(filler, 'wb', buffering=0) as file:  # to the last page
            with self.assertRaises(OSError):
                for _ in range(2000):
                    file.write(b'x' * 65536)
        return lambda: os.unlink(filler)

    def runs_for_ever(self, disk):
        """A steady load that writes more than the disk holds, in a short time."""
        server = self.server('--journal', self.journal, '--fsync', 'no', '--min-retention', '100ms')
        waiting = [{'delay': 3600, 'message': 'y' * 100} for _ in range(500)]
        self.assertEqual(server.ask('POST', '/schedule', waiting)[0], 200)
        written = 0
        while written < 2 * disk:
            tasks = [{'delay': 0, 'message': 'x' * 200} for _ in range(20)]

            def is_taken():  # which a replacement that this machine holds up may delay
                status, _, answer = server.ask('POST', '/schedule', tasks)
                self.assertIn(status, (200, 507), answer)
                return status == 200
            support.wait_for(is_taken, what='that there is room')
            journal = server.page('/status')['journal']
            written = journal['written_bytes']
            time.sleep(0.02)
        self.assertGreater(journal['rewrites'], 1)
        self.assertLess(journal['bytes'], disk)
        support.wait_for(lambda: not server.page('/status')['journal']['disk_full'])
        server.kill()
        server.start()
        self.assertEqual(server.page('/status')['pending'], len(waiting))

    def test_on_2_mib_of_memory_it_runs_for_ever(self):
        self.put_tmpfs()
        self.runs_for_ever(2 << 20)

    def test_on_2_mib_of_ext4_it_runs_for_ever(self):
        if not shutil.which('mkfs.ext4', path=os.environ['PATH'] + ':/usr/sbin:/sbin'):
            self.skipTest('mkfs.ext4 is not installed')
        image = os.path.join(support.WORK, 'small-disk.img')
        with open(image, 'wb') as file:
            file.truncate(2 << 20)
        self.addCleanup(os.unlink, image)
        subprocess.run(['/sbin/mkfs.ext4', '-q', '-O', '^has_journal', '-m', '0', image],
                       check=True, capture_output=True)
        self.put('-o', 'loop', image)
        self.runs_for_ever(2 << 20)

    def test_where_there_is_no_room_for_a_replacement_it_says_so_until_tasks_are_cancelled(self):
        self.put_tmpfs()
        server = self.server('--journal', self.journal, '--fsync', 'no')
        tasks = [{'delay': 3600, 'message': 'x' * 400, 'topic': 'a'} for _ in range(100)]
        status = 200
        while status == 200:
            status, _, answer = server.ask('POST', '/schedule', tasks)
            tasks = tasks[:50] + [{'delay': 3600, 'message': 'x' * 400}] * 50
        for _ in range(3):
            while status == 200:
                status, _, answer = server.ask('POST', '/schedule', tasks[:1])
            status, _, answer = server.ask('POST', '/schedule', tasks[:1])
        self.assertEqual(status, 507)
        self.assertRegex(answer['errors'][0], r'[0-9]+ bytes must be free on its disk')
        status, _, answer = server.ask('GET', '/readyz')
        self.assertEqual(status, 503)
        self.assertIn('The disk of the journal is full', answer['errors'][0])
        self.assertEqual(server.page('/status')['problems'], answer['errors'])
        metrics = server.call('GET', '/metrics').body.decode()
        self.assertRegex(metrics, r'requests_refused_total{reason="disk_full"} [1-9]')
        self.assertIn('requests_refused_total{reason="limit"} 0\n', metrics)
        self.assertIn('\ntask_scheduler_journal_disk_full 1\n', metrics)
        server.until_logged('journal.disk_full')
        self.assertEqual(server.stderr().count('journal.disk_full'), 1)
        self.assertIn(self.journal, server.stderr())
        self.assertEqual(server.ask('DELETE', '/tasks?topic=a')[0], 200)
        support.wait_for(lambda: server.ask('GET', '/readyz')[0] == 200)
        server.schedule('again', 3600)
        server.until_logged('journal.disk_freed')

    def test_a_full_disk_and_one_that_cannot_be_written_are_told_at_the_start(self):
        self.put_tmpfs()
        self.fill()
        said = self.refusal()
        self.assertIn('No space left on device; make room there, or name a file on another disk '
                      '(--journal)', said)
        subprocess.run(['mount', '-o', 'remount,ro', self.mount], check=True)
        said = self.refusal()
        self.assertIn('Read-only file system; a journal needs a folder that exists and can be '
                      'written (--journal names the file)', said)

    def refusal(self):
        """The one line with which a server ends that cannot start."""
        done = subprocess.run([support.BINARY, '--port', '0', '--journal', self.journal],
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stderr.count('\n'), 1, done.stderr)
        return done.stderr

    def test_a_full_disk_refuses_tasks_and_goes_on_with_everything_else(self):
        self.put_tmpfs('4m')
        server = self.server('--journal', self.journal)
        stream = self.opened(server.stream())
        ids = [server.schedule('due', 4) for _ in range(20)]
        unwanted = server.schedule('unwanted', 3600)
        make_room = self.fill()
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
        make_room()
        server.schedule('again', 3600)
