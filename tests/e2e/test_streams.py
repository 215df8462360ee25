# SPDX-License-Identifier: MIT
"""GET /sse: what comes first, what an event looks like, resuming, limits, and many at once."""
import contextlib
import json
import random
import select
import signal
import socket
import threading
import time

import support
from support import UNKNOWN, Closed, Stream, TestCase, body, iso, wait_for


class Format(TestCase):
    def test_a_stream_begins_with_its_head_the_retry_time_and_a_cursor(self):
        server = self.server()
        with server.stream() as stream:
            head = stream.answer_head
            self.assertEqual(head.header("Content-Type").split(";")[0], "text/event-stream")
            self.assertEqual(head.header("Cache-Control"), "no-cache, no-transform")
            self.assertEqual(head.header("X-Accel-Buffering"), "no")
            self.assertIsNone(head.header("Content-Length"))
            self.assertEqual(stream.retry, 3000)
            cursor = stream.cursor
            self.assertEqual((cursor.type, cursor.id, cursor.data), ("cursor", "earliest", "{}"))

    def test_an_event_is_its_id_and_its_payload_a_line_each(self):
        server = self.server()
        with server.stream() as stream:
            for message in ({"a": [1, 2]}, "line\nbreak", "x" * 500_000):
                answer = server.call("POST", "/schedule", body(message, "2020-01-01"))
                payload = '{"timestamp":"2020-01-01","message":' + json.dumps(
                    message, separators=(",", ":")) + "}"
                self.assertEqual(stream.next().lines,
                                 ["id: " + answer.json["id"], "data: " + payload])

    def test_events_come_in_order_of_due_time_and_ties_in_order_of_arrival(self):
        server = self.server()
        with server.stream() as first, server.stream() as second:
            # All at once, so that none falls due before the last is there.
            due = iso(0.6)
            tasks = [{"timestamp": due, "message": str(n)} for n in range(20)]
            tasks.append({"timestamp": iso(0.4), "message": "sooner"})
            *ids, sooner = server.call("POST", "/schedule", json.dumps(tasks)).json["ids"]
            events = first.messages(21)
            self.assertEqual([event.id for event in events], [sooner, *ids])
            self.assertEqual([e.lines for e in second.messages(21)], [e.lines for e in events])

    def test_a_silent_stream_is_kept_alive_every_15_seconds(self):
        if not support.LONG:
            self.skipTest("waits 33 seconds: only with --long")
        server = self.server()
        with server.stream(seconds=20) as stream:
            for _ in range(2):
                began = time.monotonic()
                self.assertEqual(stream.take_until(b"\n\n"), b":keepalive")
                self.assertAlmostEqual(time.monotonic() - began, 15, delta=1.5)
            task = server.schedule("x", 0)
            self.assertEqual(stream.next().id, task)


    def test_a_stream_on_which_nothing_matches_is_told_its_cursor_and_resumes_from_it(self):
        server = self.server("--history", "3")
        with server.stream(query="?topic=a", seconds=25) as stream:
            passed = [server.schedule(str(n), 0, topic="b") for n in range(5)]
            told = stream.next()  # with the next keep-alive
            self.assertEqual((told.type, told.data, told.id), ("cursor", "{}", passed[-1]))
        missed = [server.schedule("x", 0, topic=topic) for topic in "aba"]
        server.restart()
        with server.stream(query="?topic=a", last=told.id) as stream:
            self.assertEqual([event.id for event in stream.messages(2)], missed[::2])


class Resume(TestCase):
    def some_events(self, server, count=6):
        with server.stream() as stream:
            ids = []
            for n in range(count):
                ids.append(server.schedule(str(n), 0))
                self.assertEqual(stream.next().id, ids[-1])
        return ids

    def follows(self, server, expected, **options):
        """The stream gives what is expected and then, seamlessly, what is new."""
        with server.stream(**options) as stream:
            new = server.schedule("new", 0)
            got = [event.id for event in stream.messages(len(expected) + 1)]
            self.assertEqual(got, [*expected, new])
        expected.append(new)
        return stream.cursor.id

    def test_a_stream_resumes_right_after_the_last_event_id_by_header_and_by_query(self):
        server = self.server()
        ids = self.some_events(server)
        for at in (0, 3, len(ids) - 1):
            for options in ({"last": ids[at]}, {"query": "?last_event_id=" + ids[at]}):
                with self.subTest(options):
                    rest = ids[at + 1:]
                    cursor = self.follows(server, rest, **options)
                    self.assertEqual(cursor, ids[at])
                    ids = ids[:at + 1] + rest

    def test_the_header_goes_before_the_query(self):
        # A browser reconnects to the same address, and only the header knows how far it came.
        server = self.server()
        ids = self.some_events(server)
        self.follows(server, ids[5:], last=ids[4], query="?last_event_id=" + ids[0])

    def test_earliest_gives_all_that_is_retained(self):
        server = self.server()
        ids = self.some_events(server)
        for options in ({"last": "earliest"}, {"query": "?last_event_id=earliest"}):
            self.assertEqual(self.follows(server, ids, **options), "earliest")

    def test_without_a_last_event_id_only_new_events_come_and_the_cursor_names_the_last(self):
        server = self.server()
        ids = self.some_events(server)
        self.assertEqual(self.follows(server, []), ids[-1])

    def test_a_client_that_drops_before_its_first_event_misses_nothing(self):
        server = self.server()
        for _ in range(2):
            with server.stream() as stream:
                cursor = stream.last
            missed = [server.schedule("missed", 0)]
            self.follows(server, missed, last=cursor)

    def test_an_unknown_last_event_id_is_told_by_a_gap_and_then_all_that_is_retained(self):
        server = self.server()
        ids = self.some_events(server, 3)
        for unknown in (UNKNOWN, "nonsense", "5"):
            for options in ({"last": unknown}, {"query": "?last_event_id=" + unknown}):
                with self.subTest(options), Stream(server.port, **options) as stream:
                    self.assertEqual(stream.head().status, 200)
                    events = [stream.next() for _ in range(2 + len(ids))]
                    named = [event for event in events if event.type != "message"]
                    gap = [event for event in named if event.type == "gap"]
                    self.assertEqual(len(gap), 1, events)
                    self.assertEqual(json.loads(gap[0].data),
                                     {"requested": unknown, "oldest": ids[0]})
                    self.assertEqual([e.id for e in events if e.type == "message"], ids)

    def test_a_gap_without_any_history_is_told_too(self):
        server = self.server()
        with Stream(server.port, last=UNKNOWN) as stream:
            self.assertEqual(stream.head().status, 200)
            types = {stream.next().type, stream.next().type}
            self.assertEqual(types, {"gap", "cursor"})
            task = server.schedule("x", 0)
            self.assertEqual(stream.next().id, task)

    def test_history_and_live_meet_without_a_gap_or_a_repeat_under_a_burst(self):
        server = self.server("--fsync", "no")
        due = iso(1.5)
        count = 5000 if support.LONG else 1000
        with server.wire() as wire, server.stream() as first:
            for n in range(count):
                wire.request("POST", "/schedule", body({"n": n}, due))
                if n % 50 == 49:
                    for _ in range(50):
                        self.assertEqual(wire.answer().status, 200)
            everything = [first.next().id]
            late = [server.stream(last="earliest") for _ in range(3)]  # in the midst of it
            everything += [event.id for event in first.messages(count - 1)]
            self.assertEqual(len(set(everything)), count)
            for stream in late:
                with stream:
                    self.assertEqual([e.id for e in stream.messages(count)], everything)

    def test_history_is_retained_for_a_minute_and_then_trimmed(self):
        if not support.LONG:
            self.skipTest("waits over a minute: only with --long")
        server = self.server("--history", "2")
        ids = self.some_events(server, 5)
        self.assertEqual(len(server.page("/events")["data"]), 5, "each for 60 s at least")
        wait_for(lambda: len(server.page("/events")["data"]) == 2, 90, "trimming")
        answer = server.call("GET", "/events?after=" + ids[0])
        self.assertIn(ids[3], " ".join(self.assert_errors(answer, 404)))
        self.assert_errors(server.call("GET", "/tasks/" + ids[0]), 404)
        with Stream(server.port, last=ids[2]) as stream:
            self.assertEqual(stream.head().status, 200)
            events = [stream.next() for _ in range(4)]
            gap = [event for event in events if event.type == "gap"]
            self.assertEqual(json.loads(gap[0].data), {"requested": ids[2], "oldest": ids[3]})
            self.assertEqual([event.id for event in events if event.type == "message"], ids[3:])


class Reader(threading.Thread):
    """Reads a stream as bytes, up to the block that `ends` it, and keeps the blocks of events.

    It drops the connection after so many events as `drops` says, mostly in the midst of a block,
    and resumes from the last whole one, as a browser does: by header and by query in turn.  With
    `piece` and `pause` it takes that many bytes at a time and rests in between.
    """

    def __init__(self, server, ends, last=None, query="", drops=(), piece=1 << 20, pause=0.0):
        super().__init__(daemon=True)
        self.server, self.ends, self.drops = server, ends, sorted(drops)
        self.piece, self.pause = piece, pause
        self.blocks, self.failure, self.resumed = [], None, []
        self.stream = self.connect(last, query)
        self.first = self.stream.cursor.id

    def connect(self, last=None, query=""):
        small = 4096 if self.pause else None
        return self.server.stream(last, query, seconds=60, receive_buffer=small)

    def run(self):
        try:
            while not self.blocks or self.ends not in self.blocks[-1]:
                self.take_blocks()
                if self.drops and len(self.blocks) >= self.drops[0]:
                    self.resume()
        except (AssertionError, Closed, OSError) as error:
            self.failure = error
        finally:
            self.stream.close()

    def take_blocks(self):
        data = self.stream.socket.recv(self.piece)
        if not data:
            raise Closed(f"after {len(self.blocks)} events")
        *blocks, self.stream.buffer = (self.stream.buffer + data).split(b"\n\n")
        self.blocks += [block for block in blocks if block != b":keepalive"]
        time.sleep(self.pause)

    def resume(self):
        # What came after the chosen event is as good as lost with the connection.
        del self.blocks[self.drops.pop(0):]
        last = self.blocks[-1].split(b"\n")[0].removeprefix(b"id: ").decode()
        self.resumed.append(time.monotonic())
        self.stream.close()
        how = {"last": last} if len(self.drops) % 2 else {"query": "?last_event_id=" + last}
        self.stream = self.connect(**how)
        assert self.stream.cursor.id == last, (self.stream.cursor, last)


class Burst(TestCase):
    COUNT, ARRAY = 100_000, 10_000
    ENDS = b'"the end"'

    def schedule_burst(self, server, due):
        """Returns the blocks that a stream must consist of: ties go in order of arrival."""
        blocks = []
        with server.wire() as wire:
            for start in range(0, self.COUNT, self.ARRAY):
                payloads = [f'{{"timestamp":"{due}","message":[{n}]}}'
                            for n in range(start, start + self.ARRAY)]
                answer = wire.call("POST", "/schedule", "[" + ",".join(payloads) + "]")
                self.assertEqual(answer.status, 200, answer)
                blocks += [f"id: {task}\ndata: {payload}".encode()
                           for task, payload in zip(answer.json["ids"], payloads, strict=True)]
        return blocks

    def assert_blocks(self, got, expected, who):
        """As assertEqual, which would compare two long lists for minutes."""
        if got != expected:
            at = next((n for n, (a, b) in enumerate(zip(got, expected)) if a != b),
                      min(len(got), len(expected)))
            self.fail(f"{who}: {len(got)} of {len(expected)} events; the first that is wrong is "
                      f"number {at}: {got[at:at + 3]}, not {expected[at:at + 3]}")

    def test_100000_events_at_one_instant_reach_all_who_come_and_go_once_and_in_order(self):
        server = self.server("--history", str(self.COUNT + 1))
        chance = random.Random(support.SEED)
        readers = {}

        def read(who, **options):
            readers[who] = Reader(server, self.ENDS, **options)
            readers[who].start()

        read("the steady one")
        read("the slow one", piece=4096, pause=0.0005)
        for n in range(4):  # more often early on, while events are still emitted
            drops = [int(2 ** chance.uniform(0, 16.6)) for _ in range(30)]
            read(f"the restless one {n}", drops=drops)
        expected = self.schedule_burst(server, iso(4))
        wait_for(lambda: server.pending() < self.COUNT, what="the burst")
        came = 0
        while server.pending():
            newest = server.page("/events?limit=1")["data"][0]["id"]
            if came < 12:
                read(f"one that comes amid it {came}", last=(newest, "earliest", None)[came % 3])
                came += 1
        over = time.monotonic()
        some = expected[chance.randrange(self.COUNT)][4:40].decode()
        read("the one that comes after it", last="earliest")
        read("the one that resumes by header", last=some)
        read("the one that resumes by query", query="?last_event_id=" + some)
        server.schedule("the end", 0)

        place = {block[4:40].decode(): n for n, block in enumerate(expected, 1)}
        for who, reader in readers.items():
            reader.join(120)
            self.assertFalse(reader.is_alive(), f"{who} still waits")
            self.assertIsNone(reader.failure, who)
            first = 0 if reader.first == "earliest" else place[reader.first]
            self.assert_blocks(reader.blocks[:-1], expected[first:], who)
        resumed = [moment for reader in readers.values() for moment in reader.resumed]
        amid = sum(moment < over for moment in resumed)
        self.assertGreater(came + amid, 0, "nobody came in the midst of the burst")
        self.note(f"{came} came amid it, and {amid} of {len(resumed)} times one resumed amid it")


class Limits(TestCase):
    def test_over_the_stream_limit_the_answer_is_200_a_long_retry_and_the_end(self):
        server = self.server("--max-streams", "2")
        streams = [self.opened(server.stream()) for _ in range(2)]
        with Stream(server.port) as third:
            head = third.head()
            self.assertEqual(head.status, 200)
            self.assertEqual(head.header("Content-Type").split(";")[0], "text/event-stream")
            text = third.rest().decode()
            self.assertIn("retry: 30000", text.split("\n"))
            self.assertNotIn("data:", text)
        self.assertEqual(server.call("GET", "/tasks").status, 200)
        streams[0].close()

        def admitted():
            with Stream(server.port) as stream:
                return b"event: cursor" in stream.take_until(b"\n\n") or \
                    b"event: cursor" in stream.rest()

        wait_for(admitted, what="a place for a new stream")
        task = server.schedule("x", 0)
        self.assertEqual(streams[1].next().id, task)

    def test_over_the_connection_limit_the_answer_is_503_with_retry_after(self):
        server = self.server("--max-connections", "4")
        idle = [self.opened(server.wire()) for _ in range(4)]
        for wire in idle:
            self.assertEqual(wire.call("GET", "/healthz").status, 200)
        with server.wire() as wire:
            wire.request("GET", "/healthz")
            answer = wire.answer()
            self.assertIn(answer.status, (429, 503))
            self.assert_errors(answer, answer.status)
            self.assertTrue(answer.header("Retry-After"), answer)
        idle[0].close()

        def served():
            try:
                return server.call("GET", "/healthz").status == 200
            except (support.Closed, ConnectionError):
                return False

        wait_for(served, what="a place for a new connection")

    def test_a_stalled_reader_disturbs_nobody_and_misses_nothing(self):
        server = self.server("--fsync", "no")
        before = server.resident_mib()
        stalled = self.opened(server.stream(receive_buffer=4096))
        with server.stream() as good:
            ids, worst = [], 0.0
            for n in range(400):  # 26 MB, far more than the socket's buffers hold
                began = time.monotonic()
                ids.append(server.schedule("x" * 65_000, 0))
                self.assertEqual(good.next().id, ids[-1])
                worst = max(worst, time.monotonic() - began)
        growth = server.resident_mib() - before
        self.note(f"worst round trip {worst * 1000:.0f} ms, {growth:.0f} MiB for 26 MB of history")
        self.assertLess(worst, support.SOON)
        if not support.SANITIZED:
            self.assertLess(growth, 100, "the history, and no second copy for each reader")
        self.assertEqual([event.id for event in stalled.messages(400)], ids)

    def test_a_client_that_shuts_down_its_sending_side_keeps_its_stream(self):
        server = self.server()
        with server.stream() as stream:
            stream.socket.shutdown(socket.SHUT_WR)
            for n in range(5):
                task = server.schedule(str(n), 0)
                self.assertEqual(stream.next().id, task)

    def test_streams_that_vanish_make_room_and_harm_nobody(self):
        server = self.server("--max-streams", "5")
        with server.stream() as good:
            for n in range(40):
                stream = Stream(server.port)
                if n % 3 == 0:
                    stream.head()
                (stream.reset if n % 2 else stream.close)()
                task = server.schedule("x", 0)
                self.assertEqual(good.next().id, task)


class Crowd(threading.Thread):
    """Streams that read all that is retained as fast as it comes, and keep nothing."""

    def __init__(self, server, count):
        super().__init__(daemon=True)
        self.epoll, self.bytes, self.done = select.epoll(), 0, False
        streams = [Stream(server.port, last="earliest", seconds=20) for _ in range(count)]
        self.sockets = {stream.socket.fileno(): stream.socket for stream in streams}
        for stream in streams:
            stream.socket.setblocking(False)
            self.epoll.register(stream.socket, select.EPOLLIN)
        self.start()

    def run(self):
        buffer = bytearray(1 << 20)
        while not self.done:
            for number, _ in self.epoll.poll(0.1):
                with contextlib.suppress(BlockingIOError):
                    self.bytes += self.sockets[number].recv_into(buffer)

    def end(self):
        self.done = True
        self.join()
        for one in self.sockets.values():
            one.close()


class Many(TestCase):
    def fill(self, server, streams, count):
        while len(streams) < count:
            batch = [self.opened(Stream(server.port, seconds=20))
                     for _ in range(min(100, count - len(streams)))]
            streams += [stream.open() for stream in batch]

    def test_scheduling_answers_at_once_beside_8_and_beside_1000_streams(self):
        # With the soft limit of open files that a login gives: a thousand streams are allowed by
        # default, so they must fit.
        server = self.server(soft_files=support.SOFT_FILES)
        streams = []
        for count in (8, 1000):
            self.fill(server, streams, count)
            for _ in range(3):
                began = time.monotonic()
                task = server.schedule("x", 0)
                answered = time.monotonic() - began
                for stream in streams:
                    self.assertEqual(stream.next().id, task)
                reached = time.monotonic() - began
                self.assertLess(answered, support.SOON)
                self.assertLess(reached, support.SOON)
            self.note(f"{count} streams: answer after {answered * 1000:.1f} ms, "
                      f"the last reached after {reached * 1000:.0f} ms")

    def test_a_live_stream_has_its_events_at_once_beside_900_that_catch_up(self):
        server = self.server("--fsync", "no")
        count, message = 10_000, "x" * 2_000
        with server.wire() as wire:
            for _ in range(count // 400):
                answer = wire.call("POST", "/schedule",
                                   "[" + ",".join([body(message, "2020-01-01")] * 400) + "]")
                self.assertEqual(answer.status, 200, answer)
        wait_for(lambda: not server.pending(), what="the history")
        with server.stream() as live:
            crowd = Crowd(server, 900)
            self.addCleanup(crowd.end)
            wait_for(lambda: crowd.bytes, what="the first of those that catch up")
            worst = 0.0
            for _ in range(20):
                began = time.monotonic()
                task = server.schedule("x", 0)
                self.assertEqual(live.next().id, task)
                worst = max(worst, time.monotonic() - began)
            caught_up = crowd.bytes / (900 * count * len(message))
        self.note(f"worst round trip {worst * 1000:.0f} ms; the others had {caught_up:.1%} meanwhile")
        # Unlike a time, what the others had meanwhile hardly depends on the machine.
        self.assertLess(caught_up, 0.15)
        self.assertLess(worst, support.SOON)

    def test_more_streams_than_one_thread_writes_get_every_event_in_order(self):
        server = self.server("--max-streams", "3500")
        streams, chance = [], random.Random(support.SEED)
        for goes in (0, 1200):
            for _ in range(goes):  # of all writers
                streams.pop(chance.randrange(len(streams))).close()
            self.fill(server, streams, 2200)
            ids = [server.schedule("x", 0) for _ in range(5)]
            for stream in streams:
                self.assertEqual([stream.next().id for _ in ids], ids)
        status, seconds = server.stop()
        self.assertEqual(status, 0, server.stderr())
        self.assertLess(seconds, support.SOON)
        for stream in streams:
            self.assertTrue(stream.closed_by_server())
            stream.close()

    def test_a_signal_ends_a_thousand_streams_and_the_process_at_once(self):
        for how in (signal.SIGTERM, signal.SIGINT):
            server = self.server()
            task = server.schedule("kept")
            streams = []
            self.fill(server, streams, 1000)
            idle = server.wire()  # a connection in the midst of a request keeps nobody waiting
            idle.send("POST /schedule HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
            status, seconds = server.stop(how)
            self.note(f"{how.name}: {seconds:.2f} s")
            self.assertEqual(status, 0, server.stderr())
            self.assertLess(seconds, support.SOON)
            for stream in streams:
                self.assertTrue(stream.closed_by_server(), "a stream just ends")
                stream.close()
            idle.close()
            server.start()
            self.assertIn("1 pending task", server.line)
            self.assertEqual(server.page("/tasks/" + task)["status"], "pending")
