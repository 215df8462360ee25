# SPDX-License-Identifier: MIT
"""Sinks: webhooks with real receivers on the loopback address, and commands that are run."""
import collections
import contextlib
import datetime
import email.utils
import gzip
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time

import support
from support import TestCase, WithClock, iso, millis, wait_for

PAST = "2020-08-21T04:29:00.951Z"
SECRETS = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
NEVER = ["1h"]  # a list of retries by which no second attempt comes within a test


def reply(status=200, content=b"", headers=()):
    lines = [f"HTTP/1.1 {status} Because", *(f"{name}: {value}" for name, value in headers)]
    if status != 204:
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


class Request:
    def __init__(self, head, body, connection):
        line, *fields = head.decode("latin-1").split("\r\n")
        self.method, self.target, self.version = line.split(" ")
        self.headers = [tuple(field.split(": ", 1)) for field in fields]
        self.body, self.connection = body, connection
        self.at, self.time = time.monotonic(), time.time()

    def header(self, name):
        """The value of a header, or None; a header that comes twice fails."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) < 2, f"{name} comes {len(values)} times: {values}"
        return values[0] if values else None

    @property
    def id(self):
        return self.header("webhook-id")


class Connection:
    """One of a receiver's, for a script that does more than to return its answer."""

    def __init__(self, receiver, number, plain):
        self.receiver, self.number, self.socket = receiver, number, plain

    def send(self, data):
        self.socket.sendall(data)

    def wait(self, seconds):
        """Waits, but not beyond the end of the receiver."""
        if self.receiver.stopping.wait(seconds):
            raise ConnectionError("the receiver is closed")

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def requests(self):
        buffer = b""
        while True:
            while b"\r\n\r\n" not in buffer:
                if not (data := self.socket.recv(65536)):
                    return
                buffer += data
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            length = int(re.search(rb"(?i)content-length: *(\d+)", head)[1])
            while len(buffer) < length:
                if not (data := self.socket.recv(65536)):
                    return
                buffer += data
            body, buffer = buffer[:length], buffer[length:]
            yield Request(head, body, self.number)


class Receiver:
    """An HTTP/1.1 server, a thread for each connection.  It records every request and answers what
    script(request, connection) returns; None says that the script has seen to it."""

    def __init__(self, script=None, tls=None, port=0, host="127.0.0.1"):
        self.script, self.tls = script or (lambda *_: reply()), tls
        self.host, self.port = host, port
        self.requests, self.connections = [], []
        self.open()

    def open(self):
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self.listener = socket.create_server((self.host, self.port), family=family, backlog=64)
        self.port = self.listener.getsockname()[1]
        self.stopping = threading.Event()
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def close(self):
        self.stopping.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            connection.close()

    def accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                plain = listener.accept()[0]
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = Connection(self, len(self.connections), plain)
                self.connections.append(connection)
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        # What ends a connection, on either side, is part of what is tested.
        with contextlib.suppress(OSError, ValueError):
            if self.tls:
                connection.socket = self.tls.wrap_socket(connection.socket, server_side=True)
            for request in connection.requests():
                self.requests.append(request)
                answer = self.script(request, connection)
                if answer is not None:
                    connection.send(answer)
        connection.close()

    def url(self, target="/hook"):
        return f"http://127.0.0.1:{self.port}{target}"

    @property
    def ids(self):
        return [request.id for request in self.requests]


class Sinks(TestCase):
    """What the tests of sinks share: a file of sinks, a server, receivers."""

    def receiver(self, *args, **options):
        receiver = Receiver(*args, **options)
        self.addCleanup(receiver.close)
        return receiver

    def folder(self):
        folder = tempfile.mkdtemp(prefix="sinks-", dir=support.WORK)
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def configure(self, *sinks):
        """Writes the file of --sinks, anew if there is one."""
        if not hasattr(self, "file"):
            self.file = os.path.join(self.folder(), "sinks.json")
        with open(self.file, "w") as file:
            json.dump({"sinks": sinks}, file)

    def serve(self, *sinks, flags=(), **options):
        self.configure(*sinks)
        return self.server("--sinks", self.file, *flags, **options)

    def hook(self, receiver, name="a", **others):
        url = receiver if isinstance(receiver, str) else receiver.url()
        return {"name": name, "webhook": url, "timeout": "5s", "retry": ["20ms"] * 9, **others}

    def emit(self, server, *messages):
        """Has messages emitted at once, in this order, and returns their ids."""
        ids = []
        for start in range(0, len(messages), 500):
            tasks = [{"timestamp": PAST, "message": m} for m in messages[start:start + 500]]
            status, _, answer = server.ask("POST", "/schedule", tasks)
            self.assertEqual(status, 200, answer)
            ids += answer["ids"]
        return ids

    def until_emitted(self, server, ids):
        wait_for(lambda: ids[-1] in [event["id"] for event in server.walk("/events")],
                 what="the emission")

    def fall_due_while_down(self, server, emitted):
        """Kills the server and returns a task that falls due after that.  One that a busy machine
        has emitted before is added to those that were emitted."""
        for seconds in (0.5, 2, 8, 32):
            due = time.time() + seconds
            task = server.schedule("overdue", seconds)
            server.kill()
            with open(server.journal) as journal:
                if not any('"op":"emit"' in line and task in line for line in journal):
                    time.sleep(max(0, due + 0.1 - time.time()))
                    return task
            emitted.append(task)
            server.start()
        raise AssertionError("this machine takes half a minute to kill a process")

    def sink(self, server, name="a"):
        found = [one for one in server.page("/sinks")["data"] if one["name"] == name]
        self.assertEqual(len(found), 1, "GET /sinks")
        return found[0]

    def until(self, server, name="a", seconds=60, **wanted):
        """Waits until members of a sink's answer have these values, and returns the answer."""
        last = {}

        def reached():
            last.update(self.sink(server, name))
            return all(last[key] == value for key, value in wanted.items())

        try:
            wait_for(reached, seconds)
        except AssertionError:
            raise AssertionError(f"{wanted} within {seconds} s; the sink is {last}") from None
        return last

    def post(self, server, path, value=None):
        status, _, answer = server.ask("POST", path, value)
        self.assertEqual(status, 200, answer)
        return answer

    def dead(self, server, name="a"):
        return server.page(f"/sinks/{name}/dead?limit=1000")["data"]

    def refusal_of(self, sink):
        """What the binary says of a sink when it starts; a directory that is not there ends it."""
        self.configure(sink)
        done = subprocess.run(
            [support.BINARY, "--port", "0", "--sinks", self.file, "--journal", "/nowhere/journal"],
            capture_output=True, text=True, timeout=20)
        self.assertNotEqual(done.returncode, 0)
        return done.stderr

    def needs_openssl(self):
        """Skips the test where the binary was built without it; it says so itself."""
        if "OpenSSL" in self.refusal_of(self.hook("https://127.0.0.1/")):
            self.skipTest("the binary was built without OpenSSL")

    def child(self, *command):
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


class Webhooks(Sinks):
    def test_a_request_is_the_payload_as_emitted_with_the_tasks_id_and_the_path_verbatim(self):
        receiver = self.receiver(lambda request, _: reply(
            500 if len(receiver.requests) == 1 else 200))
        target = "/hook/%2Fa%20b;c?a=b,c+d&e=%C3%A4&f=!'()*~:@[]"
        server = self.serve(self.hook(receiver.url(target), headers={"X-Team": "a, b", "x-y": ""}))
        with server.stream() as stream:
            sent = ('{"timestamp":"%s","message":{"n":1.10,"n":1e400,"t":"\\u00e4\\/\\ud834"},'
                    '"other":"\u00e9\u4e16"}' % PAST)
            task = server.call("POST", "/schedule", sent).json["id"]
            data = stream.next().data
        self.assertEqual(data, sent)
        self.until(server, delivered=1)
        self.assertEqual(len(receiver.requests), 2)
        for request in receiver.requests:
            self.assertEqual((request.method, request.target), ("POST", target))
            self.assertEqual(request.body.decode(), data)
            self.assertEqual(request.header("Host"), f"127.0.0.1:{receiver.port}")
            self.assertEqual(request.header("Content-Type"), "application/json")
            self.assertEqual(request.id, task)
            self.assertRegex(request.header("webhook-timestamp"), r"^\d+$")
            self.assertLess(abs(int(request.header("webhook-timestamp")) - request.time), support.SOON)
            self.assertIsNone(request.header("webhook-signature"), "there is no secret")
            self.assertEqual((request.header("X-Team"), request.header("X-Y")), ("a, b", ""))

    def test_the_short_form_delivers_to_several_urls_under_names_that_stay(self):
        one, two = self.receiver(), self.receiver()
        server = self.server("--webhook", one.url("/?x"), "--webhook", two.url(""))
        ids = self.emit(server, "x")
        wait_for(lambda: one.ids == ids and two.ids == ids)
        self.assertEqual((one.requests[0].target, two.requests[0].target), ("/?x", "/"))
        before = [(sink["name"], sink["kind"]) for sink in server.page("/sinks")["data"]]
        self.assertEqual([kind for _, kind in before], ["webhook"] * 2)
        server.restart()
        ids += self.emit(server, "y")
        wait_for(lambda: one.ids == ids and two.ids == ids)
        self.assertEqual([(s["name"], s["kind"]) for s in server.page("/sinks")["data"]], before)

    def test_the_official_package_verifies_what_one_or_two_secrets_have_signed(self):
        self.needs_openssl()
        from test_clients import HERE, install
        install()
        shutil.copy(os.path.join(HERE, "clients.mjs"), support.WORK)
        receiver = self.receiver()
        server = self.serve(self.hook(receiver, "one", secrets=SECRETS[:1]),
                            self.hook(receiver, "two", secrets=SECRETS))
        self.emit(server, {"text": "ä 世 \\ \" \u2028", "n": [1, {}]}, "x")
        wait_for(lambda: len(receiver.requests) == 4)
        path = os.path.join(self.folder(), "requests.json")
        signatures = []
        for request in receiver.requests:
            signed = request.header("webhook-signature").split(" ")
            signatures.append(len(signed))
            for one in signed:
                self.assertRegex(one, r"^v1,[A-Za-z0-9+/]{43}=$")
        self.assertEqual(sorted(signatures), [1, 1, 2, 2])
        with open(path, "w") as file:
            json.dump([{"body": request.body.decode(),
                        "headers": dict(request.headers),
                        "secrets": SECRETS[:len(request.header("webhook-signature").split(" "))]}
                       for request in receiver.requests], file)
        done = subprocess.run(["node", "clients.mjs", "verify", path], cwd=support.WORK,
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.stdout.split(), ["true"] * 6 + ["false"] * 2, done.stderr)

    def test_the_package_cloudevents_takes_what_is_sent_one_by_one_and_in_batches(self):
        from test_clients import HERE, install
        install()
        shutil.copy(os.path.join(HERE, "clients.mjs"), support.WORK)
        one, many = self.receiver(), self.receiver()
        server = self.serve(self.hook(one, "one", format="cloudevents"),
                            self.hook(many, "many", format="cloudevents", batch=10))
        self.post(server, "/sinks/many/pause")
        ids = self.emit(server, {"text": "ä 世 \\ \" \u2028", "n": [1, {}]}, "x", ["y"])
        self.until(server, "one", delivered=3)
        self.post(server, "/sinks/many/resume")
        self.until(server, "many", delivered=3)
        self.assertEqual([len(one.requests), len(many.requests)], [3, 1])
        path = os.path.join(self.folder(), "requests.json")
        with open(path, "w") as file:
            json.dump([{"body": request.body.decode(),
                        "headers": {name.lower(): value for name, value in request.headers}}
                       for request in one.requests + many.requests], file)
        done = subprocess.run(["node", "clients.mjs", "cloudevents", path], cwd=support.WORK,
                              capture_output=True, text=True, timeout=60)
        events = [json.loads(line) for line in done.stdout.strip().split("\n")]
        self.assertEqual([event["id"] for event in events], ids * 2, done.stderr)
        for event, emitted in zip(events, server.page("/events")["data"] * 2):
            self.assertEqual(event, {  # none of them has a topic
                "specversion": "1.0", "id": emitted["id"], "type": "task-scheduler.task.emitted",
                "source": f"http://127.0.0.1:{server.port}", "time": emitted["due"],
                "datacontenttype": "application/json", "data": emitted["payload"]})

    def test_a_trace_goes_out_as_it_came_with_every_attempt_also_after_a_restart(self):
        parent, state = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "a=b,c=d e"
        receiver = self.receiver(lambda *_: reply(500 if len(receiver.requests) < 3 else 200))
        server = self.serve(self.hook(receiver, format="cloudevents"))
        self.post(server, "/sinks/a/pause")
        sent = json.dumps({"timestamp": PAST, "message": "x", "topic": "a/b"})
        answer = server.call("POST", "/schedule", sent,
                             [("traceparent", parent), ("tracestate", state)])
        self.assertEqual(answer.status, 200, answer)
        self.until(server, lag=1)
        server.kill()
        server.start()
        self.post(server, "/sinks/a/resume")
        self.until(server, delivered=1)
        self.assertEqual(len(receiver.requests), 3)
        for request in receiver.requests:
            self.assertEqual(request.header("traceparent"), parent)
            self.assertEqual(request.header("tracestate"), state)
            self.assertEqual(request.header("ce-subject"), "a/b")
        server.call("POST", "/schedule", sent, [("traceparent", "malformed")])
        self.until(server, delivered=2)
        self.assertIsNone(receiver.requests[-1].header("traceparent"))

    def test_a_batch_lets_a_slow_receiver_take_many_events_a_round_trip(self):
        slow = self.receiver(lambda _, connection: connection.wait(0.2) or reply())
        server = self.serve(self.hook(slow, batch=1000))
        ids = self.emit(server, *map(str, range(3000)))
        self.until(server, delivered=3000, lag=0, dead=0)
        self.assertLess(len(slow.requests), 100)
        got = []
        for request in slow.requests:
            events = json.loads(request.body)
            self.assertLessEqual(len(events), 1000)
            first, last = events[0]["id"], events[-1]["id"]
            self.assertEqual(request.id, first if len(events) == 1 else f"{first}_{last}")
            got += [(event["id"], event["payload"]["message"]) for event in events]
        self.assertEqual(got, list(zip(ids, map(str, range(3000)))))
        self.note(f"{len(slow.requests)} requests")

    def test_a_batch_obeys_retry_after_and_410_and_leaves_its_bad_event_to_the_dead(self):
        def script(request, _):
            if b'"poison"' in request.body:
                return reply(400)
            if b'"enough"' in request.body:
                return reply(410)
            return reply()

        receiver = self.receiver(script)
        server = self.serve(self.hook(receiver, batch=4, retry=["10ms"] * 4))
        self.post(server, "/sinks/a/pause")
        ids = self.emit(server, "a", "b", "poison", "c", "d", "e")
        self.post(server, "/sinks/a/resume")
        self.until(server, delivered=5, dead=1, lag=0)
        self.assertEqual([letter["id"] for letter in self.dead(server)], [ids[2]])
        server.kill()
        server.start()
        self.until(server, dead=1, lag=0)
        more = self.emit(server, "enough")
        self.until(server, state="disabled", lag=1)
        receiver.script = lambda *_: reply(503 if len(receiver.requests) == before + 1 else 200,
                                           headers=[("Retry-After", "1")])
        before = len(receiver.requests)
        self.post(server, "/sinks/a/resume")
        self.until(server, lag=0, dead=1)
        again, good = receiver.requests[before:]
        self.assertGreaterEqual(good.time - again.time, 0.99)
        self.assertEqual(good.id, more[0])

    def test_a_crash_amid_batches_repeats_events_and_loses_none(self):
        receiver = self.receiver(lambda _, connection: connection.wait(0.01) or reply())
        server = self.serve(self.hook(receiver, batch=50))
        ids = []
        for _ in range(5):
            ids += self.emit(server, *map(str, range(500)))
            wait_for(lambda: receiver.requests)
            server.kill()
            server.start()
        self.until(server, lag=0, dead=0)
        got = [event["id"] for request in receiver.requests for event in json.loads(request.body)]
        self.assertEqual(set(got), set(ids))
        firsts = list(dict.fromkeys(got))
        self.assertEqual(firsts, ids)
        self.note(f"{len(got) - len(ids)} repeated")

    def test_secrets_and_headers_come_from_files_of_their_own(self):
        self.needs_openssl()
        folder, receiver = self.folder(), self.receiver()

        def write(name, content):
            path = os.path.join(folder, name)
            with open(path, "w") as file:
                file.write(content)
            return path

        server = self.serve(self.hook(
            receiver, secret_files=[write("one", SECRETS[0] + "\n"), write("two", SECRETS[1])],
            header_files={"Authorization": write("token", "Bearer t0ken\n")}))
        self.emit(server, "x")
        self.until(server, delivered=1)
        request = receiver.requests[0]
        self.assertEqual(request.header("Authorization"), "Bearer t0ken")
        self.assertEqual(len(request.header("webhook-signature").split()), 2)
        self.assertNotIn("t0ken", server.stderr() + server.call("GET", "/sinks").body.decode())
        for bad, why in ((folder, "directory"), (folder + "/nowhere", "No such file"),
                         (write("empty", "\n"), "empty"), (write("nul", "a\0b"), "ASCII"),
                         (write("large", "a" * (1 << 20)), "larger")):
            said = self.refusal_of(self.hook(receiver, header_files={"X": bad}))
            self.assertIn(why, said)
            self.assertIn("sinks[0]", said)

    def test_one_that_fails_a_hundred_times_gets_the_event_in_the_end_and_then_the_next(self):
        receiver = self.receiver(lambda *_: reply(200 if len(receiver.requests) > 100 else 500))
        server = self.serve(self.hook(receiver, retry=["5ms"] * 120))
        one, two = self.emit(server, "one", "two")
        self.until(server, delivered=2, failed=100, lag=0, dead=0)
        self.assertEqual(receiver.ids, [one] * 101 + [two])
        self.assertEqual({r.connection for r in receiver.requests}, {0}, "it is kept over failures")

    def failing(self, script, error):
        """Two events: the first is answered by the script once, then all with 200."""
        for self.patience in (0.4, 2, 8):
            receiver = self.receiver(lambda request, connection: script(request, connection)
                                     if len(receiver.requests) == 1 else reply())
            server = self.serve(self.hook(receiver, timeout=f"{self.patience * 1000:.0f}ms"))
            one, two = self.emit(server, "one", "two")
            began = time.monotonic()
            sink = self.until(server, delivered=2, seconds=2 * support.SOON)
            self.note(f"{time.monotonic() - began:.2f} s")
            if sink["failed"] == 1:
                break
            server.stop()  # the machine was too slow to answer in time
        self.assertEqual(receiver.ids, [one, one, two])
        self.assertEqual((sink["failed"], sink["dead"]), (1, 0))
        self.assertRegex(sink["last_error"], error)

    def test_an_attempt_and_the_end_of_the_server_do_not_wait_for_a_name_that_hangs(self):
        hanging = os.path.join(self.folder(), "hanging")
        open(hanging, "w").close()
        receiver = self.receiver()
        server = self.serve(
            self.hook(receiver.url().replace("127.0.0.1", "a.hangs"), "short", timeout="100ms",
                      retry=["20ms"] * 1000),
            self.hook(receiver.url().replace("127.0.0.1", "b.hangs"), "long", timeout="1h"),
            env={"LD_PRELOAD": support.preloaded(self, "resolver"), "RESOLVER_FILE": hanging})
        ids = self.emit(server, "x")
        self.until_tried(server, "short", 3)
        self.assertRegex(self.sink(server, "short")["last_error"], "resolving the name took too")
        threads = f"/proc/{server.process.pid}/task"
        before = len(os.listdir(threads))
        self.until_tried(server, "short", 13)
        self.assertLess(len(os.listdir(threads)), before + 5, "each attempt leaves a thread behind")
        began = time.monotonic()
        server.stop()
        self.note(f"it has ended after {time.monotonic() - began:.2f} s")
        server.start()
        self.until_tried(server, "short", 15)
        os.unlink(hanging)
        for name in ("short", "long"):
            self.until(server, name, delivered=1)
        self.assertGreaterEqual(len(receiver.ids), 2)  # more: one took longer than it may
        self.assertEqual(set(receiver.ids), set(ids))

    def until_tried(self, server, name, times):
        wait_for(lambda: self.sink(server, name)["attempts"] >= times, what=f"attempt {times}")

    def test_without_a_descriptor_no_attempt_is_counted_and_all_goes_on_when_there_is_one(self):
        receiver = self.receiver()
        server = self.serve(self.hook(receiver, "hook", retry=[]),
                            {"name": "run", "exec": ["true"], "retry": []})
        for name in ("hook", "run"):
            self.post(server, f"/sinks/{name}/pause")
        self.until_emitted(server, self.emit(server, "x"))
        with server.wire() as wire:
            wire.call("GET", "/healthz")  # its descriptor is there before there is none any more
            limits = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))

            for name in ("hook", "run"):
                self.assertEqual(wire.call("POST", f"/sinks/{name}/resume").status, 200)

            def sinks():
                return json.loads(wire.call("GET", "/sinks").body)["data"]

            wait_for(lambda: all(sink["failed"] or sink.get("postponed", 0) > 1
                                 for sink in sinks()))
            for sink in sinks():
                self.assertEqual([sink[key] for key in ("attempts", "failed", "dead", "lag")],
                                 [0, 0, 0, 1])
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, limits)
        for name in ("hook", "run"):
            self.until(server, name, delivered=1, failed=0)
            server.until_logged(f"sink {name} ")
            lines = [line for line in server.stderr().splitlines() if f"sink {name} " in line]
            self.assertEqual(len(lines), 1, lines)
            self.assertIn("Too many open files", lines[0])

    def test_a_connection_that_is_closed_in_mid_answer_is_a_failure(self):
        def head(_, connection):
            connection.send(b"HTTP/1.1 200 O")
            connection.close()

        def content(_, connection):
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            connection.close()

        def chunk(_, connection):
            connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab")
            connection.close()

        for script, error in ((head, "no whole answer"), (content, "not to the end"),
                              (chunk, "not to the end"),
                              (lambda _, connection: connection.close(), "no whole answer")):
            with self.subTest(script.__name__):
                self.failing(script, error)

    def test_an_attempt_ends_by_its_timeout_however_slowly_it_is_answered(self):
        def trickle(data):
            def script(_, connection):
                for byte in data:
                    connection.send(bytes([byte]))
                    connection.wait(0.1)
            return script

        for name, script in (
                ("never", lambda _, connection: connection.wait(30)),
                ("head", trickle(b"HTTP/1.1 200 OK\r\n" + b"X-Slow: 1\r\n" * 20)),
                ("body", trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n" + b"x" * 200)),
                ("chunks", trickle(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                                   + b"1\r\nx\r\n" * 50))):
            with self.subTest(name):
                self.failing(script, "took too long")

    def test_an_attempt_ends_by_its_timeout_also_while_it_connects(self):
        # The queue of this one is full: the kernel drops what would connect.
        full = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.addCleanup(full.close)
        port = full.getsockname()[1]
        for _ in range(4):
            plug = socket.socket()
            self.addCleanup(plug.close)
            plug.setblocking(False)
            plug.connect_ex(("127.0.0.1", port))
        time.sleep(0.1)
        server = self.serve(self.hook(f"http://127.0.0.1:{port}/", timeout="500ms", retry=NEVER))
        self.emit(server, "x")
        self.assertLess(self.timed(lambda: self.until(server, failed=1)), support.SOON)
        server.stop()
        # A stop does not wait for a connection either.
        self.configure(self.hook(f"http://127.0.0.1:{port}/", "b", timeout="30s", retry=NEVER))
        server.start()
        self.emit(server, "x")
        time.sleep(0.2)
        self.assertLess(server.stop()[1], support.SOON)

    def timed(self, what):
        began = time.monotonic()
        what()
        return time.monotonic() - began

    def test_a_2xx_after_the_timeout_makes_one_duplicate_with_the_same_id(self):
        def late(_, connection):
            connection.wait(self.patience + 0.3)
            return reply()

        self.failing(late, "took too long")

    def test_a_receiver_may_ask_for_more_time_in_seconds_or_with_a_date(self):
        def asks(status, value):
            def script(_, connection):
                if connection.receiver.requests[1:]:
                    return reply()
                return reply(status, b"", [("Retry-After", value)])
            return script

        date = int(time.time()) + 3
        kinds = {"seconds": asks(429, "2"), "short": asks(503, "0"),
                 "date": asks(503, email.utils.formatdate(date, usegmt=True)),
                 "past": asks(503, email.utils.formatdate(date - 99, usegmt=True)),
                 "nonsense": asks(429, "soon"), "year": asks(503, "31536000")}
        receivers = {name: self.receiver(script) for name, script in kinds.items()}
        server = self.serve(*(self.hook(receiver, name, retry=["700ms"])
                              for name, receiver in receivers.items()))
        self.emit(server, "x")
        # Nobody may ask for more than a day.
        asked = millis(self.until(server, "year", attempts=1)["next_attempt"]) / 1000 - time.time()
        self.assertTrue(86_000 < asked <= 86_401, asked)  # it is rounded up
        del receivers["year"]
        for name in receivers:
            self.until(server, name, delivered=1)
        waits = {}
        for name, receiver in receivers.items():
            first, second = receiver.requests
            self.assertEqual(first.id, second.id)
            waits[name] = second.at - first.at
        self.assertGreaterEqual(receivers["date"].requests[1].time, date)
        self.assertLess(receivers["date"].requests[1].time, date + support.SOON)
        self.assertTrue(2 <= waits["seconds"] < support.SOON, waits)
        stamps = [int(r.header("webhook-timestamp")) for r in receivers["seconds"].requests]
        self.assertGreaterEqual(stamps[1] - stamps[0], 2, "each attempt has its own")
        for name in ("short", "past", "nonsense"):  # never less than is configured
            self.assertTrue(0.7 <= waits[name] < support.SOON, waits)

    def test_a_redirect_is_not_followed_and_is_a_failure(self):
        other = self.receiver()
        for status in (301, 302, 307):
            with self.subTest(status):
                receiver = self.receiver(lambda *_, status=status: reply(
                    status, b"", [("Location", other.url())]))
                server = self.serve(self.hook(receiver, retry=["5ms"]))
                task, = self.emit(server, "x")
                self.until(server, dead=1, failed=2, last_error=f"the receiver answers {status}")
                self.assertEqual(receiver.ids, [task] * 2)
        self.assertEqual(other.requests, [])

    def test_410_disables_a_sink_until_it_is_resumed_also_over_a_restart(self):
        gone = threading.Event()
        gone.set()
        receiver = self.receiver(lambda *_: reply(410 if gone.is_set() else 200))
        server = self.serve(self.hook(receiver))
        ids = self.emit(server, "one", "two")
        self.until(server, state="disabled", lag=2, dead=0)
        server.until_logged("disabled")
        self.assertEqual(self.post(server, "/sinks/a/pause")["state"], "disabled")
        for end in (server.stop, server.kill):
            end()
            server.start()
            ids += self.emit(server, "more")
            self.assertEqual(self.sink(server)["state"], "disabled")
        time.sleep(0.1)
        self.assertEqual(receiver.ids, ids[:1])
        # It answers 410 again, and is disabled again.
        self.assertEqual(self.post(server, "/sinks/a/resume")["state"], "active")
        self.until(server, state="disabled")
        self.assertEqual(receiver.ids, ids[:1] * 2)
        gone.clear()
        self.post(server, "/sinks/a/resume")
        self.until(server, state="active", lag=0, dead=0)
        self.assertEqual(receiver.ids, ids[:1] * 2 + ids)

    def test_any_whole_answer_with_2xx_is_success(self):
        answers = {
            "204": reply(204), "202": reply(202, b"x" * 1000), "299": reply(299),
            "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "gzip": reply(200, gzip.compress(b"abc"), [("Content-Encoding", "gzip")]),
            "brotli": reply(200, b"\x0b\x01\x80abc\x03", [("Content-Encoding", "br")]),
            "other coding": reply(200, b"abc", [("Content-Encoding", "zstd")]),
            "hints": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + reply(200),
            "continue": b"HTTP/1.1 100 Continue\r\n\r\n" + reply(200),
            "no reason": b"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n",
            "bare": b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
        }
        for name, answer in answers.items():
            with self.subTest(name):
                receiver = self.receiver(lambda *_, answer=answer: answer)
                server = self.serve(self.hook(receiver))
                ids = self.emit(server, "one", "two")
                try:
                    self.until(server, delivered=2, failed=0, seconds=support.SOON)
                finally:
                    server.stop()
                self.assertEqual(receiver.ids, ids)
                self.assertEqual({r.connection for r in receiver.requests}, {0}, "it is kept")

    def test_an_answer_that_ends_with_the_connection_is_whole(self):
        def old(_, connection):
            connection.send(b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\ndone")
            connection.close()

        receiver = self.receiver(old)
        server = self.serve(self.hook(receiver))
        ids = self.emit(server, "one", "two")
        self.until(server, delivered=2, failed=0)
        self.assertEqual(receiver.ids, ids)

    def test_an_endless_answer_neither_holds_a_sink_up_nor_fills_the_memory(self):
        def endless(start, more=b"x" * 65536):
            def script(_, connection):
                connection.send(start)
                while True:
                    connection.send(more)
            return script

        head = b"HTTP/1.1 200 OK\r\n"
        chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
        for name, script in (
                ("body", endless(head + b"Content-Length: 1000000000000\r\n\r\n")),
                ("body to the close", endless(head + b"\r\n")),
                ("chunk", endless(chunked + b"7fffffff\r\n")),
                ("chunks", endless(chunked, b"1\r\nx\r\n" * 10000)),
                ("chunk's size", endless(chunked)), ("status line", endless(b"HTTP/1.1 200 ")),
                ("field", endless(head + b"X: ")), ("fields", endless(head, b"X: 1\r\n" * 8000)),
                ("hints", endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000)),
                ("continue", endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000))):
            with self.subTest(name):
                server = self.serve(self.hook(self.receiver(script), timeout="2s", retry=NEVER))
                before, most = server.resident_mib(), 0
                self.emit(server, "x")
                deadline = time.monotonic() + 2 + support.SOON
                while not self.tried(server) and time.monotonic() < deadline:
                    most = max(most, server.resident_mib() - before)
                    time.sleep(0.02)
                self.assertTrue(self.tried(server), "it is held up")
                server.stop()
                self.assertLess(most, 50, "MiB more")

    def tried(self, server):
        """How many attempts have ended."""
        self.assertIsNone(server.process.poll(), "the server has died")
        sink = self.sink(server)
        return sink["delivered"] + sink["failed"]

    def test_a_status_line_of_any_length_does_no_harm(self):
        for size in (1_000, 30_000, 1_000_000):
            with self.subTest(size):
                receiver = self.receiver(lambda *_, size=size: reply(200).replace(
                    b"Because", b"x" * size))
                server = self.serve(self.hook(receiver, retry=NEVER))
                self.emit(server, "x")
                wait_for(lambda: self.tried(server))
                server.stop()

    def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_one(self):
        late = []

        def twice(_, connection):
            connection.send(reply(500))
            began = time.monotonic()
            connection.wait(0.02)
            connection.send(reply(200))
            late.append(time.monotonic() - began)

        for script in (twice, lambda *_: reply(500) + reply(200)):
            for wait in (200, 1000, 5000):  # ms before the next attempt, when the second answer is there
                with self.subTest(script.__name__, wait=wait):
                    late.clear()
                    server = self.serve(self.hook(self.receiver(script), retry=[f"{wait}ms"] * 2))
                    self.emit(server, "x")
                    wait_for(lambda: self.sink(server)["lag"] == 0)
                    if max(late, default=0) * 1000 < wait:
                        self.until(server, dead=1, failed=3, delivered=0, lag=0)
                        break
                    server.stop()

    def test_a_receiver_with_an_ipv6_address_is_called_by_it(self):
        if not socket.has_dualstack_ipv6():
            self.skipTest("there is no IPv6 here")
        receiver = self.receiver(host="::1")
        server = self.serve(self.hook(f"http://[::1]:{receiver.port}/hook"))
        self.emit(server, "x")
        self.until(server, delivered=1, failed=0)
        self.assertEqual(receiver.requests[0].header("Host"), f"[::1]:{receiver.port}")

    def test_who_refuses_connections_gets_everything_when_it_comes_up_later(self):
        receiver = self.receiver()
        receiver.close()
        server = self.serve(self.hook(receiver, retry=["50ms"] * 200))
        ids = self.emit(server, *range_of(5))
        sink = self.until(server, lag=5, delivered=0)
        wait_for(lambda: self.sink(server)["attempts"] >= 2)
        sink = self.sink(server)
        self.assertIn("onnection", sink["last_error"])
        self.assertRegex(sink["next_attempt"], support.STAMP)
        receiver.open()
        self.until(server, delivered=5, lag=0, dead=0, attempts=0, next_attempt=None)
        self.assertEqual(receiver.ids, ids)

    def test_hundreds_of_failed_attempts_leave_no_descriptor_and_no_memory_behind(self):
        self.needs_openssl()
        receiver = self.receiver(lambda _, connection: connection.close())
        often = {"retry": ["1ms"] * 100_000}
        here, refused = f"127.0.0.1:{receiver.port}/", "127.0.0.1:1/"
        server = self.serve(
            self.hook("http://" + here, "http", **often), self.hook("https://" + here, "https",
                                                                    **often, timeout="20ms"),
            self.hook("http://" + refused, "refused", **often),
            {"name": "status", "exec": ["false"], **often},
            {"name": "missing", "exec": ["/nonexistent"], **often})
        self.emit(server, "x")

        def failed(count):
            return all(sink["failed"] > count for sink in server.page("/sinks")["data"])

        def descriptors():
            return len(os.listdir(f"/proc/{server.process.pid}/fd"))

        wait_for(lambda: failed(20))
        before = server.resident_mib()
        wait_for(lambda: failed(300 if support.LONG else 80))
        self.assertLess(server.resident_mib() - before, 8)
        self.assertLess(max(descriptors() for _ in range(20)), 30)

    def test_a_waiting_answer_does_not_hold_up_the_end_of_the_server_and_is_no_attempt(self):
        receiver = self.receiver(lambda _, connection: connection.wait(30))
        server = self.serve(self.hook(receiver, timeout="20s"))
        task, = self.emit(server, "x")
        wait_for(lambda: receiver.ids == [task])
        self.assertLess(server.stop()[1], support.SOON)
        receiver.script = lambda *_: reply()
        server.start()
        self.until(server, delivered=1, failed=0, attempts=0)
        self.assertEqual(receiver.ids, [task] * 2)


def range_of(count):
    return [f"event {n}" for n in range(count)]


class Certificates(Sinks):
    def authority(self, name):
        """A certificate authority of our own: issue(host, from, until) makes a receiver's TLS."""
        folder = self.folder()

        def openssl(*arguments):
            self.child("openssl", *arguments)

        path = lambda name: os.path.join(folder, name)  # noqa
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-days",
                "2", "-keyout", path("ca.key"), "-out", path("ca.pem"))
        with open(path("config"), "w") as file:
            file.write("[ca]\ndefault_ca=own\n[own]\ndatabase=index\nserial=serial\n"
                       "new_certs_dir=.\ndefault_md=sha256\npolicy=any\nunique_subject=no\n"
                       "copy_extensions=copy\n[any]\ncommonName=supplied\n")
        open(path("index"), "w").close()
        with open(path("serial"), "w") as file:
            file.write("01\n")

        def issue(names, start, end):
            day = lambda days: (support.utc_now() + datetime.timedelta(days=days)).strftime(  # noqa
                "%Y%m%d%H%M%SZ")
            openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=receiver",
                    "-addext", "subjectAltName=" + names, "-keyout", path("key"), "-out",
                    path("request"))
            subprocess.run(["openssl", "ca", "-batch", "-config", "config", "-keyfile", "ca.key",
                            "-cert", "ca.pem", "-in", "request", "-out", "pem", "-startdate",
                            day(start), "-enddate", day(end)], cwd=folder, check=True,
                           capture_output=True, timeout=60)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(path("pem"), path("key"))
            return context

        return path("ca.pem"), issue

    def test_https_delivers_to_a_certificate_that_is_right_and_never_to_a_wrong_one(self):
        self.needs_openssl()
        trusted, issue = self.authority("trusted")
        stranger, issue_strange = self.authority("stranger")
        # A name that means the loopback without a file or a server that says so.
        name = "receiver.hangs"
        resolver = {"LD_PRELOAD": support.preloaded(self, "resolver"), "RESOLVER_FILE": "/nowhere"}
        here = f"DNS:{name},IP:127.0.0.1"
        contexts = {"good": issue(here, -1, 1), "name": issue("DNS:other.example", -1, 1),
                    "expired": issue(here, -9, -1), "early": issue(here, 1, 2),
                    "stranger": issue_strange(here, -1, 1)}
        receivers = {name: self.receiver(tls=tls) for name, tls in contexts.items()}
        urls = {kind: f"https://{name}:{r.port}/" for kind, r in receivers.items()}
        urls["address"] = f"https://127.0.0.1:{receivers['good'].port}/"
        sinks = [self.hook(url, name, retry=["30ms"] * 2) for name, url in urls.items()]
        server = self.serve(*sinks, env={"SSL_CERT_FILE": trusted, "SSL_CERT_DIR": "/nowhere",
                                         **resolver})
        ids = self.emit(server, "one", "two")
        for name in ("good", "address"):
            self.until(server, name, delivered=2, failed=0)
        self.assertEqual(sorted(receivers["good"].ids), sorted(ids * 2))
        for name in ("name", "expired", "early", "stranger"):
            with self.subTest(name):
                sink = self.until(server, name, dead=2, delivered=0, failed=6)
                self.assertRegex(sink["last_error"], r"(?i)certificate|verif")
                self.assertEqual(receivers[name].requests, [], "not one byte of a request")

    def test_a_handshake_that_never_ends_is_a_failure_within_the_timeout(self):
        self.needs_openssl()
        def mute(plain):
            time.sleep(30)

        def trickle(plain):
            plain.send(b"\x16\x03\x03\x40\x00")
            for _ in range(300):
                plain.send(b"\x02")
                time.sleep(0.1)

        for behaviour in (mute, trickle):
            with self.subTest(behaviour.__name__):
                listener = socket.create_server(("127.0.0.1", 0))
                self.addCleanup(listener.close)

                def accept(listener=listener, behaviour=behaviour):
                    with contextlib.suppress(OSError):
                        while True:
                            plain = listener.accept()[0]
                            threading.Thread(target=self.quietly, args=(behaviour, plain),
                                             daemon=True).start()

                threading.Thread(target=accept, daemon=True).start()
                url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
                server = self.serve(self.hook(url, timeout="500ms", retry=["1ms"] * 90))
                began = time.monotonic()
                self.emit(server, "x")
                try:
                    wait_for(lambda: self.sink(server)["failed"] >= 2, what="two failures")
                    self.assertGreater(time.monotonic() - began, 0.9)
                finally:
                    self.assertLess(server.stop()[1], support.SOON)

    def quietly(self, behaviour, plain):
        with contextlib.suppress(OSError):
            behaviour(plain)
        plain.close()


class Order(Sinks):
    def test_events_come_one_at_a_time_in_order_on_one_connection(self):
        busy, overlaps = threading.Lock(), []

        def script(*_):
            if not busy.acquire(blocking=False):
                overlaps.append(1)
                return reply()
            time.sleep(0.0005)
            busy.release()
            return reply()

        receiver = self.receiver(script)
        server = self.serve(self.hook(receiver))
        began = time.monotonic()
        ids = self.emit(server, *range_of(1000))
        self.until(server, delivered=1000, failed=0)
        self.note(f"{1000 / (time.monotonic() - began):.0f} deliveries a second")
        self.assertEqual(receiver.ids, ids)
        self.assertEqual(overlaps, [])
        self.assertEqual(len(receiver.connections), 1)

    def test_who_closes_each_connection_still_gets_everything_without_a_failed_attempt(self):
        def says_so(_, connection):
            connection.send(reply(200, b"", [("Connection", "close")]))
            connection.close()

        def silently(_, connection):
            connection.send(reply(200))
            connection.close()

        for script in (says_so, silently):
            with self.subTest(script.__name__):
                receiver = self.receiver(script)
                server = self.serve(self.hook(receiver))
                ids = self.emit(server, *range_of(30))
                sink = self.until(server, delivered=30)
                self.note(f"{script.__name__}: {sink['failed']} attempts failed")
                self.assertEqual(list(dict.fromkeys(receiver.ids)), ids)
                # A close that crosses the next request cannot be told from a crash.
                if script is says_so:
                    self.assertEqual(sink["failed"], 0)

    def test_a_dead_or_slow_sink_delays_neither_another_nor_the_stream_nor_emission(self):
        slow = self.receiver(lambda _, connection: connection.wait(3600))
        quick = self.receiver()
        failing = self.receiver(lambda *_: reply(500))
        server = self.serve(self.hook(slow, "slow", timeout="1h"), self.hook(quick, "quick"),
                            self.hook(failing, "failing", retry=["1ms"] * 100000),
                            self.hook("http://127.0.0.1:1/", "dead", retry=["1ms"] * 100000),
                            {"name": "sleeper", "exec": ["sleep", "3600"], "timeout": "1h"})
        stream = self.opened(server.stream())
        self.emit(server, "first")
        stream.next()
        wait_for(lambda: slow.requests and failing.requests)
        worst = 0.0
        for n in range(100):
            began = time.monotonic()
            task, = self.emit(server, str(n))
            self.assertEqual(stream.next().id, task)
            wait_for(lambda: quick.ids[-1:] == [task], what="the quick sink")
            worst = max(worst, time.monotonic() - began)
        self.note(f"the slowest of 100 took {worst * 1000:.0f} ms to stream and webhook")
        self.assertLess(worst, support.SOON)
        self.assertEqual(len(slow.requests), 1)
        expected = {"slow": 101, "quick": 0, "failing": 101, "dead": 101, "sleeper": 101}
        wait_for(lambda: {one["name"]: one["lag"]
                          for one in server.page("/sinks")["data"]} == expected)
        self.assertLess(server.stop()[1], support.SOON)


class DeadLetters(Sinks):
    def refusing(self, *names, **options):
        """A receiver that takes nothing for now, and a server whose sinks soon give up."""
        self.broken = threading.Event()
        self.broken.set()
        receiver = self.receiver(lambda *_: reply(500 if self.broken.is_set() else 200))
        server = self.serve(*(self.hook(receiver, name, retry=["5ms"], **options)
                              for name in names or ["a"]))
        return receiver, server

    def test_after_the_last_attempt_an_event_is_a_dead_letter_that_can_be_read(self):
        receiver, server = self.refusing()
        with server.stream() as stream:
            ids = self.emit(server, *range_of(5))
            payloads = [event.data for event in stream.messages(5)]
        self.until(server, dead=5, lag=0, failed=10, delivered=0, dropped=0)
        self.assertEqual(receiver.ids, [task for task in ids for _ in range(2)])
        server.until_logged("dead letter", 5)
        self.assertEqual(server.stderr().count("dead letter"), 5)
        text = server.call("GET", "/sinks/a/dead").body.decode()
        letters = json.loads(text)["data"]
        events = server.walk("/events")
        for letter, event, payload in zip(letters, events, payloads, strict=True):
            self.assertIn(f'"payload":{payload}', text, "token for token")
            self.assertEqual({**letter, **event}, letter, "all that GET /events says of it")
            self.assertEqual((letter["attempts"], letter["error"], letter["redelivering"]),
                             (2, "the receiver answers 500", False))
            self.assertGreaterEqual(millis(letter["given_up_at"]), millis(letter["emitted_at"]))

    def test_dead_letters_come_in_pages(self):
        _, server = self.refusing()
        ids = self.emit(server, *range_of(7))
        self.until(server, dead=7)
        found, cursor = [], None
        for count in (3, 3, 1):
            page = server.page("/sinks/a/dead?limit=3" + (f"&after={cursor}" if cursor else ""))
            info = page["page_info"]
            self.assertEqual((info["total_count"], info["count"]), (7, count))
            found += [letter["id"] for letter in page["data"]]
            self.assertEqual(info["start_cursor"], page["data"][0]["id"])
            cursor = info["end_cursor"]
        self.assertIsNone(cursor)
        self.assertEqual(found, ids)
        for query in ("limit=0", "limit=x", "limit=1001", "after=x"):
            self.assert_errors(server.call("GET", "/sinks/a/dead?" + query), 400)
        self.assert_errors(server.call("GET", f"/sinks/a/dead?after={support.UNKNOWN}"), 404)

    def test_one_or_all_are_delivered_again_once_each_and_first(self):
        receiver, server = self.refusing()
        ids = self.emit(server, *range_of(4))
        self.until(server, dead=4, failed=8)
        # They fail once more, and are dead letters as before.
        self.assertEqual(self.post(server, "/sinks/a/redeliver"), {"redelivering": 4})
        self.until(server, dead=4, failed=12)
        self.assertEqual(receiver.ids[8:], ids)
        self.assertEqual([letter["attempts"] for letter in self.dead(server)], [3] * 4)
        self.broken.clear()
        self.assertEqual(self.post(server, "/sinks/a/redeliver", {"id": ids[2]}),
                         {"redelivering": 1})
        self.until(server, dead=3, delivered=1)
        self.assertEqual(receiver.ids[12:], [ids[2]])
        self.assertEqual(self.post(server, "/sinks/a/redeliver", {}), {"redelivering": 3})
        self.until(server, dead=0, delivered=4)
        self.assertEqual(receiver.ids[13:], [ids[0], ids[1], ids[3]])
        self.assertEqual(self.post(server, "/sinks/a/redeliver"), {"redelivering": 0})

    def test_letters_are_delivered_again_while_another_event_waits_for_its_next_attempt(self):
        receiver, server = self.refusing()
        dead, = self.emit(server, "dead")
        self.until(server, dead=1)
        self.configure(self.hook(receiver, retry=NEVER))
        server.restart()
        waiting, = self.emit(server, "waiting")
        self.until(server, attempts=1)
        self.broken.clear()
        self.post(server, "/sinks/a/redeliver")
        sink = self.until(server, dead=0, delivered=1, lag=1, attempts=1)
        self.assertGreater(millis(sink["next_attempt"]), (time.time() + 3000) * 1000)
        self.post(server, "/sinks/a/resume")  # that waits for nothing
        self.until(server, delivered=2, lag=0)
        self.assertEqual(receiver.ids, [dead] * 2 + [waiting, dead, waiting])

    def test_letters_of_a_paused_sink_wait_and_say_that_they_are_to_be_delivered(self):
        receiver, server = self.refusing()
        self.emit(server, *range_of(2))
        self.until(server, dead=2)
        self.broken.clear()
        self.post(server, "/sinks/a/pause")
        self.post(server, "/sinks/a/redeliver")
        server.kill()
        server.start()
        self.assertEqual([one["redelivering"] for one in self.dead(server)], [True] * 2)
        self.assertEqual(len(receiver.requests), 4)
        self.post(server, "/sinks/a/resume")
        self.until(server, dead=0, delivered=2)

    def test_the_payload_of_a_dead_letter_counts_once(self):
        _, server = self.refusing()
        self.emit(server, "x" * 1000)
        self.until(server, dead=1)
        text = server.call("GET", "/metrics").body.decode()
        kinds = re.findall(r"(?m)^task_scheduler_held_bytes\{.*\} (\d+)$", text)
        self.assertTrue(1000 < sum(map(int, kinds)) < 1500, kinds)

    def test_of_more_than_10000_dead_letters_the_newest_are_kept_and_that_is_told(self):
        server = self.serve(self.hook("http://127.0.0.1:1/", retry=[]),
                            flags=("--fsync", "no", "--history", "100000"))
        ids = self.emit(server, *range_of(10_050))
        self.until(server, lag=0, dead=10_000, dropped=50, failed=10_050)
        server.until_logged("sink a has more than 10000 dead letters")
        letters = server.walk("/sinks/a/dead")
        self.assertEqual([letter["id"] for letter in letters], ids[50:])
        server.kill()
        server.start()
        # When it was written is a moment before it was shown.
        moments = dict.fromkeys(("emitted_at", "late_ms"))
        self.assertEqual([{**letter, **moments} for letter in server.walk("/sinks/a/dead")],
                         [{**letter, **moments} for letter in letters])

    def test_what_cannot_be_delivered_again_is_answered(self):
        _, server = self.refusing()
        task, = self.emit(server, "x")
        self.until(server, dead=1)
        for path in ("redeliver", "pause", "resume"):
            for name in ("b", "A", "%00", "a%2Fb"):
                self.assert_errors(server.call("POST", f"/sinks/{name}/{path}"), 404)
        self.assert_errors(server.call("GET", "/sinks/b/dead"), 404)
        self.assert_errors(server.call("POST", "/sinks/b/redeliver", '{"id":"%s"}' % task), 404)
        for text in ("[]", "x", '"x"', '{"id":', "{} {}", "null", '{"id":"%s",}' % task):
            with self.subTest(text):
                self.assert_errors(server.call("POST", "/sinks/a/redeliver", text), 400)
        for text in ('{"id":"%s"}' % support.UNKNOWN, '{"id":"x"}'):
            self.assert_errors(server.call("POST", "/sinks/a/redeliver", text), 404)
        for text in ('{"id":5}', '{"id":null}', '{"id":["%s"]}' % task, '{"ids":["%s"]}' % task):
            with self.subTest(text):  # not what it says, but never all of them
                answer = server.call("POST", "/sinks/a/redeliver", text)
                self.assertIn(answer.status, (400, 404), answer)
        for method, path in (("POST", "/sinks"), ("POST", "/sinks/a/dead"),
                             ("GET", "/sinks/a/pause"), ("DELETE", "/sinks/a/redeliver")):
            self.assertEqual(server.call(method, path).status, 405)
        self.assertEqual(self.sink(server)["failed"], 2)

    def test_they_survive_restarts_kills_and_a_rewrite_of_the_journal(self):
        receiver, server = self.refusing()
        ids = self.emit(server, *range_of(20))
        self.until(server, dead=20)
        letters = self.dead(server)
        for end in (server.stop, server.kill):
            end()
            server.start()
            self.assertEqual(self.dead(server), letters)
            self.assertEqual(self.sink(server)["lag"], 0)
        # More than 4 MiB that nobody needs any more.
        tasks = [server.schedule("x" * 1_000_000) for _ in range(6)]
        for task in tasks:
            self.assertEqual(server.ask("DELETE", "/tasks/" + task)[0], 200)
        wait_for(lambda: os.path.getsize(server.journal) < 4_000_000, what="a rewrite")
        self.assertEqual(self.dead(server), letters)
        server.kill()
        server.start()
        self.assertEqual(self.dead(server), letters)
        self.assertEqual(self.sink(server)["lag"], 0)
        self.broken.clear()
        self.post(server, "/sinks/a/redeliver")
        self.until(server, dead=0, delivered=20)
        self.assertEqual(receiver.ids[-20:], ids)
        server.kill()
        server.start()
        self.assertEqual(self.dead(server), [])
        self.until(server, lag=0, delivered=0)


class Memory(Sinks):
    """What a sink remembers over restarts, and what the history keeps for it."""

    def test_waits_and_attempts_go_on_after_kill_9_neither_shorter_nor_from_the_start(self):
        broken = threading.Event()
        broken.set()
        receiver = self.receiver(lambda *_: reply(500 if broken.is_set() else 200))
        server = self.serve(self.hook(receiver, retry=["10ms", "6s", "1h"]))
        task, = self.emit(server, "x")
        before = self.until(server, attempts=2)
        first = receiver.requests[1]
        for pause in (0, 0, 2.5):
            time.sleep(pause)
            server.kill()
            began = time.monotonic() - first.at
            server.start()
            after = self.sink(server)
            self.assertEqual(after["attempts"], 2)
            self.assertEqual(after["next_attempt"], before["next_attempt"])
            self.assertEqual(after["last_error"], before["last_error"])
        self.until(server, attempts=3)
        gap = receiver.requests[2].at - first.at
        # A wait that began again with the last start would end 6 s after that.
        self.assertTrue(6 <= gap < began + 6, (gap, began))
        self.assertEqual(receiver.ids, [task] * 3)
        self.assertGreaterEqual(receiver.requests[2].time * 1000, millis(before["next_attempt"]))
        # A wait that has passed meanwhile is not waited for again.
        broken.clear()

    def test_pause_and_resume_hold_over_restarts(self):
        receiver = self.receiver()
        server = self.serve(self.hook(receiver))
        ids = self.emit(server, "before")
        self.until(server, delivered=1)
        self.assertEqual(self.post(server, "/sinks/a/pause")["state"], "paused")
        for end in (server.stop, server.kill):
            ids += self.emit(server, *range_of(2))
            end()
            server.start()
            self.assertEqual(self.sink(server)["state"], "paused")
        self.until(server, lag=4, cursor=ids[0])
        self.assertEqual(receiver.ids, ids[:1])
        self.assertEqual(self.post(server, "/sinks/a/resume")["state"], "active")
        self.until(server, lag=0, cursor=ids[-1])
        server.kill()
        server.start()
        self.assertEqual(self.sink(server)["state"], "active")
        ids += self.emit(server, "after")
        self.until(server, delivered=1)
        self.assertEqual(receiver.ids, ids)

    def test_topics_choose_what_a_sink_gets_over_restarts_and_kill_9(self):
        receivers = {name: self.receiver() for name in "ab"}
        server = self.serve(self.hook(receivers["a"], "a", topics=["garden/*", "weather"]),
                            self.hook(receivers["b"], "b"))
        self.assertEqual(self.sink(server)["topics"], ["garden/*", "weather"])
        self.assertNotIn("topics", self.sink(server, "b"))
        wanted, ids = [], []
        for turn in range(6):
            tasks = [{"timestamp": PAST, "message": str(n), "topic": topic} for n, topic in
                     enumerate(("weather", "house", "garden", "garden/roses") + 300 * ("house",))]
            new = server.ask("POST", "/schedule", tasks)[2]["ids"]
            ids += new
            wanted += [new[0], new[3]]
            if turn % 3 == 1:
                wait_for(lambda: wanted[-2] in receivers["a"].ids)
                server.kill()
                server.start()
            elif turn % 3 == 2:
                server.restart()
        self.until(server, lag=0, dead=0)
        self.until(server, "b", lag=0, dead=0)
        # What was taken right before a kill may come again, with the same id.
        self.assertEqual(list(dict.fromkeys(receivers["a"].ids)), wanted)
        self.assertEqual(list(dict.fromkeys(receivers["b"].ids)), ids)
        with open(server.journal) as journal:
            moves = [line for line in journal
                     if line.startswith('{"op":"deliver","sink":"a"')]
        self.assertLess(len(moves), 60)
        for wrong in (["*a"], ["a b"], [""], "a", [1], ["x" * 129]):
            self.assertIn("topics", self.refusal_of(self.hook(receivers["a"], topics=wrong)))

    def test_a_new_sink_begins_with_the_first_event_after_the_start_or_with_the_earliest(self):
        receivers = {name: self.receiver() for name in "abc"}
        server = self.server()
        old = self.emit(server, *range_of(3))
        self.until_emitted(server, old)
        overdue = self.fall_due_while_down(server, old)
        self.configure(self.hook(receivers["a"], "a"),
                       self.hook(receivers["b"], "b", **{"from": "earliest"}),
                       self.hook(receivers["c"], "c", **{"from": "newest"}))
        server.flags = ("--sinks", self.file)
        server.start()
        self.until_emitted(server, [overdue])  # it is not due before what is scheduled in the past
        new = [overdue] + self.emit(server, "new")
        for name, wanted in (("a", new), ("b", old + new), ("c", new)):
            self.until(server, name, delivered=len(wanted), lag=0)
            self.assertEqual(receivers[name].ids, wanted)
        # It is no new sink any more: neither word is asked again.
        server.restart()
        new = self.emit(server, "newer")
        for name in "abc":
            self.until(server, name, delivered=1, lag=0)
            self.assertEqual(receivers[name].ids[-1:], new)

    def test_each_sink_has_a_cursor_of_its_own(self):
        one, two = self.receiver(), self.receiver()
        server = self.serve(self.hook(one, "one"), self.hook(two, "two"))
        self.post(server, "/sinks/two/pause")
        ids = self.emit(server, *range_of(4))
        self.until(server, "one", lag=0, cursor=ids[3])
        self.until(server, "two", lag=4, cursor=None)
        server.kill()
        server.start()
        self.until(server, "one", lag=0, cursor=ids[3])
        self.until(server, "two", lag=4, cursor=None)
        self.post(server, "/sinks/two/resume")
        self.until(server, "two", lag=0, cursor=ids[3])
        self.assertEqual((one.ids, two.ids), (ids, ids))

    def test_a_sink_that_is_left_out_at_a_start_is_kept_and_goes_on_when_it_is_back(self):
        receiver = self.receiver(lambda *_: reply(500))
        both = [self.hook(receiver, "gone", retry=[]), self.hook(receiver, "stays", retry=NEVER)]
        server = self.serve(*both)
        dead = self.emit(server, *range_of(3))
        self.until(server, "gone", dead=3)
        self.configure(both[1])
        server.restart()
        server.until_logged("is not configured")
        lines = [line for line in server.stderr().splitlines() if "is not configured" in line]
        self.assertEqual(len(lines), 1, server.stderr())
        self.assertRegex(lines[0], "sink gone .*3 dead letters are kept")
        self.assertEqual([(one["name"], one["state"]) for one in server.page("/sinks")["data"]],
                         [("gone", "unlisted"), ("stays", "active")])
        self.assertEqual([letter["id"] for letter in self.dead(server, "gone")], dead)
        unseen = self.emit(server, "unseen")
        self.until(server, "gone", lag=1, delivered=0)
        self.until(server, "stays", lag=4)
        receiver.script = lambda *_: reply()
        self.configure(*both)
        server.kill()
        count = len(receiver.requests)
        server.start()
        self.until(server, "gone", state="active", dead=3, lag=0, delivered=1)
        self.assertEqual(receiver.ids[count:], unseen)
        self.post(server, "/sinks/gone/redeliver")
        self.until(server, "gone", dead=0)
        self.assertEqual(sorted(receiver.ids[count:]), sorted(unseen + dead))

    def test_delete_forgets_a_sink_that_is_unlisted_and_no_other(self):
        receiver = self.receiver(lambda *_: reply(500))
        both = [self.hook(receiver, "gone", retry=[]), self.hook(receiver, "stays", retry=NEVER)]
        server = self.serve(*both)
        self.emit(server, "x")
        self.until(server, "gone", dead=1)
        self.configure(both[1])
        server.restart()
        status, _, answer = server.ask("DELETE", "/sinks/stays")
        self.assertEqual(status, 409, answer)
        self.assertIn("start without it first", answer["errors"][0])
        self.assert_errors(server.call("DELETE", "/sinks/nobody"), 404)
        self.assertEqual(server.ask("DELETE", "/sinks/gone")[2], {"message": "Forgot sink gone"})
        self.assert_errors(server.call("DELETE", "/sinks/gone"), 404)
        self.assert_errors(server.call("GET", "/sinks/gone/dead"), 404)
        self.configure(*both)
        server.kill()
        receiver.script = lambda *_: reply()
        server.start()
        self.until(server, "gone", state="active", dead=0, lag=0)
        count = len(receiver.requests)
        new = self.emit(server, "new")
        self.until(server, "gone", delivered=1, lag=0)
        self.assertEqual(receiver.ids[count:], new, "it begins anew")

    def test_a_server_that_is_started_without_sinks_keeps_them_all(self):
        receiver = self.receiver()
        server = self.serve(self.hook(receiver))
        self.emit(server, "x")
        self.until(server, delivered=1)
        flags, server.flags = server.flags, ()
        server.restart()
        self.assertEqual(self.sink(server)["state"], "unlisted")
        unseen = self.emit(server, "unseen")
        self.until_emitted(server, unseen)
        server.flags = flags
        server.restart()
        self.until(server, delivered=1)
        self.assertEqual(receiver.ids[1:], unseen)

    def test_delete_events_spares_what_a_sink_has_not_taken(self):
        receiver = self.receiver(lambda *_: reply(500 if len(receiver.requests) > 2 else 200))
        server = self.serve(self.hook(receiver, "a", retry=NEVER), self.hook(self.receiver(), "b"))
        ids = self.emit(server, *range_of(5))
        self.until(server, "a", delivered=2, attempts=1)
        self.until(server, "b", delivered=5)
        self.assertEqual(server.ask("DELETE", f"/events?start_id={ids[3]}")[2], {"deleted": 0})
        self.assertEqual(server.ask("DELETE", "/events?all=true")[2], {"deleted": 2})
        self.assertEqual(server.ask("DELETE", "/events?all=true")[2], {"deleted": 0})
        self.assertEqual([event["id"] for event in server.walk("/events")], ids[2:])
        server.kill()
        server.start()
        receiver.script = lambda *_: reply()
        self.post(server, "/sinks/a/resume")
        self.until(server, "a", delivered=3, lag=0)
        self.assertEqual(receiver.ids, ids[:3] + ids[2:])
        self.assertEqual(server.ask("DELETE", "/events?all=true")[2], {"deleted": 3})


class Retention(WithClock, Sinks):
    def test_a_small_history_keeps_what_a_sink_has_not_taken_and_no_longer(self):
        for count in (0, 3):
            with self.subTest(history=count):
                self.set_clock(0)
                paused, other = self.receiver(), self.receiver()
                server = self.serve(self.hook(paused, "a"), self.hook(other, "b"), env=self.env,
                                    flags=("--history", str(count)))
                self.post(server, "/sinks/a/pause")
                ids = self.emit(server, *range_of(50))
                self.until(server, "b", delivered=50)
                # Each is kept for a minute in any case; after that only for the sink.
                self.set_clock(120)
                ids += self.emit(server, "wakes the thread")
                self.until(server, "b", delivered=51)
                self.assertEqual(len(server.walk("/events")), 51)
                server.kill()
                server.start()
                self.until(server, "a", lag=51, dead=0)
                self.post(server, "/sinks/a/resume")
                self.until(server, "a", delivered=51, lag=0, dead=0)
                self.assertEqual(paused.ids, ids)
                self.assertEqual(other.ids, ids)
                self.set_clock(240)
                self.emit(server, "wakes it again")
                self.until(server, "a", delivered=52)
                wait_for(lambda: len(server.walk("/events")) == max(count, 1), what="trimming")
                server.stop()

    def test_a_wait_that_ended_while_the_server_was_down_is_over(self):
        self.set_clock(0)
        receiver = self.receiver(lambda *_: reply(200 if receiver.requests[1:] else 500))
        server = self.serve(self.hook(receiver, retry=["1h"]), env=self.env)
        self.emit(server, "x")
        self.until(server, attempts=1)
        server.kill()
        self.set_clock(4000)
        server.start()
        self.until(server, delivered=1)

    def test_beyond_100000_events_the_oldest_are_dead_letters_and_that_is_told(self):
        self.set_clock(0)
        server = self.serve(self.hook("http://127.0.0.1:1/"), env=self.env,
                            flags=("--fsync", "no", "--history", "10"))
        self.post(server, "/sinks/a/pause")
        first = self.emit(server, *range_of(100_400))
        self.set_clock(120)
        self.emit(server, "wakes the thread")
        sink = self.until(server, dead=401, lag=100_000)
        self.assertEqual(sink["state"], "paused")
        server.until_logged("sink a is too far behind")
        self.assertEqual([letter["id"] for letter in self.dead(server)], first[:401])
        server.kill()
        server.start()
        self.until(server, dead=401, lag=100_000)
        self.assertEqual([letter["id"] for letter in self.dead(server)], first[:401])

    def test_a_failed_attempt_at_an_event_that_was_given_up_meanwhile_delays_no_other(self):
        self.set_clock(0)
        answer = threading.Event()

        def script(*_):
            if receiver.requests[1:]:
                return reply()
            answer.wait(30)
            return reply(500)

        receiver = self.receiver(script)
        server = self.serve(self.hook(receiver, timeout="30s", retry=NEVER), env=self.env,
                            flags=("--fsync", "no", "--history", "10"))
        ids = self.emit(server, *range_of(100_100))
        self.set_clock(120)
        self.emit(server, "wakes the thread")
        self.until(server, dead=101)
        answer.set()
        wait_for(lambda: len(receiver.requests) > 50, what="going on with the next event")
        self.assertEqual(receiver.ids[:50], [ids[0], *ids[101:150]])
        self.post(server, "/sinks/a/pause")


class Commands(Sinks):
    def shell(self, script, name="a", **others):
        """A sink that runs a script; what it needs beside it is $D, a folder."""
        if not hasattr(self, "scratch"):
            self.scratch = self.folder()
        return {"name": name, "exec": ["/bin/sh", "-c", f"D={self.scratch}\n{script}"],
                "timeout": "10s", "retry": ["10ms"], **others}

    def read(self, name):
        with open(os.path.join(self.scratch, name)) as file:
            return file.read()

    def written(self, name):
        """The text of a file once it is there and ends with a line."""
        def text():
            with contextlib.suppress(FileNotFoundError):
                found = self.read(name)
                return found if found.endswith("\n") else None
        return wait_for(text, what=name)

    def is_running(self, pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            with open(f"/proc/{pid}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] not in "ZX"
        return False

    def children(self, server):
        """The states of the server's children; Z is a zombie."""
        states = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                with open(f"/proc/{pid}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
                if int(fields[1]) == server.process.pid:
                    states[int(pid)] = fields[0]
        return states

    def test_a_command_has_the_payload_as_input_and_three_variables_but_nothing_secret(self):
        script = 'cat > "$D/in.$SCHEDULER_TASK_ID"; env > "$D/env.$SCHEDULER_TASK_ID"'
        secret = os.path.join(self.folder(), "secret")
        with open(secret, "w") as file:
            file.write("s3cret-of-the-file\n")
        server = self.serve(self.shell(script), env={
            "SCHEDULER_SECRET": "s3cret", "SCHEDULER_SECRET_FILE": secret,
            "SCHEDULER_FSYNC": "no", "SCHEDULER_X": "x", "OTHER": "kept"})
        headers = [("x-pd-secret", "s3cret")]
        text = '{"timestamp":"%s","message":{"n":1.10,"t":"\\u00e4 %%s \u4e16"}}' % PAST
        answer = server.call("POST", "/schedule", text, headers)
        task = answer.json["id"]
        wait_for(lambda: b'"delivered":1' in server.call("GET", "/sinks", None, headers).body)
        self.assertEqual(self.read("in." + task), text)
        variables = dict(line.split("=", 1) for line in self.read("env." + task).splitlines())
        ours = {name: value for name, value in variables.items() if "SCHEDULER" in name}
        ours.pop("SCHEDULER_ATTEMPT", None)
        self.assertEqual(list(sorted(ours)), ["SCHEDULER_DUE", "SCHEDULER_LATE_MS",
                                              "SCHEDULER_TASK_ID"])
        self.assertEqual((ours["SCHEDULER_TASK_ID"], ours["SCHEDULER_DUE"]), (task, PAST))
        event = server.call("GET", "/events", None, headers).json["data"][0]
        self.assertEqual(int(ours["SCHEDULER_LATE_MS"]), event["late_ms"])
        self.assertEqual((variables["OTHER"], variables["PATH"]), ("kept", os.environ["PATH"]))
        self.assertNotIn("s3cret", "".join(variables.values()))

    def test_a_command_cannot_read_the_secret_in_the_environment_of_its_parent(self):
        folder = self.folder()
        server = self.serve(self.shell(f"cat /proc/$PPID/environ > {folder}/part && "
                                       f"mv {folder}/part {folder}/environ"),
                            env={"SCHEDULER_SECRET": "s3cret", "OTHER": "kept"})
        headers = [("x-pd-secret", "s3cret")]
        text = json.dumps({"timestamp": PAST, "message": "x"})
        self.assertEqual(server.call("POST", "/schedule", text, headers).status, 200)
        path = os.path.join(folder, "environ")
        wait_for(lambda: os.path.exists(path), what="the command's end")
        with open(path, "rb") as file:
            block = file.read()
        self.assertIn(b"OTHER=kept", block)
        self.assertNotIn(b"s3cret", block)

    def test_status_0_is_success_and_every_other_end_is_a_failure_that_is_named(self):
        ends = {"fine": ("exit 0", None), "status": ("exit 3", "status 3"),
                "signal": ("kill -9 $$", "signal 9"), "term": ("kill $$", "signal 15")}
        sinks = [self.shell(script, name) for name, (script, _) in ends.items()]
        others = {"missing": ["/nonexistent/command"], "unknown": ["no-such-command-anywhere"],
                  "folder": ["/tmp"], "data": ["/etc/passwd"]}
        sinks += [{"name": name, "exec": command, "retry": ["1ms"]}
                  for name, command in others.items()]
        server = self.serve(*sinks, {"name": "path", "exec": ["true", "a b", ""]})
        task, = self.emit(server, "x")
        self.until(server, "fine", delivered=1, failed=0)
        self.until(server, "path", delivered=1, failed=0)
        for name in ("status", "signal", "term", *others):
            with self.subTest(name):
                sink = self.until(server, name, dead=1, failed=2, delivered=0, lag=0)
                self.assertIn(ends[name][1] if name in ends else others[name][0],
                              sink["last_error"])
                self.assertEqual([letter["id"] for letter in self.dead(server, name)], [task])
        self.assertEqual(self.children(server), {})

    def test_a_command_that_takes_too_long_is_killed_with_all_that_it_has_started(self):
        script = ("trap '' TERM; sleep 300 & echo $! >> $D/pids; (sleep 301 & echo $! >> $D/pids; "
                  "wait) & echo $! >> $D/pids; echo $$ >> $D/pids; wait")
        for seconds in (0.4, 2, 10):
            self.scratch = self.folder()
            server = self.serve(self.shell(script, timeout=f"{seconds * 1000:.0f}ms", retry=[]))
            began = time.monotonic()
            self.emit(server, "x")
            sink = self.until(server, dead=1)
            self.assertTrue(seconds <= time.monotonic() - began < seconds + support.SOON)
            self.assertIn("took too long", sink["last_error"])
            path = os.path.join(self.scratch, "pids")
            pids = self.read("pids").split() if os.path.exists(path) else []
            if len(pids) == 4:
                break
            server.stop()  # the machine was too slow to start them all
        self.assertEqual(len(pids), 4)
        wait_for(lambda: not any(map(self.is_running, pids)), what="their end")
        self.assertEqual(self.children(server), {})

    def test_a_command_that_never_stops_writing_is_ended_by_its_timeout_and_by_a_stop(self):
        server = self.serve({"name": "a", "exec": ["yes"], "timeout": "500ms", "retry": NEVER})
        self.emit(server, "x")
        try:
            self.until(server, failed=1)
        finally:
            self.assertLess(server.stop()[1], support.SOON)
        self.assertLess(len(server.stderr()), 200_000, "the log is bounded")
        self.configure({"name": "b", "exec": ["cat", "/dev/zero"], "timeout": "60s"})
        server.start()
        self.emit(server, "x")
        time.sleep(0.3)
        self.assertLess(server.stop()[1], support.SOON)

    def test_what_a_command_leaves_in_the_background_does_not_hold_the_sink_up(self):
        server = self.serve(self.shell("sleep 60 & echo $! >> $D/pids"))
        began = time.monotonic()
        self.emit(server, "one", "two")
        self.until(server, delivered=2, failed=0)
        self.assertLess(time.monotonic() - began, support.SOON)
        for pid in self.read("pids").split():
            os.kill(int(pid), signal.SIGKILL)

    def test_output_goes_to_the_log_a_line_each_without_control_characters(self):
        server = self.serve(self.shell(
            r"printf 'to output\nto \033[31merrors\r\n' >&2; printf 'no end \303\244'"))
        self.emit(server, "x")
        self.until(server, delivered=1)
        server.until_logged("no end")
        lines = [line.split(" ", 1)[1] for line in server.stderr().splitlines()]
        self.assertIn("info command.output: sink a: to output", lines)
        self.assertIn("info command.output: sink a: no end ä", lines)
        self.assertTrue([line for line in lines if "sink a: to " in line
                         and "errors" in line and "\033" not in line])

    def test_the_short_form_splits_at_blanks_and_knows_no_quotes(self):
        server = self.server("--exec", " printf  %s\\n a  'b c' $HOME ")
        self.emit(server, "x")
        wait_for(lambda: "$HOME" in server.stderr())
        found = re.findall(r"sink exec-\w+: (.*)", server.stderr())
        self.assertEqual(found, ["a", "'b", "c'", "$HOME"])

    def test_one_that_ignores_its_input_is_no_trouble_and_a_large_one_comes_whole(self):
        server = self.serve(self.shell("wc -c > $D/size"), self.shell("exit 0", "deaf"))
        with server.wire() as wire:
            message = "x" * (1048576 - len(json.dumps({"timestamp": PAST, "message": ""})))
            answer = wire.call("POST", "/schedule", support.body(message, PAST))
            self.assertEqual(answer.status, 200)
        self.until(server, delivered=1)
        self.until(server, "deaf", delivered=1, failed=0)
        size = len(server.walk("/events")[0]["payload"]["message"])
        self.assertEqual(int(self.read("size")), size + len(
            '{"timestamp":"","message":""}') + len(PAST))

    def test_no_zombie_is_left_and_no_descriptor_inherited(self):
        hook = self.receiver()
        server = self.serve(
            self.shell("exec ls -l /proc/self/fd > $D/$SCHEDULER_TASK_ID", "ls"),
            self.hook(hook, "hook"))
        self.opened(server.stream())
        for _ in range(3):
            self.opened(server.wire()).call("GET", "/healthz")
        ids = self.emit(server, *range_of(50))
        self.until(server, "ls", delivered=50, failed=0)
        self.assertEqual(self.children(server), {})
        for task in ids:
            found = re.findall(r" (\d+) -> (.*)", self.read(task))
            self.assertEqual([number for number, _ in found], ["0", "1", "2", "3"], found)
            self.assertRegex(found[3][1], r"^/proc/\d+/fd$", "of ls itself")
            self.assertRegex(found[2][1], "^pipe:")

    def test_signals_are_as_by_default_and_the_group_is_its_own(self):
        server = self.serve(self.shell(
            "cat /proc/self/status > $D/status; cat /proc/self/stat > $D/stat"))
        self.emit(server, "x")
        self.until(server, delivered=1)
        masks = dict(re.findall(r"(Sig\w+):\s+(\w+)", self.read("status")))
        # glibc itself ignores the two signals that it keeps for its threads, 32 and 33.
        self.assertEqual([int(masks[name], 16) & ~(3 << 31) for name in
                          ("SigBlk", "SigIgn", "SigCgt")], [0] * 3)
        fields = self.read("stat").rpartition(")")[2].split()
        self.assertNotEqual(int(fields[2]), os.getpgid(server.process.pid))

    def test_a_stop_ends_a_running_command_soon_and_it_runs_again_after_the_restart(self):
        end = "sleep 60 & echo $! >> $D/pids; wait; sleep 60"
        child = "(trap '' TERM; sleep 60) & echo $! >> $D/pids; wait"
        for name, rest in (("obedient", end), ("stubborn", "trap '' TERM;" + end),
                           ("stubborn child", child)):
            with self.subTest(name):
                self.scratch = self.folder()
                script = ("echo $SCHEDULER_TASK_ID >> $D/runs; echo $$ >> $D/pids; "
                          "test -e $D/quick && exit; " + rest)
                server = self.serve(self.shell(script, timeout="90s"))
                task, = self.emit(server, "x")
                wait_for(lambda: self.written("pids").count("\n") == 2)
                time.sleep(0.1)  # until a trap is set
                status, seconds = server.stop()
                self.assertEqual(status, 0)
                self.note(f"{name}: {seconds:.2f} s")
                self.assertLess(seconds, support.SOON)
                pids = [int(pid) for pid in self.read("pids").split()]
                try:
                    wait_for(lambda: not any(map(self.is_running, pids)), support.SOON,
                             "its children's end")
                finally:
                    for pid in filter(self.is_running, pids):
                        os.kill(pid, signal.SIGKILL)
                open(os.path.join(self.scratch, "quick"), "w").close()
                server.start()
                self.until(server, delivered=1, failed=0, dead=0)
                self.assertEqual(self.read("runs").split(), [task] * 2)
                server.stop()


class Configuration(Sinks):
    def refused(self, text=None, *words, flags=(), secret=()):
        """A start with this file must fail with status 2 and one line that has these words."""
        folder = self.folder()
        path = os.path.join(folder, "sinks.json")
        if text is not None:
            text = text if isinstance(text, (str, bytes)) else json.dumps(text)
            with open(path, "wb") as file:
                file.write(text.encode() if isinstance(text, str) else text)
            flags = ("--sinks", path, *flags)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SCHEDULER_")}
        process = subprocess.Popen([support.BINARY, "--port", "0", *flags], cwd=folder, text=True,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, env=environment,
                                   preexec_fn=support.end_with_parent())
        try:
            output, errors = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            self.fail("it starts")
        self.assertEqual((process.returncode, output), (2, ""), errors)
        self.assertRegex(errors, r"^task-scheduler: [^\n]+\n$")
        for word in words:
            self.assertIn(word, errors)
        for word in secret:
            self.assertNotIn(word, errors)
        self.assertFalse(os.path.exists(os.path.join(folder, "tasks.jsonl")), "it came to that")

    def test_what_is_wrong_in_the_file_is_refused_with_its_place(self):
        self.needs_openssl()
        url = "https://127.0.0.1/t0ken"
        good = {"name": "a", "webhook": url}
        run = {"name": "a", "exec": ["true"]}
        for sinks, *words in (
                ([good, {**good, "colour": 1}], "sinks[1]", "colour"),
                ([good, good], "sinks[1]", "name"),
                ([good, run], "sinks[1]", "name"),
                ([{"webhook": url}], "sinks[0]", "name"), ([{"name": "a"}], "sinks[0]", "webhook"),
                ([{**good, "exec": ["true"]}], "sinks[0]", "webhook", "exec"),
                ([{**good, "name": ""}], "sinks[0].name"),
                ([{**good, "name": "a b"}], "sinks[0].name"),
                ([{**good, "name": "a/b"}], "sinks[0].name"),
                ([{**good, "name": "x" * 65}], "sinks[0].name"),
                ([{**good, "name": 5}], "sinks[0].name"),
                ([{**good, "timeout": "soon"}], "sinks[0].timeout"),
                ([{**good, "timeout": "0s"}], "sinks[0].timeout"),
                ([{**good, "timeout": 15}], "sinks[0].timeout"),
                ([{**good, "timeout": None}], "sinks[0].timeout"),
                ([{**good, "retry": ["5s", "often"]}], "sinks[0].retry[1]"),
                ([{**good, "retry": ["-5s"]}], "sinks[0].retry[0]"),
                ([{**good, "retry": "5s"}], "sinks[0].retry"),
                ([{**good, "retry": [5]}], "sinks[0].retry[0]"),
                ([{**good, "retry": ["99999999999d"]}], "sinks[0].retry[0]"),
                ([{**good, "from": "oldest"}], "sinks[0].from"),
                ([{**good, "from": 1}], "sinks[0].from"),
                ([{**good, "webhook": [url]}], "sinks[0].webhook"),
                ([{**good, "secrets": SECRETS[0]}], "sinks[0].secrets"),
                ([{**good, "headers": ["X-A: b"]}], "sinks[0].headers"),
                ([{**good, "headers": {"X-A": 1}}], "sinks[0].headers.X-A"),
                ([{**good, "headers": {"X A": "b"}}], "sinks[0]", "X A"),
                ([{**good, "headers": {"X-A": "b\r\nX-B: t0ken"}}], "sinks[0]", "X-A"),
                ([{**good, "headers": {"webhook-id": "t0ken"}}], "sinks[0]", "webhook-id"),
                ([{**good, "headers": {"content-length": "5"}}], "sinks[0]", "content-length"),
                ([{**run, "exec": "true t0ken"}], "sinks[0].exec"),
                ([{**run, "exec": []}], "sinks[0]"), ([{**run, "exec": [""]}], "sinks[0]"),
                ([{**run, "exec": ["true", 1]}], "sinks[0].exec[1]"),
                ([{**run, "exec": ["true", "a\0b"]}], "sinks[0].exec[1]"),
                ([{**run, "secrets": SECRETS[:1]}], "sinks[0].secrets"),
                ([{**run, "headers": {}}], "sinks[0].headers"),
                ([[]], "sinks[0]"), (["t0ken"], "sinks[0]"), ([None], "sinks[0]"),
                ({}, "sinks"), ("t0ken", "sinks"), (None, "sinks")):
            with self.subTest(sinks):
                self.refused({"sinks": sinks}, "sinks.json", *words,
                             secret=("t0ken", SECRETS[0][6:]))

    def test_a_member_that_comes_twice_is_refused(self):
        text = '{"sinks":[{"name":"a","name":"b","exec":["true"]}]}'
        self.refused(text, "sinks[0].name")
        self.refused('{"sinks":[],"sinks":[]}', "sinks")
        self.refused('{"sinks":[],"more":1}', "more")

    def test_a_bad_url_is_refused_and_not_shown(self):
        for url in ("", "example.org", "ftp://t0ken.example/", "http://", "http:///t0ken",
                    "http://user:t0ken@example.org/", "http://a.example:0/t0ken",
                    "http://a.example:65536/t0ken", "http://a.example:x/t0ken",
                    "http://a.example:/t0ken", "http://a.example/t0ken#part", "http://a b/t0ken",
                    "http://a.example/t0 ken", "http://\u00e4.example/t0ken", "http://[::1/t0ken",
                    "http://a.example/t0ken\r\nX: y", "HTTP:/t0ken", " http://a.example/t0ken"):
            with self.subTest(url):
                self.refused({"sinks": [{"name": "a", "webhook": url}]}, "sinks[0]", "URL",
                             secret=["t0ken"])
                if url:
                    self.refused(None, "--webhook", "URL", flags=("--webhook", url),
                                 secret=["t0ken"])

    def test_a_bad_secret_is_refused_and_not_shown(self):
        self.needs_openssl()
        key = SECRETS[0][6:]
        for secrets in ([key], ["whsec_"], ["whsec_" + key[:-1]], ["whsec_*" + key[1:]],
                        ["whsec_" + key[:-4] + "    "], ["whsec_    " + key], ["whsec_A=A="],
                        ["whsec_" + key + "===="], ["whsec_\n\n\n\n" + key],
                        [SECRETS[0], "t0ken"], [*SECRETS, SECRETS[0]], [5], [""]):
            with self.subTest(secrets):
                self.refused({"sinks": [{"name": "a", "webhook": "http://127.0.0.1/",
                                         "secrets": secrets}]}, "sinks[0]",
                             secret=("t0ken", key[:-4]))

    def test_a_file_that_is_not_json_or_not_there_is_refused(self):
        for text in ("", "{", "sinks", '{"sinks":[}', "[]", '"x"', b"\xff{}", '{"sinks":[]} x',
                     b'{"sinks":[{"name":"\xff"}]}', "\ufeff{}", "{'sinks':[]}"):
            with self.subTest(text):
                self.refused(text, "sinks.json")
        for flags, word in ((("--sinks", "nowhere.json"), "nowhere.json"),
                            (("--sinks", "/tmp"), "/tmp"), (("--exec", "  "), "--exec"),
                            (("--exec", "true", "--exec", "true"), "twice"),
                            (("--webhook", "http://127.0.0.1/t0ken") * 2, "twice")):
            with self.subTest(flags):
                self.refused(None, word, flags=flags, secret=["t0ken"])

    def test_where_the_binary_has_no_openssl_what_needs_it_is_refused_and_never_skipped(self):
        for sink in (self.hook("https://127.0.0.1/"),
                     self.hook("http://127.0.0.1/", secrets=SECRETS[:1])):
            if "OpenSSL" not in self.refusal_of(sink):
                self.skipTest("the binary was built with OpenSSL")
            self.refused({"sinks": [sink]}, "sinks[0]", "OpenSSL")

    def test_an_empty_list_and_every_member_at_once_are_fine(self):
        self.needs_openssl()
        server = self.serve()
        self.assertEqual(server.page("/sinks"), {"data": []})
        self.configure(
            {"name": "A-z_0.9", "webhook": "http://[::1]:1/", "secrets": SECRETS,
             "headers": {"X-Team": "a", "Authorization": "Bearer b"}, "timeout": "1h30m",
             "retry": [], "from": "earliest"},
            {"name": "b", "exec": ["true"], "timeout": "250ms", "retry": ["1ms"],
             "from": "newest"})
        server.restart()
        sinks = server.page("/sinks")["data"]
        self.assertEqual([one["name"] for one in sinks], ["A-z_0.9", "b"])

    def test_secrets_paths_and_header_values_are_shown_nowhere(self):
        self.needs_openssl()
        receiver = self.receiver(lambda *_: reply(500))
        target = "/path-t0ken?key=query-t0ken"
        sinks = [self.hook(receiver.url(target), "failing", retry=["1ms"], secrets=SECRETS,
                           headers={"Authorization": "Bearer header-t0ken"}),
                 self.hook("http://127.0.0.1:1" + target, "refused", retry=["1ms"]),
                 self.hook("https://127.0.0.1:1" + target, "secure", retry=["1ms"],
                           secrets=SECRETS),
                 self.hook("http://no-such-host.invalid" + target, "nowhere", retry=["1ms"]),
                 {"name": "run", "exec": ["false", "argument-t0ken"], "retry": ["1ms"]}]
        server = self.serve(*sinks, flags=("--webhook", receiver.url(target + "-short"), "--exec",
                                           "false short-t0ken"))
        self.emit(server, "x")
        for sink in sinks:
            self.until(server, sink["name"], dead=1)
        shown = [server.call("GET", path).body.decode() for path in
                 ("/sinks", "/metrics", *(f"/sinks/{s['name']}/dead" for s in sinks))]
        done = subprocess.run([support.BINARY, "sinks", "--url", server.url], text=True,
                              capture_output=True, timeout=20)
        shown += [done.stdout, done.stderr]
        server.stop()
        with open(server.journal) as file:
            shown += [file.read(), server.stderr(), server.line]
        for text in shown:
            self.assertNotIn("t0ken", text)
            for secret in SECRETS:
                self.assertNotIn(secret[6:20], text)
            self.assertNotIn("whsec", text)


class Surfaces(Sinks):
    """What a person, a script and a monitor see of sinks."""

    def verb(self, server, *arguments):
        done = subprocess.run([support.BINARY, "sinks", *arguments], capture_output=True, text=True,
                              timeout=20, env={**os.environ, "SCHEDULER_URL": server.url})
        return done.returncode, done.stdout, done.stderr

    def metrics(self, server):
        text = server.call("GET", "/metrics").body.decode()
        found = re.findall(r'^task_scheduler_(sink_\w+)\{sink="([^"]+)"\} (\d+)$', text, re.M)
        values = {(name, sink): int(value) for name, sink, value in found}
        self.assertEqual(len(values), len(found), "each once")
        for name in {name for name, _ in values}:
            self.assertRegex(text, rf"(?m)^# TYPE task_scheduler_{name} (counter|gauge)$")
        return values

    def test_metrics_tell_how_each_sink_stands(self):
        good, bad = self.receiver(), self.receiver(lambda *_: reply(500))
        server = self.serve(self.hook(good, "good"), self.hook(bad, "bad", retry=["1ms"]))
        self.emit(server, *range_of(3))
        self.until(server, "good", delivered=3)
        self.until(server, "bad", dead=3)
        self.post(server, "/sinks/bad/pause")
        self.emit(server, "x")
        self.until(server, "good", delivered=4)
        wanted = {"sink_active": (1, 0), "sink_lag_events": (0, 1), "sink_dead_letters": (0, 3),
                  "sink_delivered_total": (4, 0), "sink_failed_attempts_total": (0, 6),
                  "sink_dropped_total": (0, 0), "sink_unlisted": (0, 0),
                  "sink_postponed_total": (0, 0)}
        self.assertEqual(self.metrics(server), {
            (name, sink): values[n] for name, values in wanted.items()
            for n, sink in enumerate(("good", "bad"))})
        for name, receiver in (("good", good), ("bad", bad)):
            self.assertIn(f'task_scheduler_sink_info{{sink="{name}",kind="webhook",'
                          f'target="{receiver.url()}"}} 1\n',
                          server.call("GET", "/metrics").body.decode())
        self.assertEqual(self.metrics(self.server()), {})

    def test_the_command_line_lists_redelivers_pauses_and_resumes(self):
        broken = threading.Event()
        broken.set()
        receiver = self.receiver(lambda *_: reply(500 if broken.is_set() else 200))
        server = self.serve(self.hook(receiver, retry=["1ms"]), {"name": "b", "exec": ["true"]})
        ids = self.emit(server, *range_of(3))
        self.until(server, "a", dead=3)
        self.until(server, "b", delivered=3)
        status, output, errors = self.verb(server)
        self.assertEqual((status, errors), (0, ""))
        lines = [line.split("\t") for line in output.splitlines()]
        self.assertEqual([line[:6] for line in lines],
                         [["a", "webhook", "active", "delivered 0", "lag 0", "dead 3"],
                          ["b", "exec", "active", "delivered 3", "lag 0", "dead 0"]])
        self.assertIn("the receiver answers 500", output.splitlines()[0])
        listed = [json.loads(line) for line in self.verb(server, "--json")[1].splitlines()]
        self.assertEqual(listed, server.page("/sinks")["data"])
        status, output, _ = self.verb(server, "dead", "a")
        self.assertEqual([line.split("\t")[0] for line in output.splitlines()], ids)
        letters = [json.loads(line) for line in self.verb(server, "dead", "a", "--json")[1]
                   .splitlines()]
        self.assertEqual(letters, self.dead(server))
        self.assertEqual(self.verb(server, "dead", "b"),
                         (0, "", "task-scheduler: b has no dead letters\n"))
        self.assertEqual(self.verb(server, "pause", "a")[0], 0)
        self.assertEqual(self.sink(server)["state"], "paused")
        self.assertIn("paused", self.verb(server)[1])
        broken.clear()
        self.assertEqual(self.verb(server, "redeliver", "a", ids[1]), (0, "1\n", ""))
        self.assertEqual(self.verb(server, "redeliver", "a"), (0, "3\n", ""))
        self.assertEqual(self.verb(server, "resume", "a")[0], 0)
        self.until(server, state="active", dead=0, delivered=3)

    def test_the_command_line_and_the_metrics_show_an_unlisted_sink_and_forget_drops_it(self):
        one, two = self.hook(self.receiver(), "one"), self.hook(self.receiver(), "two")
        server = self.serve(one, two)
        self.configure(two)
        server.restart()
        self.assertIn("one\t\tunlisted", self.verb(server)[1])
        values = self.metrics(server)
        self.assertEqual([values["sink_unlisted", name] for name in ("one", "two")], [1, 0])
        self.assertEqual([values["sink_active", name] for name in ("one", "two")], [0, 1])
        self.assertEqual(self.verb(server, "forget", "one"), (0, "", ""))
        self.assertEqual([name for _, name in self.metrics(server) if name == "one"], [])
        status, output, errors = self.verb(server, "forget", "two")
        self.assertEqual((status, output), (1, ""))
        self.assertIn("start without it first", errors)

    def test_its_exit_status_tells_refused_from_misused_from_unreachable(self):
        server = self.serve({"name": "a", "exec": ["true"]})
        for what in ("dead", "redeliver", "pause", "resume", "forget"):
            for arguments, wanted in (([what, "b"], 1), ([what], 2), ([what, "a", "b", "c"], 2),
                                      ([what, "a", "--nonsense"], 2)):
                status, output, errors = self.verb(server, *arguments)
                self.assertEqual((status, output), (wanted, ""), arguments)
                self.assertRegex(errors, r"^task-scheduler: [^\n]+\n$")
        self.assertEqual(self.verb(server, "redeliver", "a", support.UNKNOWN)[0], 1)
        self.assertEqual(self.verb(server, "redeliver", "a", "x")[0], 2)
        self.assertEqual(self.verb(server, "nonsense")[0], 2)
        status, output, _ = self.verb(server, "--help")
        self.assertEqual(status, 0)
        self.assertIn("Usage: task-scheduler sinks", output)
        for verb in (["a/../b"], [""], ["a b"], ["%61"]):
            self.assertEqual(self.verb(server, "pause", *verb)[0], 2, verb)
        server.stop()
        for arguments in ([], ["dead", "a"], ["redeliver", "a"], ["pause", "a"], ["resume", "a"]):
            self.assertEqual(self.verb(server, *arguments)[0], 3)


class ReceiverProcess:
    """A receiver in a process of its own, to be killed: this file, run by Python.  It has written
    down an event before it answers."""

    def __init__(self, log):
        self.log, self.port = log, 0
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(self.port), self.log], stdout=subprocess.PIPE,
            preexec_fn=support.end_with_parent())
        self.port = int(self.process.stdout.readline())

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def ids(self):
        with open(self.log) as file:
            return file.read().split()


class Kills(Sinks):
    def test_with_kill_9_on_both_sides_every_event_comes_in_order_and_repeats_bear_its_id(self):
        count, rounds = (10_000, 60) if support.LONG else (1_500, 12)
        chance = random.Random(support.SEED)
        receiver = ReceiverProcess(os.path.join(self.folder(), "log"))
        self.addCleanup(lambda: receiver.kill())
        url = f"http://127.0.0.1:{receiver.port}/"
        server = self.serve(self.hook(url, retry=["5ms"] * 100_000),
                            flags=("--history", "1000000"))
        spread = rounds * 0.35
        stamps = [iso(0.3 + spread * n / count) for n in range(count)]
        for start in range(0, count, 500):
            status, _, answer = server.ask("POST", "/schedule", [
                {"timestamp": stamp, "message": "x"} for stamp in stamps[start:start + 500]])
            self.assertEqual(status, 200, answer)
        kills = collections.Counter()
        for round in range(rounds):
            time.sleep(chance.uniform(0.05, 0.45))
            who = chance.choice(("server", "receiver", "both"))
            kills[who] += 1
            if who != "receiver":
                server.kill()
            if who != "server":
                receiver.kill()
                time.sleep(chance.uniform(0, 0.1))
                receiver.start()
            if who != "receiver":
                server.start("--fsync", ("always", "everysec", "no")[round % 3])
        wait_for(lambda: not server.pending(), spread + 60, "emission")
        self.until(server, lag=0, dead=0)
        emitted = [event["id"] for event in server.walk("/events")]
        received = receiver.ids()
        self.assertEqual(len(emitted), count)
        self.assertEqual(list(dict.fromkeys(received)), emitted, "lost, or out of order")
        # A repeat is of the event that was under way, not of one from before.
        place = {task: n for n, task in enumerate(emitted)}
        steps = [place[b] - place[a] for a, b in zip(received, received[1:])]
        self.assertLessEqual(set(steps), {0, 1}, "went back further than to the event at hand")
        self.note(f"{count} events, {len(received) - count} duplicates, kills: {dict(kills)}")

    def test_whatever_is_paused_fails_dies_or_is_delivered_again_no_event_is_lost(self):
        rounds = 40 if support.LONG else 6
        chance = random.Random(support.SEED)
        receiver = self.receiver(lambda *_: reply(chance.choice((200, 200, 200, 500))))
        server = self.serve(self.hook(receiver, retry=["1ms"], timeout="1s"),
                            self.hook(receiver, "b", retry=[]),
                            {"name": "c", "exec": ["/bin/sh", "-c", "exit $(($$ % 2))"],
                             "retry": []})
        ids, deeds = [], collections.Counter()
        for round in range(rounds):
            for _ in range(12):
                ids += self.emit(server, *range_of(chance.randrange(1, 20)))
                what = chance.choice(("pause", "resume", "redeliver", "redeliver"))
                self.post(server, f"/sinks/{chance.choice('ab')}/{what}")
                deeds[what] += 1
                time.sleep(chance.uniform(0, 0.02))
            deeds["kill"] += 1
            server.kill()
            server.start("--fsync", ("always", "everysec", "no")[round % 3])
            for name in "ab":  # everything is somewhere: taken, dead, or still to come
                dead = {letter["id"] for letter in self.dead(server, name)}
                lag = self.sink(server, name)["lag"]
                known = set(receiver.ids) | dead | set(ids[len(ids) - lag:])
                self.assertEqual(set(ids) - known, set())
        receiver.script = lambda *_: reply()
        for name in "ab":
            self.post(server, f"/sinks/{name}/resume")
            self.until(server, name, lag=0)
            self.post(server, f"/sinks/{name}/redeliver")
            self.until(server, name, dead=0)
        self.assertEqual([event["id"] for event in server.walk("/events")], ids)
        times = collections.Counter(receiver.ids)
        self.assertEqual(set(times), set(ids))
        self.assertGreaterEqual(min(times.values()), 2, "each sink has had each")
        self.note(f"{len(ids)} events, {dict(deeds)}")


def record(port, path):
    """The receiver's process: an id a line, then the answer."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def script(request, _):
        os.write(log, (request.id + "\n").encode())
        time.sleep(0.002)  # so that a kill is likely to come in between
        return reply()

    receiver = Receiver(script, port=port)
    print(receiver.port, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    record(int(sys.argv[1]), sys.argv[2])
