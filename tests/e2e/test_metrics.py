# SPDX-License-Identifier: MIT
"""What Prometheus reads: judged by its own promtool, and by what really happened."""
import os
import pathlib
import re
import shutil
import subprocess
import time

import support
from support import TestCase, wait_for

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"


def samples(text):
    """Each sample of the text by its name and labels."""
    found = re.findall(r"^([a-z_]+(?:\{.*\})?) (\S+)$", text, re.M)
    return {name: float(value) for name, value in found}


def names(text):
    return set(re.findall(r"^# TYPE (\S+) ", text, re.M))


class Metrics(TestCase):
    def promtool(self, *arguments, **options):
        if not shutil.which("promtool"):
            if os.environ.get("TESTS_METRICS"):
                self.fail("promtool is not installed")
            self.skipTest("promtool is not installed")
        return subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60,
                              **options)

    def metrics(self, server):
        answer = server.call("GET", "/metrics")
        self.assertEqual(answer.status, 200)
        return answer.body.decode()

    def busy(self):
        """A server that has something to say of everything, paused at the end."""
        server = self.server("--exec", "cat")
        for _ in range(3):
            server.schedule("x", seconds=-1)
        server.schedule("later", seconds=500)
        wait_for(lambda: "delivered_total" in self.metrics(server) and samples(self.metrics(server))[
            "task_scheduler_events_emitted_total"] == 3)
        server.ask("POST", "/pause", {"reason": 'a "reason"\\'})
        return server

    def test_promtool_has_nothing_to_say(self):
        text = self.metrics(self.busy())
        done = self.promtool("check", "metrics", input=text)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))

    def test_each_metric_is_in_the_table_of_the_docs_and_no_other(self):
        page = (DOCS / "operate.md").read_text()
        table = page[page.index("| metric | type |"):]
        table = table[:table.index("\n\n")]
        told = set(re.findall(r"`((?:task_scheduler|process)_[a-z_]+)(?:\{[a-z,]+\})?`", table))
        elsewhere = {name for name in told
                     if name.startswith(("task_scheduler_tls_", "task_scheduler_cluster_"))}
        self.assertEqual(told - elsewhere, names(self.metrics(self.busy())))

    def test_the_rules_for_alerts_are_valid_and_ask_for_what_there_is(self):
        done = self.promtool("check", "rules", str(DOCS / "alerts.yml"))
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        asked = re.findall(r"((?:task_scheduler|process)_[a-z_]+)", (DOCS / "alerts.yml").read_text())
        known = names(self.metrics(self.busy()))
        known.add("task_scheduler_tls_certificate_expiry_timestamp_seconds")
        for name in asked:
            if not name.startswith("task_scheduler_cluster_"):
                self.assertIn(name.removesuffix("_bucket"), known)

    def test_lateness_and_syncs_are_histograms_in_seconds(self):
        text = self.metrics(self.busy())
        found = samples(text)
        for name, least in (("event_lateness", 3), ("journal_sync_duration", 4)):
            name = f"task_scheduler_{name}_seconds"
            counts = [value for key, value in found.items() if key.startswith(name + "_bucket")]
            self.assertEqual(counts, sorted(counts))
            self.assertEqual(counts[-1], found[name + "_count"])
            self.assertGreaterEqual(counts[-1], least)
            self.assertLess(found[name + "_sum"], 60)
        self.assertEqual(found["task_scheduler_event_lateness_seconds_count"],
                         found["task_scheduler_events_emitted_total"])

    def test_a_pause_the_next_task_and_the_process_are_told(self):
        began = time.time()
        server = self.busy()
        found = samples(self.metrics(server))
        due = found["task_scheduler_next_due_timestamp_seconds"]
        self.assertTrue(began + 490 < due < time.time() + 510, due - began)
        self.assertEqual(found["task_scheduler_paused"], 1)
        since = found["task_scheduler_pause_start_timestamp_seconds"]
        self.assertTrue(began - 1 < since < time.time() + 1)
        folder = f"/proc/{server.process.pid}"
        # A thread may have just begun, or be about to end.
        wait_for(lambda: samples(self.metrics(server))["process_threads"] ==
                 len(os.listdir(folder + "/task")))
        self.assertEqual(found["task_scheduler_streams"], 0)
        for streams in (1, 2):  # sockets that a client has closed may be there a moment longer
            self.enterContext(server.stream())
            wait_for(lambda: samples(self.metrics(server))["task_scheduler_streams"] == streams)
            wait_for(lambda: samples(self.metrics(server))["task_scheduler_connections"] == 1)
            wait_for(lambda: abs(samples(self.metrics(server))["process_open_fds"] -
                                 len(os.listdir(folder + "/fd"))) <= 2)
        self.assertGreater(found["process_resident_memory_bytes"], 1_000_000)
        self.assertTrue(began - 5 < found["process_start_time_seconds"] < time.time() + 5)
        server.ask("POST", "/resume")
        text = self.metrics(server)
        self.assertNotIn("pause_info", text)
        version = server.ask("GET", "/status")[2]["version"]
        self.assertIn(f'task_scheduler_build_info{{version="{version}"}} 1\n', text)
