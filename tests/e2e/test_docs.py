# SPDX-License-Identifier: MIT
"""The pages of docs/: what they tell a reader to type is typed here, as it is written.

The blocks of a page that are marked sh are run in their order, in a folder of their own.  A line
that starts a server has it running from there on, until the next one is started.  A block before
which a file is named, as in "`sinks.json`:", is written into that file.  What cannot be tried like
this is marked console, and NOT_TRIED_HERE says why.
"""
import contextlib
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

DOCS = pathlib.Path(__file__).resolve().parent.parent.parent / "docs"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
# A file that is named at the end of the line before a block.
FILE = re.compile(r"`([\w.-]+)`:\n\n$")
SERVER = re.compile(r"^task-scheduler(?! +(?:--help|--version)\b)(?: +--.*)?$")

# The first words of what stands in a block marked console, and why it does.
BOOTS = "it needs a system that boots: the long form of test_packaging.py types it into one"
ENGINE = "it needs a container engine: the long form of test_packaging.py runs the image's steps"
ROUTER = "it is for OpenWrt: test_packaging.py runs the script with a procd that takes it down"
ELSEWHERE = "they are for other builders of packages: tests/recipes_test.py tries what can be tried"
DATABASE = "it needs a PostgreSQL: test_cluster.py runs examples/cluster.sh, which does the same"
NOT_TRIED_HERE = {
    "cluster.md": {
        "task-scheduler --host 0.0.0.0": DATABASE,
        "examples/cluster.sh": "test_cluster.py runs it, if PostgreSQL is installed",
        "task-scheduler nodes --url": "it kills a process; test_cluster.py does the same",
        "curl -d '{\"delay\"": "it needs a PostgreSQL: test_nodes.py has such nodes",
    },
    "device.md": {
        "mount -o ro": "it needs a device whose root may be mounted anew",
    },
    "packages.md": {
        "$ vcpkg install": ELSEWHERE,
        "$ echo \"src-link": ELSEWHERE,
        "$ bitbake-layers": ELSEWHERE,
        "g++ -std=c++17 -O2 -DTASK_SCHEDULER_POSTGRES": "Meson builds the same, with its page",
        "python3 packaging/split.py": "tests/build_test.py compiles what it makes, in other words",
    },
    "operate.md": {
        "apt-get install -y --no-install-recommends build-essential": BOOTS,
        "task-scheduler add --secret-file /etc": BOOTS,
        "install -d -m 700 /etc/task-scheduler": BOOTS,
        "mkdir -p /etc/systemd/system": BOOTS,
        "install -m 755 packaging/openrc": BOOTS,
        "/etc/init.d/task-scheduler enable": ROUTER,
        "docker build": ENGINE,
        "$ task-scheduler --webhook": "it shows what the log says, each time at another time",
    },
}


def blocks(page):
    """Kind, text, file or None, and line of each block of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        named = FILE.search(text, 0, found.start())
        line = text.count("\n", 0, found.start()) + 1
        yield found[1], found[2], named and named[1], line


class Reader:
    """Somebody who types what a page says, with a machine of his own."""

    # A request that is refused, and one that only its time limit has ended.
    CURL = """#!/bin/sh
{curl} --fail-with-body "$@"
status=$?
[ $status = 28 ] && exit 0
exit $status
"""

    def __init__(self, test, page):
        self.test, self.page, self.server = test, page, None
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="docs-", dir=support.WORK))
        test.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        programs = self.folder / ".bin"
        programs.mkdir()
        (programs / "task-scheduler").symlink_to(support.BINARY)
        (programs / "curl").write_text(self.CURL.format(curl=shutil.which("curl")))
        (programs / "curl").chmod(0o755)
        self.port, self.receiver = support.free_port(), support.free_port()
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("SCHEDULER_")},
            "PATH": f"{programs}:{os.environ['PATH']}:/usr/sbin", "HOME": str(self.folder),
            "SCHEDULER_PORT": str(self.port), "SCHEDULER_URL": f"http://127.0.0.1:{self.port}"}

    def here(self, text):
        """The text with addresses of this machine in place of those of the page."""
        text = text.replace("0.0.0.0", "127.0.0.1").replace(":8080", f":{self.port}")
        return re.sub(r"\b9000\b", str(self.receiver), text)

    def read(self):
        for kind, text, file, line in blocks(self.page):
            with self.test.subTest(f"{self.page}:{line}"):
                if kind == "sh":
                    self.type(text)
                elif file:
                    (self.folder / file).write_text(self.here(text), encoding="utf-8")
        self.end_server()

    def type(self, script):
        waiting = []
        for line in script.splitlines():
            if SERVER.match(line.split("  #")[0].rstrip()):
                self.run("\n".join(waiting))
                self.start_server(line)
                waiting = []
            else:
                waiting.append(line)
        self.run("\n".join(waiting))

    def run(self, script):
        if not script.strip():
            return
        # What it leaves running is of its session, and ends with the test.
        shell = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", self.here(script)], cwd=self.folder, text=True,
            env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True)
        self.test.addCleanup(self.end_session, shell.pid)
        said, _ = shell.communicate(timeout=120)
        self.test.assertEqual(shell.returncode, 0, f"{script}\nsays:\n{said}")

    @staticmethod
    def end_session(leader):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)

    def start_server(self, line):
        self.end_server()
        words = shlex.split(self.here(line), comments=True)
        log = self.folder / ".log"
        with open(log, "wb") as file:
            self.server = subprocess.Popen(
                words, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=file, stderr=file, preexec_fn=support.end_with_parent(),
                executable=support.BINARY)

        def listens():
            self.test.assertIsNone(self.server.poll(), f"{line}\nsays:\n{log.read_text()}")
            return "listening on" in log.read_text()
        self.test.addCleanup(self.end_server)
        wait_for(listens, what="the server's start")

    def end_server(self):
        server, self.server = self.server, None
        if server:
            server.send_signal(signal.SIGTERM)
            try:
                self.test.assertEqual(server.wait(support.SOON * 3), 0)
            finally:
                server.kill()
                server.wait()


class Pages(TestCase):
    def test_what_operate_says_works_as_it_is_written(self):
        Reader(self, "operate.md").read()

    def test_what_http_says_works_as_it_is_written(self):
        reader = Reader(self, "http.md")
        reader.start_server("task-scheduler")
        reader.read()

    def test_what_sinks_says_works_as_it_is_written(self):
        Reader(self, "sinks.md").read()

    def test_what_security_says_works_as_it_is_written(self):
        Reader(self, "security.md").read()

    def test_what_device_says_works_as_it_is_written(self):
        Reader(self, "device.md").read()

    def test_what_cannot_be_tried_is_known_and_why(self):
        for page in sorted(DOCS.glob("*.md")):
            reasons = NOT_TRIED_HERE.get(page.name, {})
            shown = [text for kind, text, _, _ in blocks(page.name) if kind == "console"]
            with self.subTest(page.name):
                for text in shown:
                    self.assertTrue(any(text.startswith(words) for words in reasons), text)
                for words in reasons:
                    self.assertTrue(any(text.startswith(words) for text in shown), words)

    def test_the_contents_of_a_page_are_its_headings(self):
        for page in sorted(DOCS.glob("*.md")):
            text = page.read_text(encoding="utf-8")
            listed = re.findall(r"^- \[(.*)\]\(#[\w-]+\)$", text, re.M)
            if listed:
                with self.subTest(page.name):
                    self.assertEqual(listed, re.findall(r"^## (.*)$", text, re.M))

    def test_json_on_the_pages_is_json(self):
        for page in ("http.md", "operate.md", "security.md", "sinks.md"):
            for kind, text, _, line in blocks(page):
                if kind == "json":
                    with self.subTest(f"{page}:{line}"):
                        decoder, rest = json.JSONDecoder(), text.strip()
                        while rest:
                            rest = rest[decoder.raw_decode(rest)[1]:].lstrip()


class Contract(TestCase):
    """docs/http.md and what the server says of itself."""

    def rows(self, heading):
        text = (DOCS / "http.md").read_text(encoding="utf-8")
        table = text[text.index(heading):].split("\n\n")[0]
        return [row.strip("| ").split(" | ") for row in table.splitlines()[2:]]

    def test_every_error_of_every_request_is_on_the_page(self):
        shown = {}
        for requests, statuses in self.rows("| request | answers |"):
            for request in re.findall("`([^`]*)`", requests):
                shown[request] = set(statuses.split(", "))
        server, given = self.server(), {}
        for path, methods in server.page("/openapi.json")["paths"].items():
            for method, operation in methods.items():
                if method in ("get", "post", "put", "patch", "delete"):
                    errors = {s for s in operation["responses"] if s >= "404"} - {"413", "415"}
                    if errors:
                        given[f"{method.upper()} {path}"] = errors
        self.assertEqual(shown, given)

    def test_every_status_is_on_the_page(self):
        header = (DOCS.parent / "scheduler.hpp").read_text(encoding="utf-8")
        known = header[header.index("constexpr StatusLine known[]"):].split("};")[0]
        statuses = {s for s in re.findall(r"\{(\d{3}), ", known) if s >= "400"}
        shown = {s for row in self.rows("| status | meaning | send it again? |")
                 for s in row[0].split(", ")}
        self.assertEqual(shown, statuses)
