# SPDX-License-Identifier: MIT
"""The log: its levels and formats, and what is never in it."""
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import tempfile

import support
from support import TestCase, wait_for

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
SECRET = "s3cret-of-the-log"


ROOT = pathlib.Path(__file__).resolve().parents[2]


class Logs(TestCase):
    def busy(self, *flags, errors=None, env=None):
        """A server of which something of each level was asked."""
        server = self.server("--exec", "cat /no/such/file\x1b[31m", *flags, errors=errors,
                             env={**(env or {}), "SCHEDULER_SECRET": SECRET})
        head = [("x-pd-secret", SECRET)]
        server.call("POST", "/schedule", b'{"delay":0,"message":"hidden"}', head)
        server.call("GET", f"/sse?secret={SECRET}x")
        server.call("GET", f"/tasks?q=hidden&limit=3&secret={SECRET}", None, head)
        return server

    def lines(self, server, done="has failed"):
        server.until_logged(done)
        server.stop()
        text = server.stderr()
        self.assertNotIn(SECRET, text)
        self.assertNotIn("hidden", text)
        self.assertNotIn("\x1b", text)
        self.assertTrue(text.endswith("\n"))
        return text.splitlines()

    def test_a_line_of_text_has_time_level_event_and_sentence(self):
        lines = self.lines(self.busy())
        for line in lines:
            self.assertRegex(line, rf"^{TIME} (info|warning|error) [a-z_.]+: [^\n]+$")
        events = [line.split()[2].rstrip(":") for line in lines]
        self.assertEqual((events[0], events[-1]), ("server.started", "server.stopped"))
        for event in ("sink.attempt_failed", "request.refused", "server.stopping"):
            self.assertIn(event, events)
        self.assertNotIn("request", events)

    def test_each_line_of_json_is_an_object_with_its_fields(self):
        lines = [json.loads(line) for line in self.lines(
            self.busy("--log-format", "json", "--log-level", "debug"))]
        for line in lines:
            self.assertRegex(line["time"], f"^{TIME}$")
            self.assertIn(line["level"], ("debug", "info", "warning", "error"))
            self.assertTrue(line["message"])
        requests = [line for line in lines if line["event"] == "request"]
        self.assertEqual([(r["method"], r["path"], r["status"]) for r in requests],
                         [("POST", "/schedule", 200), ("GET", "/sse?secret=***", 401),
                          ("GET", "/tasks?q=***&limit=3&secret=***", 400)])
        for request in requests:
            self.assertIsInstance(request["us"], int)
            self.assertIsInstance(request["bytes"], int)
            self.assertRegex(request["peer"], r"^127\.0\.0\.1:\d+$")
        refused = {line["reason"]: line for line in lines if line["event"] == "request.refused"}
        self.assertEqual((refused["secret"]["level"], refused["invalid"]["level"]),
                         ("warning", "info"))
        failed = [line for line in lines if line["event"] == "sink.attempt_failed"]
        self.assertEqual((failed[0]["attempt"], "(cat)" in failed[0]["message"]),
                         (1, True))

    def test_logfmt_is_names_and_values_that_a_shell_can_split(self):
        for line in self.lines(self.busy("--log-format", "logfmt")):
            words = shlex.split(line)
            names = [word.split("=", 1)[0] for word in words]
            self.assertEqual(names[:4], ["time", "level", "event", "msg"], line)
            self.assertTrue(all("=" in word for word in words), line)

    def test_where_the_journal_of_systemd_reads_a_priority_stands_for_the_time(self):
        for form, expected in (("text", r"[a-z.]+ [a-z_.]+: .+"), ("json", r"\{\"level\":.+\}"),
                               ("logfmt", r"level=.+")):
            with self.subTest(form):
                reading, writing = os.pipe()
                status = os.fstat(writing)
                server = self.busy("--log-format", form, "--log-level", "debug", errors=writing,
                                   env={"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
                os.close(writing)
                server.stop()
                with os.fdopen(reading) as pipe:
                    lines = pipe.read().splitlines()
                for line in lines:
                    self.assertRegex(line, f"^<[3467]>{expected}$")
                found = {line[:3] for line in lines}
                self.assertLessEqual({"<7>", "<6>", "<4>"}, found)

    def test_a_stream_that_is_another_than_standard_error_changes_nothing(self):
        server = self.server(env={"JOURNAL_STREAM": "1:2"})
        server.until_logged("server.started")
        self.assertRegex(server.stderr(), f"^{TIME} info ")

    def test_what_is_no_request_has_a_line_at_debug_that_says_why_and_of_whom(self):
        server = self.server("--log-level", "debug")
        for text, reason, cause in (
                (b"GET / HTTP/1.1\r\n\r\n", "invalid", "exactly one Host field"),
                (b"\x16\x03\x01\x02\x00\x01", "tls_on_plain_port", "begin its URL with http://")):
            with server.wire() as wire:
                wire.send(text)
                self.assertIn(b" 400 ", wire.rest())
                port = wire.socket.getsockname()[1]
            server.until_logged(cause)
            [line] = [line for line in server.stderr().splitlines() if "connection.refused" in line
                      and cause in line]
            self.assertIn(f"refused 127.0.0.1:{port}: 400, {reason}: ", line)

    def test_a_flood_of_refusals_does_not_flood_the_log(self):
        server = self.server(env={"SCHEDULER_SECRET": SECRET})
        for _ in range(500):
            self.assertEqual(server.call("GET", "/tasks").status, 401)
        server.stop()
        lines = [line for line in server.stderr().splitlines() if "refused" in line]
        # One at once, one every ten seconds, and the rest at the end.
        self.assertLess(len(lines), 20)
        counted = sum(int(n) for line in lines
                      for n in re.findall(r": (\d+) more requests|and (\d+) more", line)[0:1]
                      for n in n if n)
        self.assertEqual(counted + sum("request.refused" in line for line in lines), 500)

    def test_only_what_is_of_the_level_is_logged(self):
        server = self.busy("--log-level", "error")
        wait_for(lambda: "tasks_pending 0" in
                 server.call("GET", "/metrics", None, [("x-pd-secret", SECRET)]).body.decode())
        server.stop()
        self.assertEqual(server.stderr(), "")

    def test_level_and_format_change_with_the_file_of_options_while_it_runs(self):
        folder = tempfile.mkdtemp(dir=support.WORK)
        self.addCleanup(shutil.rmtree, folder)
        path = os.path.join(folder, "options")
        with open(path, "w") as file:
            file.write("log-level = warning\n")
        server = self.server("--config", path)
        self.assertEqual(server.stderr(), "")
        with open(path, "w") as file:
            file.write("log-level = debug\nlog-format = json\n")
        server.process.send_signal(signal.SIGHUP)
        server.until_logged("reload.done")
        server.call("GET", "/healthz")
        server.until_logged('"path":"/healthz"')
        with open(path, "w") as file:
            file.write("log-level = nonsense\n")
        server.process.send_signal(signal.SIGHUP)
        server.until_logged("the log stays as it was")
        server.call("GET", "/readyz")
        server.until_logged('"path":"/readyz"')

    def test_each_event_is_in_the_table_of_the_docs_and_no_other(self):
        made = set()
        for path in (ROOT / "scheduler.hpp", ROOT / "main.cpp", *(ROOT / "cli").glob("*.hpp")):
            code = path.read_text()
            made |= set(re.findall(r'LogLevel::\w+\)?,\s*"([a-z_.]+)"', code))
            made |= set(re.findall(r'say_failure\(worker, "([a-z_.]+)"', code))
        page = (ROOT / "docs" / "operate.md").read_text()
        table = page[page.index("| level | event |"):]
        table = table[:table.index("\n\n")]
        events = [line.split("|")[2] for line in table.splitlines()[2:]]
        self.assertEqual({event for cell in events for event in re.findall(r"`([^`]+)`", cell)},
                         made | {"request.refused", "requests.refused"})

    def test_another_word_for_a_level_or_a_format_is_refused(self):
        for flags in (("--log-level", "loud"), ("--log-format", "xml")):
            done = subprocess.run([support.BINARY, *flags], capture_output=True, text=True,
                                  timeout=20)
            self.assertEqual(done.returncode, 2)
            self.assertIn(flags[1], done.stderr)
