#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A PostgreSQL of one's own, in a temporary folder, for tests and for a try: no service is touched.

    instance.py run [--fsync] [--port N] [--set NAME=VALUE]... -- COMMAND...

starts one, sets PGHOST, PGPORT, PGUSER and PGDATABASE, runs the command, ends the instance and
removes its folder.  PG_INSTANCE_PID is the server's process, and PG_INSTANCE_SOCKETS the folder of
its Unix socket.  Root runs the server as the user `postgres`, as it refuses to run as root.

In Python it is a context manager:

    with Instance() as server:
        print(server.uri())
        server.kill()     # as a crash does
        server.start()
"""

import argparse
import glob
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from ports import free_port  # noqa: E402


def find_binaries():
    """The folder with initdb and postgres: the newest of Debian's, or that of the PATH."""
    def version(path):
        name = path.split("/")[-2]
        return float(name) if name.replace(".", "", 1).isdigit() else 0
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=version, reverse=True)
    on_path = shutil.which("initdb")
    for folder in folders + ([os.path.dirname(os.path.realpath(on_path))] if on_path else []):
        if all(os.access(os.path.join(folder, name), os.X_OK) for name in ("initdb", "postgres")):
            return folder
    return None


class Instance:
    def __init__(self, fsync=False, port=None, settings=None, folder=None):
        self.binaries = find_binaries()
        if not self.binaries:
            raise RuntimeError("PostgreSQL's initdb and postgres are not installed")
        self.fsync = fsync
        self.port = port or free_port()
        self.settings = dict(settings or {})
        self.owns_folder = folder is None
        self.folder = folder or tempfile.mkdtemp(prefix="task-scheduler-pg-")
        self.data = os.path.join(self.folder, "data")
        self.log = os.path.join(self.folder, "log")
        self.server = None
        self.user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        if self.user:
            os.chown(self.folder, self.user.pw_uid, self.user.pw_gid)
        try:
            if not os.path.exists(self.data):
                self._run("initdb", "-D", self.data, "-U", "postgres", "-E", "UTF8", "--locale=C",
                          "-A", "trust", "--no-sync", "--no-instructions")
        except BaseException:
            self.remove()
            raise

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.remove()

    def _as_user(self):
        if not self.user:
            return {}
        return {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}

    def _run(self, name, *arguments):
        done = subprocess.run([os.path.join(self.binaries, name), *arguments], cwd=self.folder,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              **self._as_user())
        if done.returncode != 0:
            raise RuntimeError(f"{name} failed:\n{done.stdout}")

    def start(self, timeout=60):
        """Starts the server, and returns when it takes connections."""
        settings = {
            "port": self.port, "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.folder, "fsync": "on" if self.fsync else "off",
            "full_page_writes": "on" if self.fsync else "off", "max_connections": 100,
            "shared_buffers": "32MB", "log_line_prefix": "%m %p %a ", **self.settings,
        }
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with open(self.log, "ab") as log:
            self.server = subprocess.Popen(
                [os.path.join(self.binaries, "postgres"), "-D", self.data, *words],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, **self._as_user())
        end = time.monotonic() + timeout
        while not self._is_ready():
            if self.server.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the server does not start:\n" + self.tail())
            time.sleep(0.02)

    def _is_ready(self):
        """Whether it answers to the first message of a client with a request, not an error."""
        user = b"user\0postgres\0database\0postgres\0\0"
        hello = (len(user) + 8).to_bytes(4, "big") + (196608).to_bytes(4, "big") + user
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe:
                probe.sendall(hello)
                ready = probe.recv(1) == b"R"
                if ready:
                    probe.sendall(b"X\0\0\0\4")
                return ready
        except OSError:
            return False

    def _end(self, sign, timeout=60):
        if not self.server:
            return
        if self.server.poll() is None:
            self.server.send_signal(sign)
            self.server.wait(timeout)
        self.server = None

    def stop(self):
        """Ends it cleanly and at once: clients are told that they are disconnected."""
        self._end(signal.SIGINT)

    def stop_immediately(self):
        """Ends it without a checkpoint: it recovers at the next start."""
        self._end(signal.SIGQUIT)

    def kill(self):
        """Kills all its processes, as a crash of the machine does; what it has not written to the
        kernel is lost."""
        if not self.server:
            return
        children = self._children(self.server.pid)
        for pid in [self.server.pid, *children]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.server.wait(60)
        # A start is refused while any of them is still attached to the shared memory.
        end = time.monotonic() + 30
        while any(os.path.exists(f"/proc/{pid}") for pid in children) and time.monotonic() < end:
            time.sleep(0.01)
        self.server = None

    @staticmethod
    def _children(parent):
        found = []
        for stat in glob.glob("/proc/[0-9]*/stat"):
            try:
                with open(stat, encoding="utf-8", errors="replace") as file:
                    pid, rest = file.read().split(" (", 1)
                    if int(rest.rsplit(") ", 1)[1].split()[1]) == parent:
                        found.append(int(pid))
            except (OSError, ValueError, IndexError):
                pass
        return found

    def restart(self):
        self.stop()
        self.start()

    def pause(self, paused=True):
        """Stops all its processes with SIGSTOP, or lets them go on."""
        for pid in [self.server.pid, *self._children(self.server.pid)]:
            try:
                os.kill(pid, signal.SIGSTOP if paused else signal.SIGCONT)
            except ProcessLookupError:
                pass

    def psql(self, text, database="postgres", user="postgres"):
        """Runs SQL, and returns what it prints: one row a line, columns between bars."""
        done = subprocess.run(
            [os.path.join(self.binaries, "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h",
             "127.0.0.1", "-p", str(self.port), "-U", user, "-d", database, "-c", text],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        return done.stdout.rstrip("\n")

    def uri(self, database="postgres", user="postgres"):
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def environment(self):
        return {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "postgres",
                "PGDATABASE": "postgres", "PG_INSTANCE_PID": str(self.server.pid),
                "PG_INSTANCE_SOCKETS": self.folder}

    def tail(self):
        try:
            with open(self.log, encoding="utf-8", errors="replace") as log:
                return log.read()[-4000:]
        except OSError:
            return ""

    def remove(self):
        """Ends it, and removes its folder."""
        self.kill()
        if self.owns_folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description="Runs a command beside a PostgreSQL of its own.")
    commands = parser.add_subparsers(dest="verb", required=True)
    run = commands.add_parser("run", help="run a command beside it")
    run.add_argument("--fsync", action="store_true", help="as in earnest; else much is faster")
    run.add_argument("--port", type=int, help="else any that is free")
    run.add_argument("--set", action="append", default=[], metavar="NAME=VALUE",
                     help="a setting of the server")
    run.add_argument("--log", action="store_true", help="show the end of its log if it fails")
    run.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("a command is needed, after --")
    if not find_binaries():
        print("PostgreSQL's initdb and postgres are not installed", file=sys.stderr)
        return 77  # which Meson takes for a test that was skipped
    # Whoever ends this ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    settings = dict(word.split("=", 1) for word in options.set)
    with Instance(fsync=options.fsync, port=options.port, settings=settings) as server:
        child = subprocess.Popen(command, env={**os.environ, **server.environment()})
        try:
            code = child.wait()
        except BaseException:
            child.terminate()
            child.wait(20)
            raise
        if code != 0 and options.log:
            print(server.tail(), file=sys.stderr)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
