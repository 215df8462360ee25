# SPDX-License-Identifier: MIT
"""A budget of memory: whatever clients send, the server keeps within 32 MiB by --max-memory 24M.
Where a control group can be made, the system ends what takes more."""
import contextlib
import json
import os
import re
import socket
import subprocess
import threading

import support
from support import TestCase, body

LIMIT = 32 << 20
GROUPS = "/sys/fs/cgroup"


def make_group():
    """A control group with a limit of memory, or None: the folder's name."""
    for folder, limits in ((f"{GROUPS}/memory", ("memory.limit_in_bytes",
                                                 "memory.memsw.limit_in_bytes")),
                           (GROUPS, ("memory.max", "memory.swap.max"))):
        group = f"{folder}/task-scheduler-test-{os.getpid()}"
        try:
            os.mkdir(group)
            for name in limits:
                if os.path.exists(f"{group}/{name}"):
                    with open(f"{group}/{name}", "w") as file:
                        file.write("0" if "swap" in name and folder == GROUPS else str(LIMIT))
            if os.path.exists(f"{group}/{limits[0]}"):
                return group
            os.rmdir(group)
        except OSError:
            with contextlib.suppress(OSError):
                os.rmdir(group)
    return None


class Budget(TestCase):
    def setUp(self):
        super().setUp()
        self.group = make_group()
        if self.group:
            self.addCleanup(os.rmdir, self.group)

    def limited(self, *flags):
        into = f"echo $$ > {self.group}/cgroup.procs; " if self.group else ""
        return self.server("--max-memory", "24M", "--fsync", "everysec", *flags, program="sh",
                           before=("-c", into + 'exec "$@"', "sh", support.BINARY))

    def push(self, server, count, text, counts):
        """Sends a request so often, some at once; counts the statuses of the answers."""
        request = (f"POST /schedule HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                   f"Content-Length: {len(text)}\r\n\r\n{text}").encode()
        with socket.create_connection(("127.0.0.1", server.port), 60) as wire:
            with wire.makefile("rb") as answers:
                for begin in range(0, count, 50):
                    some = min(50, count - begin)
                    wire.sendall(request * some)
                    for _ in range(some):
                        status = int(answers.readline().split()[1])
                        counts[status] = counts.get(status, 0) + 1
                        length = 0
                        while (line := answers.readline()) != b"\r\n":
                            if line.lower().startswith(b"content-length:"):
                                length = int(line.split(b":")[1])
                        answers.read(length)

    def flood(self, server, count, text):
        """Pushes from several clients at once; returns how many got which status."""
        each = [{} for _ in range(4)]
        threads = [threading.Thread(target=self.push, args=(server, count // 4, text, counts))
                   for counts in each]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {status: sum(counts.get(status, 0) for counts in each)
                for status in {status for counts in each for status in counts}}

    def refused(self, server, reason=None):
        name = (rf'task_scheduler_requests_refused_total{{reason="{reason}"}}' if reason else
                "task_scheduler_tasks_refused_total")
        return int(re.search(rf"(?m)^{name} (\d+)$", server.call("GET", "/metrics").body.decode())[1])

    def test_a_flood_of_tasks_ends_in_507_and_a_restart_takes_no_more(self):
        server = self.limited()
        count = 1_000_000 if support.LONG else 60_000
        statuses = self.flood(server, count, body("x" * 20))
        self.assertEqual(sum(statuses.values()), count)
        self.assertEqual(set(statuses), {200, 507})
        self.assertEqual(self.refused(server), statuses[507])
        self.assertEqual(server.pending(), statuses[200])
        status = server.page("/status")
        self.assertLessEqual(status["bytes"], status["limits"]["bytes"])
        self.assertEqual(status["limits"]["memory"], 24 << 20)
        run = server.peak_mib()
        server.kill()
        server.start()
        self.assertEqual(server.pending(), statuses[200])
        again = server.peak_mib()
        self.note(f"{statuses[200]} taken, {run:.1f} MiB at most, {again:.1f} at the restart"
                  f"{'' if self.group else '; no control group could be made'}")
        self.assertLess(run, 32)
        self.assertLess(again, run + 2)  # the buffers of opening it

    def fill(self, server, held):
        """Clients that hold on to what there is: streams and pages that nobody reads, half bodies,
        half heads."""
        def wire(**options):
            return held.enter_context(server.wire(**options))

        for _ in range(130):
            stream = wire(receive_buffer=4096)
            stream.send("GET /sse?last_event_id=earliest HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            stream.socket.recv(1)  # until it is a stream it is one of the other connections
        for _ in range(12):
            wire(receive_buffer=4096).send(
                "GET /tasks?limit=1000 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 30)
        for _ in range(12):
            with contextlib.suppress(OSError):  # it is told that there is no room
                wire().send("POST /schedule HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                            "Content-Length: 400000\r\n\r\n" + "x" * 390_000)
        for _ in range(20):
            wire().send("GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + "x" * 12_000)

    @staticmethod
    def has_noticed_their_end(server):
        """Whether those who have left hold no connection and no stream any more."""
        answer = server.call("GET", "/metrics")
        open_now = re.findall(rb"(?m)^task_scheduler_(?:streams|connections) (\d+)$", answer.body)
        return answer.status == 200 and sum(map(int, open_now)) <= 3

    def test_whatever_clients_do_at_once_it_keeps_within_the_budget(self):
        sinks = os.path.join(support.WORK, "budget-sinks.json")
        with open(sinks, "w") as file:
            json.dump({"sinks": [{"name": "broken", "webhook": "http://127.0.0.1:1/", "retry": []}]},
                      file)
        server = self.limited("--journal-min-size", "1M", "--min-retention", "1s",
                              "--sinks", sinks)
        rounds = 10 if support.LONG else 2
        with contextlib.ExitStack() as held:
            for _ in range(rounds):
                self.flood(server, 4_000, body("x" * 300, "2020-01-01"))  # become dead letters
                self.fill(server, held)
                self.flood(server, 8_000, body("x" * 900, seconds=30))
                held.close()
                support.wait_for(lambda: self.has_noticed_their_end(server), what="their end")
        self.flood(server, 20_000, body("x" * 900))
        status = server.page("/status")
        self.note(f"{server.peak_mib():.1f} MiB at most, {status['journal']['rewrites']} "
                  f"replacements, {status['sinks'][0]['dead']} dead letters")
        self.assertLess(server.peak_mib(), 32)
        for reason in "streams", "bodies":
            self.assertGreater(self.refused(server, reason), 0, reason)
        self.assertGreater(self.refused(server), 0)
        self.assertGreater(status["journal"]["rewrites"], 0)
        server.kill()
        server.start()
        self.assertEqual(server.pending(), status["pending"])
        self.assertLess(server.peak_mib(), 32)

    def test_too_little_memory_at_the_start_is_told_in_one_line(self):
        server = self.server("--fsync", "everysec")
        room = server.status_of_process("VmSize") + 4096  # KiB, for what is much larger
        self.flood(server, 16_000, body("x" * 8_000))
        server.stop()
        done = subprocess.run(["sh", "-c", f'ulimit -v {room}; exec "$@"', "sh", support.BINARY,
                               "--port", "0"], cwd=server.dir, capture_output=True, timeout=60,
                              text=True)
        self.assertEqual(done.returncode, 1)
        # One that takes long tells how far it is.
        said = re.sub(r"(?m)^\S+ info journal\.opening: .*\n", "", done.stderr)
        self.assertRegex(said, r"\Atask-scheduler: there is too little memory; [^\n]+\n\Z")
        server.start()
        self.assertEqual(server.pending(), 16_000)
