# SPDX-License-Identifier: MIT
"""The file of options, for the server and for the verbs of the command line."""
import os
import shutil
import subprocess
import tempfile

import support
from support import TestCase


class Config(TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(dir=support.WORK)
        self.addCleanup(shutil.rmtree, self.folder)

    def write(self, text, name="options"):
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(text if isinstance(text, bytes) else text.encode())
        return path

    def run_binary(self, *arguments, **env):
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SCHEDULER_")}
        return subprocess.run([support.BINARY, *arguments], capture_output=True, text=True,
                              timeout=20, cwd=self.folder, env={**kept, **env})

    def refused(self, text):
        done = self.run_binary("--config", self.write(text), "--port", "0")
        self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
        self.assertRegex(done.stderr, r"^[^\n]+\n$")
        return done.stderr

    def test_options_come_from_the_file_below_the_environment_and_the_command_line(self):
        path = self.write("# a comment\r\n\r\n  max-tasks = 1  \r\n\tjournal=other.jsonl\n"
                          "trust-clock = no\nurl = http://127.0.0.1:1\nmax-body = 100000")
        server = self.server("--config", path)
        self.assertIn("journal other.jsonl", server.line)
        server.schedule("x", 3600)
        self.assertEqual(server.ask("POST", "/schedule", {"delay": "1h", "message": "x"})[0], 507)
        server = self.server("--config", path, env={"SCHEDULER_MAX_TASKS": "2"})
        server.schedule("x", 3600)
        server.schedule("x", 3600)
        self.assertEqual(server.ask("POST", "/schedule", {"delay": "1h", "message": "x"})[0], 507)
        server = self.server("--max-tasks", "3", env={"SCHEDULER_MAX_TASKS": "2",
                                                      "SCHEDULER_CONFIG": path})
        for _ in range(3):
            server.schedule("x", 3600)
        self.assertEqual(server.ask("POST", "/schedule", {"delay": "1h", "message": "x"})[0], 507)

    def test_what_is_wrong_is_told_with_the_line_and_the_nearest_name(self):
        self.assertIn("options:2: there is no option hots; did you mean host?",
                      self.refused("# x\nhots = a\n"))
        self.assertIn("options:1: port: must be a whole number", self.refused("port = http\n"))
        self.assertIn("options:3: must be NAME = VALUE", self.refused("\n#\nport 80\n"))
        self.assertIn("options:1: port needs a value", self.refused("port =\n"))
        self.assertIn("options:1: there is no option config", self.refused("config = x\n"))
        self.assertIn("options:1: trust-clock: must be yes or no",
                      self.refused("trust-clock = maybe"))
        for name in ("secret", "read-secret"):
            said = self.refused(f"{name} = hidden\n")
            self.assertIn(f"{name}-file", said)
            self.assertNotIn("hidden", said)
        self.assertIn("control character", self.refused("host = 127.0.0.1\0\n"))
        self.assertIn("control character", self.refused("host = \x1b[31m\n"))
        self.assertIn("larger", self.refused("#" * (2 << 20)))
        for path, word in ((self.folder, "directory"), ("nowhere", "No such file")):
            done = self.run_binary("--config", path, "--port", "0")
            self.assertEqual(done.returncode, 2)
            self.assertIn(word, done.stderr)

    def test_the_command_line_finds_its_server_and_its_secret_there(self):
        self.write("s3cret\n", "secret")
        self.write("reader\n", "reader")
        server = self.server("--secret-file", self.folder + "/secret",
                             "--read-secret-file", self.folder + "/reader")
        text = f"url = {server.url}\nsecret-file = {self.folder}/secret\nport = 1\n"
        path = self.write(text)
        done = self.run_binary("add", "--config", path, "--in", "1h", "x")
        self.assertEqual(done.returncode, 0, done.stderr)
        # Without a name the file of the user is found.
        self.write(text, "home/task-scheduler/config")
        self.write(text, "user/.config/task-scheduler/config")
        for env in ({"XDG_CONFIG_HOME": self.folder + "/home"},
                    {"XDG_CONFIG_HOME": "", "HOME": self.folder + "/user"}):
            done = self.run_binary("ls", **env)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("x", done.stdout)
        # The environment stands above it, and the command line above both.
        self.assertEqual(self.run_binary("ls", "--config", path, SCHEDULER_SECRET="no").returncode, 1)
        self.assertEqual(self.run_binary("ls", "--config", path, "--secret-file", "secret",
                                         SCHEDULER_SECRET="no").returncode, 0)
        self.assertEqual(self.run_binary("ls", "--config", path,
                                         SCHEDULER_URL="http://127.0.0.1:1").returncode, 3)
        # A read secret is enough to read.
        reading = self.write(f"url = {server.url}\nread-secret-file = reader\n")
        self.assertEqual(self.run_binary("ls", "--config", reading).returncode, 0)
        done = self.run_binary("add", "--config", reading, "--in", "1h", "x")
        self.assertEqual(done.returncode, 1)
        self.assertIn("read secret", done.stderr)
        done = self.run_binary("ls", "--config", self.write("ulr = x\n"))
        self.assertEqual(done.returncode, 2)
        self.assertIn("did you mean url?", done.stderr)
