# SPDX-License-Identifier: MIT
"""Three nodes of the real binary on a real PostgreSQL, and what they survive."""
import copy
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unittest

import chaos
import cluster
import support
from support import TestCase, body, iso, wait_for
from test_clients import Program, needed, install
from test_sinks import Receiver, reply

LONG_LEASE = "60s"  # what is seen before it ends was not seen by its end
HERE = os.path.dirname(os.path.abspath(__file__))
database = None


def setUpModule():
    global database
    if not cluster.is_possible():
        raise unittest.SkipTest("PostgreSQL is not installed, or the binary was built without it")
    database = cluster.Instance()
    database.start()


def tearDownModule():
    if database:
        database.remove()


class WithNodes(TestCase):
    schemas = 0

    def nodes(self, *flags, lease="1s", nodes=3, store=None):
        """A cluster that has started, in a schema of its own; its nodes, the owner first."""
        WithNodes.schemas += 1
        self.schema = f"test_{WithNodes.schemas}"
        self.cluster = cluster.Cluster("--postgres-schema", self.schema, *flags, nodes=nodes,
                                       lease=lease, database=database, store=store)
        self.addCleanup(self.end_nodes)
        self.cluster.start()
        owner = self.cluster.owner()
        return [owner, *self.cluster.others(owner)]

    def end_nodes(self):
        try:
            for node in self.cluster.nodes:
                if node.is_alive():
                    if node.is_paused:
                        node.pause(False)
                    self.assertEqual(node.stop()[0], 0, node.stderr()[-2000:])
                elif not node.process.stdout.closed:
                    self.fail(f"node {node.name} died: {node.stderr()[-2000:]}")
        finally:
            self.cluster.remove()

    def owner_but(self, node):
        """The owner after this one, when all others know it."""
        others = self.cluster.others(node)
        owner = self.cluster.owner(others, 30)
        wait_for(lambda: all(other.cluster()["owner"] == owner.name for other in others), 30,
                 f"that all know of {owner.name}")
        return owner

    def history(self, node, count):
        """The ids of so many events of a node."""
        wait_for(lambda: node.page("/events?limit=1")["page_info"]["total_count"] >= count, 30,
                 f"{count} events at {node.name}")
        return [event["id"] for event in node.walk("/events")]

    def follow(self, stream, count):
        stream.socket.settimeout(30)
        return [event.id for event in stream.messages(count)]

    def assert_same_everywhere(self, ids):
        self.cluster.settle()
        pages = [(node.walk("/events"), node.walk("/tasks")) for node in self.cluster.nodes]
        self.assertEqual([event["id"] for event in pages[0][0]], ids)
        for page in pages[1:]:
            self.assertEqual(page, pages[0])

    def refused_or_id(self, node, due, message="x", key=None):
        """What a node says while there may be no owner: the id, or None with a 503."""
        headers = [("Idempotency-Key", key)] if key else []
        answer = node.call("POST", "/schedule", body(message, due), headers)
        if answer.status == 503:
            self.assertTrue(answer.header("Retry-After"))
            self.assert_errors(answer, 503)
            return None
        self.assertEqual(answer.status, 200, answer)
        return answer.json["id"]

    def schedule_again(self, node, seconds, message="x"):
        """Asks until there is an owner, also where no answer came."""
        stamp, key = iso(seconds), os.urandom(8).hex()

        def ask():
            try:
                return self.refused_or_id(node, stamp, message, key)
            except support.Closed:
                return None
        return wait_for(ask, 30, "an owner")


class Together(WithNodes):
    def test_what_is_asked_of_any_node_comes_out_of_all_with_the_same_ids_in_one_order(self):
        nodes = self.nodes(lease=LONG_LEASE)
        streams = [self.opened(node.stream()) for node in nodes]
        url = [f"http://127.0.0.1:{node.port}" for node in nodes]
        ids = []
        for n in range(12):
            done = subprocess.run(
                ["curl", "-sS", "--max-time", "20", "-d", body(f"from {n}", iso(-1)),
                 f"{url[n % 3]}/schedule"], capture_output=True, text=True, check=True)
            ids.append(json.loads(done.stdout)["id"])
        for stream in streams:
            self.assertEqual(self.follow(stream, 12), ids)
        # All that is due at one moment, asked of three nodes in turn, in order of arrival.
        due = support.utc_now() + support.datetime.timedelta(seconds=1)
        more = [nodes[n % 3].schedule(str(n), timestamp=iso(due)) for n in range(30)]
        for stream in streams:
            self.assertEqual(self.follow(stream, 30), more)
        self.assert_same_everywhere(ids + more)

    def test_a_client_writes_reads_changes_and_cancels_through_any_node(self):
        a, b, c = self.nodes(lease=LONG_LEASE)
        task = b.schedule("x")
        self.assertEqual(b.page(f"/tasks/{task}")["status"], "pending")  # at once
        self.assertEqual(c.ask("PATCH", f"/tasks/{task}", {"message": "y"})[0], 200)
        self.assertEqual(c.page(f"/tasks/{task}")["payload"]["message"], "y")
        self.assertEqual(b.ask("DELETE", f"/tasks/{task}")[0], 200)
        self.assertEqual(b.call("GET", f"/tasks/{task}").status, 404)
        self.assertEqual(c.ask("POST", "/cancel", {"id": task})[0], 404)

    def test_a_key_and_a_name_mean_the_same_at_every_node_also_after_the_owner_has_died(self):
        a, b, c = self.nodes(lease=LONG_LEASE)
        content, key = {"delay": "1h", "message": "once"}, {"Idempotency-Key": "k"}
        first = b.ask("POST", "/schedule", content, key)[2]
        self.assertEqual(c.ask("POST", "/schedule", content, key)[2], first)
        status, _, made = b.ask("PUT", "/tasks/name", {"delay": "1h", "message": ["v"]})
        self.assertEqual(status, 201)
        status, _, replaced = c.ask("PUT", "/tasks/name", {"delay": "1h", "message": ["w"]})
        self.assertEqual((status, replaced["id"]), (200, made["id"]))
        a.kill()
        self.owner_but(a)
        self.assertEqual(b.ask("POST", "/schedule", content, key)[2], first)
        self.assertEqual(c.ask("POST", "/schedule", {**content, "message": "other"}, key)[0], 422)
        status, _, again = c.ask("PUT", "/tasks/name", {"delay": "1h", "message": ["x"]})
        self.assertEqual((status, again["id"]), (200, made["id"]))
        self.assertEqual(b.pending(), 2)

    def test_a_client_that_resumes_at_another_node_misses_nothing_and_gets_nothing_twice(self):
        nodes = self.nodes("--history", "100000", lease=LONG_LEASE)
        due, ids = iso(1.5), []
        for n in range(0, 400, 50):
            answer = nodes[n % 3].call("POST", "/schedule", json.dumps(
                [{"timestamp": due, "message": "x"} for _ in range(50)]))
            ids += answer.json["ids"]
        seen, last = [], "earliest"
        while len(seen) < len(ids):  # at once, while the events come and the nodes run after them
            with nodes[len(seen) % 3].stream(last) as stream:
                seen += self.follow(stream, min(7, len(ids) - len(seen)))
                last = seen[-1]
        self.assertEqual(seen, ids)

    def test_nodes_and_status_tell_who_owns(self):
        a, b, c = self.nodes(lease=LONG_LEASE)

        def listed():
            done = subprocess.run([support.BINARY, "nodes", "--json", "--url",
                                   f"http://127.0.0.1:{b.port}"], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            return {n["node"]: n for n in map(json.loads, done.stdout.splitlines())}
        wait_for(lambda: len(listed()) == 3, 30, "that they have heard of each other")
        self.assertEqual({name: (n["role"], n["url"]) for name, n in listed().items()},
                         {node.name: ("owner" if node is a else "follower",
                                      f"http://127.0.0.1:{node.port}") for node in (a, b, c)})
        said = [node.cluster() for node in (a, b, c)]
        self.assertEqual([s["role"] for s in said], ["owner", "follower", "follower"])
        self.assertEqual({(s["owner"], s["epoch"]) for s in said}, {(a.name, said[0]["epoch"])})

    def test_what_cannot_be_opened_is_told_in_a_sentence(self):
        with open(os.path.join(database.data, "pg_hba.conf"), "r+") as rules:
            kept = rules.read()
            rules.seek(0)
            rules.write("host all locked 127.0.0.1/32 scram-sha-256\n" + kept)
        database.psql("SELECT pg_reload_conf(); CREATE ROLE locked LOGIN PASSWORD 'right'; "
                      "CREATE ROLE bare LOGIN; REVOKE CREATE ON DATABASE postgres FROM PUBLIC")
        self.nodes(nodes=1)
        for uri, words in (
                (database.uri("nowhere"), 'database "nowhere" does not exist'),
                (database.uri(user="nobody"), 'role "nobody" does not exist'),
                (database.uri(user="locked:wrong"), "password authentication failed"),
                (database.uri(user="bare"), "permission denied"),
                ("postgresql://127.0.0.1:1/postgres", "refused")):
            with self.subTest(uri):
                done = subprocess.run([support.BINARY, "--port", "0", "--store", uri, "--advertise",
                                       "http://a", "--postgres-schema", self.schema],
                                      cwd=self.cluster.nodes[0].dir, capture_output=True, text=True,
                                      timeout=60)
                self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
                *logged, last = done.stderr.splitlines()
                self.assertRegex(last, "^task-scheduler: [^\n]*" + re.escape(words))
                self.assertNotIn("wrong", last)
                self.assertLessEqual(len(logged), 1, done.stderr)  # that the URI has a password


class TakeOver(WithNodes):
    def test_when_the_owner_is_killed_another_goes_on_before_its_lease_ends(self):
        a, b, c = self.nodes(lease=LONG_LEASE)
        streams = [self.opened(node.stream()) for node in (b, c)]
        ids = [a.schedule("before", -1), a.schedule("after", 1)]
        self.assertEqual(self.follow(streams[0], 1), ids[:1])
        a.kill()
        began = time.monotonic()
        ids.append(self.schedule_again(b, -1))
        self.note(f"stored again after {time.monotonic() - began:.3f} s")
        ids.sort(key=[ids[0], ids[2], ids[1]].index)
        self.assertEqual(self.follow(streams[1], 3), ids)
        a.start()  # as one that follows
        self.assertEqual(a.cluster()["role"], "follower")
        self.assert_same_everywhere(ids)

    def test_when_the_owner_is_stopped_another_goes_on_at_once_and_nothing_is_lost(self):
        a, b, c = self.nodes(lease=LONG_LEASE)
        ids = [c.schedule("soon", 0.5)]
        status, seconds = a.stop()
        self.assertEqual(status, 0)
        ids.append(self.schedule_again(b, 0.6))
        self.assertEqual(self.history(c, 2), ids)
        a.start()
        self.assert_same_everywhere(ids)

    def test_an_owner_that_was_paused_beyond_its_lease_emits_and_stores_nothing_as_a_stranger(self):
        a, b, c = self.nodes()
        stream = self.opened(a.stream())
        ids = [b.schedule("due while it sleeps", 0.5) for _ in range(3)]
        asked = self.opened(a.wire())
        a.pause()
        asked.request("POST", "/schedule", body("asked of a sleeper"))
        other = self.owner_but(a)
        ids.append(self.schedule_again(other, -1))
        self.assertEqual(set(self.history(b, 4)), set(ids))
        ids = self.history(b, 4)
        a.pause(False)
        self.assertEqual(self.follow(stream, 4), ids)  # what the other has emitted, once
        # What was asked meanwhile: the other stores it, or nobody does; it says so, or nothing.
        with self.subTest("asked of a sleeper"):
            asked.socket.settimeout(30)
            try:
                answer = asked.answer()
                self.assertIn(answer.status, (200, 503))
                count = answer.status == 200
            except support.Closed:
                count = None
        wait_for(lambda: a.cluster()["role"] == "follower", 30)
        self.assert_same_everywhere(ids)
        if count is not None:
            self.assertEqual(other.pending(), count)
        epochs = [epoch for n, epoch, _ in cluster.journal_lines(database, self.schema) if n > 0]
        self.assertEqual(epochs, sorted(epochs))

    def test_owners_that_come_and_go_emit_each_task_once(self):
        nodes = self.nodes(lease=LONG_LEASE)
        due, ids = iso(1.2), []
        for n in range(6):
            ids += nodes[n % 3].call("POST", "/schedule", json.dumps(
                [{"timestamp": due, "message": "x"} for _ in range(100)])).json["ids"]
        for _ in range(4):  # in the midst of the burst, most likely
            owner = self.cluster.owner()
            time.sleep(max(0, 0.02 + (support.millis(due) / 1000 - time.time())))
            owner.kill()
            self.owner_but(owner)
            owner.start()
        self.assertEqual(self.history(self.cluster.nodes[0], 600), ids)
        self.assert_same_everywhere(ids)

    def test_a_webhook_goes_on_where_the_owner_that_died_has_stopped(self):
        gate = threading.Event()

        def script(request, connection):
            if len(receiver.requests) > 20:
                gate.wait(20)
            return reply()
        receiver = Receiver(script)
        self.addCleanup(receiver.close)
        self.addCleanup(gate.set)
        a, b, c = self.nodes("--webhook", receiver.url(), lease=LONG_LEASE)
        ids = [b.schedule("x", -1) for _ in range(40)]
        wait_for(lambda: len(receiver.requests) > 20, 30, "twenty requests")
        a.kill()
        self.owner_but(a)
        before = len(receiver.requests)
        gate.set()
        wait_for(lambda: set(receiver.ids) >= set(ids), 30, "the rest of them")
        ids_after = receiver.ids[before:]
        self.assertEqual(ids_after[-1], ids[-1])
        again = set(receiver.ids[:before]) & set(ids_after)
        self.note(f"{len(again)} were sent twice")
        self.assertLess(len(again), 20, "it has begun anew")
        a.start()

    def test_the_eventsource_package_goes_on_at_another_node_when_its_own_dies(self):
        needed("node")
        install()
        shutil.copy(os.path.join(HERE, "clients.mjs"), support.WORK)
        a, b, c = self.nodes(lease=LONG_LEASE)
        # What it calls is a name for all of them, as a proxy has: the first that takes it.
        relay = Relay([a, b, c])
        self.addCleanup(relay.close)
        program = Program("node", "clients.mjs", "listen", f"http://127.0.0.1:{relay.port}")
        self.addCleanup(program.end)
        self.assertEqual(program.json(), {"open": True})
        ids = [a.schedule("before", -1)]
        self.assertEqual(program.json()["id"], ids[0])
        a.kill()
        ids += [self.schedule_again(b, -1), self.schedule_again(c, -1)]
        seen = [program.json() for _ in range(3)]
        self.assertIn({"open": True}, seen)
        self.assertEqual([event["id"] for event in seen if "id" in event], ids[1:])
        a.start()


class Relay:
    """Passes each connection on to the first of some nodes that takes it."""

    def __init__(self, nodes):
        self.nodes = nodes
        self.listener = support.socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            for node in self.nodes:
                try:
                    server = support.socket.create_connection(("127.0.0.1", node.port))
                except OSError:
                    continue
                self.open += [client, server]
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=self.pump, args=ends, daemon=True).start()
                break
            else:
                client.close()

    @staticmethod
    def pump(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(support.socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        for one in [self.listener, *self.open]:
            one.close()


class Database(WithNodes):
    def test_while_the_database_is_away_nothing_is_taken_or_emitted_and_then_all_in_order(self):
        a, b, c = self.nodes()
        streams = [self.opened(node.stream()) for node in (a, b, c)]
        due = [iso(4 + 0.1 * n) for n in range(10)]
        ids = [(a, b, c)[n % 3].schedule(str(n), timestamp=due[n]) for n in range(9, -1, -1)][::-1]
        self.cluster.settle()
        database.kill()
        try:
            late = support.millis(due[-1]) / 1000 + 0.5  # all of them have fallen due
            time.sleep(max(0, late - time.time()))
            for node, stream in zip((a, b, c), streams):
                answer = node.call("POST", "/schedule", body("x"))
                self.assert_errors(answer, 503)
                self.assertTrue(answer.header("Retry-After"))
                self.assertEqual(node.call("GET", f"/tasks/{ids[0]}").json["status"], "pending")
                self.assertEqual(node.call("GET", "/readyz").status, 503)
                self.assertTrue(stream.silent_for(0.1), "something was emitted")
        finally:
            database.start()
        for stream in streams:
            self.assertEqual(self.follow(stream, 10), ids)
        self.assert_same_everywhere(ids)

    def test_a_database_that_is_restarted_under_load_loses_nothing(self):
        a, b, c = self.nodes()
        ids, stopping = [], threading.Event()

        def load(node):
            n = 0
            while not stopping.is_set():
                try:
                    if task := self.refused_or_id(node, iso(-1), f"{node.name} {n}"):
                        ids.append(task)
                except support.Closed:
                    pass  # it may have happened
                n += 1
                time.sleep(0.01)
        threads = [threading.Thread(target=load, args=(node,)) for node in (a, b, c)]
        for thread in threads:
            thread.start()
        try:
            for how in (database.stop, database.stop_immediately):
                before = len(ids)
                wait_for(lambda: len(ids) > before + 20, 30, "load")
                how()
                database.start()
            before = len(ids)
            wait_for(lambda: len(ids) > before + 20, 30, "load")
        finally:
            stopping.set()
            for thread in threads:
                thread.join(30)
        self.assertLessEqual(set(ids), set(self.history(a, len(ids))), "lost")
        self.assert_same_everywhere(self.history(a, len(ids)))

    def test_a_journal_that_is_replaced_under_load_is_the_same_for_all_and_does_not_grow(self):
        a, b, c = self.nodes("--journal-min-size", "30000", "--history", "100", "--min-retention",
                             "1s", lease="3s")  # old tables go every second
        kept = [b.schedule("kept") for _ in range(3)]
        wires = [self.opened(node.wire()) for node in (a, b, c)]

        def generations():
            names = database.psql("SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = "
                                  f"relnamespace WHERE nspname = '{self.schema}' AND relkind = 'r' "
                                  "AND relname LIKE 'journal_%'").split()
            return sorted(int(name.split("_")[1]) for name in names)

        def has_replaced():
            for wire in wires:
                answer = wire.call("POST", "/schedule", body("x" * 500, seconds=-1))
                self.assertEqual(answer.status, 200, answer)
            return generations()[-1] >= 4
        wait_for(has_replaced, 60, "three replacements")
        wait_for(lambda: len(generations()) <= 2, 30, "that old tables are dropped")
        self.cluster.settle()
        pages = [sorted(task["id"] for task in node.walk("/tasks")) for node in (a, b, c)]
        self.assertEqual(pages, [sorted(kept)] * 3)
        a.kill()
        self.owner_but(a)
        a.start()
        self.cluster.settle()
        self.assertEqual(sorted(task["id"] for task in a.walk("/tasks")), sorted(kept))


class Standby(WithNodes):
    def test_when_a_standby_is_promoted_the_nodes_go_on_with_it_and_nothing_is_lost(self):
        first = cluster.Instance(settings={"wal_level": "replica"})
        self.addCleanup(first.remove)
        first.start()
        folder = tempfile.mkdtemp(prefix="task-scheduler-pg-")
        self.addCleanup(shutil.rmtree, folder, ignore_errors=True)
        if first.user:
            os.chown(folder, first.user.pw_uid, first.user.pw_gid)
        first._run("pg_basebackup", "-D", os.path.join(folder, "data"), "-R", "-c", "fast",
                   "--no-sync", "-h", "127.0.0.1", "-p", str(first.port), "-U", "postgres")
        second = cluster.Instance(folder=folder)
        self.addCleanup(second.remove)
        second.start()
        first.psql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        first.psql("SELECT pg_reload_conf()")
        wait_for(lambda: first.psql("SELECT sync_state FROM pg_stat_replication") == "sync", 30)
        both = f"postgresql://postgres@127.0.0.1:{first.port},127.0.0.1:{second.port}/postgres"
        a, b, c = self.nodes(store=both)
        ids = [(a, b, c)[n % 3].schedule("x", 2 + 0.01 * n) for n in range(30)]
        stream = self.opened(c.stream())
        first.kill()
        second.psql("SELECT pg_promote()")
        ids.append(self.schedule_again(b, 2.5))
        self.assertEqual(self.follow(stream, 31), ids)
        self.assert_same_everywhere(ids)


class Several(WithNodes):
    """Two schedulers in each of two nodes."""

    PREFIXES = ("/heating", "/lights")

    def setUp(self):
        super().setUp()
        self.receiver = Receiver()
        self.addCleanup(self.receiver.close)
        folder = tempfile.mkdtemp(dir=support.WORK)
        self.addCleanup(shutil.rmtree, folder)
        self.sinks = os.path.join(folder, "sinks.json")
        self.configure("hook")
        heating, lights = (f"{prefix}={database.uri()}" for prefix in self.PREFIXES)
        self.cluster = cluster.Cluster(
            "--postgres-schema", "several", "--store", lights, "--sinks", self.sinks, "--log-format",
            "logfmt", nodes=2, lease=LONG_LEASE, database=database, store=heating)
        self.addCleanup(self.end_nodes)
        for node in self.cluster.nodes:
            node.prefix = "/heating"
        self.cluster.start()

    def configure(self, name):
        with open(self.sinks, "w") as file:
            json.dump({"sinks": [{"name": name, "format": "cloudevents",
                                  "webhook": self.receiver.url()}]}, file)

    def at(self, node, prefix):
        """A node, as its clients behind a prefix see it."""
        seen = copy.copy(node)
        seen.prefix = prefix
        return seen

    def owner_of(self, prefix):
        return self.cluster.owner([self.at(node, prefix) for node in self.cluster.nodes])

    def test_each_has_an_owner_and_both_move_when_a_node_dies(self):
        ids = {}
        for prefix in self.PREFIXES:
            owner = self.owner_of(prefix)
            self.assertEqual(owner.cluster()["owner_url"],
                             f"http://127.0.0.1:{owner.port}{prefix}")
            # One of the nodes passes it on.
            ids[prefix] = [self.at(self.cluster.nodes[n % 2], prefix).schedule("x", 3 + n / 100)
                           for n in range(6)]
        a, b = self.cluster.nodes
        self.assertEqual(self.at(a, "").call("GET", "/readyz").status, 200)
        for node in (a, b):
            url = f"http://127.0.0.1:{node.port}/lights"
            listed = subprocess.run([support.BINARY, "nodes", "--url", url], capture_output=True,
                                    text=True, timeout=30, check=True).stdout
            self.assertIn(f"\t{url}\t", listed)
        dead = a if self.owner_of("/heating").name == "a" else b
        other = b if dead is a else a
        dead.kill()
        streams = [self.opened(self.at(other, prefix).stream("earliest"))
                   for prefix in self.PREFIXES]
        for prefix, stream in zip(self.PREFIXES, streams):
            wait_for(lambda: self.at(other, prefix).cluster()["role"] == "owner", 30,
                     f"an owner of {prefix}")
            self.assertEqual(self.follow(stream, 6), ids[prefix])
            source = f"http://127.0.0.1:{other.port}{prefix}"
            wait_for(lambda: [request.header("webhook-id") for request in self.receiver.requests
                              if request.header("ce-source") == source] == ids[prefix], 30,
                     f"the webhooks of {prefix}")
        self.assertEqual(self.at(other, "").call("GET", "/readyz").status, 200)
        self.assertRegex(other.stderr(), 'event=cluster.owner msg="/lights: .* store=/lights')

    def test_a_file_of_sinks_that_is_read_again_counts_for_each(self):
        self.configure("another")
        for node in self.cluster.nodes:
            node.process.send_signal(signal.SIGHUP)
            node.until_logged("event=reload.done")
        for prefix in self.PREFIXES:
            sinks = {sink["name"]: sink["state"]
                     for sink in self.owner_of(prefix).page("/sinks")["data"]}
            self.assertEqual(sinks, {"another": "active", "hook": "unlisted"})


class Chaos(WithNodes):
    def test_whatever_fails_nothing_acked_is_lost_nothing_cancelled_comes_and_each_comes_once(self):
        network = cluster.Network.is_possible()
        run = chaos.Chaos(support.SEED, 1800 if support.LONG else 20, network=network,
                          clocks=not support.SANITIZED and bool(shutil.which("cc")),
                          say=print if support.LONG else None)
        wrong = run.run()
        self.note(run.summary() + ("" if network else ", the network was not cut"))
        self.assertEqual(wrong, [])
        self.assertGreater(sum(len(client.tasks) for client in run.clients), 100, "it was no load")
