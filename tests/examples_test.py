# SPDX-License-Identifier: MIT
"""Runs the examples that were built and looks at what they print.

    examples_test.py ROOT EXAMPLE...
"""
import concurrent.futures
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1 else ".")
BUILT = {pathlib.Path(path).stem: pathlib.Path(path).resolve() for path in sys.argv[1:]}
del sys.argv[1:]


class Examples(unittest.TestCase):
    def run_example(self, name):
        """The standard output of one run in a folder of its own; it must succeed."""
        if name not in BUILT:
            self.skipTest(f"{name} was not built")
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([BUILT[name]], cwd=folder, capture_output=True, text=True,
                                  timeout=60)
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

    def test_the_example_of_sinks_tells_that_the_second_attempt_was_taken(self):
        self.assertRegex(self.run_example("sinks"),
                         r'\A\{"timestamp":"[^"]*","message":\{"invoice":4711\}\} '
                         r'taken at attempt 2\n\Z')

    def test_the_example_of_mounting_prints_the_answer_of_its_own_server(self):
        self.assertEqual(self.run_example("mount"), '{"status":"ok"}\n')

    def test_no_example_hopes_that_a_moment_is_long_enough(self):
        for path in sorted(ROOT.glob("examples/*.cpp")):
            self.assertNotRegex(path.read_text(encoding="utf-8"), r"sleep", path.name)


unittest.main()
