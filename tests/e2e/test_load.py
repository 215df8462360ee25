# SPDX-License-Identifier: MIT
"""Thousands of clients at once that are slow, send too much or read nothing, and a slow disk:
no client has a thread, none costs more than its bytes and the bounds, and all others are served."""
import collections
import contextlib
import os
import re
import resource
import selectors
import socket
import threading
import time

import support
from support import Closed, TestCase, Wire, body, preloaded, wait_for

HOST = "Host: 127.0.0.1\r\n"
MIB = 1 << 20
SECRET = "a-secret-of-the-load-tests"


class Crowd:
    """Many clients, driven together: each sends its bytes and keeps what comes back."""

    def __init__(self, test, port, count, receive_buffer=None, first=b""):
        """Each sends `first` as soon as it is connected."""
        self.sockets = []
        test.addCleanup(self.close)
        for _ in range(count):
            one = socket.socket()
            if receive_buffer:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            one.settimeout(20)
            one.connect(("127.0.0.1", port))
            one.sendall(first)
            one.setblocking(False)
            self.sockets.append(one)
        self.received = {one: b"" for one in self.sockets}
        self.ended = set()

    def close(self):
        for one in self.sockets:
            one.close()
        self.sockets = []

    def send(self, data, seconds=60, reading=True):
        """Sends it from each, as far as the server takes it; one that is answered before the end
        sends no more.  Without `reading` nobody reads."""
        left = {one: memoryview(data) for one in self.sockets if not self.received[one]}
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            for one in left:
                selector.register(one, selectors.EVENT_WRITE |
                                  (selectors.EVENT_READ if reading else 0))
            while selector.get_map():
                assert time.monotonic() < deadline, f"{len(selector.get_map())} still send"
                for key, ready in selector.select(1):
                    one = key.fileobj
                    if ready & selectors.EVENT_READ:
                        self.read(one)
                        selector.unregister(one)
                        continue
                    with contextlib.suppress(ConnectionError):
                        left[one] = left[one][one.send(left[one]):]
                        if left[one]:
                            continue
                    selector.unregister(one)

    def read(self, one):
        try:
            data = one.recv(1 << 18)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        self.received[one] += data
        if not data:
            self.ended.add(one)

    def is_answered(self, one):
        head, mark, content = self.received[one].partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\nContent-Length: *(\d+)", head + b"\r\n")
        return bool(mark) and (not length or len(content) >= int(length[1]))

    def await_answers(self, whose=None, seconds=60):
        """Reads until each has a whole answer, or the end in its place: their statuses, 0 for the
        end.  An answer that breaks off fails."""
        waiting = {one for one in whose or self.sockets
                   if not self.is_answered(one) and one not in self.ended}
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            for one in waiting:
                selector.register(one, selectors.EVENT_READ)
            while waiting:
                assert time.monotonic() < deadline, f"{len(waiting)} have no answer"
                for key, _ in selector.select(1):
                    one = key.fileobj
                    self.read(one)
                    if self.is_answered(one) or one in self.ended:
                        selector.unregister(one)
                        waiting.discard(one)
        return [self.status(one) for one in whose or self.sockets]

    def status(self, one):
        text = self.received[one]
        assert not text or self.is_answered(one), f"an answer breaks off: {text[:300]!r}"
        return int(text[9:12]) if text else 0


class Load(TestCase):
    EACH = 20  # KiB that a client may cost beyond what it has sent

    def clients(self, wanted):
        """As many as the hard limit of descriptors gives to the server and to this process."""
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        count = min(wanted, hard - 200)
        if count < wanted:
            self.note(f"only {count} clients: the hard limit of descriptors is {hard}")
        return count

    def loaded(self, *flags, **options):
        """A server that has done a little of everything, at rest."""
        server = self.server(*flags, "--max-connections", "10000", **options)
        headers = [("x-pd-secret", SECRET)] if options.get("env") else []
        task = server.schedule("a witness", headers=headers)
        with server.stream(headers=headers) as stream:
            due = server.schedule("an event", 0, headers=headers)
            assert stream.next().id == due
        for _ in range(3):
            for path in ("/tasks", "/events", "/tasks/" + task, "/healthz", "/metrics"):
                assert server.call("GET", path, headers=headers).status == 200
        # Of the threads that begin when they are needed one may not have begun: while writes need no
        # sync and are quick, none is left to the committer.
        later = 1 if "--fsync" in flags else 0
        self.threads, self.before = server.threads() + later, server.resident_mib()
        return server

    def assert_normal(self, server, headers=()):
        """A normal request is answered at once, whoever else there is."""
        worst = 0.0
        for n in range(20):
            began = time.monotonic()
            path = ("/healthz", "/tasks?limit=1")[n % 2]
            self.assertEqual(server.call("GET", path, headers=headers).status, 200)
            worst = max(worst, time.monotonic() - began)
        began = time.monotonic()
        server.schedule("beside them", headers=headers)
        worst = max(worst, time.monotonic() - began)
        self.note(f"a normal request takes {worst * 1000:.0f} ms at most")
        self.assertLess(worst, support.SOON)

    def assert_cost(self, server, count, sent, bound=0.0):
        """The memory of so many clients that have sent so many bytes each, now."""
        grown = server.resident_mib() - self.before
        self.note(f"{count} clients cost {grown:.0f} MiB and {max(server.threads() - self.threads, 0)} "
                  "threads")
        self.assert_below(grown, bound + count * sent / MIB + self.room(count))
        self.assertLessEqual(server.threads(), self.threads, "no request has a thread")

    def room(self, count):
        """What so many clients may cost, in MiB."""
        return count * self.EACH / 1024

    def assert_below(self, mib, limit):
        if not support.SANITIZED:
            self.assertLess(mib, limit, "MiB")

    def assert_recovers(self, server):
        if support.SANITIZED:
            return
        began = time.monotonic()
        wait_for(lambda: server.resident_mib() < self.before + 16, what="the memory's coming back")
        self.note(f"memory is back after {time.monotonic() - began:.1f} s")
        wait_for(lambda: server.threads() <= self.threads, what="the end of all threads but those")

    def refusals(self, server, headers=()):
        text = server.call("GET", "/metrics", headers=headers).body.decode()
        return {reason: int(count) for reason, count in re.findall(
            r'^task_scheduler_requests_refused_total\{reason="(\w+)"\} (\d+)$', text, re.M)}

    def assert_counted(self, server, before, statuses, headers=()):
        """As many refusals are counted as were answered, each by its reason."""
        now = self.refusals(server, headers)
        found = {reason: now[reason] - before.get(reason, 0) for reason in now
                 if now[reason] != before.get(reason, 0)}
        refused = sum(status >= 400 for status in statuses)
        self.note(", ".join(f"{n}×{reason}" for reason, n in found.items()) or "nothing refused")
        self.assertGreaterEqual(sum(found.values()), refused, found)

    def assert_says_when(self, crowd):
        """Each 503 says when to come again, and each error why."""
        for text in crowd.received.values():
            if text[9:12] == b"503":
                self.assertRegex(text, rb"\r\nRetry-After: \d+\r\n")
            if text[9:10] in (b"4", b"5"):
                self.assertRegex(text, rb'\r\n\r\n\{"errors":\["')


class Slow(Load):
    def hold(self, start):
        """Thousands send this and then nothing for a while; and they go away."""
        server = self.loaded()
        count = self.clients(4000)
        crowd = Crowd(self, server.port, count)
        crowd.send(start.encode())
        self.assert_normal(server)
        self.assert_cost(server, count, len(start))
        crowd.close()
        self.assert_recovers(server)
        self.assertEqual(server.pending(), 2)

    def test_thousands_of_slow_heads_cost_no_thread_and_little_memory(self):
        self.hold(f"GET /healthz HTTP/1.1\r\n{HOST}X-Slow: ")

    def test_thousands_of_slow_bodies_cost_no_thread_and_little_memory(self):
        self.hold(f'POST /schedule HTTP/1.1\r\n{HOST}Content-Length: 1000\r\n\r\n{{"timestamp":')

    def test_thousands_of_slow_chunks_cost_no_thread_and_little_memory(self):
        self.hold(f"POST /schedule HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n3e8\r\n{{")

    def test_thousands_who_have_sent_much_and_stay_cost_little(self):
        server = self.loaded(env={"SCHEDULER_SECRET": SECRET})
        count = self.clients(2000)
        text = body("x" * 60_000)
        crowd = Crowd(self, server.port, count)
        crowd.send(f"POST /schedule HTTP/1.1\r\n{HOST}Content-Length: {len(text)}\r\n\r\n{text}"
                   .encode())
        self.assertEqual(set(crowd.await_answers()), {401})
        headers = [("x-pd-secret", SECRET)]
        self.assert_normal(server, headers)
        self.assert_cost(server, count, 0)
        crowd.close()
        self.assert_recovers(server)

    def test_thousands_who_drip_are_all_answered_in_the_end(self):
        server = self.loaded()
        count = self.clients(2000)
        crowd = Crowd(self, server.port, count)
        text = body("drip")
        whole = f"POST /schedule HTTP/1.1\r\n{HOST}Content-Length: {len(text)}\r\n\r\n{text}"
        for at in range(0, len(whole), 24):
            crowd.send(whole[at:at + 24].encode())
        self.assertEqual(set(crowd.await_answers()), {200})
        self.assertEqual(server.pending(), count + 1)
        self.assertLessEqual(server.threads(), self.threads)


class Unread(Load):
    ANSWERS = 64  # MiB of large answers that may be on their way by default

    def test_thousands_who_ask_for_pages_and_read_none_cost_no_thread_and_bounded_memory(self):
        server = self.loaded()
        text = "[" + ",".join(body("x" * 4000) for _ in range(100)) + "]"
        self.assertEqual(server.call("POST", "/schedule", text).status, 200)
        page = len(server.call("GET", "/tasks").body)
        self.before = server.resident_mib()
        refused = self.refusals(server)
        count = self.clients(4000 if support.LONG else 1500)
        crowd = Crowd(self, server.port, count, receive_buffer=4096)
        crowd.send(f"GET /tasks HTTP/1.1\r\n{HOST}\r\n".encode(), reading=False)
        self.assert_normal(server)
        # What is on its way, and what the one that makes pages has at hand.
        self.assert_cost(server, count, 100, self.ANSWERS + 32)
        statuses = crowd.await_answers(crowd.sockets[:300] + crowd.sockets[-100:])
        self.assertLessEqual(set(statuses), {200, 503})
        self.assertIn(200, statuses)
        self.note(f"{statuses.count(200)} pages of {page >> 10} KiB and {statuses.count(503)} "
                  f"refusals of {len(statuses)} read")
        self.assert_says_when(crowd)
        self.assert_counted(server, refused, statuses)
        crowd.close()
        self.assert_recovers(server)
        self.assertEqual(len(server.page("/tasks?limit=1000")["data"]), 102)

    def test_pages_asked_for_one_behind_the_other_and_not_read_are_bounded_too(self):
        server = self.loaded()
        text = "[" + ",".join(body("x" * 4000) for _ in range(100)) + "]"
        self.assertEqual(server.call("POST", "/schedule", text).status, 200)
        self.before = server.resident_mib()
        crowd = Crowd(self, server.port, 50, receive_buffer=4096)
        for one in crowd.sockets:  # as many as fit into the buffers of the system
            with contextlib.suppress(BlockingIOError):
                while True:
                    one.send(f"GET /tasks HTTP/1.1\r\n{HOST}\r\n".encode() * 500)
        self.assert_normal(server)
        self.assert_cost(server, 50, 0, self.ANSWERS + 32)
        crowd.close()
        self.assert_recovers(server)


class Bodies(Load):
    """Bodies of a MiB, all but their last byte, and then that."""
    COUNT = 400
    BODIES = 128  # MiB that bodies on their way may cost, generously

    def send_bodies(self, server, fields, text, count):
        crowd = Crowd(self, server.port, count)
        head = f"POST /schedule HTTP/1.1\r\n{HOST}{fields}Content-Length: {len(text)}\r\n\r\n"
        server.reset_peak()
        crowd.send((head + text[:-1]).encode())
        return crowd

    def largest(self, **others):
        frame = len(body("", **others))
        return body("x" * (MIB - frame), **others)

    def assert_holds(self, server, crowd, refused, allowed, headers):
        self.assert_normal(server, headers)
        crowd.send(b"}")
        statuses = crowd.await_answers()
        peak = server.peak_mib() - self.before
        counts = {status: statuses.count(status) for status in sorted(set(statuses))}
        self.note(f"answers {counts}, {peak:.0f} MiB at the peak")
        self.assertLessEqual(set(statuses), allowed)
        self.assert_says_when(crowd)
        self.assert_counted(server, refused, statuses, headers)
        self.assertLessEqual(server.threads(), self.threads)
        pages = server.call("GET", "/tasks?limit=1", headers=headers)
        self.assertEqual(pages.json["page_info"]["total_count"], 2 + statuses.count(200),
                         "what was answered with 200 is there, and nothing else")
        return statuses, peak

    def test_bodies_without_the_secret_are_bounded_and_leave_nothing(self):
        server = self.loaded(env={"SCHEDULER_SECRET": SECRET})
        headers = [("x-pd-secret", SECRET)]
        refused = self.refusals(server, headers)
        count = self.clients(1000)
        crowd = self.send_bodies(server, "", self.largest(), count)
        statuses, peak = self.assert_holds(server, crowd, refused, {401, 503}, headers)
        self.assertIn(401, statuses)
        self.assert_below(peak, self.BODIES + self.room(count))
        crowd.close()
        self.assert_recovers(server)

    def test_bodies_with_the_secret_in_them_are_stored_or_told_at_once_that_they_are_not(self):
        server = self.loaded("--fsync", "no", env={"SCHEDULER_SECRET": SECRET})
        headers = [("x-pd-secret", SECRET)]
        refused = self.refusals(server, headers)
        crowd = self.send_bodies(server, "", self.largest(secret=SECRET), self.COUNT)
        statuses, peak = self.assert_holds(server, crowd, refused, {200, 401, 503}, headers)
        self.assertIn(200, statuses)
        # What was stored stays, in memory too.
        self.assert_below(peak, self.BODIES + 2 * statuses.count(200) + self.room(self.COUNT))

    def test_bodies_with_the_secret_in_the_head_are_stored_or_get_503(self):
        server = self.loaded("--fsync", "no", env={"SCHEDULER_SECRET": SECRET})
        headers = [("x-pd-secret", SECRET)]
        refused = self.refusals(server, headers)
        fields = f"x-pd-secret: {SECRET}\r\n"
        crowd = self.send_bodies(server, fields, self.largest(), self.COUNT)
        statuses, peak = self.assert_holds(server, crowd, refused, {200, 503}, headers)
        self.assertIn(200, statuses)
        self.assert_below(peak, self.BODIES + 2 * statuses.count(200) + self.room(self.COUNT))


class Budgets(Load):
    def test_connections_beyond_the_limit_get_503_are_counted_and_harm_nobody(self):
        server = self.server("--max-connections", "50")
        inside = [self.opened(server.wire()) for _ in range(50)]
        for wire in inside:
            self.assertEqual(wire.call("GET", "/healthz").status, 200)
        before = self.refusals_by(inside[0])
        crowd = Crowd(self, server.port, 300)
        self.assertEqual(crowd.await_answers(), [503] * 300)
        self.assert_says_when(crowd)
        now = self.refusals_by(inside[0])
        self.assertEqual(now["connections"] - before["connections"], 300)
        for wire in inside:
            self.assertEqual(wire.call("POST", "/schedule", body("x")).status, 200)
        inside.pop().close()
        wait_for(lambda: server.call("GET", "/healthz").status == 200, what="room for another")

    def test_large_answers_beyond_the_limit_get_503_and_those_within_it_come_whole(self):
        server = self.loaded("--max-body", "8388608")
        text = "[" + ",".join(body("x" * 40_000) for _ in range(100)) + "]"
        self.assertEqual(server.call("POST", "/schedule", text).status, 200)
        self.before = server.resident_mib()
        refused = self.refusals(server)
        crowd = Crowd(self, server.port, 80, receive_buffer=65_536,
                      first=f"GET /tasks HTTP/1.1\r\n{HOST}\r\n".encode())
        self.assert_normal(server)
        try:
            wait_for(lambda: sum(self.refusals(server).values()) > sum(refused.values()), 10,
                     "a refusal")
        except AssertionError:
            self.note("the buffers of the system take whole answers, so that none is on its way")
        self.assert_cost(server, 80, 0, 64 + 32)
        statuses = crowd.await_answers()
        self.assertLessEqual(set(statuses), {200, 503})
        self.assert_says_when(crowd)
        self.assert_counted(server, refused, statuses)
        self.note(f"{statuses.count(200)} whole pages of 4 MiB")
        self.assertGreater(statuses.count(200), 8)
        for _ in range(30):  # what was refused is not refused for ever
            self.assertEqual(server.call("GET", "/tasks").status, 200)

    def test_streams_beyond_the_limit_are_told_to_come_back_and_are_counted(self):
        server = self.server("--max-streams", "20")
        inside = [self.opened(server.stream()) for _ in range(20)]
        before = self.refusals(server)
        crowd = Crowd(self, server.port, 100)
        crowd.send(f"GET /sse HTTP/1.1\r\n{HOST}\r\n".encode())
        wait_for(lambda: [crowd.read(one) for one in crowd.sockets if one not in crowd.ended] == [],
                 what="the end of those that are refused")
        for text in crowd.received.values():
            self.assertRegex(text, rb"(?s)^HTTP/1.1 200 .*\r\n\r\n.*retry: 30000\n")
        self.assertEqual(self.refusals(server)["streams"] - before["streams"], 100)
        task = server.schedule("x", 0)
        self.assertEqual({stream.next().id for stream in inside}, {task})

    def refusals_by(self, wire):
        text = wire.call("GET", "/metrics").body.decode()
        return {reason: int(count) for reason, count in re.findall(
            r'^task_scheduler_requests_refused_total\{reason="(\w+)"\} (\d+)$', text, re.M)}


class SlowWrites(TestCase):
    """A kernel that throttles the journal's writer: each write takes a second."""

    def writer(self, server, done):
        """Schedules one task after the other; the moments of the answers."""
        answered = []

        def run():
            with contextlib.suppress(Closed, OSError), server.wire(seconds=20) as wire:
                while not done.is_set():
                    assert wire.call("POST", "/schedule", body("x")).status == 200
                    answered.append(time.monotonic())

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.addCleanup(lambda: (done.set(), thread.join(20)))
        return answered

    def test_from_the_second_slow_write_on_nobody_else_waits_for_it(self):
        library = preloaded(self, "writes")
        for policy in ("everysec", "no"):
            with self.subTest(policy):
                slow = os.path.join(support.WORK, f"slow-{policy}")
                server = self.server("--fsync", policy,
                                     env={"LD_PRELOAD": library, "WRITES_FILE": slow})
                task = server.schedule("a witness")
                due = server.schedule("an event", 0)
                wait_for(lambda: server.page("/tasks/" + due)["status"] == "emitted")
                with open(slow, "w") as file:
                    file.write("1000")
                self.addCleanup(lambda path=slow: os.path.exists(path) and os.unlink(path))
                done = threading.Event()
                answered = self.writer(server, done)
                other = self.writer(server, done)
                wait_for(lambda: answered and other, what="the first slow write")
                times = self.times_of_readers(server, task, lambda: len(answered) >= 4)
                os.unlink(slow)
                done.set()
                # The machine itself may hold up one or the other.
                most = {what: sorted(some)[len(some) * 9 // 10] for what, some in times.items()}
                self.note(f"{policy}: nine of ten take {max(most.values()) * 1000:.0f} ms at most")
                self.assertLess(max(most.values()), 0.5, most)

    def times_of_readers(self, server, task, enough):
        """How long each kind of them has taken, each time."""
        times = collections.defaultdict(list)
        with server.wire(seconds=20) as wire:
            while not enough():
                for path in ("/healthz", "/tasks/" + task, "/events?limit=1", "/tasks?limit=1"):
                    began = time.monotonic()
                    self.assertEqual(wire.call("GET", path).status, 200)
                    times[path].append(time.monotonic() - began)
                began = time.monotonic()
                with server.stream(last="earliest") as stream:
                    self.assertEqual(stream.next().message, "an event")
                times["/sse"].append(time.monotonic() - began)
        return times


class Ending(Load):
    """SIGTERM beside everything that it can meet."""

    def test_a_signal_ends_10000_streams_beside_64_who_schedule_and_keeps_what_it_answered(self):
        for policy in ("always", "everysec"):
            with self.subTest(policy):
                self.end_beside_streams(policy, self.clients(10_000))

    def end_beside_streams(self, policy, count):
        server = self.server("--fsync", policy, "--max-streams", str(count))
        streams = Crowd(self, server.port, count,
                        first=f"GET /sse HTTP/1.1\r\n{HOST}\r\n".encode())
        wait_for(lambda: self.have(streams, b"event: cursor"), what="the beginning of all streams")
        task = server.schedule("to all", 0)
        wait_for(lambda: self.have(streams, task.encode()), what="an event to every stream")
        answered, threads = [], []
        for _ in range(64):
            threads.append(threading.Thread(target=self.schedule, args=(server, answered)))
            threads[-1].start()
        wait_for(lambda: len(answered) > 2000, what="2,000 answers")
        status, seconds = server.stop()
        self.note(f"{policy}: {count} streams, {len(answered)} schedules, {seconds:.2f} s")
        for thread in threads:
            thread.join(20)
        self.assertEqual(status, 0, server.stderr()[-2000:])
        self.assertLess(seconds, support.SOON)
        with open(server.journal, encoding="utf-8") as file:
            stored = set(re.findall(support.UUID, file.read()))
        self.assertLessEqual(set(answered), stored, "what got a 200 is in the journal")
        streams.close()

    def have(self, streams, words):
        """Whether each stream has them by now."""
        waiting = [one for one in streams.sockets if words not in streams.received[one]]
        for one in waiting:
            streams.read(one)
        return not waiting

    def schedule(self, server, answered):
        """Schedules until the server ends."""
        with contextlib.suppress(Closed, OSError), server.wire(seconds=20) as wire:
            while True:
                answer = wire.call("POST", "/schedule", body("x"))
                if answer.status != 200:
                    return  # it is ending
                answered.append(answer.json["id"])
