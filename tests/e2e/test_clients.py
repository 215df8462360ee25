# SPDX-License-Identifier: MIT
"""Clients of other makers: curl, Node's fetch, the npm package eventsource, Chromium, Python."""
import contextlib
import http.client
import json
import os
import queue
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.request

import support
from support import TestCase, body, iso

HERE = os.path.dirname(os.path.abspath(__file__))
LUKE = {"name": "Luke", "title": "Jedi"}


def needed(*programs):
    """The path of the first of these programs that is installed; skips the test if none is, or
    fails it where TESTS_CLIENTS says that they were meant to be installed."""
    for program in programs:
        if path := shutil.which(program):
            return path
    reason = f"{programs[0]} is not installed; tests/run --clients installs it"
    if os.environ.get("TESTS_CLIENTS"):
        raise AssertionError(reason)
    raise unittest.SkipTest(reason)


def npm_install(folder, registry=(), patience=60):
    """Fetches what package.json names; says within so many seconds that the registry cannot be
    reached."""
    def npm(seconds, *arguments):
        try:
            done = subprocess.run(["npm", *arguments, "--fetch-retries=0", *registry], cwd=folder,
                                  capture_output=True, text=True, timeout=seconds)
            problem = done.returncode and done.stderr[-2000:]
        except subprocess.TimeoutExpired:
            problem = f"npm {arguments[0]} took longer than {seconds} s"
        if problem:
            raise AssertionError("npm cannot fetch the packages that this test needs; can it reach "
                                 f"its registry (npm config get registry)?\n{problem}")

    npm(patience, "view", "eventsource", "name")  # one small request tells whether it is there
    npm(300, "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund")


def install():
    """Brings the npm packages into the work directory, unless they are there."""
    needed("node")
    needed("npm")
    with open(os.path.join(HERE, "package.json")) as file:
        wanted = json.load(file)["dependencies"]
    shutil.copy(os.path.join(HERE, "package.json"), support.WORK)

    def present(name):
        with contextlib.suppress(OSError, ValueError):
            with open(os.path.join(support.WORK, "node_modules", name, "package.json")) as file:
                return json.load(file)["version"] == wanted[name]
        return False

    if not all(map(present, wanted)):
        if install.failed:
            raise AssertionError("the npm packages could not be fetched, as was said above")
        print("        fetching the npm packages", flush=True)
        install.failed = True
        npm_install(support.WORK)
        install.failed = False


install.failed = False  # the next test need not wait for it again


class Program:
    """A client program, read line by line with a deadline."""

    def __init__(self, *command):
        self.process = subprocess.Popen(command, cwd=support.WORK, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        preexec_fn=support.end_with_parent())
        self.lines, self.errors = queue.Queue(), []
        for source, sink in ((self.process.stdout, self.lines.put),
                             (self.process.stderr, self.errors.append)):
            threading.Thread(target=self.pump, args=(source, sink), daemon=True).start()

    def pump(self, source, sink):
        with contextlib.suppress(ValueError):  # closed by end() meanwhile
            for line in source:
                sink(line.rstrip("\n"))

    def line(self, seconds=30):
        try:
            return self.lines.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"no line within {seconds} s from {self.process.args}: "
                                 + "\n".join(self.errors)[-2000:]) from None

    def json(self, seconds=30):
        return json.loads(self.line(seconds))

    def end(self):
        # The Node programs end by themselves with their input, and Chromium with them.
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        if self.process.args[0] != "node":
            self.process.kill()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


class Clients(TestCase):
    def program(self, *command):
        program = Program(*command)
        self.addCleanup(program.end)
        return program

    def folder(self):
        return tempfile.mkdtemp(dir=support.WORK)

    def node(self, what, server, *others):
        needed("node")
        if what != "schedule":  # for which Node itself is enough
            install()
        shutil.copy(os.path.join(HERE, "clients.mjs"), support.WORK)
        return self.program("node", "clients.mjs", what, server.url, *others)

    def chromium(self, server):
        os.environ["CHROMIUM"] = needed("chromium-headless-shell", "chromium")
        return self.node("page", server)

    def curl_listens(self, server):
        program = self.program("curl", "-sSN", server.url + "/sse")
        while program.line() != "data: {}":
            pass
        self.assertEqual(program.line(), "")
        return program

    def curl_event(self, program, seconds=30):
        """The next event that curl prints: its id, its payload, and when it came."""
        name = program.line(seconds)
        while name == ":keepalive" or name == "":
            name = program.line(seconds)
        at = time.time() * 1000
        data = program.line()
        self.assertTrue(name.startswith("id: ") and data.startswith("data: "), (name, data))
        return {"id": name[4:], "data": data[6:], "at": at}

    def curl(self, *arguments):
        done = subprocess.run(["curl", "-sS", "--max-time", "20", *arguments], capture_output=True,
                              text=True, timeout=30)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_the_request_of_the_original_documentation_comes_out_at_once(self):
        server = self.server()
        listener = self.curl_listens(server)
        began = time.time() * 1000
        answer = json.loads(self.curl(
            "-d", '{ "timestamp": "2020-08-21T04:29:00.951Z", "message": { "name": "Luke", '
                  '"title": "Jedi" }}',
            "-H", "Content-Type: application/json", server.url + "/schedule"))
        self.assertEqual(answer["message"], "Scheduled task at 2020-08-21T04:29:00.951Z")
        event = self.curl_event(listener)
        self.assertEqual(event["id"], answer["id"])
        self.assertEqual(event["data"], '{"timestamp":"2020-08-21T04:29:00.951Z",'
                                        '"message":{"name":"Luke","title":"Jedi"}}')
        self.assertLess(event["at"] - began, support.SOON * 1000)

    def arrives(self, server, listener, event):
        """A task that Node's fetch scheduled comes to the listener in time."""
        seconds = 30 if support.LONG else 2
        scheduled = self.node("schedule", server, str(seconds)).json()
        self.assertEqual(scheduled["status"], 200, scheduled)
        event = event(seconds + 30)
        late = event["at"] - scheduled["due"]
        self.note(f"{late:.0f} ms late")
        self.assertEqual(event["id"], scheduled["answer"]["id"])
        self.assertEqual(json.loads(event["data"])["message"], LUKE)
        self.assertGreaterEqual(late, 0)
        self.assertLess(late, support.SOON * 1000)

    def test_a_task_of_a_node_program_arrives_on_time_at_curl(self):
        server = self.server()
        curl = self.curl_listens(server)
        self.arrives(server, curl, lambda seconds: self.curl_event(curl, seconds))

    def test_a_task_of_a_node_program_arrives_on_time_at_the_package_eventsource(self):
        server = self.server()
        listener = self.node("listen", server)
        self.assertEqual(listener.json(60), {"open": True})
        self.arrives(server, listener, listener.json)

    def test_a_task_of_a_node_program_arrives_on_time_at_chromium(self):
        server = self.server()
        page = self.chromium(server)
        self.assertEqual(page.json(60), {"open": True})
        self.arrives(server, page, page.json)

    def resumes(self, server, listener):
        """The listener comes back by itself after a kill, and misses nothing."""
        self.assertEqual(listener.json(60), {"open": True})
        first = server.schedule("before", 0)
        self.assertEqual(listener.json()["id"], first)
        away = server.schedule("emitted while they are away", 0.3)
        server.kill()
        server.start()
        expected = [away, server.schedule("at once", 0), server.schedule("soon", 0.5)]
        # Which of the first two goes first depends on how long the restart took.
        got = []
        while len(got) < 3:
            event = listener.json()  # it comes back after the 3 s that retry told it
            if "open" not in event:
                got.append(event["id"])
        self.assertEqual(sorted(got), sorted(expected))

    def test_the_package_eventsource_resumes_by_itself_after_a_kill(self):
        server = self.server()
        self.resumes(server, self.node("listen", server))

    def test_the_package_eventsource_with_topics_resumes_and_gets_what_they_choose(self):
        server = self.server()
        listener = self.node("listen", server, "?topic=garden/*&topic=weather")
        self.assertEqual(listener.json(60), {"open": True})
        wanted = []
        for n, topic in enumerate(("weather", "garden", "garden/roses", "house", "weather2")):
            ids = server.schedule(str(n), 0, topic=topic)
            if topic in ("weather", "garden/roses"):
                wanted.append(ids)
        self.assertEqual([listener.json()["id"] for _ in wanted], wanted)
        away = server.schedule("emitted while it is away", 0.3, topic="garden/tulips")
        server.schedule("and not chosen", 0.3, topic="house")
        server.kill()
        server.start()
        soon = server.schedule("soon", 0.5, topic="weather")
        got = []
        while len(got) < 2:
            event = listener.json()
            if "open" not in event:
                got.append(event["id"])
        self.assertEqual(sorted(got), sorted([away, soon]))

    def test_curl_follows_the_topics_that_it_names(self):
        server = self.server()
        curl = self.program("curl", "-sSN", server.url + "/sse?topic=a&topic=b*")
        while curl.line() != "data: {}":
            pass
        wanted = []
        for topic in ("a", "ab", "b", "", "b/c"):
            task = server.schedule("x", 0, topic=topic)
            if topic in ("a", "b", "b/c"):
                wanted.append(task)
        self.assertEqual([self.curl_event(curl)["id"] for _ in wanted], wanted)
        for query in ("topic=", "topic=*a", "topic=a*b", "topic=a%00", "topic=a&topic=%C3%A9",
                      "topic=a+b", "topic=" + 129 * "a", "topics=a", "topic=a&topic=%FF"):
            answer = self.curl("-o", "/dev/null", "-w", "%{http_code}",
                               f"{server.url}/sse?{query}")
            self.assertEqual(answer, "400", query)

    def test_chromium_resumes_by_itself_after_a_kill(self):
        server = self.server()
        self.resumes(server, self.chromium(server))

    def test_a_registry_that_cannot_be_reached_is_told_soon(self):
        needed("npm")
        folder = self.folder()
        shutil.copy(os.path.join(HERE, "package.json"), folder)
        with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the request, and no more
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
            began = time.monotonic()
            with self.assertRaisesRegex(AssertionError, "can it reach its registry"):
                npm_install(folder, ["--registry", url, "--cache", folder], patience=5)
        self.assertLess(time.monotonic() - began, 5 + support.SOON)

    def test_a_bare_curl_posts_bodies_of_any_size_by_any_framing(self):
        server = self.server()
        path = os.path.join(server.dir, "body")
        sizes = (10, 8_300, 20_000, 1_000_000)  # a form's 8 KB; curl's own 1 MB for 100-continue
        for size in sizes:
            with open(path, "w") as file:
                file.write(body("x" * size))
            for options in ([], ["--http1.0"], ["-H", "Transfer-Encoding: chunked"],
                            ["-H", "Expect: 100-continue"], ["--compressed"],
                            ["-H", "Content-Type: application/json"]):
                with self.subTest(size=size, options=options):
                    # Without a 100 curl would wait for longer than it may run.
                    answer = self.curl("--expect100-timeout", "60", *options, "-d", "@" + path,
                                       server.url + "/schedule")
                    self.assertIn("Scheduled task at", answer)
        self.assertEqual(server.pending(), len(sizes) * 6)

    def test_curl_learns_that_its_body_is_too_large(self):
        server = self.server()
        path = os.path.join(server.dir, "body")
        with open(path, "wb") as file:
            file.truncate(100 << 20)
        for options in ([], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect:"]):
            with self.subTest(options):
                answer = self.curl(*options, "-w", "\n%{http_code}", "-X", "POST", "-T", path,
                                   server.url + "/schedule")
                text, status = answer.rsplit("\n", 1)
                self.assertEqual(status, "413")
                self.assertIn("errors", json.loads(text))

    def test_curl_shows_pages_and_cancels(self):
        server = self.server()
        task = server.schedule(LUKE)
        self.assertEqual(json.loads(self.curl(server.url + "/tasks"))["data"][0]["id"], task)
        self.assertIn("Cancelled task " + task,
                      self.curl("-X", "DELETE", f"{server.url}/tasks/{task}"))
        head = self.curl("-I", server.url + "/healthz")
        self.assertTrue(head.startswith("HTTP/1.1 200"), head)

    def test_python_schedules_cancels_and_listens(self):
        server = self.server()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        with contextlib.closing(connection) as c:
            ids = []
            for n in range(5):  # on one connection
                c.request("POST", "/schedule", json.dumps({"timestamp": iso(0.5 + n / 10),
                                                           "message": {"n": n}}))
                ids.append(json.load(c.getresponse())["id"])
            c.request("DELETE", "/tasks/" + ids[2])
            answer = c.getresponse()
            self.assertEqual((answer.status, json.load(answer)),
                             (200, {"message": "Cancelled task " + ids[2]}))
        request = urllib.request.Request(server.url + "/sse", headers={"Last-Event-ID": "earliest"})
        with urllib.request.urlopen(request, timeout=10) as stream:
            got = []
            for line in stream:
                if line.startswith(b"data: {\"timestamp"):
                    got.append(json.loads(line[6:])["message"]["n"])
                if len(got) == 4:
                    break
        self.assertEqual(got, [0, 1, 3, 4])
