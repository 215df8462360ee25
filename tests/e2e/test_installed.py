# SPDX-License-Identifier: MIT
"""Whole installations, as docs/operate.md describes them, each in a Debian of its own: the
packages are built and installed, systemd boots, OpenRC starts the service, and the steps of the
Dockerfile are run.  Only with --long, as root: minutes, and some hundred MB of Debian's packages."""
import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess

import support
import test_docs
from support import TestCase, wait_for

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
MIRROR = "http://deb.debian.org/debian"
TOOLS = ("debootstrap", "unshare", "chroot", "systemd-nspawn")


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=1800,
                          **options)
    if done.returncode:
        raise AssertionError(f"{done.stdout[-1000:]}\nsaid by {command}")
    return done.stdout


def written(words):
    """The block of docs/operate.md that begins like this."""
    found = [text for _, text, _, _ in test_docs.blocks("operate.md") if text.startswith(words)]
    assert len(found) == 1, words
    return found[0]


def checkout(target):
    """Copies what is in the repository, and nothing that was built."""
    files = run("git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in files.split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


class Debian:
    """A small Debian in a folder."""

    def __init__(self, test, name):
        base = pathlib.Path(support.WORK) / "debian"
        if not (base / "etc" / "ready").exists():
            shutil.rmtree(base, ignore_errors=True)
            run("debootstrap", "--variant=minbase", "--include=ca-certificates,curl,systemd",
                "bookworm", base, MIRROR)
            (base / "etc" / "ready").touch()
        self.path = pathlib.Path(support.WORK) / name
        shutil.rmtree(self.path, ignore_errors=True)
        run("cp", "-a", base, self.path)
        test.addCleanup(shutil.rmtree, self.path, ignore_errors=True)

    def command(self, script, user=None, folder="/", environment=()):
        """What runs a script in it, as its first process, whose end is that of all others."""
        inside = ["setpriv", f"--reuid={user}", "--regid=65534", "--clear-groups"] if user else []
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "chroot", self.path,
                "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME=/root", "DEBIAN_FRONTEND=noninteractive", *environment, "sh", "-euc",
                f"mount -t proc proc /proc; cd {folder}\nexec " + shlex.join([*inside, "sh", "-euc",
                                                                              script])]

    def run(self, script, **how):
        return run(*self.command(script, **how))

    def install(self, *packages):
        return self.run("apt-get -q update; apt-get -q install -y --no-install-recommends "
                        + shlex.join(packages))


class TestInDebian(TestCase):
    def setUp(self):
        super().setUp()
        if not support.LONG:
            self.skipTest("takes minutes: --long runs it")
        missing = [tool for tool in TOOLS if not shutil.which(tool)]
        if missing or os.getuid() != 0:
            self.skipTest(f"needs root and {', '.join(TOOLS)}")


class Packages(TestInDebian):
    debs = None

    def built(self):
        """The packages, made once as the page says, in a Debian that has nothing but what it
        tells to install."""
        if Packages.debs is None:
            debian = Debian(self, "build")
            checkout(debian.path / "src/task-scheduler")
            script = written("apt-get install -y --no-install-recommends build-essential")
            # A failed build is told by the first test, and not tried again by the others.
            Packages.debs = pathlib.Path(support.WORK) / "debs"
            debian.run("apt-get -q update\n" + script + "task-scheduler --version\n",
                       folder="/src/task-scheduler")
            shutil.rmtree(Packages.debs, ignore_errors=True)
            Packages.debs.mkdir()
            for built in (debian.path / "src").iterdir():
                if built.is_file():
                    shutil.copy(built, Packages.debs)
        return Packages.debs

    def test_the_packages_hold_what_they_are_to_hold(self):
        files = {}
        for deb in sorted(self.built().glob("*.deb")):
            shown = run("dpkg-deb", "--contents", deb)
            files[deb.name.split("_")[0]] = set(re.findall(r" \./(\S*[^/\s])(?: ->.*)?$", shown,
                                                           re.M))
        for path in ("usr/bin/task-scheduler", "etc/task-scheduler.conf",
                     "lib/systemd/system/task-scheduler.service",
                     "usr/share/man/man1/task-scheduler.1.gz",
                     "usr/share/bash-completion/completions/task-scheduler.bash",
                     "usr/share/zsh/site-functions/_task-scheduler",
                     "usr/share/fish/vendor_completions.d/task-scheduler.fish",
                     "usr/share/doc/task-scheduler/docs/operate.md"):
            self.assertIn(path, files["task-scheduler"])
        for path in ("usr/include/scheduler.hpp", "usr/share/pkgconfig/scheduler.pc"):
            self.assertIn(path, files["task-scheduler-dev"])
        if shutil.which("lintian"):
            self.assertEqual(run("lintian", "--allow-root", "--fail-on", "error", "--tag-display-limit",
                                 "0", *self.built().glob("*.changes")), "")

    def test_a_program_is_built_with_the_package_of_the_header(self):
        debian = Debian(self, "develop")
        for deb in self.built().glob("task-scheduler-dev_*.deb"):
            shutil.copy(deb, debian.path)
        shutil.copy(ROOT / "examples/mount.cpp", debian.path / "app.cpp")
        debian.install("g++", "pkg-config", "./" + deb.name)
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        line = re.search(r"^g\+\+ .* app\.cpp .*$", readme, re.M)[0].replace("-O2", "-O0")
        debian.run(line + "\ntest -x app\n")

    def test_the_package_starts_a_service_when_the_system_boots(self):
        debian = Debian(self, "boot")
        for deb in self.built().glob("task-scheduler_*.deb"):
            shutil.copy(deb, debian.path)
        debian.install("man-db", "./" + deb.name)
        self.assertIn("--max-lateness", debian.run("man task-scheduler | cat"))
        script = "\n".join([
            "set -eux",
            # What the package has made.
            written("task-scheduler add --secret-file /etc"),
            "test 401 = $(curl -s -o /answer -w '%{http_code}' http://127.0.0.1:8080/tasks)",
            "systemctl reload task-scheduler",
            "systemctl restart task-scheduler",
            "task-scheduler ls --secret-file /etc/task-scheduler/secret | grep Luke",
            "task-scheduler rm --secret-file /etc/task-scheduler/secret --yes --all || true",
            "test $(stat -c %a /etc/task-scheduler/secret) = 600",
            "test $(stat -c %U /var/lib/private/task-scheduler/tasks.jsonl) != root",
            # Without the file it stays shut; with it, as the page says, it opens.
            "systemctl stop task-scheduler; rm -r /etc/task-scheduler",
            "systemctl start task-scheduler && exit 1",
            "systemctl disable task-scheduler; systemctl stop task-scheduler",
            written("install -d -m 700 /etc/task-scheduler"),
            "until task-scheduler ls --secret-file /etc/task-scheduler/secret; do sleep 1; done",
            "systemctl is-enabled task-scheduler",
            # Its sandbox lets it run commands, and these are in it.
            "mkdir -p /etc/systemd/system/task-scheduler.service.d",
            "echo '{\"sinks\":[{\"name\":\"a\",\"exec\":[\"/bin/sh\",\"-c\",\"id -un; touch /x\"]}]}'"
            " > /etc/task-scheduler/sinks.json",
            "cat > /etc/systemd/system/task-scheduler.service.d/override.conf <<'END'\n"
            + written("[Service]\nLoadCredential=sinks") + "END",
            "systemctl daemon-reload; systemctl restart task-scheduler",
            "until task-scheduler ls --secret-file /etc/task-scheduler/secret; do sleep 1; done",
            "task-scheduler add --secret-file /etc/task-scheduler/secret --in 0 now",
            "until journalctl -u task-scheduler | grep 'Read-only file system'; do sleep 1; done",
            # A crash is followed by a start.
            "systemctl kill -s KILL task-scheduler",
            "until task-scheduler ls --secret-file /etc/task-scheduler/secret; do sleep 1; done",
            "systemctl show -p Type,WatchdogUSec,StatusText task-scheduler",
            written("mkdir -p /etc/systemd/system"),
            "systemd-analyze security --threshold=20 task-scheduler | tail -n 1",
            "echo all is well",
        ])
        (debian.path / "try.sh").write_text(script)
        (debian.path / "etc/systemd/system/try.service").write_text(
            "[Unit]\nAfter=task-scheduler.service\n[Service]\nType=oneshot\n"
            "ExecStart=timeout 120 bash /try.sh\nExecStopPost=systemctl --no-block poweroff\n"
            "StandardOutput=file:/said\nStandardError=inherit\n[Install]\nWantedBy=multi-user.target\n")
        debian.run("systemctl enable try.service")
        run("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network",
            "--boot", "-D", debian.path)
        said = (debian.path / "said").read_text(errors="replace")
        self.assertTrue(said.endswith("all is well\n"), said[-3000:])

    def test_a_purge_leaves_nothing(self):
        debian = Debian(self, "purge")
        for deb in self.built().glob("task-scheduler_*.deb"):
            shutil.copy(deb, debian.path)
        debian.install("./" + deb.name)
        self.assertTrue((debian.path / "etc/task-scheduler/secret").is_file())
        debian.run("apt-get -q purge -y task-scheduler")
        left = [path for folder in ("etc", "var/lib", "usr", "lib")
                for path in (debian.path / folder).rglob("*task-scheduler*")
                if "dpkg" not in path.parts and "systemd" not in path.parts]
        self.assertEqual(left, [])


class OpenRC(TestInDebian):
    def test_the_script_starts_reloads_and_stops_the_service(self):
        debian = Debian(self, "openrc")
        debian.install("openrc", "libcpp-httplib0.11")
        checkout(debian.path / "src")
        shutil.copy(support.BINARY, debian.path / "usr/bin/task-scheduler")
        port = support.free_port()
        (debian.path / "etc/task-scheduler.conf").write_text(
            f"port = {port}\nsecret-file = /etc/secret\n")
        answers = f"curl -sf -H 'x-pd-secret: one' http://127.0.0.1:{port}/tasks"
        install, start = written("install -m 755 packaging/openrc").rsplit("\n", 2)[:2]
        debian.run("\n".join([
            "set -x; mkdir -p /run/openrc; touch /run/openrc/softlevel",
            install,
            "echo one > /etc/secret; chown root:task-scheduler /etc/secret; chmod 640 /etc/secret",
            start,
            f"until {answers}; do sleep 1; done",
            "rc-service task-scheduler status",
            "rc-service task-scheduler reload",
            "until grep 'read again' /var/log/task-scheduler.log; do sleep 1; done",
            "rc-service task-scheduler restart",
            f"until {answers}; do sleep 1; done",
            "kill -9 $(cut -d ' ' -f 1 /var/lib/task-scheduler/tasks.jsonl.lock)",
            f"until {answers}; do sleep 1; done",
            "rc-service task-scheduler stop",
            f"! {answers}"]), folder="/src")


class Image(TestInDebian):
    """The Dockerfile's steps, one by one, in a Debian in place of its base image."""

    def setUp(self):
        super().setUp()
        self.stages, self.settings, self.environment = {}, {}, []

    def steps(self):
        text = (ROOT / "packaging/docker/Dockerfile").read_text(encoding="utf-8")
        text = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", "")
        return [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]

    def build(self):
        for step, rest in self.steps():
            if step == "FROM":
                base, _, name = rest.partition(" AS ")
                self.assertEqual(base, "debian:bookworm-slim")
                stage = self.stages[name] = Debian(self, "image-" + (name or "last"))
            elif step == "RUN":
                stage.run(rest)
            elif step == "COPY" and rest.startswith("--from="):
                origin, source, target = rest.removeprefix("--from=").split()
                run("cp", "-a", f"{self.stages[origin].path}{source}.", f"{stage.path}{target}")
            elif step == "COPY":
                self.assertEqual(rest, ". /src")
                checkout(stage.path / "src")
            elif step == "ENV":
                self.environment += shlex.split(rest)
            else:
                self.settings[step] = rest
        return stage

    def test_its_steps_make_a_server_that_is_healthy_and_not_root(self):
        image = self.build()
        settings = self.settings
        self.assertEqual(set(settings), {"USER", "WORKDIR", "VOLUME", "EXPOSE", "HEALTHCHECK",
                                         "ENTRYPOINT"})
        self.assertNotEqual(settings["USER"], "0")
        port = support.free_port()
        environment = [*self.environment, f"SCHEDULER_PORT={port}", "SCHEDULER_SECRET=s",
                       "SCHEDULER_HOST=127.0.0.1", f"SCHEDULER_URL=http://127.0.0.1:{port}"]
        entry = shlex.join(json.loads(settings["ENTRYPOINT"]))
        check = shlex.join(json.loads(settings["HEALTHCHECK"].removeprefix("CMD ")))
        how = {"user": settings["USER"], "folder": settings["WORKDIR"], "environment": environment}
        with contextlib.suppress(OSError):
            os.remove(image.path / "log")
        log = open(pathlib.Path(support.WORK) / "image.log", "w+b")
        self.addCleanup(log.close)
        server = subprocess.Popen([str(word) for word in image.command("exec " + entry, **how)],
                                  stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)

        def said():
            return pathlib.Path(log.name).read_text()

        def listens():
            self.assertIsNone(server.poll(), said())
            return "listening on" in said()
        wait_for(listens, what="the start of the server")
        image.run(check, **how)
        with support.Wire(port) as wire:
            self.assertEqual(wire.call("GET", "/tasks").status, 401)
            self.assertEqual(wire.call("GET", "/tasks", None, [("x-pd-secret", "s")]).status, 200)
        journal = image.path / "var/lib/task-scheduler/tasks.jsonl"
        self.assertEqual(str(journal.stat().st_uid), settings["USER"])
        # Nothing that builds is left in what is run.
        self.assertFalse((image.path / "usr/bin/g++").exists())
        self.assertFalse((image.path / "usr/include/scheduler.hpp").exists())
