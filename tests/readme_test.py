# SPDX-License-Identifier: MIT
"""Holds README.md and docs/ against what they describe: the example, what comes out of a first
session, the flags, the two commands, links."""
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest
import urllib.request

ROOT = pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1 else ".")
BINARY = pathlib.Path(sys.argv.pop(1)).resolve() if len(sys.argv) > 1 else None


def needs(name):
    """The Debian packages in one of the lists of tests/run."""
    script = (ROOT / "tests/run").read_text(encoding="utf-8")
    return set(re.findall(r":(\S+)", re.search(rf"^{name}='([^']*)'", script, re.M)[1]))


UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
LINK = re.compile(r"\]\((?!https?:)([\w./]*)(?:#([\w-]*))?\)")


def general(text):
    """The text without what differs in each run."""
    text = re.sub(UUID, "ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "TIME", text)
    return re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", text)


class Server:
    """The binary in a folder, on a free port."""

    def __init__(self, folder):
        self.process = subprocess.Popen([BINARY, "--port", "0"], cwd=folder, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.line = self.process.stdout.readline()
        self.url = re.search(r"http://[\d.:]+", self.line)[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate(timeout=60)


class Readme(unittest.TestCase):
    def setUp(self):
        self.text = (ROOT / "README.md").read_text(encoding="utf-8")

    def test_it_is_read_in_one_sitting(self):
        self.assertLessEqual(len(self.text.splitlines()), 200)

    def test_first_example_is_the_one_that_is_built_and_run(self):
        example = re.search(r"^```cpp\n(.*?)^```$", self.text, re.M | re.S)[1]
        self.assertEqual(example, (ROOT / "examples/embed.cpp").read_text(encoding="utf-8"))

    def test_what_it_shows_of_a_first_session_is_what_comes_out(self):
        if BINARY is None:
            self.skipTest("no binary given")
        blocks = re.findall(r"^```(\w*)\n(.*?)^```$", self.text, re.M | re.S)
        shown = [general(text) for kind, text in blocks if kind in ("", "json")]
        _, listening, answer, event = shown
        with tempfile.TemporaryDirectory() as folder, Server(folder) as server:
            self.assertEqual(general(server.line), listening)
            request = re.search(r"curl -d '(.*)' http://127\.0\.0\.1:8080/schedule", self.text)[1]
            stream = urllib.request.urlopen(server.url + "/sse", timeout=60)
            self.assertEqual(json.loads(request)["delay"], "5s")
            with urllib.request.urlopen(server.url + "/schedule", request.encode()) as answered:
                self.assertEqual(general(answered.read().decode()), answer.strip())
            lines = []
            while len(lines) < 2:
                line = stream.readline().decode()
                if lines or re.match(f"id: {UUID}", line):
                    lines.append(line)
            self.assertEqual(general("".join(lines)), event)
            stream.close()

    def test_what_the_page_on_names_shows_is_what_comes_out(self):
        if BINARY is None:
            self.skipTest("no binary given")
        page = (ROOT / "docs/names.md").read_text(encoding="utf-8")
        shown = re.findall(r"^```sh\n(.*?)^```\n\n```json\n(.*?)^```$", page, re.M | re.S)
        self.assertEqual(len(shown), 4)
        with tempfile.TemporaryDirectory() as folder, Server(folder) as server:
            for script, printed in shown:
                script = script.replace("http://127.0.0.1:8080", server.url)
                done = subprocess.run(["bash", "-c", script], check=True, capture_output=True,
                                      text=True, timeout=60)
                self.assertEqual("".join(general(done.stdout).split()),
                                 "".join(general(printed).split()))

    def test_every_operation_of_the_journal_is_described(self):
        header = (ROOT / "scheduler.hpp").read_text(encoding="utf-8")
        listed = set(re.findall(r'^//     \{"op":"(\w+)"', header, re.M))
        page = (ROOT / "docs/journal.md").read_text(encoding="utf-8")
        self.assertIn("schedule", listed)
        self.assertEqual(set(re.findall(r"^\| `(\w+)` \| ", page, re.M)), listed)

    def test_its_links_lead_somewhere(self):
        for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]:
            for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
                there = page.parent / target if target else page
                with self.subTest(page.name, target=target, anchor=anchor):
                    self.assertTrue(there.is_file())
                    headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.M)
                    names = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
                    self.assertTrue(not anchor or anchor in names, names)

    def test_every_flag_of_the_binary_is_described(self):
        if BINARY is None:
            self.skipTest("no binary given")
        shown = subprocess.run([BINARY, "--help"], check=True, capture_output=True, text=True).stdout
        flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", shown))
        self.assertIn("--help", flags)
        described = (ROOT / "docs/operate.md").read_text(encoding="utf-8")
        rows = "".join(re.findall(r"^\| (`-.*?) \|", described, re.M))
        self.assertEqual(flags, set(re.findall(r"--[a-z][a-z-]*", rows)))

    def test_the_run_command_installs_what_a_build_needs_and_no_more(self):
        command = re.search(r"apt-get install -y --no-install-recommends ([^&\n]*) && meson", self.text)
        self.assertEqual(set(command[1].split()), needs("build_needs") | {"curl"})  # the first steps

    def test_the_test_command_is_there(self):
        self.assertRegex(self.text, r"(?m)^tests/run$")


unittest.main()
