# SPDX-License-Identifier: MIT
"""Runs the examples that were built and looks at what they print.

    examples_test.py ROOT EXAMPLE...
"""
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1 else ".")
BUILT = {pathlib.Path(path).stem: pathlib.Path(path).resolve() for path in sys.argv[1:]}
del sys.argv[1:]
sys.path.insert(0, str(ROOT / "tests/postgres"))
from instance import Instance, find_binaries  # noqa: E402


class Examples(unittest.TestCase):
    def run_example(self, name, **environment):
        """The standard output of one run in a folder of its own; it must succeed."""
        if name not in BUILT:
            self.skipTest(f"{name} was not built")
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([BUILT[name]], cwd=folder, capture_output=True, text=True,
                                  timeout=60, env={**os.environ, **environment})
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        return done.stdout

    def test_the_first_example_prints_its_event_every_time_on_a_busy_machine(self):
        # Side by side, they keep each other from the processors.
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            for printed in pool.map(self.run_example, ["embed"] * 60):
                self.assertRegex(printed, r'\A\{"timestamp":"[-0-9T:.]{23}Z",'
                                          r'"message":\{"name":"Luke","title":"Jedi"\}\}\n\Z')

    def test_the_readme_shows_what_the_first_example_prints(self):
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        shown = re.search(r"^```json\n(.*?)^```$", readme, re.M | re.S)[1]
        time = r"[-0-9T:.]{23}Z"
        self.assertEqual(re.sub(time, "TIME", self.run_example("embed")),
                         re.sub(time, "TIME", shown))

    PAYLOAD = re.compile(r'\{"timestamp":"[-0-9T:.]{23}Z","message":(.*)\}')

    def lines_of(self, name, **environment):
        """What it prints, line by line, and of each payload only the message."""
        return [self.PAYLOAD.sub(r"\1", line)
                for line in self.run_example(name, **environment).splitlines()]

    def assert_lines(self, name, expected, late):
        """It prints what is expected; or what `late` is true of, but not every time: so it does where
        the machine holds it up for longer than its task is ahead."""
        for _ in range(20):
            lines = self.lines_of(name)
            if lines == expected or not late(lines):
                break
        self.assertEqual(lines, expected)

    def test_a_task_in_the_journal_is_emitted_by_the_next_scheduler(self):
        # The first one may have emitted it, to nobody.
        self.assert_lines("durable", ['{"name":"Leia"}'], lambda lines: lines == [])

    def test_a_task_that_is_changed_is_emitted_as_it_was_changed_and_a_cancelled_one_never(self):
        lines = self.lines_of("change")
        self.assertEqual(lines[:2], ["cancelled", '{"drink":"coffee"}'])
        self.assertRegex(lines[2], r"\Atask [-0-9a-f]{36} was already emitted\Z")
        self.assertEqual(len(lines), 3)

    def test_a_task_that_is_put_by_name_is_one_however_often(self):
        alarm = 'alarm: "no sign of life"'
        self.assert_lines("names", ["made", "moved", "moved", "1 is pending", alarm],
                          lambda lines: lines.index(alarm) < 4 or "0 is pending" in lines)

    def test_a_subscription_goes_on_behind_the_last_event_after_a_restart(self):
        self.assertEqual(self.lines_of("resume"),
                         ['"first"', '"while nobody listens"', '"third"'])

    def test_a_sink_of_ones_own_takes_the_second_attempt(self):
        self.assertEqual(self.lines_of("sink"), ['{"invoice":4711} taken at attempt 2'])

    def test_an_event_loop_of_ones_own_emits_what_is_due(self):
        self.assertEqual(self.lines_of("loop"), ['{"led":"on"}'])

    def test_simulated_time_is_exact(self):
        day = "2026-12-24T{}:00:00.000Z"
        self.assertEqual(self.run_example("simulate").splitlines(),
                         [f'{moment}: {{"timestamp":"{moment}","message":"{what}"}}'
                          for moment, what in ((day.format("08"), "breakfast"),
                                               (day.format("18"), "presents"))])

    def test_a_journal_of_ones_own_outlives_its_scheduler(self):
        self.assert_lines("journal", ['"from the shelf"'], lambda lines: lines == [])

    @unittest.skipUnless("postgres" in BUILT and find_binaries(), "PostgreSQL is not installed")
    def test_another_scheduler_emits_from_a_database_what_the_owner_of_it_has_left(self):
        with Instance() as server:
            self.assertEqual(self.lines_of("postgres", **server.environment()),
                             ['{"name":"Han"}'])

    def test_a_client_gets_the_event_of_the_task_that_it_has_scheduled(self):
        self.assertEqual(self.lines_of("client"), ['{"name":"Han"}'])

    def test_the_example_of_mounting_prints_the_answer_of_its_own_server(self):
        self.assertEqual(self.run_example("mount"), '{"status":"ok"}\n')

    def test_no_example_hopes_that_a_moment_is_long_enough(self):
        for path in sorted(ROOT.glob("examples/*.cpp")):
            self.assertNotRegex(path.read_text(encoding="utf-8"), r"sleep", path.name)


unittest.main()
