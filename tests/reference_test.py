# SPDX-License-Identifier: MIT
"""The reference, made by doxygen from the comments of every public name; it stays where it is made.

    reference_test.py ROOT FOLDER
"""
import os
import pathlib
import shutil
import subprocess
import sys
import unittest

ROOT = pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1 else ".").resolve()
FOLDER = pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1 else "reference").resolve()


class Reference(unittest.TestCase):
    def test_every_public_name_has_a_comment_and_the_examples_are_in_it(self):
        if not shutil.which("doxygen"):
            self.assertFalse(os.environ.get("TESTS_COMPILERS"), "doxygen is not installed")
            self.skipTest("doxygen is not installed")
        settings = (ROOT / "Doxyfile").read_text(encoding="utf-8")
        done = subprocess.run(["doxygen", "-"], cwd=ROOT, text=True, capture_output=True,
                              input=f'{settings}\nOUTPUT_DIRECTORY = "{FOLDER}"\n', timeout=300)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        pages = {path.name for path in (FOLDER / "html").glob("*.html")}
        for name in ("Scheduler", "Journal", "Sink", "Client", "HttpServer", "HttpApi",
                     "PostgresJournal"):
            self.assertIn(f"classscheduler_1_1{name}.html", pages)
        self.assertFalse([page for page in pages if "detail" in page])
        self.assertIn("on_event", (FOLDER / "html/index.html").read_text(encoding="utf-8"))


unittest.main()
