# SPDX-License-Identifier: MIT
"""The unit for systemd and the scripts of other inits, by systemd's own tools and real shells."""
import contextlib
import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import subprocess
import tempfile

import support
from support import TestCase, wait_for

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
UNITS = ROOT / "packaging" / "systemd"
UNIT = UNITS / "task-scheduler.service"
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def needs(test, program):
    if not shutil.which(program, path=PATH):
        if os.environ.get("TESTS_PACKAGING"):
            test.fail(f"{program} is not installed")
        test.skipTest(f"{program} is not installed")


def run(*command, **options):
    return subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=600, stdin=subprocess.DEVNULL,
                          **{"env": {**os.environ, "PATH": PATH}, **options})


def settings_of(unit):
    """The lines NAME=VALUE of a unit, of which some are there more than once."""
    return re.findall(r"^(\w+)=(.*)$", unit.read_text(encoding="utf-8"), re.M)


class Unit(TestCase):
    def setUp(self):
        super().setUp()
        needs(self, "systemd-analyze")
        self.folder = tempfile.mkdtemp(prefix="units-", dir=support.WORK)
        self.addCleanup(shutil.rmtree, self.folder)

    def test_systemd_has_nothing_to_say_against_the_units(self):
        units = []
        for unit in sorted(UNITS.iterdir()):
            # As if the binary were where systemd looks for it.
            text = unit.read_text(encoding="utf-8")
            text = re.sub(r"^ExecStart=task-scheduler", f"ExecStart={support.BINARY}", text,
                          flags=re.M)
            units.append(os.path.join(self.folder, unit.name))
            pathlib.Path(units[-1]).write_text(text, encoding="utf-8")
        done = run("systemd-analyze", "verify", "--man=no", *units)
        self.assertEqual((done.returncode, done.stdout), (0, ""))

    def test_the_service_is_exposed_by_no_more_than_its_network(self):
        done = run("systemd-analyze", "security", "--offline=true", "--threshold=20", str(UNIT))
        self.assertEqual(done.returncode, 0, done.stdout)
        self.note(re.search(r"Overall exposure level .*: (\S+)", done.stdout)[1])

    def test_the_server_makes_no_system_call_that_the_unit_forbids(self):
        needs(self, "strace")
        groups, group = {}, None
        for line in run("systemd-analyze", "syscall-filter").stdout.splitlines():
            if line.startswith("@"):
                group = groups.setdefault(line.strip(), [])
            elif line.startswith("    ") and not line.strip().startswith("#"):
                group.append(line.strip())

        def calls_of(name):
            return set().union(*map(calls_of, groups[name])) if name[0] == "@" else {name}

        allowed = set()
        for name, value in settings_of(UNIT):
            if name == "SystemCallFilter":
                named = set().union(*map(calls_of, value.lstrip("~").split()))
                allowed = allowed - named if value[0] == "~" else allowed | named
        self.assertIn("fdatasync", allowed)
        self.assertNotIn("ptrace", allowed)

        trace = os.path.join(self.folder, "trace")
        server = self.server("--exec", "/bin/true", program="strace",
                             before=["-f", "-qq", "-I4", "-o", trace, support.BINARY])
        stream = self.opened(server.stream())
        server.schedule("one", seconds=0)
        stream.messages(1)
        wait_for(lambda: server.page("/sinks")["data"][0]["lag"] == 0, what="the command's end")
        server.schedule("two")
        self.assertEqual(server.call("DELETE", "/tasks?all=true").status, 200)
        # strace's child is the server; strace ends with it.
        tracer = server.process.pid
        child = int(pathlib.Path(f"/proc/{tracer}/task/{tracer}/children").read_text())
        os.kill(child, signal.SIGHUP)
        server.until_logged("SIGHUP")
        os.kill(child, signal.SIGTERM)
        self.assertEqual(server.process.wait(support.SOON * 3), 0)
        server.process.stdout.close()
        text = pathlib.Path(trace).read_text(errors="replace")
        used = set(re.findall(r"^\d+ +(\w+)\(", text, re.M))
        self.assertIn("execve", used)
        self.assertEqual(used - allowed, set())

    def test_the_server_knows_every_variable_of_the_unit(self):
        environment = {"STATE": self.folder}
        for name, value in settings_of(UNIT):
            if name == "Environment":
                variable, _, text = value.partition("=")
                environment[variable] = text.replace("%S/task-scheduler", self.folder).replace(
                    "%d", self.folder)
        secret = os.path.join(self.folder, "secret")
        pathlib.Path(secret).write_text("from-a-credential\n")
        self.assertEqual(environment["SCHEDULER_SECRET_FILE"], secret)
        server = self.server(env=environment)
        self.assertNotIn("means nothing here", server.stderr())
        self.assertEqual(server.call("GET", "/tasks").status, 401)
        self.assertTrue(os.path.exists(os.path.join(self.folder, "tasks.jsonl")))


class BusyBox(TestCase):
    """S60task-scheduler in the shell of BusyBox, with its own start-stop-daemon and with dpkg's."""

    def setUp(self):
        super().setUp()
        needs(self, "busybox")
        # A folder that another user may enter.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="busybox-"))
        self.folder.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        shutil.copy(support.BINARY, self.folder / "task-scheduler")
        self.log = self.folder / "log"
        self.log.touch()
        self.log.chmod(0o666)
        (self.folder / "secret").write_text("first\n")
        (self.folder / "secret").chmod(0o644)
        self.port = support.free_port()
        (self.folder / "config").write_text(
            f"port = {self.port}\nsecret-file = {self.folder}/secret\n")
        values = {"DAEMON": f"{self.folder}/task-scheduler", "CONFIG": f"{self.folder}/config",
                  "STATE": f"{self.folder}/state", "PID_FILE": f"{self.folder}/pid",
                  "RUN_AS": "nobody" if os.getuid() == 0 else "''",
                  "LOG": f"'tee -a {self.log}'"}
        text = (ROOT / "packaging/busybox/S60task-scheduler").read_text(encoding="utf-8")
        for name, value in values.items():
            text, count = re.subn(rf"^{name}=.*$", f"{name}={value}", text, flags=re.M)
            self.assertEqual(count, 1, name)
        (self.folder / "script").write_text(text, encoding="utf-8")
        self.path = PATH
        self.addCleanup(self.say, "stop")

    def say(self, verb):
        done = run(shutil.which("busybox", path=PATH), "sh", str(self.folder / "script"), verb,
                   env={"PATH": self.path, "SCHEDULER_SOURCE": "urn:test"})
        return done.returncode, done.stdout.removeprefix("task-scheduler: ").rstrip()

    def status(self, secret):
        with support.Wire(self.port) as wire:
            return wire.call("GET", "/tasks", None, [("Authorization", f"Bearer {secret}")]).status

    def readers_of_the_log(self):
        readers = []
        for arguments in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if f"\0{self.log}\0".encode() in arguments.read_bytes():
                    readers.append(arguments)
        return readers

    def whole_life(self):
        self.assertEqual(self.say("status"), (3, "does not run"))
        self.assertEqual(self.say("stop"), (0, "does not run"))
        self.assertEqual(self.say("start"), (0, "started"))
        process = int((self.folder / "pid").read_text())
        self.assertEqual(self.say("status"), (0, f"runs as process {process}"))
        self.assertEqual(self.say("start"), (0, "runs already"))
        if os.getuid() == 0:
            self.assertEqual(os.stat(f"/proc/{process}").st_uid, pwd.getpwnam("nobody").pw_uid)
        self.assertEqual(self.status("first"), 200)
        (self.folder / "secret").write_text("second\n")
        self.assertEqual(self.say("reload"), (0, "reads its files again"))
        wait_for(lambda: self.status("second") == 200, what="the new secret")
        wait_for(lambda: "has been read again" in self.log.read_text(), what="the log")
        self.assertEqual(self.say("restart"), (0, "stopped\ntask-scheduler: started"))
        self.assertNotEqual(int((self.folder / "pid").read_text()), process)
        self.assertEqual(self.say("stop"), (0, "stopped"))
        self.assertEqual(self.say("status"), (3, "does not run"))
        self.assertEqual(self.say("reload")[0], 1)
        wait_for(lambda: not self.readers_of_the_log(), what="the end of its log's reader")

    def test_the_script_runs_with_the_tools_of_busybox_alone(self):
        applets = self.folder / "bin"
        applets.mkdir()
        for name in run("busybox", "--list").stdout.split():
            (applets / name).symlink_to(shutil.which("busybox"))
        self.path = str(applets)
        self.whole_life()

    def test_the_script_runs_with_the_start_stop_daemon_of_dpkg(self):
        needs(self, "start-stop-daemon")
        self.whole_life()

    def test_a_start_that_fails_says_so_and_leaves_nothing(self):
        (self.folder / "config").write_text("port = nonsense\n")
        status, said = self.say("start")
        self.assertEqual((status, said), (1, "did not start; its log says why"))
        wait_for(lambda: "nonsense" in self.log.read_text(), what="the log")
        self.assertEqual(self.say("status"), (3, "does not run"))

    def test_a_number_that_was_left_over_is_not_taken_for_the_server(self):
        (self.folder / "pid").write_text(f"{os.getpid()}\n")
        self.assertEqual(self.say("status"), (3, "does not run"))
        self.assertEqual(self.say("stop"), (0, "does not run"))
        self.assertEqual(self.say("start"), (0, "started"))


class Procd(TestCase):
    """The script of OpenWrt in the shell of BusyBox, with a procd that writes down what it is told."""

    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(prefix="procd-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def tell(self, function, config):
        script = (ROOT / "packaging/procd/task-scheduler").read_text(encoding="utf-8")
        for name, value in {"STATE": f"{self.folder}/state", "CONFIG": config,
                            "RUN_AS": pwd.getpwuid(os.getuid()).pw_name}.items():
            script, count = re.subn(rf"^{name}=\S*", f"{name}={value}", script, flags=re.M)
            self.assertEqual(count, 1, name)
        procd = "".join(f'procd_{name}() {{ echo {name} "$@"; }}\n' for name in (
            "open_instance", "close_instance", "set_param", "append_param", "send_signal"))
        file = pathlib.Path(self.folder, "script")
        file.write_text(f"{procd}{script}\n{function}\n", encoding="utf-8")
        done = run(shutil.which("busybox", path=PATH), "sh", str(file))
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout.splitlines()

    def test_procd_is_told_how_to_run_the_server_and_as_whom(self):
        needs(self, "busybox")
        config = pathlib.Path(self.folder, "config")
        told = self.tell("start_service", config)
        self.assertEqual([told[0], told[-1]], ["open_instance", "close_instance"])
        self.assertIn("set_param command /usr/bin/task-scheduler", told)
        self.assertIn(f"set_param env SCHEDULER_JOURNAL={self.folder}/state/tasks.jsonl", told)
        self.assertEqual(os.stat(f"{self.folder}/state").st_mode & 0o777, 0o700)
        self.assertFalse([line for line in told if "SCHEDULER_CONFIG" in line])
        config.touch()
        self.assertIn(f"append_param env SCHEDULER_CONFIG={config}",
                      self.tell("start_service", config))
        self.assertEqual(self.tell("reload_service", config),
                         ["send_signal task-scheduler * HUP"])


class Footprint(TestCase):
    def test_what_the_server_costs_is_measured(self):
        done = run(str(ROOT / "tests/bench/footprint"), "--json", "--idle", "0.2", "--tasks", "3",
                   support.BINARY)
        self.assertEqual(done.returncode, 0, done.stdout)
        server, *policies = map(json.loads, done.stdout.splitlines())
        self.assertGreater(server["rss_kib"], server["pss_kib"] // 2)
        self.assertEqual([row["fsync"] for row in policies],
                         ["always", "answers", "everysec", "no"])
        self.assertGreaterEqual(policies[0]["syncs"], 1)


class Texts(TestCase):
    def test_the_scripts_have_no_slip_that_a_shell_finds(self):
        for script in ("packaging/busybox/S60task-scheduler", "packaging/openrc/task-scheduler",
                       "packaging/procd/task-scheduler",
                       "debian/task-scheduler.postinst", "debian/task-scheduler.postrm"):
            with self.subTest(script):
                self.assertEqual(run("sh", "-n", str(ROOT / script)).stdout, "")
                if shutil.which("shellcheck"):
                    self.assertEqual(run("shellcheck", "-s", "sh", "-e", "SC2034,SC2154,SC1091",
                                         str(ROOT / script)).stdout, "")

    def test_the_version_is_the_same_everywhere(self):
        version = re.search(r"version: '([\d.]+)'", (ROOT / "meson.build").read_text())[1]
        self.assertIn(f"task-scheduler ({version}) ", (ROOT / "debian/changelog").read_text())

    def test_every_need_of_a_build_is_one_of_the_package_and_of_the_image(self):
        lists = (ROOT / "tests/run").read_text()
        needed = set(re.findall(r":(\S+)", re.search(r"^build_needs='([^']*)'", lists, re.M)[1]))
        control = (ROOT / "debian/control").read_text()
        control = set(re.findall(r"^ *(?:Build-Depends: *)?([\w+-]+)", control.split("\n\n")[0],
                                 re.M))
        self.assertEqual(needed - control, {"g++"})  # which every package may count on
        image = (ROOT / "packaging/docker/Dockerfile").read_text()
        self.assertEqual(needed - set(image.split("COPY")[0].split()), set())
