# SPDX-License-Identifier: MIT
"""The file of options, for the server and for the verbs of the command line; and what is made of
the table of flags and verbs for people and their shells."""
import os
import re
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

    def test_a_byte_order_mark_at_the_beginning_means_nothing(self):
        self.assertIn("options:1: port: must be", self.refused("\ufeffport = http\n"))
        self.assertIn("options:2: there is no option", self.refused("# x\n\ufeffport = http\n"))

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


class Texts(TestCase):
    """Help, manual page and completion name the same commands and options."""
    OPTION = re.compile(r"(?m)^  (?:(-\w)(?:, )?)?(--[a-z][a-z-]*)?(?: ([A-Z]+))?(?:  |$)")

    def output(self, *arguments):
        done = subprocess.run([support.BINARY, *arguments], capture_output=True, text=True,
                              timeout=20)
        self.assertEqual((done.returncode, done.stderr), (0, ""), arguments)
        return done.stdout

    def options(self, *arguments):
        """The names of the options in a help, each with what its value is called."""
        found = {}
        for letter, name, value in self.OPTION.findall(self.output(*arguments)):
            for one in filter(None, (letter, name)):
                found[one] = value
        self.assertIn("--help", found)
        return found

    def verbs(self):
        usage = self.output("--help").split("\n\n")[0]
        verbs = "|".join(re.findall(r"task-scheduler ([a-z|]+)", usage)).split("|")
        self.assertIn("add", verbs)
        return verbs

    def test_the_manual_page_names_every_command_and_option(self):
        page = self.output("man")
        if shutil.which("groff"):
            done = subprocess.run(["groff", "-man", "-ww", "-z"], input=page, text=True,
                                  capture_output=True, timeout=20)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
        page = page.replace("\\-", "-")
        for verb in self.verbs():
            self.assertIn(f"\n.SS {verb}\n", page)
            for name in self.options("help", verb):
                self.assertRegex(page, rf"{name}(, |\\fR)", verb)
        for name in self.options("--help"):
            self.assertRegex(page, rf"{name}(, |\\fR)")
        for name in ("SCHEDULER_SECRET", "SCHEDULER_URL", "task-scheduler.conf", "SIGHUP"):
            self.assertIn(name, page)

    def complete(self, script, *words):
        """What bash makes of the last of these words."""
        quoted = " ".join(f"'{word}'" for word in words)
        program = (f"{script}\nCOMP_WORDS=(task-scheduler {quoted}); COMP_CWORD={len(words)}\n"
                   '_task_scheduler; printf "%s\\n" "${COMPREPLY[@]}"')
        done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=20)
        self.assertEqual(done.stderr, "")
        return set(done.stdout.split())

    def test_bash_completes_every_command_and_option(self):
        script = self.output("completion", "bash")
        verbs = set(self.verbs())
        self.assertEqual(self.complete(script, "")
                         - set(self.options("--help")), verbs)
        self.assertEqual(self.complete(script, "--"),
                         {name for name in self.options("--help") if name.startswith("--")})
        for verb in verbs:
            options = self.options("help", verb)
            self.assertEqual(self.complete(script, verb, "-"), set(options), verb)
            for name, value in options.items():
                if value:
                    self.assertEqual(self.complete(script, verb, name, ""), set(), (verb, name))
        self.assertEqual(self.complete(script, "sinks", "re"), {"redeliver", "resume"})
        self.assertEqual(self.complete(script, "ls", "--gr"), {"--grep"})
        self.assertEqual(self.complete(script, "help", "st"), {"status"})

    def test_zsh_and_fish_are_told_of_every_command_and_option(self):
        for shell, mark in (("zsh", "*{}"), ("fish", "-l {}")):
            script = self.output("completion", shell)
            if shutil.which(shell):
                done = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True,
                                      timeout=20)
                self.assertEqual((done.returncode, done.stderr), (0, ""), shell)
            for verb in (None, *self.verbs()):
                for name in self.options("help", verb) if verb else self.options("--help"):
                    if name.startswith("--"):
                        word = name if shell == "zsh" else name[2:]
                        self.assertIn(mark.format(word), script)
                if verb:
                    self.assertRegex(script, rf"(?m)^ +'{verb}:|-a {verb} -d")

    def test_a_shell_that_is_not_known_is_refused(self):
        for arguments in (["completion"], ["completion", "tcsh"], ["completion", "bash", "zsh"],
                          ["man", "ls"]):
            done = subprocess.run([support.BINARY, *arguments], capture_output=True, text=True,
                                  timeout=20)
            self.assertEqual((done.returncode, done.stdout), (2, ""), arguments)
