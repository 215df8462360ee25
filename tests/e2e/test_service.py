# SPDX-License-Identifier: MIT
"""The server as a service: where it listens, what a service manager hears and hands over, a journal
that takes long to open, and the health check."""
import contextlib
import json
import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import time
import zlib

import support
from support import Stream, TestCase, Wire, preloaded, wait_for, wakeups

# Hands over listening sockets as a service manager does, and becomes the program: they are its
# descriptors from 3 on.
LAUNCHER = """
import os, socket, sys
numbers = [int(number) for number in sys.argv[1].split(",") if number]
for place, number in enumerate(numbers):
    os.dup2(number, 100 + place)
for place in range(len(numbers)):
    os.dup2(100 + place, 3 + place, inheritable=True)
os.environ.update(LISTEN_FDS=str(len(numbers)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="a:b")
os.execv(sys.argv[2], sys.argv[2:])
"""


def sealed(record):
    """A line of a journal that is not damaged."""
    text = json.dumps(record, separators=(",", ":"))[:-1]
    return f'{text},"crc":"{zlib.crc32(text.encode()):08x}"}}\n'.encode()


class Manager:
    """The end of a service manager that hears what its service says."""

    def __init__(self, test, name=None):
        self.name = name or os.path.join(test.folder(), "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + self.name[1:] if self.name[0] == "@" else self.name)
        self.socket.settimeout(20)
        test.addCleanup(self.socket.close)

    def hear(self):
        """The assignments of the next message."""
        lines = self.socket.recv(65536).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def hear_until(self, name):
        """All messages up to the one that assigns `name`."""
        heard = []
        while not heard or name not in heard[-1]:
            heard.append(self.hear())
        return heard

    def is_silent_for(self, seconds):
        return not select.select([self.socket], [], [], seconds)[0]


class Service(TestCase):
    def folder(self):
        if not hasattr(self, "place"):
            self.place = support.tempfile.mkdtemp(prefix="s-", dir=support.WORK)
            self.addCleanup(support.shutil.rmtree, self.place, True)
        return self.place

    def run_binary(self, *words, env=None, seconds=30):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SCHEDULER_")}
        return subprocess.run([support.BINARY, *words], cwd=self.folder(), text=True,
                              capture_output=True, timeout=seconds,
                              env={**environment, **(env or {})})

    def curl(self, path, *words, at="/healthz"):
        return subprocess.run(
            ["curl", "-s", "-m", "10", "-w", " %{http_code}", "--unix-socket", path, *words,
             "http://localhost" + at], capture_output=True, text=True).stdout


class Listening(Service):
    def test_it_answers_at_each_address_and_tells_them_all(self):
        path = os.path.join(self.folder(), "socket")
        server = self.server("--listen", "unix:" + path, "--listen", "127.0.0.1:0")
        urls = re.findall(r"(?:http://|unix:)[^ ,]+", server.line)
        self.assertEqual(len(urls), 3, server.line)
        self.assertEqual(urls[1], "unix:" + path)
        for url in (urls[0], urls[2]):
            with Wire(int(url.rsplit(":", 1)[1])) as wire:
                self.assertEqual(wire.call("GET", "/healthz").status, 200)
        self.assertEqual(self.curl(path), '{"status":"ok"} 200')
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o660)
        self.assertEqual(server.stop()[0], 0)
        self.assertFalse(os.path.exists(path))

    def test_a_socket_alone_schedules_streams_and_takes_the_secret(self):
        path = os.path.join(self.folder(), "socket")
        secret = os.path.join(self.folder(), "secret")
        with open(secret, "w") as file:
            file.write("open-sesame\n")
        env = {k: v for k, v in os.environ.items() if not k.startswith("SCHEDULER_")}
        process = subprocess.Popen(
            [support.BINARY, "--listen", "unix:" + path, "--secret-file", secret],
            cwd=self.folder(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
            preexec_fn=support.end_with_parent())
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        self.assertIn("listening on unix:" + path + ",", process.stdout.readline())
        self.assertIn(" 401", self.curl(path, at="/tasks"))
        given = ["-H", "x-pd-secret: open-sesame"]
        self.assertIn('"id"', self.curl(path, *given, "-d", '{"delay":3600,"message":"x"}',
                                        at="/schedule"))
        self.assertIn('"total_count":1', self.curl(path, *given, at="/tasks"))
        # A name of a proxy's own is good here, the origin of a foreign page is not.
        self.assertIn(" 200", self.curl(path, *given, "-H", "Host: tasks.example", at="/tasks"))
        self.assertIn(" 403", self.curl(path, *given, "-H", "Origin: http://evil.example",
                                        at="/tasks"))
        env = {"SCHEDULER_URL": "unix:" + path, "SCHEDULER_SECRET_FILE": secret}
        done = self.run_binary("add", "--in", "0", "now", env=env)
        self.assertEqual(done.returncode, 0, done.stderr)
        done = self.run_binary("ls", "--json", env=env)
        self.assertEqual(json.loads(done.stdout)["payload"]["message"], "x", done)
        follower = subprocess.Popen([support.BINARY, "events", "-n", "10", "-f"], text=True,
                                    stdout=subprocess.PIPE, env={**os.environ, **env},
                                    preexec_fn=support.end_with_parent())
        self.addCleanup(follower.communicate)
        self.addCleanup(follower.kill)
        self.assertIn('"now"', follower.stdout.readline())
        self.run_binary("add", "--in", "0", "then", env=env)
        self.assertIn('"then"', follower.stdout.readline())
        self.assertEqual(self.run_binary("health", "--ready", env=env).returncode, 0)
        process.terminate()
        self.assertEqual(process.wait(10), 0)

    def test_what_a_crashed_process_left_is_replaced_and_a_live_one_is_not(self):
        path = os.path.join(self.folder(), "socket")
        first = self.server("--listen", "unix:" + path)
        done = self.run_binary("--port", "0", "--listen", "unix:" + path)
        self.assertEqual(done.returncode, 1)
        self.assertIn("another process listens there", done.stderr)
        self.assertEqual(self.curl(path), '{"status":"ok"} 200')
        first.kill()
        self.assertTrue(os.path.exists(path))
        first.start()
        self.assertEqual(self.curl(path), '{"status":"ok"} 200')

    def test_an_address_that_cannot_be_one_is_refused_in_a_sentence(self):
        with open(os.path.join(self.folder(), "file"), "w") as file:
            file.write("somebody's")
        for address, status, words in (
                ("nonsense", 2, "no address to listen on"), ("unix:relative", 2, "with a slash"),
                ("unix:/" + 200 * "x", 2, "may have 107"), ("unix:/no/such/folder", 1, "No such"),
                ("unix:" + os.path.join(self.folder(), "file"), 1, "is no socket"),
                ("systemd", 2, "no socket was handed over"), ("[::1", 2, "no address"),
                ("127.0.0.1:99999", 2, "--listen: '127.0.0.1:99999' is no address"),
                ("*:", 2, "*:PORT for all addresses"), ("nonsense", 2, "; systemd takes")):
            with self.subTest(address):
                done = self.run_binary("--listen", address)
                self.assertEqual(done.returncode, status, done.stderr)
                self.assertIn(words, done.stderr)
                self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        with open(os.path.join(self.folder(), "file")) as file:
            self.assertEqual(file.read(), "somebody's")
        self.assertFalse(os.path.exists(os.path.join(self.folder(), "tasks.jsonl")))


    def test_an_address_that_is_given_twice_is_named(self):
        path = "unix:" + os.path.join(self.folder(), "socket")
        for word in (path, "127.0.0.1:18080"):
            done = self.run_binary("--listen", word, "--listen", word)
            self.assertEqual(done.returncode, 2)
            self.assertIn(f"--listen: {word} is given twice", done.stderr)
        done = self.run_binary("--port", "18080", "--listen", "127.0.0.1:18080")
        self.assertIn("--listen: 127.0.0.1:18080 is given twice", done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)

    def test_addresses_that_overlap_are_refused_as_such(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for one, other in (("*", "127.0.0.1"), ("127.0.0.1", "*"), ("0.0.0.0", "127.0.0.1")):
            done = self.run_binary("--listen", f"{one}:{port}", "--listen", f"{other}:{port}")
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(f"--listen: {other}:{port} and {one}:{port} overlap", done.stderr)

    def test_what_no_option_takes_is_refused_with_its_name(self):
        for flag, word, said in (
                ("--host", "", "--host: must be"), ("--host", "unix:/x", "--listen takes unix:/PATH"),
                ("--max-lateness", "0", "--max-lateness: must be 1 second at least"),
                ("--tls-cert", "nope.pem", "--tls-cert: cannot read nope.pem: No such file")):
            with self.subTest((flag, word)):
                done = self.run_binary("--port", "0", "--tls-key", os.devnull, flag, word)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(said, done.stderr)

    def test_a_star_stands_for_every_address_of_both_kinds(self):
        server = self.server("--listen", "*:0")
        port = int(re.search(r"\*:(\d+)", server.line)[1])
        for host in ("127.0.0.1",) + (("::1",) if socket.has_ipv6 and self.has_ipv6() else ()):
            with socket.create_connection((host, port), 10) as wire:
                wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                self.assertIn(b"200 OK", wire.recv(4096))

    @staticmethod
    def has_ipv6():
        with contextlib.suppress(OSError), socket.create_server(("::1", 0),
                                                                family=socket.AF_INET6):
            return True
        return False

    def test_what_comes_to_nothing_is_told_in_the_log(self):
        secret = os.path.join(self.folder(), "secret")
        with open(secret, "w") as file:
            file.write("geheim\n")
        os.chmod(secret, 0o644)
        server = self.server("--secret-file", secret, env={
            **os.environ, "NOTIFY_SOCKET": "nonsense"})
        server.until_logged("NOTIFY_SOCKET=nonsense")
        server.until_logged("can read " + secret)
        self.assertNotIn("geheim", server.stderr())


class HandedOver(Service):
    def test_sockets_that_nobody_takes_are_told_in_the_log(self):
        tcp = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(tcp.close)
        process = self.launch(tcp, words=("--port", "0"))
        self.assertTrue(any("handed over 1 sockets" in line for line in process.stderr))

    def test_the_sockets_of_systemd_are_taken_once(self):
        tcp = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(tcp.close)
        process = self.launch(tcp, words=2 * ("--listen", "systemd"))
        self.assertEqual(process.wait(20), 2)
        self.assertIn("--listen: systemd is given twice", process.stderr.read())

    def launch(self, *sockets, words=("--listen", "systemd"), env=None):
        numbers = ",".join(str(one.fileno()) for one in sockets)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SCHEDULER_")}
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, numbers, support.BINARY, *words], cwd=self.folder(),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**environment, **(env or {})},
            pass_fds=[one.fileno() for one in sockets], preexec_fn=support.end_with_parent())
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def test_sockets_are_taken_and_stay_open_when_the_server_ends(self):
        tcp = socket.create_server(("127.0.0.1", 0))
        path = os.path.join(self.folder(), "socket")
        local = socket.socket(socket.AF_UNIX)
        local.bind(path)
        local.listen()
        self.addCleanup(tcp.close)
        self.addCleanup(local.close)
        port = tcp.getsockname()[1]
        for _ in range(2):
            process = self.launch(tcp, local)
            line = process.stdout.readline()
            self.assertIn(f"listening on http://127.0.0.1:{port} and unix:{path},", line)
            self.assertEqual(self.curl(path), '{"status":"ok"} 200')
            with Wire(port) as wire:
                self.assertEqual(wire.call("GET", "/healthz").status, 200)
            process.terminate()
            self.assertEqual(process.wait(10), 0)
            self.assertTrue(os.path.exists(path))
        early = self.opened(Wire(port))  # while no server runs
        early.request("GET", "/healthz")
        process = self.launch(tcp)
        self.assertEqual(early.answer().status, 200)
        process.stdout.readline()

    def test_no_command_inherits_a_socket_or_what_was_said_of_it(self):
        tcp = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(tcp.close)
        seen = os.path.join(self.folder(), "seen")
        script = os.path.join(self.folder(), "script")
        with open(script, "w") as file:
            file.write(f"#!/bin/sh\n(env; ls -l /proc/$$/fd) > {seen}.new\nmv {seen}.new {seen}\n")
        os.chmod(script, 0o755)
        manager = Manager(self)
        process = self.launch(
            tcp, words=("--port", "0", "--listen", "systemd", "--exec", script),
            env={"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "60000000"})
        port = int(re.search(r"http://127.0.0.1:(\d+)", process.stdout.readline())[1])
        with Wire(port) as wire:
            wire.call("POST", "/schedule", '{"delay":0,"message":"x"}')
        wait_for(lambda: os.path.exists(seen))
        with open(seen) as file:
            text = file.read()
        for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET",
                     "WATCHDOG_USEC", f"socket:[{os.fstat(tcp.fileno()).st_ino}]"):
            self.assertNotIn(name, text)

    def test_what_is_meant_for_another_process_is_left_alone(self):
        done = self.run_binary("--listen", "systemd", env={"LISTEN_FDS": "1", "LISTEN_PID": "1"})
        self.assertEqual(done.returncode, 2)
        self.assertIn("no socket was handed over", done.stderr)

    def test_a_descriptor_that_does_not_listen_is_refused(self):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(udp.close)
        process = self.launch(udp)
        self.assertEqual(process.wait(20), 1)
        self.assertIn("no stream socket that listens", process.stderr.read())


class Told(Service):
    def started(self, *flags, **variables):
        manager = Manager(self)
        server = self.server(*flags, env={"NOTIFY_SOCKET": manager.name, **variables})
        return manager, server

    def test_a_manager_hears_of_start_reload_and_end(self):
        manager, server = self.started()
        heard = manager.hear_until("READY")[-1]
        self.assertEqual(heard["READY"], "1")
        self.assertIn(server.url, heard["STATUS"])
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        server.process.send_signal(signal.SIGHUP)
        heard = manager.hear()
        self.assertEqual(heard["RELOADING"], "1")
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.assertTrue(before <= int(heard["MONOTONIC_USEC"]) <= after, heard)
        self.assertEqual(manager.hear(), {"READY": "1"})
        self.assertEqual(server.stop()[0], 0)
        self.assertEqual(manager.hear(), {"STOPPING": "1"})

    def test_an_abstract_socket_is_one_too_and_one_that_is_gone_harms_nobody(self):
        manager = Manager(self, f"@task-scheduler-test-{os.getpid()}")
        server = self.server(env={"NOTIFY_SOCKET": manager.name})
        self.assertEqual(manager.hear_until("READY")[-1]["READY"], "1")
        manager.socket.close()
        server.process.send_signal(signal.SIGHUP)
        server.until_logged("SIGHUP")
        for name in ("/no/such/socket", "nonsense", "/" + 200 * "x"):
            self.server(env={"NOTIFY_SOCKET": name})

    def test_the_watchdog_is_fed_while_idle_paused_and_busy(self):
        manager, server = self.started(WATCHDOG_USEC="400000")
        manager.hear_until("READY")
        for _ in range(3):
            self.assertEqual(manager.hear(), {"WATCHDOG": "1"})
        server.call("POST", "/pause")
        server.schedule("held", seconds=-1)
        for _ in range(3):
            self.assertEqual(manager.hear(), {"WATCHDOG": "1"})
        server.call("POST", "/resume")
        self.assertEqual(manager.hear(), {"WATCHDOG": "1"})

    def test_a_watchdog_that_is_meant_for_another_process_is_none(self):
        manager, server = self.started(WATCHDOG_USEC="100000", WATCHDOG_PID="1")
        manager.hear_until("READY")
        self.assertTrue(manager.is_silent_for(0.5))

    def test_a_process_that_stands_still_feeds_no_watchdog(self):
        manager, server = self.started(WATCHDOG_USEC="200000")
        manager.hear_until("WATCHDOG")
        server.process.send_signal(signal.SIGSTOP)
        while not manager.is_silent_for(0.5):
            manager.hear()
        server.process.send_signal(signal.SIGCONT)
        manager.hear_until("WATCHDOG")

    def test_a_disk_that_holds_up_what_is_due_starves_the_watchdog_and_that_is_logged(self):
        library = preloaded(self, "writes")
        delay = os.path.join(self.folder(), "delay")
        manager, server = self.started(WATCHDOG_USEC="400000", LD_PRELOAD=library,
                                       WRITES_FILE=delay)
        manager.hear_until("WATCHDOG")
        server.schedule("due soon", seconds=0.5)
        with open(delay, "w") as file:
            file.write("3000")
        server.until_logged("the watchdog is not fed: what is due is not emitted")
        os.remove(delay)
        while not manager.is_silent_for(0):
            manager.hear()
        manager.hear_until("WATCHDOG")

    def test_without_a_watchdog_no_thread_wakes_up(self):
        server = self.server()
        # At first there may be something left to do of the start.
        wait_for(lambda: wakeups(server) == (time.sleep(2), wakeups(server))[1])


class Opening(Service):
    """A journal on a slow disk."""

    def setUp(self):
        super().setUp()
        self.library = preloaded(self, "reads")

    def filled(self):
        """A server that has stopped, and whose journal of 8 MB is read in a dozen pieces."""
        server = self.server("--fsync", "no")
        batch = json.dumps([{"delay": "10h", "message": "x" * 200} for _ in range(250)])
        for _ in range(100):
            self.assertEqual(server.call("POST", "/schedule", batch).status, 200)
        server.stop()
        return server, 25_000

    def start_slowly(self, server, milliseconds, *flags, **variables):
        """Starts it again and does not wait until it is open."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SCHEDULER_")}
        with open(os.path.join(server.dir, "stderr"), "wb") as errors:
            server.process = subprocess.Popen(
                [support.BINARY, "--port", str(server.port), *flags], cwd=server.dir,
                stdout=subprocess.PIPE, stderr=errors, preexec_fn=support.end_with_parent(),
                env={**environment, "LD_PRELOAD": self.library, "READS_MS": str(milliseconds),
                     **variables})

    def until_it_answers(self, server):
        """While it does not, a connection waits."""
        wire = wait_for(lambda: self.connected(server.port))
        self.addCleanup(wire.close)
        return wire.call("GET", "/healthz")

    @staticmethod
    def connected(port):
        try:
            return Wire(port, seconds=30)
        except ConnectionError:
            return None

    def test_it_answers_what_it_can_and_streams_wait_until_it_is_open(self):
        server, count = self.filled()
        manager = Manager(self)
        hold = os.path.join(self.folder(), "hold")
        open(hold, "w").close()
        self.start_slowly(server, 400, NOTIFY_SOCKET=manager.name, READS_HOLD=hold)
        self.assertEqual(self.until_it_answers(server).status, 200)
        for path in ("/tasks", "/status", "/metrics", "/readyz"):
            answer = server.call("GET", path)
            self.assert_errors(answer, 503)
            self.assertIsNotNone(answer.header("Retry-After"))
        self.assert_errors(server.call("POST", "/schedule", support.body("x")), 503)
        self.assertEqual(server.call("GET", "/nothing").status, 404)
        done = self.run_binary("health", "--url", server.url)
        self.assertEqual((done.returncode, done.stdout), (0, "the server is alive\n"), done)
        done = self.run_binary("health", "--ready", "--url", server.url)
        self.assertEqual(done.returncode, 1)
        self.assertIn("still being opened", done.stderr)
        stream = self.opened(Stream(server.port, seconds=60))
        os.unlink(hold)
        heard = manager.hear_until("READY")
        self.assertIn(f"{count} pending tasks recovered", heard[-1]["STATUS"])
        for message in heard[:-1]:
            self.assertRegex(message["STATUS"], r"^opening the journal tasks.jsonl: \d+ %, "
                                                r"\d+ tasks, \d+ a second$")
            self.assertGreater(int(message["EXTEND_TIMEOUT_USEC"]), 2_000_000)
        self.assertGreaterEqual(len(heard), 2)
        server.until_logged("opening the journal")
        stream.open()
        server.schedule("soon", seconds=0)
        self.assertEqual(stream.next().message, "soon")
        self.assertEqual(server.pending(), count)

    def test_a_journal_that_opens_quickly_lets_clients_wait_and_says_nothing(self):
        server, count = self.filled()
        for _ in range(10):  # where the machine is held up, it does not open quickly
            self.start_slowly(server, 10)
            with wait_for(lambda: self.connected(server.port)) as wire:
                status = wire.call("GET", "/tasks?limit=1").status
            is_quick = status == 200 and "opening the journal" not in server.stderr()
            if is_quick:
                break
            server.stop()
        self.assertTrue(is_quick, (status, server.stderr()))

    def test_a_signal_ends_an_opening_at_once_and_changes_nothing(self):
        server, count = self.filled()
        with open(server.journal, "rb") as file:
            before = file.read()
        path = os.path.join(self.folder(), "socket")
        for how in (signal.SIGTERM, signal.SIGINT):
            self.start_slowly(server, 400, "--listen", "unix:" + path)
            self.until_it_answers(server)
            self.assertTrue(os.path.exists(path))
            status, seconds = server.stop(how)
            self.assertEqual(status, 0)
            self.note(f"{how.name}: ended within {seconds:.2f} s")
            self.assertFalse(os.path.exists(path))
            with open(server.journal, "rb") as file:
                self.assertEqual(file.read(), before)
        server.start()
        self.assertEqual(server.pending(), count)

    def test_an_opening_that_fails_ends_the_process_as_ever(self):
        server, _ = self.filled()
        with open(server.journal, "ab") as file:  # an operation that nobody knows
            file.write(sealed({"op": "unheard-of"}))
        self.start_slowly(server, 200)
        self.until_it_answers(server)
        self.assertEqual(server.process.wait(60), 1)
        server.process.stdout.close()
        self.assertIn("tasks.jsonl", server.stderr().splitlines()[-1])


class Health(Service):
    def test_its_exit_status_is_0_or_1_and_it_says_why(self):
        server = self.server("--secret-file", self.secret())
        for flags, words in (((), "the server is alive"), (("--ready",), "the server is ready")):
            done = self.run_binary("health", "--url", server.url, *flags)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, words + "\n", ""))
        url = server.url
        server.stop()
        for flags, words in (((), "not alive: "), (("--ready",), "not ready: ")):
            done = self.run_binary("health", "--url", url, *flags)
            self.assertEqual((done.returncode, done.stdout), (1, ""), done)
            self.assertIn(words + "cannot reach " + url, done.stderr)

    def secret(self):
        path = os.path.join(self.folder(), "secret")
        with open(path, "w") as file:
            file.write("open-sesame\n")
        return path

    def test_a_server_that_is_not_ready_is_alive(self):
        server = self.server()
        server.schedule("x")
        server.stop()
        with open(server.journal, "ab") as file:  # by a clock that ran ahead
            file.write(sealed({"op": "clock", "at": "2999-01-01T00:00:00.000Z"}))
        server.start()
        self.assertEqual(self.run_binary("health", "--url", server.url).returncode, 0)
        done = self.run_binary("health", "--ready", "--url", server.url)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, "not ready: .*clock")
        self.assertEqual(self.run_binary("health", "nonsense").returncode, 2)
