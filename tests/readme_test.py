# SPDX-License-Identifier: MIT
"""Holds README.md against what it describes: the example, the flags, the two commands."""
import pathlib
import re
import subprocess
import sys
import unittest

ROOT = pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1 else ".")
BINARY = sys.argv.pop(1) if len(sys.argv) > 1 else None


def needs(name):
    """The Debian packages in one of the lists of tests/run."""
    script = (ROOT / "tests/run").read_text(encoding="utf-8")
    return set(re.findall(r":(\S+)", re.search(rf"^{name}='([^']*)'", script, re.M)[1]))


class Readme(unittest.TestCase):
    def setUp(self):
        self.text = (ROOT / "README.md").read_text(encoding="utf-8")

    def test_it_is_read_in_one_sitting(self):
        self.assertLessEqual(len(self.text.splitlines()), 200)

    def test_first_example_is_the_one_that_is_built_and_run(self):
        example = re.search(r"^```cpp\n(.*?)^```$", self.text, re.M | re.S)[1]
        self.assertEqual(example, (ROOT / "examples/embed.cpp").read_text(encoding="utf-8"))

    def test_every_flag_of_the_binary_is_described(self):
        if BINARY is None:
            self.skipTest("no binary given")
        shown = subprocess.run([BINARY, "--help"], check=True, capture_output=True, text=True).stdout
        flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", shown))
        self.assertIn("--help", flags)
        self.assertEqual(flags - set(re.findall(r"--[a-z][a-z-]*", self.text)), set())

    def test_the_run_command_installs_what_a_build_needs_and_no_more(self):
        command = re.search(r"apt-get install -y --no-install-recommends ([^&\n]*) && meson", self.text)
        self.assertEqual(set(command[1].split()), needs("build_needs"))

    def test_the_test_command_is_there(self):
        self.assertRegex(self.text, r"(?m)^tests/run$")


unittest.main()
