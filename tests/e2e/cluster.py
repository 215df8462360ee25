# SPDX-License-Identifier: MIT
"""Several nodes on a PostgreSQL of their own, and a network between them that can be cut."""
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import support
from support import wait_for

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "postgres"))
from instance import Instance, find_binaries  # noqa: E402

LOST = (support.Closed, ConnectionError, TimeoutError, OSError)


def is_possible():
    """Whether the binary can keep its tasks in PostgreSQL, and there is one."""
    return bool(find_binaries()) and b"PQconnect" in pathlib.Path(support.BINARY).read_bytes()


class Network:
    """A namespace for each node, joined by a bridge; the database and the clients are outside.
    Packets between two of them, or one way, are dropped by rules of nft."""

    count = 0

    def __init__(self, nodes):
        Network.count += 1
        mark = f"{os.getpid()}{chr(96 + Network.count)}"
        self.bridge, self.spaces = f"tsb{mark}", [f"ts{mark}-{n}" for n in range(nodes)]
        net = f"10.{177 + os.getpid() // 250 % 60}.{os.getpid() % 250}"
        self.outside, self.database = f"{net}.1", f"{net}.100"
        self.addresses = [f"{net}.{n + 2}" for n in range(nodes)]
        self.subnet = f"{net}.0/24"
        self.cuts = [set() for _ in range(nodes)]  # of (address, "in" or "out")
        try:
            self.ip("link", "add", self.bridge, "type", "bridge")
            for address in (self.outside, self.database):
                self.ip("addr", "add", address + "/24", "dev", self.bridge)
            self.ip("link", "set", self.bridge, "up")
            for n, space in enumerate(self.spaces):
                self.ip("netns", "add", space)
                end = f"tsv{mark}{n}"
                self.ip("link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", space)
                self.ip("link", "set", end, "master", self.bridge, "up")
                self.ip("-n", space, "addr", "add", self.addresses[n] + "/24", "dev", "eth0")
                self.ip("-n", space, "link", "set", "lo", "up")
                self.ip("-n", space, "link", "set", "eth0", "up")
                self.apply(n)
        except BaseException:
            self.remove()
            raise

    @staticmethod
    def ip(*words):
        subprocess.run(["ip", *words], check=True, capture_output=True)

    @staticmethod
    def is_possible():
        """Whether this machine lets us make one."""
        path = os.environ["PATH"] + ":/usr/sbin:/sbin"
        if os.geteuid() or not all(shutil.which(name, path=path) for name in ("ip", "nft")):
            return False
        try:
            Network(1).remove()
        except (OSError, subprocess.CalledProcessError):
            return False
        return True

    def cut(self, node, address, ways):
        self.cuts[node] |= {(address, way) for way in ways}
        self.apply(node)

    def heal(self, node, address):
        self.cuts[node] = {cut for cut in self.cuts[node] if cut[0] != address}
        self.apply(node)

    def apply(self, node):
        chains = ""
        for way, field in (("in", "saddr"), ("out", "daddr")):
            rules = "".join(f"ip {field} {address} drop; "
                            for address, cut in self.cuts[node] if cut == way)
            hook = "type filter hook " + way + "put priority 0;"
            chains += f"chain {way} {{ {hook} {rules} }}\n"
        text = f"add table ip cut\ndelete table ip cut\ntable ip cut {{\n{chains}}}\n"
        subprocess.run(["ip", "netns", "exec", self.spaces[node], "nft", "-f", "-"],
                       input=text.encode(), check=True, capture_output=True)

    def remove(self):
        for words in [["netns", "del", space] for space in self.spaces] + [
                ["link", "del", self.bridge]]:
            subprocess.run(["ip", *words], capture_output=True)


class Node(support.Server):
    """A node: a server that is up when it answers, whatever it prints."""

    def __init__(self, name, uri, *flags, address="127.0.0.1", before=(), env=None):
        self.name, self.address = name, address
        program = before[0] if before else support.BINARY
        self.before = (*before[1:], support.BINARY) if before else ()
        self.program, self.prefix, self.env, self.process = program, "", dict(env or {}), None
        self.dir = tempfile.mkdtemp(prefix=f"node-{name}-", dir=support.WORK)
        self.port = support.free_port()
        self.flags = ("--host", address, "--store", uri, "--node", name, *flags)
        self.clock = os.path.join(self.dir, "clock")
        self.set_clock(0)
        self.env["CLOCK_FILE"] = self.clock
        self.is_paused = False

    def set_clock(self, seconds):
        with open(self.clock + ".new", "w") as file:
            file.write(str(seconds))
        os.rename(self.clock + ".new", self.clock)

    def launch(self):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SCHEDULER_", "PG"))}
        with open(os.path.join(self.dir, "stderr"), "ab") as errors:
            self.said_before = errors.tell()
            self.process = subprocess.Popen(
                [self.program, *self.before, "--port", str(self.port), *self.flags],
                cwd=self.dir, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                env={**kept, **self.env}, preexec_fn=support.end_with_parent())

    def is_alive(self):
        return self.process is not None and self.process.poll() is None

    def has_begun(self):
        """Whether it has said anything: until then a signal may find it without its handlers."""
        return os.path.getsize(os.path.join(self.dir, "stderr")) > self.said_before

    def is_up(self):
        with contextlib.suppress(*LOST):
            return self.call("GET", "/healthz").status == 200
        return False

    def start(self):
        self.launch()
        wait_for(lambda: self.is_up() or self.check_alive(), what=f"node {self.name}")

    def check_alive(self):
        assert self.is_alive(), f"node {self.name} has ended: {self.stderr()[-2000:]}"

    def pause(self, paused=True):
        self.process.send_signal(19 if paused else 18)  # SIGSTOP and SIGCONT on every Linux we have
        self.is_paused = paused

    def kill(self):
        super().kill()
        self.is_paused = False

    def cluster(self):
        """What it says of the cluster; None if it does not answer."""
        with contextlib.suppress(*LOST):
            answer = self.call("GET", "/status")
            if answer.status == 200:
                return answer.json["cluster"]
        return None


class Cluster:
    """Some nodes on one PostgreSQL.  With a network, each has an address of its own."""

    def __init__(self, *flags, nodes=3, lease="2s", network=False, env=None, settings=None,
                 database=None, store=None):
        self.network = Network(nodes) if network else None
        self.database, self.owns_database = database, database is None
        self.nodes = []
        try:
            if self.owns_database:
                self.make_database(dict(settings or {}))
            for n in range(nodes):
                address, before = "127.0.0.1", ()
                if self.network:
                    address = self.network.addresses[n]
                    before = ("ip", "netns", "exec", self.network.spaces[n])
                self.nodes.append(Node("abcdefgh"[n], store or self.uri(), "--lease", lease,
                                       *flags, address=address, before=before, env=env))
        except BaseException:
            self.remove()
            raise

    def make_database(self, settings):
        if self.network:
            settings["listen_addresses"] = "127.0.0.1," + self.network.database
        self.database = Instance(settings=settings)
        if self.network:
            with open(os.path.join(self.database.data, "pg_hba.conf"), "a") as rules:
                rules.write(f"host all all {self.network.subnet} trust\n")
        self.database.start()

    def uri(self):
        uri = self.database.uri()
        return uri.replace("127.0.0.1", self.network.database) if self.network else uri

    def start(self):
        for node in self.nodes:
            node.start()
        return self

    def owner(self, among=None, seconds=60.0):
        """The node that says of itself that it is the owner, when one does."""
        def found():
            for node in among or self.nodes:
                cluster = node.cluster() if node.is_alive() and not node.is_paused else None
                if cluster and cluster["role"] == "owner":
                    return node
            return None
        return wait_for(found, seconds, "an owner")

    def others(self, node):
        return [other for other in self.nodes if other is not node]

    def settle(self, seconds=60.0):
        """Waits until all nodes have applied all that is stored, and name the same owner."""
        def is_settled():
            said = [node.cluster() for node in self.nodes]
            return (all(said) and said[0]["owner"] and all(c["connected"] for c in said)
                    and len({(c["owner"], c["epoch"], c["applied"]) for c in said}) == 1)
        wait_for(is_settled, seconds, "that all nodes have applied the same")
        return self.owner()

    def remove(self):
        for node in self.nodes:
            if node.is_alive():
                node.kill()
            shutil.rmtree(node.dir, ignore_errors=True)
        if self.database and self.owns_database:
            self.database.remove()
        if self.network:
            self.network.remove()


def journal_lines(database, schema="task_scheduler"):
    """All that is stored: (n, epoch, lines) of each row of the present generation."""
    generation = database.psql(f"SELECT generation FROM {schema}.lease")
    rows = database.psql("SELECT n || '|' || epoch || '|' || encode(convert_to(lines, 'UTF8'), "
                         f"'hex') FROM {schema}.journal_{generation} ORDER BY n")
    for row in rows.splitlines():
        n, epoch, lines = row.split("|")
        yield int(n), int(epoch), bytes.fromhex(lines).decode()
