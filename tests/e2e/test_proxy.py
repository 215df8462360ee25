# SPDX-License-Identifier: MIT
"""HTTP through nginx, Caddy and HAProxy, as docs/operate.md configures them: what is answered through
them is what is answered without, and no request is ever taken for a part of another."""
import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import threading

import support
from support import Closed, Stream, TestCase, Wire, body, wait_for

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
NOBODY = 65534


def documented(language):
    """The configuration that docs/operate.md shows."""
    text = (ROOT / "docs" / "operate.md").read_text()
    return re.search(rf"```{language}\n(.*?)```", text, re.S)[1]


class Proxy:
    """A proxy before a server, in the foreground, unprivileged, on a port of the loopback."""

    needed = True  # where the proxies are to be there

    def __init__(self, directory, upstream):
        self.directory, self.upstream, self.port = directory, upstream, support.free_port()
        if os.getuid() == 0:
            os.chown(directory, NOBODY, NOBODY)
        path = os.path.join(directory, "config")
        with open(path, "w") as file:
            file.write(self.configuration())
        os.chmod(path, 0o644)
        other = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
        self.log = open(os.path.join(directory, "log"), "wb")
        self.process = subprocess.Popen(
            self.command(path), cwd=directory, stdin=subprocess.DEVNULL, stdout=self.log,
            stderr=self.log, preexec_fn=support.end_with_parent(), **other)
        wait_for(self.is_up, what=f"the start of {self.program}")

    def is_up(self):
        assert self.process.poll() is None, self.said()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
            return True

    def said(self):
        return (pathlib.Path(self.directory) / "log").read_text()

    def replaced(self, text, *pairs):
        """Each of the pairs must be there: or else the document has changed."""
        for old, new in (("127.0.0.1:8080", f"127.0.0.1:{self.upstream}"), *pairs):
            assert re.search(old, text), f"{old} is not in the document"
            text = re.sub(old, new, text)
        return text

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Nginx(Proxy):
    program = "nginx"

    def configuration(self):
        shown = self.replaced(documented("nginx"), (r" *ssl_certificate.*\n", ""),
                              ("listen 443 ssl", f"listen 127.0.0.1:{self.port}"))
        paths = "".join(f"    {kind}_temp_path temp-{kind};\n"
                        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        return (f"pid pid;\nerror_log stderr warn;\nworker_processes 1;\ndaemon off;\n"
                f"events {{ worker_connections 1024; }}\nhttp {{\n    access_log off;\n{paths}"
                f"{shown}}}\n")

    def command(self, path):
        return [shutil.which("nginx", path=PATH), "-p", self.directory, "-e", "stderr", "-c", path]


class HAProxy(Proxy):
    program = "haproxy"

    def configuration(self):
        return "global\n    maxconn 1000\n" + self.replaced(
            documented("haproxy"), (r"bind :443 ssl crt \S+", f"bind 127.0.0.1:{self.port}"))

    def command(self, path):
        return [shutil.which("haproxy", path=PATH), "-f", path, "-db"]


class Caddy(Proxy):
    program, needed = "caddy", False

    def configuration(self):
        return "{\n    admin off\n}\n" + self.replaced(
            documented("caddy"), (r"^tasks\.example", f"http://127.0.0.1:{self.port}"))

    def command(self, path):
        # It keeps certificates, and what it was last told, in its home.
        return ["env", f"HOME={self.directory}", "XDG_DATA_HOME=", "XDG_CONFIG_HOME=",
                shutil.which("caddy", path=PATH), "run", "--adapter", "caddyfile", "--config", path]


class Through:
    """The tests of one proxy."""
    proxy = None

    def setUp(self):
        super().setUp()
        if not shutil.which(self.proxy.program, path=PATH):
            if self.proxy.needed and os.environ.get("TESTS_PROXIES"):
                self.fail(f"{self.proxy.program} is not installed")
            self.skipTest(f"{self.proxy.program} is not installed")
        self.target = self.server()
        directory = tempfile.mkdtemp(prefix="proxy-")
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        self.through = self.proxy(directory, self.target.port)
        self.addCleanup(self.through.end)

    def wire(self):
        return Wire(self.through.port, seconds=20)

    def call(self, *args, **options):
        with self.wire() as wire:
            return wire.call(*args, **options)

    def upstream_connections(self):
        """The connections to the server's port that there are, or were a moment ago."""
        found = set()
        with open("/proc/net/tcp") as file:
            for line in file.readlines()[1:]:
                _, local, remote, state = line.split()[:4]
                if f"{self.target.port:04X}" in (local[9:], remote[9:]) and state != "0A":
                    found.add(frozenset((local, remote)))
        return found

    def test_connections_to_the_server_are_kept(self):
        before = self.upstream_connections()  # of another test, whose server had the same port
        for n in range(60):  # a client each
            self.assertEqual(self.call("GET", "/healthz").status, 200)
        self.assertLess(len(self.upstream_connections() - before), 10)
        with self.wire() as wire:
            for n in range(60):
                task = wire.call("POST", "/schedule", body(str(n))).json["id"]
                self.assertEqual(wire.call("DELETE", "/tasks/" + task).status, 200)
        self.assertLess(len(self.upstream_connections() - before), 10)

    def test_every_method_is_answered_as_it_is_without_the_proxy(self):
        with self.wire() as wire:
            task = wire.call("POST", "/schedule", body({"a": [1, "é"]})).json["id"]
            answer = wire.call("PATCH", "/tasks/" + task, json.dumps({"delay": 7200}))
            self.assertEqual(answer.status, 200, answer)
            for path in ("/tasks/" + task, "/tasks", "/healthz", "/openapi.json", "/tasks/nothing",
                         "/tasks?nonsense=1", "/schedule"):
                with self.subTest(path):
                    direct, got = self.target.call("GET", path), wire.call("GET", path)
                    self.assertEqual((got.status, got.body), (direct.status, direct.body))
                    head = wire.call("HEAD", path)
                    self.assertEqual(head.status, direct.status)
                    if path != "/schedule":
                        self.assertEqual(head.header("Content-Length"), str(len(direct.body)))
            self.assertIn("POST", wire.call("OPTIONS", "/schedule").header("Allow"))
            self.assertEqual(wire.call("DELETE", "/tasks/" + task).status, 200)
            self.assert_errors(wire.call("DELETE", "/tasks/" + task), 404)
            self.assert_errors(wire.call("POST", "/schedule", "no JSON"), 400)

    def test_large_bodies_and_answers_come_through_whole(self):
        text = body("x" * 1_000_000)
        ids = [self.call("POST", "/schedule", text).json["id"] for _ in range(4)]
        self.assertEqual(self.call("GET", "/tasks/" + ids[0]).json["payload"]["message"],
                         "x" * 1_000_000)
        self.assertEqual([task["id"] for task in self.call("GET", "/tasks").json["data"]],
                         [task["id"] for task in self.target.call("GET", "/tasks").json["data"]])
        self.assertEqual(self.call("POST", "/schedule", "x" * 1_100_000).status, 413)
        with self.wire() as wire:  # in chunks
            pieces = "".join(f"{len(text[at:at + 65_536]):x}\r\n{text[at:at + 65_536]}\r\n"
                             for at in range(0, len(text), 65_536))
            wire.send("POST /schedule HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked"
                      f"\r\n\r\n{pieces}0\r\n\r\n")
            self.assertEqual(wire.answer().status, 200)

    def test_events_come_through_at_once_and_a_stream_resumes(self):
        with Stream(self.through.port, seconds=20) as stream:
            stream.open()
            ids = []
            for n in range(5):  # each is read before the next one is there
                ids.append(self.call("POST", "/schedule", body(str(n), "2020-01-01")).json["id"])
                self.assertEqual(stream.next().id, ids[-1])
        with Stream(self.through.port, last=ids[1], seconds=20) as stream:
            stream.open()
            self.assertEqual([stream.next().id for _ in ids[2:]], ids[2:])
        close = [("Connection", "close")]  # or else a proxy keeps the connection
        with Stream(self.through.port, last="earliest", headers=close, seconds=20) as stream:
            stream.open()
            self.assertEqual([stream.next().id for _ in ids], ids)
            self.target.stop()  # the client is told that the stream has ended
            stream.rest()
        self.target.start()
        wait_for(lambda: self.call("GET", "/healthz").status == 200, what="the server's return")

    def test_streams_that_their_clients_leave_are_ended_at_the_server_too(self):
        def descriptors():
            return len(os.listdir(f"/proc/{self.target.process.pid}/fd"))

        self.assertEqual(self.call("GET", "/healthz").status, 200)
        before = descriptors()
        for _ in range(3):
            streams = [Stream(self.through.port, seconds=20).open() for _ in range(10)]
            self.assertGreaterEqual(descriptors(), before + 10 - 1)  # one was kept by the proxy
            for stream in streams:
                stream.close()

            def ended():
                self.target.schedule("x", 0)
                return descriptors() <= before
            wait_for(ended, what="the end of the streams")

    def test_ten_clients_at_once_get_their_own_answers(self):
        failures = []

        def client(number):
            try:
                with self.wire() as wire:
                    for n in range(40):
                        message = {"client": number, "n": n}
                        path = "/tasks/" + wire.call("POST", "/schedule", body(message)).json["id"]
                        changed = wire.call("PATCH", path, json.dumps({"delay": 7200}))
                        assert changed.json["payload"]["message"] == message, changed
                        got = wire.call("GET", path)
                        assert got.json["payload"]["message"] == message, got
                        assert wire.call("DELETE", path).status == 200
            except Exception as error:  # told by the test
                failures.append(repr(error))

        threads = [threading.Thread(target=client, args=(n,)) for n in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        self.assertEqual(failures, [])
        self.assertEqual(self.target.pending(), 0)

    def test_no_request_is_taken_for_a_part_of_another(self):
        for name, data in attacks():
            with self.subTest(f"{name}, direct"):
                self.assertNotIn("task smuggled", self.attack(self.target.port, data))
        self.assertEqual(self.target.page("/events")["data"], [], "the server runs none of them")
        # A proxy may take the last part for a request of its own, of the same client.
        for name, data in attacks():
            with self.subTest(f"{name}, {self.proxy.program}"):
                self.attack(self.through.port, data)

    def attack(self, port, data):
        """Sends it; whoever sends a request before its end or after gets the answer to that.
        Returns what the attacker gets."""
        with Wire(port, seconds=20) as attacker:
            with contextlib.suppress(ConnectionError):
                attacker.send(data.encode("latin-1"))
            self.assert_unharmed(port)
            with contextlib.suppress(OSError):
                attacker.socket.shutdown(socket.SHUT_WR)
            got = attacker.rest() if port == self.target.port else b""
        self.assert_unharmed(port)
        return got.decode("latin-1")

    def assert_unharmed(self, port):
        with Wire(port, seconds=20) as victim:
            for path in ("one", "another"):
                answer = victim.call("GET", "/tasks/" + path)
                self.assertEqual(answer.status, 404)
                self.assertIn(f"task {path}", answer.body.decode())


SMUGGLED = "GET /tasks/smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
TASK = '{"timestamp":"2020-01-01","message":"smuggled"}'
INNER = f"POST /schedule HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(TASK)}\r\n\r\n{TASK}"


def attacks():
    """Requests that two readers may understand differently: what is inside of one must not run."""
    def head(*fields, line="POST /nothing HTTP/1.1"):
        return "\r\n".join([line, "Host: 127.0.0.1", *fields]) + "\r\n\r\n"

    for what, inner in (("a GET", SMUGGLED), ("a POST", INNER)):
        ended = f"0\r\n\r\n{inner}"
        whole = f"{len(inner):x}\r\n{inner}\r\n0\r\n\r\n"
        length, short = f"Content-Length: {len(ended)}", "Content-Length: 4"
        coding = "Transfer-Encoding: chunked"
        yield f"CL.TE, {what}", head(length, coding) + ended
        yield f"TE.CL, {what}", head(coding, short) + whole
        yield f"CL.CL, {what}", head("Content-Length: 0", f"Content-Length: {len(inner)}") + inner
        yield f"a list of lengths, {what}", head(f"Content-Length: 0, {len(inner)}") + inner
        yield f"a length of no digits, {what}", head(f"Content-Length: +{len(inner)}") + inner
        for odd in ("Transfer-Encoding: xchunked", "Transfer-Encoding : chunked",
                    "Transfer-Encoding:\tchunked", "Transfer-Encoding: chunked\r\n Content: x",
                    "Transfer-Encoding:\x0bchunked", "Transfer-Encoding: \"chunked\"",
                    "Transfer-Encoding: chunked\r\nTransfer-Encoding: x", "X: y\nTransfer-Encoding:"
                    " chunked", "Transfer-Encoding: identity, chunked",
                    "\tTransfer-Encoding: chunked", "Transfer_Encoding: chunked",
                    "Transfer-Encoding: cow, chunked",
                    "Transfer-Encoding: chunked, cow", "Transfer-Encoding\0: chunked",
                    "Transfer-Encoding: chunked\x0b", "Transfer\xadEncoding: chunked"):
            yield f"{odd!r} and a length, {what}", head(length, odd) + ended
            if "_" not in odd:  # which is just a field, so that the rest is a request
                yield f"a short length and {odd!r}, {what}", head(short, odd) + whole
        yield f"a bare LF, {what}", head(f"X: y\nContent-Length: {len(inner)}") + inner
        yield f"an end by bare LFs, {what}", f"GET /nothing HTTP/1.1\nHost: 127.0.0.1\n\n{inner}"
        yield f"a bare CR, {what}", head(f"X: y\rContent-Length: {len(inner)}") + inner
        extensions = (f"0;{'a' * 40}\n\r\n{inner}", f"5;a\nhello\r\n0\r\n\r\n{inner}",
                      f"2;\nxx\r\n{len(inner):x}\r\n0\r\n\r\n{inner}\r\n0\r\n\r\n",
                      f"0\n\n{inner}", f"5 5\r\nhello\r\n0\r\n\r\n{inner}",
                      f"5\rX\nhello\r\n0\r\n\r\n{inner}", f"5\r\nhelloXX0\r\n\r\n{inner}",
                      f"00000000000000000000\r\n\r\n{inner}", f"0x0\r\n\r\n{inner}",
                      f"{'f' * 17}\r\n{inner}", f"0\r\nX: y\n\n{inner}", f"1;a=\"\r\n{inner}\r\n")
        for text in extensions:
            # What follows the end of a body in good order is the client's own next request, and
            # may run: so these are asked to close, and only a part of the body would run.
            yield f"chunks {text[:20]!r}, {what}", head(coding, "Connection: close") + text
        yield f"a body of a GET, {what}", (
            head(f"Content-Length: {len(inner)}", line="GET /nothing HTTP/1.1") + inner)
        yield f"a body of a HEAD, {what}", (
            head(f"Content-Length: {len(inner)}", line="HEAD /healthz HTTP/1.1") + inner)
        yield f"an expectation, {what}", (
            head(f"Content-Length: {len(inner)}", "Expect: 100-continue") + inner)
        yield f"an upgrade, {what}", head("Connection: Upgrade", "Upgrade: websocket",
                                          f"Content-Length: {len(inner)}",
                                          line="GET /nothing HTTP/1.1") + inner
        yield f"HTTP/1.0 in chunks, {what}", head(coding, line="POST /nothing HTTP/1.0") + whole
        yield f"a length that a Connection field names, {what}", (
            head(f"Content-Length: {len(inner)}", "Connection: Content-Length, close") + inner)


class ThroughNginx(Through, TestCase):
    proxy = Nginx


class ThroughCaddy(Through, TestCase):
    proxy = Caddy


class ThroughHAProxy(Through, TestCase):
    proxy = HAProxy
