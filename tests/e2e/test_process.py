# SPDX-License-Identifier: MIT
"""How the process starts, refuses to start, stops and idles."""
import fcntl
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
import unittest

import support
from support import TestCase, Wire, body, wait_for

VERSION = r"\d+\.\d+\.\d+"


class Starting(TestCase):
    def run_binary(self, *flags, env=None, cwd=None, binary=None, **options):
        """Runs it to its end; a server that starts after all is ended and fails the test."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SCHEDULER_")}
        directory = cwd or tempfile.mkdtemp(dir=support.WORK)
        if not cwd:
            self.addCleanup(shutil.rmtree, directory, ignore_errors=True)
        try:
            return subprocess.run([binary or support.BINARY, *flags], cwd=directory, text=True,
                                  capture_output=True, timeout=60, stdin=subprocess.DEVNULL,
                                  env={**environment, **(env or {})}, **options)
        except subprocess.TimeoutExpired:
            self.fail(f"it runs with {flags} {env or ''}")

    def assert_refused(self, done, status, *words):
        self.assertEqual(done.returncode, status, done)
        self.assertEqual(done.stdout, "")
        self.assertRegex(done.stderr, r"^[^\n]+\n$", "one line")
        for word in words:
            self.assertIn(word, done.stderr)

    def test_help_and_version_go_to_standard_output(self):
        done = self.run_binary("--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for flag in ("host", "port", "journal", "fsync", "secret-file", "history", "max-body",
                     "max-tasks", "max-streams", "max-connections", "help", "version"):
            self.assertIn("--" + flag, done.stdout)
        self.assertIn("SCHEDULER_", done.stdout)
        done = self.run_binary("--version")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, f"^task-scheduler {VERSION}\n$")

    def test_one_line_tells_where_it_listens_which_journal_and_how_much_came_back(self):
        server = self.server()
        self.assertRegex(server.line, rf"^task-scheduler {VERSION} listening on "
                         rf"http://127\.0\.0\.1:{server.port}, journal tasks\.jsonl, "
                         "0 pending tasks recovered\n$")
        for n in range(3):
            server.schedule("x")
        server.restart()
        self.assertIn("3 pending tasks recovered", server.line)
        self.assertEqual(stat.S_IMODE(os.stat(server.journal).st_mode), 0o600)

    def test_a_bad_flag_is_one_clear_line_and_status_2(self):
        for flags in (["--nonsense"], ["-x"], ["extra"], ["--port"], ["--port", ""],
                      ["--port", "x"],
                      ["--port", "-1"], ["--port", "65536"], ["--port", "80x"], ["--port", "0x50"],
                      ["--port", "1e3"], ["--port", " 80"], ["--fsync", "sometimes"],
                      ["--fsync", ""], ["--fsync", "ALWAYS"], ["--history", "-1"],
                      ["--history", "many"], ["--max-body", "-5"], ["--max-body", "1k5"],
                      ["--max-tasks", "x"], ["--max-streams", "x"], ["--max-connections", "x"],
                      ["--max-tasks", "99999999999999999999999"], ["--secret-file", "missing"],
                      ["--port", "0", "--port", "x"], ["--help=x"]):
            with self.subTest(flags):
                done = self.run_binary(*flags)
                self.assert_refused(done, 2)
                self.assertTrue(any(part in done.stderr for part in flags if part), done.stderr)

    def test_the_environment_says_the_same_as_the_flags_and_the_flags_win(self):
        for name, value in (("PORT", "x"), ("FSYNC", "maybe"), ("HISTORY", "-1"),
                            ("MAX_BODY", "x"), ("MAX_TASKS", "x"), ("MAX_STREAMS", "x"),
                            ("MAX_CONNECTIONS", "x"), ("SECRET_FILE", "missing")):
            with self.subTest(name):
                self.assert_refused(self.run_binary(env={"SCHEDULER_" + name: value}), 2)
        server = self.server(env={"SCHEDULER_PORT": "1", "SCHEDULER_JOURNAL": "other.jsonl",
                                  "SCHEDULER_MAX_BODY": "500", "SCHEDULER_MAX_TASKS": "1"})
        self.assertIn("journal other.jsonl", server.line)
        self.assertTrue(os.path.exists(os.path.join(server.dir, "other.jsonl")))
        self.assertEqual(server.call("POST", "/schedule", body("x" * 500)).status, 413)
        server.schedule("x")
        self.assertEqual(server.call("POST", "/schedule", body("x")).status, 507)
        server.restart("--max-tasks", "2")
        server.schedule("x")

    def test_a_secret_that_cannot_work_is_refused_and_not_repeated(self):
        for secret in ("per%63ent", "with blank", "tab\there", "bell\a", "line\nbreak\nthree"):
            with self.subTest(secret):
                done = self.run_binary("--port", "0", env={"SCHEDULER_SECRET": secret})
                self.assertIn(done.returncode, (1, 2))
                self.assert_refused(done, done.returncode)
                self.assertNotIn(secret.split()[0][-6:], done.stderr)
        done = self.run_binary("--port", "0", env={"SCHEDULER_SECRET": ""})
        self.assert_refused(done, 2)
        self.assertIn("SCHEDULER_SECRET is empty", done.stderr)
        directory = tempfile.mkdtemp(dir=support.WORK)
        self.addCleanup(shutil.rmtree, directory)
        path = os.path.join(directory, "secret")
        for text in ("", "\n", "a b\n", "a%20b\n", "a\nb\nc\n", "a\0b\n", "a\r\nb c\r\n",
                     "a" * (1 << 20) + "\n" + "b"):
            for flag in ("--secret-file", "--read-secret-file"):
                with self.subTest(flag, file=text[:10]):
                    with open(path, "w") as file:
                        file.write(text)
                    done = self.run_binary("--port", "0", flag, "secret", cwd=directory,
                                           env={"SCHEDULER_SECRET": "s"} if "read" in flag else {})
                    self.assertIn(done.returncode, (1, 2))
                    self.assert_refused(done, done.returncode)
        for flag in ("--secret-file", "--read-secret-file", "--sinks"):
            self.assert_refused(self.run_binary("--port", "0", flag, ".", cwd=directory), 2,
                                "directory")

    def test_a_read_secret_that_would_open_all_or_nothing_is_refused(self):
        done = self.run_binary("--port", "0", env={"SCHEDULER_READ_SECRET": "r"})
        self.assert_refused(done, 2, "needs a secret")
        done = self.run_binary("--port", "0", env={"SCHEDULER_READ_SECRET": "same-one",
                                                   "SCHEDULER_SECRET": "same-one"})
        self.assert_refused(done, 2, "read secret")
        self.assertNotIn("same-one", done.stderr)
        done = self.run_binary("--port", "0", env={"SCHEDULER_READ_SECRET": "",
                                                   "SCHEDULER_SECRET": "s"})
        self.assert_refused(done, 2, "SCHEDULER_READ_SECRET is empty")

    def test_a_second_process_on_the_same_journal_is_refused(self):
        server = self.server()
        task = server.schedule("x")
        self.assert_refused(self.run_binary("--port", "0", cwd=server.dir), 1, "tasks.jsonl")
        os.symlink("tasks.jsonl", os.path.join(server.dir, "alias.jsonl"))
        self.assertEqual(server.page("/tasks/" + task)["status"], "pending")
        server.schedule("the first goes on")
        server.kill()  # a lock must not outlive its process
        server.start()
        self.assertEqual(server.pending(), 2)

    def test_a_taken_port_is_one_clear_line_and_status_1(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            self.assert_refused(self.run_binary("--port", port), 1, port)
        server = self.server()
        self.assert_refused(self.run_binary("--port", str(server.port)), 1, str(server.port))
        server.schedule("the first goes on")

    def test_a_taken_port_is_found_before_anything_is_put_on_the_disk(self):
        directory = tempfile.mkdtemp(dir=support.WORK)
        self.addCleanup(shutil.rmtree, directory)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            self.assert_refused(self.run_binary("--port", port, cwd=directory), 1, port)
        self.assertEqual(os.listdir(directory), [])

    def test_an_open_address_without_a_secret_is_warned_of_in_plain_words(self):
        # A journal that cannot be opened ends it before it answers anybody.
        def warnings(host, **env):
            done = self.run_binary("--host", host, "--port", "0", "--journal", "no/tasks.jsonl",
                                   env=env)
            self.assertEqual(done.returncode, 1, done)
            if "cannot listen" in done.stderr:  # no IPv6
                return None
            return [line for line in done.stderr.splitlines() if " warning " in line]

        for host in ("0.0.0.0", "::", "0", "::ffff:0.0.0.0"):
            with self.subTest(host):
                found = warnings(host)
                if found is None:
                    continue
                self.assertEqual(len(found), 1, found)
                self.assertRegex(found[0], r"^\S+ warning server\.open: ")
                for words in (host, "no secret", "read, schedule and cancel", "--secret-file",
                              "127.0.0.1"):
                    self.assertIn(words, found[0])
                self.assertEqual(warnings(host, SCHEDULER_SECRET="s"), [])
        for host in ("127.0.0.1", "127.1", "::1", "::ffff:127.0.0.1"):
            with self.subTest(host):
                self.assertIn(warnings(host), ([], None))

    def test_an_origin_or_a_host_that_could_never_match_is_told_at_the_start(self):
        for flag, values in {
                "cors-origin": ("*", "example.org", "https://example.org/", "https://EXAMPLE.org",
                                "https://example.org:443", "null"),
                "allowed-host": ("*", "http://tasks.example", "tasks.example/", "a b", "x:y")
        }.items():
            for value in values:
                with self.subTest(flag=flag, value=value):
                    done = self.run_binary("--port", "0", f"--{flag}", value)
                    self.assert_refused(done, 2, f"--{flag}: ", value)
                    variable = "SCHEDULER_" + flag.upper().replace("-", "_")
                    done = self.run_binary("--port", "0", env={variable: value})
                    self.assert_refused(done, 2, variable + ": ", value)
        self.server("--cors-origin", "https://example.org", "--cors-origin", "http://[::1]:8080",
                    "--allowed-host", "tasks.example", "--allowed-host", "tasks.example:8080")

    def test_an_address_that_is_not_ours_is_one_clear_line_and_status_1(self):
        # An address for documentation.  No name: looking one up would ask the network.
        done = self.run_binary("--host", "192.0.2.1", "--port", "0")
        self.assert_refused(done, 1, "192.0.2.1")

    def test_a_journal_that_cannot_be_opened_is_one_clear_line_and_status_1(self):
        directory = tempfile.mkdtemp(dir=support.WORK)
        self.addCleanup(shutil.rmtree, directory)
        os.mkdir(os.path.join(directory, "folder"))
        os.mkfifo(os.path.join(directory, "pipe"))
        for journal in ("folder", "missing/tasks.jsonl", "pipe", "/dev/null", "x" * 300):
            with self.subTest(journal):
                done = self.run_binary("--port", "0", "--journal", journal, cwd=directory)
                self.assert_refused(done, 1, journal)

    def test_who_holds_the_journal_is_named(self):
        server = self.server()
        for _ in range(2):
            done = self.run_binary("--port", "0", cwd=server.dir)
            self.assert_refused(done, 1, "tasks.jsonl",
                                f"process {server.process.pid} on {socket.gethostname()}")
            server.kill()  # what it wrote stays behind, and must not be believed
            server.start()

    def test_a_folder_that_cannot_be_written_is_told_with_the_flag_that_names_another(self):
        # Root may write everywhere, so this runs as somebody else.
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        os.chmod(directory, 0o555)
        binaries = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, binaries)
        os.chmod(binaries, 0o755)
        binary = shutil.copy(support.BINARY, binaries)
        os.chmod(binary, 0o755)
        other = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
        done = self.run_binary("--port", "0", cwd=directory, binary=binary, **other)
        self.assert_refused(done, 1, "tasks.jsonl", "Permission denied", "can be written",
                            "--journal")
        done = self.run_binary("--port", "0", "--journal", "missing/tasks.jsonl")
        self.assert_refused(done, 1, "missing/tasks.jsonl", "No such file", "--journal")

    def test_errors_name_the_journal_and_not_the_file_that_is_to_replace_it(self):
        directory = tempfile.mkdtemp(dir=support.WORK)
        self.addCleanup(shutil.rmtree, directory)
        os.mkdir(os.path.join(directory, "tasks.jsonl.new"))
        done = self.run_binary("--port", "0", cwd=directory)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("tasks.jsonl: Is a directory", done.stderr)
        self.assertNotIn(".new", done.stderr)

    def test_a_variable_that_means_nothing_is_told_with_the_nearest_that_does(self):
        server = self.server(env={"SCHEDULER_JOURNL": "x", "SCHEDULER_MAX_BODYS": "1",
                                  "SCHEDULER_FAVOURITE_COLOUR": "red\x1b[31m", "SCHEDULER_URL": "http://x",
                                  "SCHEDULER_HISTORY": "5", "SCHEDULERX": "1"})
        server.until_logged("SCHEDULER_FAVOURITE_COLOUR")
        lines = [line for line in server.stderr().splitlines() if "SCHEDULER" in line]
        self.assertEqual(len(lines), 3, lines)
        said = "\n".join(lines)
        self.assertIn("did you mean SCHEDULER_JOURNAL?", said)
        self.assertIn("did you mean SCHEDULER_MAX_BODY?", said)
        self.assertRegex(said, "(?m)SCHEDULER_FAVOURITE_COLOUR means nothing here$")
        self.assertNotIn("red", said)  # it may be a secret

    def test_a_command_that_cannot_be_run_is_told_at_the_start(self):
        for command, reason in (("no-such-program --x", "no such program"),
                                ("/nonexistent/program", "no such program"),
                                ("/etc/passwd", "not executable"), ("/tmp", "a folder")):
            with self.subTest(command):
                done = self.run_binary("--port", "0", "--exec", command)
                self.assert_refused(done, 2, "--exec", command.split()[0], reason)
        for command in ("true", shutil.which("true")):
            self.server("--exec", command)
        directory = tempfile.mkdtemp(dir=support.WORK)
        self.addCleanup(shutil.rmtree, directory)
        path = os.path.join(directory, "sinks.json")
        with open(path, "w") as file:
            json.dump({"sinks": [{"name": "late", "exec": ["no-such-program"]}]}, file)
        server = self.server("--sinks", path)  # it may be installed before it is needed
        server.until_logged("no such program")
        self.assertRegex(server.stderr(), "late.*no-such-program.*no such program")

    def test_a_file_that_is_no_journal_is_refused_and_left_as_it_was(self):
        directory = tempfile.mkdtemp(dir=support.WORK)
        self.addCleanup(shutil.rmtree, directory)
        path = os.path.join(directory, "notes.txt")
        with open(support.BINARY, "rb") as file:
            program = file.read(100_000)
        for text in (b"somebody else's notes\nand more\n", b'{"a":1}\n{"a":2}\n', b"x", program,
                     b'[{"timestamp":"2020-01-01","message":"x"}]', b"a;b\r\n1;2\r\n", b"\n\nx\n"):
            with self.subTest(text[:30]):
                with open(path, "wb") as file:
                    file.write(text)
                done = self.run_binary("--port", "0", "--journal", "notes.txt", cwd=directory)
                self.assert_refused(done, 1, "notes.txt")
                with open(path, "rb") as file:
                    self.assertEqual(file.read(), text)

    def test_a_journal_without_the_right_to_read_it_is_refused(self):
        # Root may read everything, so this runs as somebody else, where that one can get at all.
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        os.chmod(directory, 0o755)
        binary = shutil.copy(support.BINARY, directory)
        os.chmod(binary, 0o755)
        with open(os.path.join(directory, "tasks.jsonl"), "w"):
            pass
        os.chmod(os.path.join(directory, "tasks.jsonl"), 0)
        other = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
        done = self.run_binary("--port", "0", cwd=directory, binary=binary, **other)
        self.assert_refused(done, 1, "tasks.jsonl")


class Descriptors(TestCase):
    """Connections are descriptors, of which a process may have only so many."""

    def fill(self, server):
        """Opens connections and keeps them, until one is refused; returns them and the answer."""
        wires = []
        for _ in range(200):
            wire = self.opened(server.wire(seconds=10))
            wire.request("GET", "/healthz")
            answer = wire.answer()
            if answer.status != 200:
                return wires, answer
            wires.append(wire)
        self.fail("200 connections fit")

    def limit(self, server):
        with open(f"/proc/{server.process.pid}/limits") as file:
            found = re.search(r"Max open files +(\d+) +(\d+)", file.read())
        return int(found[1]), int(found[2])

    def test_the_soft_limit_is_raised_to_the_hard_one(self):
        server = self.server(soft_files=64, hard_files=512)
        self.assertEqual(self.limit(server), (512, 512))
        wires = [self.opened(server.wire()) for _ in range(200)]
        for wire in wires:
            wire.request("GET", "/healthz")
            self.assertEqual(wire.answer().status, 200)

    def test_over_the_limit_a_client_gets_503_at_once_and_the_others_go_on(self):
        server = self.server(soft_files=64, hard_files=64)
        wires, refused = self.fill(server)
        self.assert_errors(refused, 503)
        self.assertTrue(refused.header("Retry-After").isdigit())
        self.assertGreater(len(wires), 16)
        for _ in range(100):  # each of those that come after it, too
            with server.wire(seconds=10) as wire:
                self.assert_errors(wire.answer(), 503)
        for wire in wires:
            wire.request("POST", "/schedule", body("x"))
            self.assertEqual(wire.answer().status, 200)
        wires.pop().close()
        wait_for(lambda: server.call("GET", "/healthz").status == 200, what="room for another")

    def test_streams_too_leave_room_to_say_that_there_is_none(self):
        server = self.server(soft_files=64, hard_files=64)
        for _ in range(100):
            stream = self.opened(support.Stream(server.port))
            head = stream.head()
            if head.status != 200:
                break
        self.assertEqual(head.status, 503)

    def test_connections_leave_descriptors_to_the_journal_and_the_sinks(self):
        directory = tempfile.mkdtemp(dir=support.WORK)
        self.addCleanup(shutil.rmtree, directory)
        with open(os.path.join(directory, "sinks.json"), "w") as file:
            json.dump({"sinks": [{"name": f"s{n}", "exec": ["true"]} for n in range(4)]}, file)
        server = self.server("--sinks", file.name, "--history", "0", soft_files=128,
                             hard_files=128)
        wires, refused = self.fill(server)
        self.assert_errors(refused, 503)
        tasks = [{"delay": 0, "message": "x" * 500} for _ in range(100)]

        def ask(method, path, value=None):
            wires[0].request(method, path, json.dumps(value) if value else None)
            answer = wires[0].answer()
            self.assertEqual(answer.status, 200)
            return answer.body.decode()

        for _ in range(4):  # enough for another journal
            ask("POST", "/schedule", tasks)
        wait_for(lambda: [one["delivered"] for one in json.loads(ask("GET", "/sinks"))["data"]] ==
                 [400] * 4, 60, "delivering")
        self.assertNotIn("descriptor", server.stderr().lower())
        self.assertNotIn("open files", server.stderr().lower())
        self.assertIn("task_scheduler_journal_failures_total 0", ask("GET", "/metrics"))

    def test_when_others_have_taken_every_descriptor_one_in_reserve_still_tells_a_client(self):
        server = self.server(soft_files=128, hard_files=128)
        with server.wire() as kept:
            self.assertEqual(kept.call("GET", "/healthz").status, 200)
            pid = server.process.pid
            used = [int(fd) for fd in os.listdir(f"/proc/{pid}/fd")]
            self.assertEqual(sorted(used), list(range(len(used))), "none is free in between")
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(used), 128))
            for _ in range(20):
                with server.wire(seconds=10) as wire:
                    self.assert_errors(wire.answer(), 503)
            self.assertEqual(kept.call("GET", "/healthz").status, 200)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (128, 128))
            self.assertEqual(server.call("GET", "/healthz").status, 200)


class Stopping(TestCase):
    def test_a_hangup_is_told_and_does_not_end_the_server(self):
        server = self.server()
        task = server.schedule("x")
        for count in (1, 2):
            server.process.send_signal(signal.SIGHUP)
            wait_for(lambda: server.stderr().count("SIGHUP") == count)
        self.assertEqual(server.page("/tasks/" + task)["status"], "pending")
        self.assertEqual(server.stop()[0], 0)

    def test_a_request_under_way_is_finished_and_its_task_kept(self):
        server = self.server()
        with server.wire() as wire:
            ids = []
            for n in range(20):
                wire.request("POST", "/schedule", body(str(n)))
                if n < 19:
                    ids.append(wire.answer().json["id"])
            status, seconds = server.stop()
            self.assertEqual(status, 0)
            self.assertLess(seconds, support.SOON)
            try:
                ids.append(wire.answer().json["id"])
            except support.Closed:
                pass  # never answered: it may have happened or not
        server.start()
        kept = {task["id"] for task in server.walk("/tasks")}
        self.assertLessEqual(set(ids), kept)

    def test_without_another_thread_every_request_is_answered_and_it_ends(self):
        server = self.server()
        pid = server.process.pid
        with open(f"/proc/{pid}/status") as lines:
            size = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmSize"))
        resource.prlimit(pid, resource.RLIMIT_AS, (size + (1 << 20),) * 2)  # no stack fits
        with server.wire() as wire:
            for method, path, content in (
                    ("POST", "/schedule", body("x")), ("GET", "/healthz", b""),
                    ("GET", "/tasks?limit=1000", b""), ("DELETE", "/tasks?all=true", b"")):
                wire.request(method, path, content)
                self.assertEqual(wire.answer().status, 200)
        status, seconds = server.stop()
        self.assertEqual(status, 0)
        self.assertLess(seconds, support.SOON)

    def test_what_came_due_while_it_was_down_is_emitted_at_the_start(self):
        for policy in ("always", "answers", "everysec", "no"):
            server = self.server("--fsync", policy)
            with server.stream() as stream:
                first = server.schedule("first", 0)
                self.assertEqual(stream.next().id, first)
            for ahead in (0.3, 2, 10):
                began = time.monotonic()
                ids = [server.schedule(str(n), ahead + n / 100) for n in range(5)]
                self.assertEqual(server.stop()[0], 0)
                is_down = time.monotonic() < began + ahead
                time.sleep(max(0, began + ahead + 0.2 - time.monotonic()))  # their moment goes by
                server.start()
                if is_down:  # or else the machine was too slow
                    break
                wait_for(lambda: server.pending() == 0)
                first = ids[-1]
            with server.stream(last=first) as stream:
                self.assertEqual([event.id for event in stream.messages(5)], ids)
            shown = server.page("/tasks/" + ids[0])
            self.assertEqual(shown["status"], "emitted")
            self.assertGreater(shown["late_ms"], 100)


@unittest.skipUnless(shutil.which("strace"), "strace is not installed")
class Idle(TestCase):
    def calls(self, server, seconds):
        """The system calls that all threads of the server begin while nothing happens."""
        path = os.path.join(server.dir, "trace")
        # -ttt puts the time at which a call begins before it.  Attaching interrupts and so restarts
        # the call that each thread is waiting in; what comes after that, somebody woke up for.
        pid = str(server.process.pid)
        tracer = subprocess.Popen(["strace", "-f", "-ttt", "-o", path, "-p", pid], text=True,
                                  stderr=subprocess.PIPE)
        try:
            line = tracer.stderr.readline()
            if "attached" not in line:
                tracer.wait(10)
                self.skipTest("strace may not attach here: " + line.strip())
            tracer_ended = False
            try:
                tracer.wait(seconds)
                tracer_ended = True
            except subprocess.TimeoutExpired:
                pass
            self.assertFalse(tracer_ended, "the server ended, or strace did")
            ended = time.time()
        finally:
            if tracer.poll() is None:
                tracer.send_signal(2)  # it detaches
                tracer.wait(10)
            tracer.stderr.close()
        with open(path) as file:
            lines = file.readlines()
        self.assertTrue(any("detached" in line for line in lines), "strace saw the process")
        found, restarted = [], set()
        for line in lines:
            call = re.match(r"(\d+) +(\d{9,}\.\d+)", line)
            if call and call[1] in restarted and float(call[2]) < ended:
                found.append(line.strip())
            if call:
                restarted.add(call[1])
        self.assertTrue(restarted, lines)
        return found

    def assert_idle(self, server):
        self.still(server, 0.5)  # what has just been answered may not be over
        seconds = 10 if support.LONG else 3
        self.assertEqual(self.calls(server, seconds), [])

    def settled(self, server):
        """Waits until the server noticed that nobody is connected: no socket but the listening."""
        def sockets():
            links = []
            for fd in os.listdir(f"/proc/{server.process.pid}/fd"):
                try:
                    links.append(os.readlink(f"/proc/{server.process.pid}/fd/{fd}"))
                except OSError:
                    pass
            return sum(link.startswith("socket:") for link in links) <= 1
        wait_for(sockets, what="closing the connections")

    def still(self, server, seconds):
        """Waits until no thread of the server has woken up for so long."""
        def nobody_wakes_up():
            before = support.wakeups(server)
            time.sleep(seconds)
            return support.wakeups(server) == before
        wait_for(nobody_wakes_up, what="that nobody wakes up")

    def test_sinks_that_have_nothing_to_do_or_wait_make_no_system_call(self):
        from test_sinks import Receiver, reply
        good, bad = Receiver(), Receiver(lambda *_: reply(500))
        self.addCleanup(good.close)
        self.addCleanup(bad.close)
        directory = tempfile.mkdtemp(dir=support.WORK)
        self.addCleanup(shutil.rmtree, directory)
        path = os.path.join(directory, "sinks.json")
        with open(path, "w") as file:
            json.dump({"sinks": [
                {"name": "good", "webhook": good.url(), "timeout": "200ms"},
                {"name": "bad", "webhook": bad.url(), "timeout": "200ms", "retry": ["1h"]},
                {"name": "run", "exec": ["true"]}]}, file)
        server = self.server("--sinks", path)
        server.schedule("x", 0)
        wait_for(lambda: {sink["name"]: (sink["delivered"], sink["attempts"])
                          for sink in server.page("/sinks")["data"]} ==
                 {"good": (1, 0), "bad": (0, 1), "run": (1, 0)}, what="deliveries")
        self.assert_idle(server)

    def test_with_one_task_an_hour_ahead_and_nobody_connected_no_system_call_is_made(self):
        server = self.server()
        server.schedule("x", 3600)
        self.settled(server)
        self.assert_idle(server)

    def test_a_paused_server_with_overdue_tasks_makes_no_system_call(self):
        server = self.server()
        server.ask("POST", "/pause")
        for _ in range(3):
            server.schedule("x", 0)
        server.schedule("x", 0.5)
        time.sleep(0.6)
        self.settled(server)
        self.assert_idle(server)

    def test_after_a_busy_moment_it_is_idle_again(self):
        # A restart with pending tasks, a stream that came and went, 20 connections at once.
        server = self.server("--fsync", "everysec")
        server.schedule("x", 3600)
        server.restart()
        streams = [server.stream() for _ in range(3)]
        wires = [Wire(server.port) for _ in range(20)]
        for wire in wires:
            wire.request("POST", "/schedule", body("x"))
        for wire in wires:
            self.assertEqual(wire.answer().status, 200)
        for wire in streams + wires:
            wire.close()
        self.settled(server)
        self.still(server, 1.5)  # everysec syncs once more, and then there is nothing to sync
        self.assert_idle(server)


class Log(TestCase):
    """Standard error is a pipe that somebody else may read, or not."""

    F_SETPIPE_SZ = 1031
    LINES = 900  # that the command writes for each event

    def emit(self, server, count):
        for _ in range(count):
            server.schedule("x", seconds=-1)

    def delivered(self, server):
        return server.page("/sinks")["data"][0]["delivered"]

    def test_a_log_that_nobody_reads_stops_neither_a_sink_nor_the_end_and_tells_what_is_missing(
            self):
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        fcntl.fcntl(writing, self.F_SETPIPE_SZ, 4096)
        server = self.server("--exec", f"seq {self.LINES}", errors=writing)
        os.close(writing)
        self.emit(server, 5)
        wait_for(lambda: self.delivered(server) == 5, what="five deliveries")
        text = b""
        while b"were dropped" not in text or not text.endswith(b"\n"):
            self.assertTrue(select.select([reading], [], [], 10)[0], text[-1000:])
            text += os.read(reading, 65536)
        shown = re.findall(rb"^\S+ info command.output: sink \S+: \d+$", text, re.M)
        dropped = re.search(rb"warning log.dropped: (\d+) lines of this log were dropped", text)
        self.assertEqual(len(shown) + int(dropped[1]), 5 * self.LINES)
        self.emit(server, 5)
        wait_for(lambda: self.delivered(server) == 10, what="ten deliveries")
        status, _ = server.stop()
        self.assertEqual(status, 0)
