# SPDX-License-Identifier: MIT
"""Bad input of every kind: the right status or a closed connection, and the server goes on."""
import contextlib
import random
import select
import socket
import time

import support
from support import Closed, TestCase, body

HOST = "Host: 127.0.0.1\r\n"
GET = f"GET /healthz HTTP/1.1\r\n{HOST}"
POST = f"POST /schedule HTTP/1.1\r\n{HOST}"
TASK = '{"timestamp":"2020-01-01","message":"x"}'
# A request that would be answered, were it taken for one.
SMUGGLED = f"GET /tasks/smuggled HTTP/1.1\r\n{HOST}\r\n"


class Hostile(TestCase):
    growth = 64  # MiB that abuse may cost, for good

    def setUp(self):
        super().setUp()
        self.target = self.server()
        self.task = self.target.schedule("a witness")
        self.before = self.target.resident_mib()

    def tearDown(self):
        # Whatever was done to it: it answers, it knows its task, and it has not grown.
        self.assertEqual(self.target.call("GET", "/healthz").status, 200)
        self.assertEqual(self.target.page("/tasks/" + self.task)["status"], "pending")
        support.wait_for(lambda: self.target.resident_mib() - self.before < self.growth,
                         support.SOON, f"that it has grown by less than {self.growth} MiB")

    def statuses(self, data, seconds=10):
        """Sends bytes and reads answers until the server closes: their statuses."""
        with self.target.wire(seconds=seconds) as wire:
            wire.send_until_answered([data.encode("latin-1") if isinstance(data, str) else data])
            found = []
            with contextlib.suppress(Closed):
                while True:
                    answer = wire.answer()
                    if answer.status >= 400:
                        self.assertIn("errors", answer.json)
                    found.append(answer.status)
            return found


class Sizes(Hostile):
    def test_a_body_of_the_limit_is_taken_and_one_byte_more_is_413(self):
        limit = 1 << 20
        frame = len(body(""))
        for extra, status in ((0, 200), (1, 413)):
            text = body("x" * (limit - frame + extra))
            with self.subTest(len(text) - limit):
                self.assertEqual(self.target.call("POST", "/schedule", text).status, status)
                head = f"{POST}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
                chunks = f"{len(text):x}\r\n{text}\r\n0\r\n\r\n"
                self.assertEqual(self.statuses(head + chunks), [status])
        self.target.restart("--max-body", "100")
        self.assertEqual(self.target.call("POST", "/schedule", body("x" * 100)).status, 413)
        self.assertEqual(self.target.call("POST", "/schedule", body("x")).status, 200)
        self.before = self.target.resident_mib()

    def test_a_body_of_100_mb_is_413_with_and_without_a_length(self):
        block = b"x" * (1 << 20)
        for head, chunk in (("Content-Length: 104857600", block),
                            ("Transfer-Encoding: chunked", b"100000\r\n" + block + b"\r\n"),
                            ("Transfer-Encoding: chunked", b"1\r\nx\r\n" * 100_000)):
            with self.subTest(head), self.target.wire() as wire:
                wire.send(f"{POST}{head}\r\n\r\n")
                sent = wire.send_until_answered([chunk] * 100)
                self.assert_errors(wire.answer(), 413)
                self.assertLess(sent, 32 << 20, "it is refused before it is read")

    def test_the_limit_holds_on_every_route_that_takes_a_body(self):
        for method, path in (("POST", "/cancel"), ("DELETE", "/tasks/x"), ("GET", "/tasks"),
                             ("POST", "/nope"), ("PUT", "/schedule")):
            for head in ("Content-Length: 99999999", "Transfer-Encoding: chunked"):
                with self.subTest(f"{method} {path} {head}"), self.target.wire() as wire:
                    wire.send(f"{method} {path} HTTP/1.1\r\n{HOST}{head}\r\n\r\n")
                    wire.send_until_answered([b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"] * 30)
                    status = wire.answer().status
                    # A GET has no use for a body: it may leave it unread, and then close.
                    self.assertIn(status, (200, 413) if method == "GET" else (400, 404, 405, 413))
                    self.assertTrue(wire.closed_by_server())

    def test_a_length_that_no_machine_holds_is_413_or_400(self):
        for length in ("9223372036854775807", "9223372036854775808", "18446744073709551615",
                       "18446744073709551616", "9" * 100):
            with self.subTest(length), self.target.wire() as wire:
                wire.send(f"{POST}Content-Length: {length}\r\n\r\n{TASK}")
                self.assertIn(wire.answer().status, (400, 413))
                self.assertTrue(wire.closed_by_server())

    def test_a_path_of_60000_characters_is_414(self):
        for path in ("/" + "x" * 60_000, "/tasks/" + "a" * 60_000, "/tasks?" + "a=b&" * 15_000,
                     "/sse?last_event_id=" + "x" * 60_000, "/" + "%41" * 20_000):
            with self.subTest(path[:20]):
                self.assertEqual(self.statuses(f"GET {path} HTTP/1.1\r\n{HOST}\r\n"), [414])
        self.assertIn(self.statuses("GET /" + "x" * 5_000_000), ([414], []))

    def test_a_head_over_16_kib_is_431(self):
        line = "X: " + "y" * 4000 + "\r\n"
        self.assertEqual(self.statuses(f"{GET}{line * 3}Connection: close\r\n\r\n"), [200])
        for lines in (line * 5, "X: " + "y" * 17_000 + "\r\n", "X: " + "y" * 60_000_000 + "\r\n",
                      "a: b\r\n" * 5_000, "a:\r\n" * 500_000, "X" * 20_000 + ": y\r\n",
                      "X" * 20_000):
            with self.subTest(lines[:10], size=len(lines)):
                self.assertEqual(self.statuses(f"{GET}{lines}\r\n"), [431])


class Framing(Hostile):
    def test_conflicting_framing_is_400_and_the_connection_ends(self):
        size = len(TASK)
        length = f"Content-Length: {size}"
        chunked = "Transfer-Encoding: chunked"
        for head in (
            f"{length}\r\n{length}", f"{length}\r\nContent-Length: {size + 1}",
            f"content-length: {size}\r\nCONTENT-LENGTH: 5", f"{length}\r\n{chunked}",
            f"{chunked}\r\n{length}", f"{chunked}\r\nContent-Length: 0",
            f"Content-Length: +{size}", f"Content-Length: -{size}", "Content-Length: -1",
            f"Content-Length: 0x{size:x}", f"Content-Length: {size}a", "Content-Length: a",
            "Content-Length:", "Content-Length: ", f"Content-Length: {size},{size}",
            f"Content-Length: {size} {size}", f"Content-Length: {size}.0", "Content-Length: 1e1",
            f'Content-Length: "{size}"', f"Content-Length: {size}\x0b", f"Content-Length : {size}",
            f"Content-Length\t: {size}", f" Content-Length: {size}", f"X: y\r\n {length}",
            f"X: y\r\n\t{length}", "Transfer-Encoding : chunked", "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked, identity", "Transfer-Encoding: gzip, chunked",
            f"{chunked}\r\n{chunked}", "Transfer-Encoding:", "Transfer-Encoding: \x0bchunked",
            "Transfer-Encoding: chunked;q=1", "Transfer-Encoding: 'chunked'",
        ):
            with self.subTest(head):
                data = f"{POST}{head}\r\n\r\n{TASK}{SMUGGLED}"
                found = self.statuses(data)
                # A coding that the server does not have may be named as such.
                allowed = ([400], [415]) if "gzip" in head or "identity" in head else ([400],)
                self.assertIn(found, allowed)
        events = self.target.page("/events")["page_info"]["total_count"]
        self.assertEqual((self.target.pending(), events), (1, 0), "nothing was scheduled")

    def test_a_malformed_head_is_400_and_the_connection_ends(self):
        for head in ("\0", "GET", "GET /", "GET /healthz", "GET /healthz HTTP/3.0", "GET  /healthz",
                     "GET /healthz HTTP/1.1 x", "GET healthz HTTP/1.1", " GET /healthz HTTP/1.1",
                     "G\0T /healthz HTTP/1.1", "GET /heal\0thz HTTP/1.1", "/healthz GET HTTP/1.1",
                     "GET\t/healthz\tHTTP/1.1", "GET /healthz http/1.1",
                     "GET /healthz HTTP/1.1\r\nx",
                     "GET /healthz HTTP/1.1\r\n: x", "GET /healthz HTTP/1.1\r\na b: x",
                     "GET /healthz HTTP/1.1\r\na\0: x", "GET /healthz HTTP/1.1\r\na: x\0y",
                     "GET /healthz HTTP/1.1\r\na: x\ry", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03",
                     "PRI * HTTP/2.0"):
            with self.subTest(head):
                with self.target.wire() as wire:
                    wire.send(f"{head}\r\n{HOST}\r\n".encode("latin-1"))
                    with contextlib.suppress(OSError):
                        wire.socket.shutdown(socket.SHUT_WR)
                    text = wire.rest()
                self.assertIn(text[:12], (b"", b"HTTP/1.1 400", b"HTTP/1.1 501", b"HTTP/1.1 505"))
                self.assertEqual(text.count(b"HTTP/1.1 "), text != b"", "one answer and the end")

    def test_bad_chunks_are_400_or_the_end(self):
        for chunks in ("x\r\n", "-1\r\nx\r\n0\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n",
                       "+5\r\nhello\r\n", "\r\nhello\r\n0\r\n\r\n",
                       "5\r\nhelloworld\r\n0\r\n\r\n", "5 5\r\nhello\r\n",
                       "fffffffffffffffff\r\n", "7fffffffffffffff\r\n" + "x" * 100,
                       "ffffffffffffffff\r\nx", "5\r\nhello0\r\n\r\n",
                       "0\r\nbad trailer\r\n\r\n" + SMUGGLED,
                       "1" * 100_000, "5;" + "e" * 100_000 + "\r\nhello\r\n0\r\n\r\n",
                       "0\r\n" + "a: b\r\n" * 50_000 + "\r\n"):
            with self.subTest(chunks[:40]), self.target.wire() as wire:
                wire.send(f"{POST}Transfer-Encoding: chunked\r\n\r\n")
                wire.send_until_answered([chunks.encode()])
                with contextlib.suppress(OSError):
                    wire.socket.shutdown(socket.SHUT_WR)
                try:
                    self.assertIn(wire.answer().status, (400, 413, 431))
                except Closed:
                    pass
                self.assertNotIn(b"smuggled", wire.rest())

    def test_well_formed_chunks_of_any_cut_are_taken(self):
        chance = random.Random(support.SEED)
        text = body({"a": "é" * 300, "b": [1, 2, 3]}).encode()
        with self.target.wire() as wire:
            for _ in range(30):
                data, at = b"", 0
                while at < len(text):
                    part = text[at:at + chance.choice((1, 2, 7, 100, 1000))]
                    at += len(part)
                    size = chance.choice((f"{len(part):x}", f"{len(part):X}", f"00{len(part):x}"))
                    data += size.encode() + chance.choice((b"", b";x=y")) + b"\r\n" + part + b"\r\n"
                head = f"{POST}Transfer-Encoding: {chance.choice(('chunked', 'Chunked'))}\r\n\r\n"
                wire.send(head.encode() + data + b"0\r\n\r\n")
                self.assertEqual(wire.answer().status, 200)

    def test_a_body_that_was_refused_is_never_run_as_a_request(self):
        for start in (f"POST /nope HTTP/1.1\r\n{HOST}", f"PUT /schedule HTTP/1.1\r\n{HOST}",
                      f"GET /tasks HTTP/1.1\r\n{HOST}", f"{POST}Content-Encoding: gzip\r\n",
                      f"{POST}Origin: http://evil.example\r\n",
                      f"DELETE /tasks/x HTTP/1.1\r\n{HOST}",
                      "POST /schedule HTTP/1.1\r\nHost: evil.example\r\n", POST,
                      f"HEAD /healthz HTTP/1.1\r\n{HOST}", f"GET /nope HTTP/1.1\r\n{HOST}"):
            for framing in (f"Content-Length: {len(SMUGGLED)}\r\n\r\n{SMUGGLED}",
                            f"Transfer-Encoding: chunked\r\n\r\n{len(SMUGGLED):x}\r\n{SMUGGLED}\r\n"
                            "0\r\n\r\n"):
                with self.subTest(start + framing[:20]), self.target.wire() as wire:
                    wire.send(start + framing)
                    wire.socket.shutdown(socket.SHUT_WR)
                    text = wire.rest()
                    self.assertEqual(text.count(b"HTTP/1.1 "), 1, text)

    def test_a_client_that_expects_100_is_told_to_go_on_or_why_not(self):
        text = body("x" * 3000)
        head = f"{POST}Content-Length: {len(text)}\r\nExpect: 100-continue\r\n\r\n"
        with self.target.wire() as wire:
            for _ in range(3):
                wire.send(head)
                self.assertEqual(wire.answer().status, 100)
                wire.send(text)
                self.assertEqual(wire.answer().status, 200)
        with self.target.wire() as wire:
            wire.send(f"{POST}Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n")
            self.assertEqual(wire.answer().status, 413, "without waiting for the body")

    def test_pipelined_requests_are_each_answered_in_order(self):
        with self.target.wire() as wire:
            requests = ""
            for n in range(50):
                text = body(str(n))
                requests += f"{POST}Content-Length: {len(text)}\r\n\r\n{text}"
                requests += f"GET /tasks/unknown-{n} HTTP/1.1\r\n{HOST}\r\n"
            wire.send(requests)
            ids = []
            for n in range(50):
                ids.append(wire.answer().json["id"])
                self.assertIn(f"unknown-{n}", wire.answer().json["errors"][0])
            # Cut at every place, a request is still one.
            text = body("slowly")
            for byte in f"{POST}Content-Length: {len(text)}\r\n\r\n{text}":
                wire.send(byte)
            self.assertEqual(wire.answer().status, 200)
        self.assertEqual([task["id"] for task in self.target.walk("/tasks")][1:51], ids)

    def test_a_connection_serves_hundreds_of_requests(self):
        with self.target.wire() as wire:
            for n in range(300):
                task = wire.call("POST", "/schedule", body({"n": n})).json["id"]
                self.assertEqual(wire.call("GET", "/tasks/" + task).status, 200)
                self.assertEqual(wire.call("DELETE", "/tasks/" + task).status, 200)
                self.assertEqual(wire.call("DELETE", "/tasks/" + task).status, 404)
            wire.request("GET", "/healthz", None, [("Connection", "close")])
            self.assertEqual(wire.answer().status, 200)
            self.assertTrue(wire.closed_by_server())

    def test_http_1_0_is_answered_and_closed(self):
        with self.target.wire() as wire:
            wire.send("GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
            self.assertEqual(wire.answer().status, 200)
            self.assertTrue(wire.closed_by_server())

    def test_odd_headers_change_nothing(self):
        for line in ("Range: bytes=0-1", "Range: bytes=" + "0-1," * 1800 + "0-1", "Range: x",
                     "Accept-Encoding: gzip, br", "Accept: application/xml", "Accept: */*;q=x",
                     "REMOTE_ADDR: 10.0.0.1", "X-HTTP-Method-Override: DELETE", "Upgrade: h2c",
                     "Connection: upgrade", "If-None-Match: *", "If-Modified-Since: x",
                     "Cookie: a=%00",
                     "X-Forwarded-For: %0d%0a", "User-Agent: %s%n%x", "Accept-Language: \xff\xfe",
                     "Last-Event-ID: %0d%0aX: y"):
            with self.subTest(line[:60]):
                with self.target.wire() as wire:
                    wire.send(f"GET /tasks/{self.task} HTTP/1.1\r\n{HOST}{line}\r\n\r\n"
                              .encode("latin-1"))
                    answer = wire.answer()
                self.assertIn(answer.status, (200, 400) if "Range" in line else (200,), answer)
                if answer.status == 200:
                    self.assertEqual(answer.json["id"], self.task)
                    self.assertIsNone(answer.header("Content-Encoding"))

    def test_nothing_of_a_request_is_reflected_into_headers(self):
        for line in ("Last-Event-ID: a%0d%0aX-Injected: y",
                     "Origin: http://127.0.0.1%0d%0aX-Injected: y",
                     "Idempotency-Key: a%0d%0aX-Injected: y"):
            for path in ("/tasks", "/sse", "/sse?last_event_id=a%0d%0aX-Injected:%20y",
                         "/sse?last_event_id=a%0a%0adata:%20forged"):
                with self.subTest(f"{path} {line}"), self.target.wire() as wire:
                    wire.send(f"GET {path} HTTP/1.1\r\n{HOST}{line}\r\n\r\n")
                    while b"\r\n\r\n" not in wire.buffer:
                        wire.fill()
                    if b"text/event-stream" in wire.buffer:  # its first event, too
                        while b"data: " not in wire.buffer:
                            wire.fill()
                    wire.socket.settimeout(0.1)
                    with contextlib.suppress(TimeoutError, Closed):
                        while True:
                            wire.fill()
                    lines = wire.buffer.replace(b"\r", b"\n").split(b"\n")
                    self.assertTrue(lines[0].startswith(b"HTTP/1.1 "))
                    forged = (b"X-Injected", b"data: forged")
                    self.assertFalse([part for part in lines if part.startswith(forged)])


class Rude(Hostile):
    def test_garbage_half_requests_and_early_goodbyes_harm_nobody(self):
        chance = random.Random(support.SEED)
        pieces = [b"", b"\r\n", b"\0" * 1000, bytes(range(256)), chance.randbytes(5000), b"GET",
                  GET.encode(), (GET + "\r\n").encode(), POST.encode(),
                  f"{POST}Content-Length: 100\r\n\r\n{{".encode(),
                  f"{POST}Transfer-Encoding: chunked\r\n\r\n5\r\nhe".encode(),
                  f"GET /sse HTTP/1.1\r\n{HOST}\r\n".encode(),
                  f"{POST}Expect: 100-continue\r\n".encode()]
        for piece in pieces:
            for how in range(15):
                wire = self.target.wire()
                with contextlib.suppress(ConnectionError):
                    wire.send(piece)
                    if how % 3 == 2:
                        wire.socket.shutdown(socket.SHUT_WR)
                (wire.reset if how % 3 == 1 else wire.close)()
        self.assertEqual(self.target.pending(), 1)

    def test_a_half_closed_client_still_gets_its_answer(self):
        text = body("x")
        for request, status in ((f"{POST}Content-Length: {len(text)}\r\n\r\n{text}", 200),
                                (GET + "\r\n", 200)):
            with self.target.wire() as wire:
                wire.send(request)
                wire.socket.shutdown(socket.SHUT_WR)
                self.assertEqual(wire.answer().status, status)
                self.assertTrue(wire.closed_by_server())
        for part in ("GET /hea", POST, f"{POST}Content-Length: 100\r\n\r\n{TASK}"):
            with self.subTest(part), self.target.wire() as wire:
                wire.send(part)
                wire.socket.shutdown(socket.SHUT_WR)
                self.assertIn(wire.rest()[:12], (b"", b"HTTP/1.1 400", b"HTTP/1.1 408"))

    def test_a_good_client_is_answered_at_once_beside_slow_ones(self):
        count = 1000 if support.LONG else 200
        starts = [GET, f"{POST}Content-Length: 1000\r\n\r\n{{", "G", "",
                  f"{POST}Transfer-Encoding: chunked\r\n\r\n5\r\nh"]
        slow = [self.opened(self.target.wire()) for _ in range(count)]
        for n, wire in enumerate(slow):
            wire.send(starts[n % len(starts)])
        worst = 0.0
        with self.target.stream() as stream:
            for round in range(20):
                for wire in slow[round::20]:  # each drips a byte from time to time
                    with contextlib.suppress(ConnectionError):
                        wire.send("x")
                began = time.monotonic()
                task = self.target.schedule("x", 0)
                self.assertEqual(stream.next().id, task)
                worst = max(worst, time.monotonic() - began)
        self.note(f"worst {worst * 1000:.0f} ms beside {count}")
        self.assertLess(worst, support.SOON)

    def test_slow_heads_and_bodies_get_408(self):
        if not support.LONG:
            self.skipTest("waits for the server's own deadline: only with --long")
        wires = {}
        for start in (GET, f"{POST}Content-Length: 1000\r\n\r\n{{"):
            wires[self.opened(self.target.wire(seconds=5))] = start
        for wire, start in wires.items():
            wire.send(start)
        deadline = time.monotonic() + 120
        waiting = set(wires)
        while waiting and time.monotonic() < deadline:
            ready = select.select([w.socket for w in waiting], [], [], 1)[0]
            for wire in [w for w in waiting if w.socket in ready]:
                waiting.remove(wire)
                self.assert_errors(wire.answer(), 408)
                self.assertTrue(wire.closed_by_server())
            for wire in waiting:  # a byte a second must not keep it open
                with contextlib.suppress(ConnectionError):
                    wire.send("x" if "{" in wires[wire] else "X: y\r\n")
        self.assertFalse(waiting, "no deadline in two minutes")

    def test_answers_that_nobody_reads_are_bounded(self):
        for n in range(100):
            self.target.schedule("x" * 50_000)
        self.before = self.target.resident_mib()
        greedy = [self.opened(self.target.wire(receive_buffer=4096)) for _ in range(20)]
        for wire in greedy:  # asks for 5 MB a time, over and over, and reads nothing
            wire.socket.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                wire.socket.send(f"GET /tasks HTTP/1.1\r\n{HOST}\r\n".encode() * 500)
        began = time.monotonic()
        self.target.schedule("x")
        self.assertLess(time.monotonic() - began, support.SOON)
        # An answer each may be under way: a page of 4 MiB, in up to four copies while it is made.
        self.growth = 20 * 4 * 4 + 64
        self.assertLess(self.target.resident_mib() - self.before, self.growth)


class Fuzz(Hostile):
    # No HEAD among them: its answers could not be told from those with a body.
    PIECES = [
        b"GET", b"POST", b"DELETE", b"OPTIONS", b" ", b"  ", b"/", b"/schedule", b"/cancel",
        b"/tasks", b"/tasks/", b"/tasks?limit=", b"/events?after=", b"/sse", b"/healthz", b"*",
        b"%00", b"%", b"%ff", b"?", b"#", b"&", b"=", b"..", b" HTTP/1.1", b" HTTP/1.0",
        b" HTTP/9.9", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\0", b"\xff" * 5, b"\x80", b"\t",
        b":", b": ", b",", b";",
        b"Host: localhost", b"Host: evil", b"Content-Length: 5", b"Content-Length: 99999999999",
        b"Content-Length: -1", b"Transfer-Encoding: chunked", b"Connection: close",
        b"Connection: keep-alive", b"Range: bytes=0-1,2-3", b"Accept-Encoding: br, gzip",
        b"Expect: 100-continue", b"Content-Type: multipart/form-data; boundary=x",
        b"Content-Type: application/x-www-form-urlencoded", b"Content-Encoding: gzip",
        b"Origin: http://a", b"Last-Event-ID: \xff", b"Last-Event-ID: earliest", b"x-pd-secret: %",
        b"Authorization: Bearer", b"Idempotency-Key: k", b"Upgrade: websocket",
        b"5\r\nhello\r\n", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b'{"timestamp":', b'"2020"',
        b',"message":', b"{}", b"{", b"}", b"[", b"]", b'"', b"\\", b"\\ud800", b"1e999", b"null",
        b"x" * 3000, b"[" * 500, b"a: b\r\n" * 100,
    ]

    def usual(self, chance):
        text = body({"n": chance.randrange(100)}).encode()
        return chance.choice([
            f"{POST}Content-Length: {len(text)}\r\n\r\n".encode() + text,
            f"{POST}Transfer-Encoding: chunked\r\n\r\n{len(text):x}\r\n".encode() + text
            + b"\r\n0\r\n\r\n",
            f"GET /tasks?limit=3 HTTP/1.1\r\n{HOST}\r\n".encode(),
            f"GET /events?after=earliest HTTP/1.1\r\n{HOST}Accept: */*\r\n\r\n".encode(),
            f"GET /sse HTTP/1.1\r\n{HOST}Last-Event-ID: earliest\r\n\r\n".encode(),
            f"DELETE /tasks/{support.UNKNOWN} HTTP/1.1\r\n{HOST}\r\n".encode(),
        ])

    def request(self, chance):
        if chance.random() < 0.25:
            return b"".join(chance.choices(self.PIECES, k=chance.randrange(1, 30)))
        data = bytearray(b"".join(self.usual(chance) for _ in range(chance.randrange(1, 4))))
        for _ in range(chance.randrange(1, 6)):
            if not data:
                break
            at = chance.randrange(len(data))
            what = chance.randrange(4)
            if what == 0:
                data[at:at + chance.randrange(4)] = chance.choice(self.PIECES)
            elif what == 1:
                del data[at:at + chance.randrange(1, 30)]
            elif what == 2:
                data[at] = chance.randrange(256)
            else:
                data[at:at] = data[at:at + chance.randrange(1, 60)]
        return bytes(data)

    def test_random_requests_get_an_answer_or_the_end_and_never_hurt(self):
        chance = random.Random(support.SEED)
        count = 10_000 if support.LONG else 500
        self.note(f"seed {support.SEED}, {count} requests")
        statuses, worst = {}, 0.0
        for n in range(count):
            data = self.request(chance)
            began = time.monotonic()
            with self.target.wire() as wire, self.subTest(n=n, data=data[:400]):
                with contextlib.suppress(ConnectionError):
                    wire.send(data)
                    if chance.random() < 0.1:
                        continue  # gone without reading
                    wire.socket.shutdown(socket.SHUT_WR)
                for status in self.answers(wire):
                    statuses[status] = statuses.get(status, 0) + 1
                    self.assertIn(status, (100, 200, 204, 400, 401, 403, 404, 405, 408, 409, 413,
                                           414, 415, 422, 431, 501, 505))
            worst = max(worst, time.monotonic() - began)
            if n % 100 == 0:
                self.assertEqual(self.target.call("GET", "/healthz").status, 200)
        self.note(f"worst {worst * 1000:.0f} ms, " +
                  " ".join(f"{n}×{status}" for status, n in sorted(statuses.items())))

    def answers(self, wire):
        """The statuses that come until the end, which must come: the client has half closed."""
        found = []
        try:
            while True:
                answer = wire.head()
                found.append(answer.status)
                if "event-stream" in (answer.header("Content-Type") or ""):
                    return found  # it may go on, to a client that may still listen
                wire.take(int(answer.header("Content-Length") or 0))
        except Closed:
            return found
