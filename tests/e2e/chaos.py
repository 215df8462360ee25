#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Three nodes and a PostgreSQL, eight clients, and faults that chance chooses; what must hold is
judged at the end.

    chaos.py BINARY [--seconds N] [--seed N] [--lease DURATION] [--no-network] [--no-clocks]

What one request may have done is known by its answer: an acknowledged one has happened, one that
was answered with an error has not, one without an answer may have, also much later.  Each message
is a marker of its own, so that whatever comes out tells which request has asked for it.
"""
import argparse
import bisect
import collections
import itertools
import json
import os
import pathlib
import random
import shutil
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
import support  # noqa: E402
from cluster import LOST, Cluster, Network, journal_lines  # noqa: E402
from support import Stream, Wire, iso, millis  # noqa: E402
from test_sinks import Receiver  # noqa: E402

OFF = 1.5  # by how many seconds a clock within its bound, and a busy machine, may be off


class Task:
    """What the clients know of a task that was acknowledged."""

    def __init__(self, task, marker, name=None):
        self.id, self.name = task, name
        self.markers = {marker}  # whose contents it may have
        self.changed = time.time()  # when it was changed last, as far as is known
        self.is_sure = True  # nothing of it went without an answer
        self.cancelled = None  # the time of the answer
        self.may_be_cancelled = False
        self.swept = None  # the time of the answer to a cancel in bulk, which may be too late
        self.emitted = False  # somebody said so


class Client(threading.Thread):
    """Asks one thing after another, of any node, and remembers what it was told."""

    def __init__(self, number, chaos):
        super().__init__(daemon=True)
        self.chance = random.Random(f"{chaos.seed} client {number}")
        self.number, self.chaos = number, chaos
        self.tasks, self.stamps = {}, {}
        self.unsure, self.refused, self.named = set(), set(), {}
        self.kept_unsure = collections.defaultdict(set)  # name -> markers that a PUT may have set
        self.errors, self.counts, self.wires = [], collections.Counter(), {}
        self.numbers = itertools.count(1)
        self.sweeps_until = 0  # a cancel in bulk may still be under way

    def run(self):
        actions = [(40, self.schedule), (6, self.schedule_many), (12, self.schedule_with_key),
                   (18, self.cancel), (14, self.change), (14, self.put), (1.5, self.sweep)]
        weights, actions = zip(*actions)
        while not self.chaos.resting.is_set():
            try:
                self.chance.choices(actions, weights)[0]()
            except Exception as error:  # the oracle itself has failed
                self.errors.append(f"client {self.number}: {error!r}")
                return
            time.sleep(self.chance.expovariate(1 / self.chaos.pace))

    # ---- requests

    def ask(self, method, path, value=None, headers=(), seconds=None):
        """The answer; None: it may have happened; False: nothing was sent."""
        node = self.chance.choice(self.chaos.cluster.nodes)
        seconds = seconds or self.chance.choice((0.5, 3, 8, 12))
        wire = self.wires.pop(node.name, None)
        if wire is None or self.chance.random() < 0.05:
            try:
                wire = Wire(node.port, seconds=seconds, address=node.address)
            except LOST:
                self.counts["not sent"] += 1
                return False
        wire.socket.settimeout(seconds)
        try:
            answer = wire.call(method, path, value and json.dumps(value), list(headers))
        except LOST:
            wire.close()
            self.counts["no answer"] += 1
            return None
        self.wires[node.name], self.asked = wire, node.name
        self.counts[answer.status] += 1
        if answer.status == 503 and not answer.header("Retry-After"):
            self.wrong(f"a 503 without Retry-After: {answer}")
        return answer

    def look(self, task, marker):
        """Whoever has written at a node reads that there: a marker, or that there is none."""
        wire = self.wires.pop(self.asked)
        if self.chance.random() < 0.7:
            self.wires[self.asked] = wire
            return
        try:
            answer = wire.call("GET", "/tasks/" + task.id)
        except LOST:
            return wire.close()
        self.wires[self.asked] = wire
        self.counts["looks"] += 1
        found = answer.json["payload"]["message"] if answer.status == 200 else None
        # Other requests of this client's, which were not answered, may come between the two.
        if found != marker and task.is_sure and answer.status in (200, 404):
            self.wrong(f"not what was written, {marker}, is read at {self.asked}: {answer}")

    def wrong(self, text):
        self.errors.append(f"{iso(0)} client {self.number}: {text}")

    def content(self, near=None):
        """A marker, and the members of a request that has it for a message."""
        marker = f"{self.number}-{next(self.numbers)}"
        near = self.chance.random() < 0.7 if near is None else near
        seconds = self.chance.uniform(-0.2, 4) if near else self.chance.uniform(3600, 7200)
        self.stamps[marker] = iso(seconds)
        # What is cancelled later makes the journal worth replacing.
        ballast = {} if near else {"ballast": "x" * 2000}
        return marker, {"timestamp": self.stamps[marker], "message": marker,
                        "topic": f"client-{self.number}", **ballast}

    def judge(self, answer, markers, fine=(200,)):
        """Whether it has happened; remembers what may have, and what has not."""
        if answer is None:
            self.unsure.update(markers)
        elif answer is False:
            self.refused.update(markers)
        elif answer.status in fine:
            return True
        else:
            self.refused.update(markers)
            if answer.status not in (503,):
                self.wrong(f"{markers}: {answer}")
        return False

    # ---- actions

    def schedule(self):
        marker, content = self.content()
        answer = self.ask("POST", "/schedule", content)
        if self.judge(answer, {marker}):
            self.add(Task(answer.json["id"], marker))
            self.look(self.tasks[answer.json["id"]], marker)

    def schedule_many(self):
        pairs = [self.content() for _ in range(self.chance.randrange(2, 6))]
        answer = self.ask("POST", "/schedule", [content for _, content in pairs])
        if self.judge(answer, {marker for marker, _ in pairs}):
            for task, (marker, _) in zip(answer.json["ids"], pairs):
                self.add(Task(task, marker))

    def schedule_with_key(self):
        """Asks until there is an answer: it is scheduled once, whatever happens meanwhile."""
        marker, content = self.content()
        maybe = False
        while not self.chaos.resting.is_set():
            answer = self.ask("POST", "/schedule", content, [("Idempotency-Key", marker)])
            if answer and answer.status == 200:
                return self.add(Task(answer.json["id"], marker))
            maybe = maybe or answer is None
            if answer and answer.status != 503:
                self.wrong(f"key {marker}: {answer}")
            time.sleep(self.chance.uniform(0, 0.2))
        (self.unsure if maybe else self.refused).add(marker)

    def add(self, task):
        if task.id in self.tasks:
            self.wrong(f"the id {task.id} was given twice")
        self.tasks[task.id] = task
        if time.time() < self.sweeps_until:
            task.may_be_cancelled, task.is_sure = True, False

    def one(self):
        recent = list(self.tasks.values())[-40:]
        return self.chance.choice(recent) if recent else None

    def cancel(self):
        task = self.one()
        if not task:
            return
        if self.chance.random() < 0.5:
            answer = self.ask("DELETE", "/tasks/" + task.id)
        else:
            answer = self.ask("POST", "/cancel", {"id": task.id})
        if answer is None:
            task.may_be_cancelled, task.is_sure = True, False
        elif answer and answer.status == 200:
            if task.cancelled or task.emitted:
                self.wrong(f"a second end of {task.id}: {answer}")
            task.cancelled = time.time()
            self.look(task, None)
        elif answer:
            self.judge_end(answer, task)

    def judge_end(self, answer, task):
        """An answer that refuses to change a task: is it right that it cannot be changed?"""
        if answer.status == 409:
            task.emitted = True
            if task.cancelled:
                self.wrong(f"{task.id} was cancelled, and is said to be emitted: {answer}")
        elif answer.status == 404:
            if not (task.cancelled or task.may_be_cancelled or task.swept):
                self.wrong(f"LOST: {task.id} {task.markers}: {answer}")
        elif answer.status != 503:
            self.wrong(f"{task.id}: {answer}")

    def change(self):
        task = self.one()
        if not task or task.name:
            return
        marker, content = self.content()
        answer = self.ask("PATCH", "/tasks/" + task.id,
                          {name: content[name] for name in ("timestamp", "message")})
        if answer is None:
            task.markers.add(marker)
            task.is_sure = False
        elif answer and answer.status == 200:
            if task.cancelled or task.emitted:
                self.wrong(f"{task.id} has ended, and was changed: {answer}")
            if answer.json["id"] != task.id or answer.json["payload"]["message"] != marker:
                self.wrong(f"{task.id} {marker}: {answer}")
            # What was asked for before and never answered may come still.
            task.markers = {marker} if task.is_sure else task.markers | {marker}
            task.changed = time.time()
            self.look(task, marker)
        else:
            self.refused.add(marker)
            if answer:
                self.judge_end(answer, task)

    def put(self):
        name = f"n{self.number}-{self.chance.randrange(6)}"
        marker, content = self.content()
        answer = self.ask("PUT", "/tasks/" + name, content)
        if not self.judge(answer, {marker}, (200, 201)):
            if answer is None:
                self.kept_unsure[name].add(marker)
                if name in self.named:
                    self.named[name].is_sure = False
            return
        given, last = answer.json["id"], self.named.get(name)
        if last and last.id == given:
            if answer.status != 200 or last.cancelled or last.emitted:
                self.wrong(f"{name}: {given} was created anew: {answer}")
            last.markers = {marker} if last.is_sure else last.markers | {marker}
            last.changed = time.time()
            return
        if answer.status == 200 and not self.kept_unsure[name]:
            self.wrong(f"{name}: nobody has made {given}, which was replaced: {answer}")
        self.named[name] = Task(given, marker, name)
        self.named[name].is_sure = not self.kept_unsure[name]
        self.add(self.named[name])

    def sweep(self):
        """Cancels all that is its own."""
        answer = self.ask("DELETE", f"/tasks?topic=client-{self.number}")
        if answer is not None and (not answer or answer.status == 503):
            return
        if answer is None:  # who has given up waiting does not know when it is done
            self.sweeps_until = time.time() + 30
        for task in self.tasks.values():
            if answer is None:
                task.may_be_cancelled, task.is_sure = True, False
            elif task.swept is None:
                task.swept = time.time()
        if answer and answer.status != 200:
            self.wrong(f"sweep: {answer}")


class Reader(threading.Thread):
    """Follows the stream from the first event on, on one node after another."""

    def __init__(self, number, chaos):
        super().__init__(daemon=True)
        self.chance = random.Random(f"{chaos.seed} reader {number}")
        self.number, self.chaos = number, chaos
        self.events, self.errors, self.last, self.connects = [], [], "earliest", 0

    def run(self):
        while not self.chaos.over.is_set():
            node = self.chance.choice(self.chaos.cluster.nodes)
            until = time.monotonic() + self.chance.expovariate(1 / 4)
            try:
                with Stream(node.port, self.last, address=node.address, seconds=1) as stream:
                    self.follow(stream.open(), node, until)
            except LOST:
                time.sleep(0.02)
            except AssertionError as error:  # it goes on, so that more is found
                self.errors.append(f"{iso(0)} reader {self.number} at {node.name}, behind "
                                   f"{self.last}: {error}")
                time.sleep(0.1)

    def follow(self, stream, node, until):
        self.connects += 1
        while time.monotonic() < until and not self.chaos.over.is_set():
            try:
                event = stream.next()
            except TimeoutError:
                continue
            if event.type == "message":
                self.events.append((event.id, event.data))
                self.chaos.see(event, node)
            elif event.type != "cursor":
                raise AssertionError(event)
            self.last = event.id or self.last


class Fault:
    """Something that goes wrong for a while: `end` makes it good again."""

    def __init__(self, what, target, seconds, end):
        self.what, self.target, self.end = what, target, end
        self.until = time.monotonic() + seconds


class Chaos:
    def __init__(self, seed, seconds, lease=1.0, network=True, clocks=True, pace=0.08, say=None,
                 clients=8, readers=4):
        self.seed, self.seconds, self.lease, self.pace = seed, seconds, lease, pace
        self.chance = random.Random(f"{seed} faults")
        self.say = say or (lambda text: None)
        env = {}
        if clocks:
            env["LD_PRELOAD"] = support.preload("clock")
        if support.SANITIZED:
            env["ASAN_OPTIONS"] = "detect_leaks=0:verify_asan_link_order=0"
            env["TSAN_OPTIONS"] = "exitcode=66:second_deadlock_stack=1"
        self.receiver = Receiver(host="0.0.0.0")
        self.cluster = Cluster("--history", "1000000", "--journal-min-size", "100000",
                               "--max-streams", "100", lease=f"{int(lease * 1000)}ms",
                               network=network, env=env)
        outside = self.cluster.network.outside if network else "127.0.0.1"
        for node in self.cluster.nodes:
            node.flags += ("--webhook", f"http://{outside}:{self.receiver.port}/hook")
        self.resting, self.over = threading.Event(), threading.Event()
        self.faults, self.counts, self.problems = [], collections.Counter(), []
        self.skewed = [(0.0, 0.0)]  # when a clock was wrong beyond the bound
        self.clients = [Client(n, self) for n in range(clients)]
        self.readers = [Reader(n, self) for n in range(readers)]
        kinds = [(3, self.kill), (1, self.stop), (3, self.pause), (1.5, self.restart_database),
                 (1.5, self.kill_database), (1.5, self.pause_database)]
        if clocks:
            kinds += [(1.5, self.skew), (1, self.leap)]
        if network:
            kinds += [(3, self.cut_database), (2, self.cut_nodes)]
        self.kinds = kinds

    # ---- faults

    def log(self, text):
        self.say(f"{iso(0)} {text}")

    def wait(self, longest):
        """Often short, sometimes long."""
        return longest * self.chance.random() ** 2

    def node(self):
        """Any node without a fault; often the one that was seen to own."""
        taken = {fault.target for fault in self.faults}
        free = [node for node in self.cluster.nodes if node not in taken]
        if not free:
            return None
        if self.chance.random() < 0.6:
            for node in free:
                found = node.cluster() if node.is_alive() else None
                if found and found["role"] == "owner":
                    return node
        return self.chance.choice(free)

    def on_node(self, what, longest, begin, end):
        node = self.node()
        if node and node.is_alive():
            seconds = self.wait(longest)
            self.log(f"{what} {node.name} for {seconds:.2f} s")
            begin(node)
            self.faults.append(Fault(what, node, seconds, lambda: end(node)))
            return True
        return False

    def kill(self):
        return self.on_node("kill -9", 3 * self.lease, lambda node: node.kill(),
                            lambda node: node.launch())

    def stop(self):
        def end_cleanly(node):
            status, _ = node.stop()
            if status != 0 and node.has_begun():
                self.problems.append(f"{node.name} ended with {status} after SIGTERM")
        return self.on_node("SIGTERM", self.lease, end_cleanly, lambda node: node.launch())

    def pause(self):
        return self.on_node("SIGSTOP", 4 * self.lease, lambda node: node.pause(),
                            lambda node: node.pause(False))

    def skew(self):
        off = self.chance.uniform(-0.4, 0.4)
        return self.on_node(f"clock {off:+.3f} s", 6 * self.lease,
                            lambda node: node.set_clock(off), lambda node: node.set_clock(0))

    def leap(self):
        off = self.chance.choice((-60, -3, -0.8, 0.8, 3, 60))
        begun = time.time()

        def end(node):
            node.set_clock(0)
            self.skewed.append((begun, time.time() + 2 * self.lease))
            self.leaping = None
        self.leaping = begun
        return self.on_node(f"clock {off:+.3f} s", 3 * self.lease,
                            lambda node: node.set_clock(off), end)

    leaping = None

    def database(self, what, longest, begin, end):
        if any(fault.target is self.cluster.database for fault in self.faults):
            return False
        seconds = self.wait(longest)
        self.log(f"database: {what} for {seconds:.2f} s")
        begin()
        self.faults.append(Fault(what, self.cluster.database, seconds, end))
        return True

    def restart_database(self):
        database = self.cluster.database
        how = database.stop if self.chance.random() < 0.5 else database.stop_immediately
        return self.database("stopped", self.lease, how, database.start)

    def kill_database(self):
        database = self.cluster.database
        return self.database("killed", 2 * self.lease, database.kill, database.start)

    def pause_database(self):
        database = self.cluster.database
        return self.database("SIGSTOP", 2 * self.lease, database.pause,
                             lambda: database.pause(False))

    def cut_database(self):
        network = self.cluster.network
        ways = self.chance.choice((("in",), ("out",), ("in", "out"), ("in", "out")))

        def number(node):
            return self.cluster.nodes.index(node)
        return self.on_node(f"no database ({' and '.join(ways)})", 4 * self.lease,
                            lambda node: network.cut(number(node), network.database, ways),
                            lambda node: network.heal(number(node), network.database))

    def cut_nodes(self):
        network = self.cluster.network
        a, b = self.chance.sample(range(len(self.cluster.nodes)), 2)
        if any(fault.target == (a, b) for fault in self.faults):
            return False
        ways = self.chance.choice((("in",), ("in", "out")))
        seconds = self.wait(6 * self.lease)
        names = [self.cluster.nodes[n].name for n in (a, b)]
        self.log(f"no network at {names[0]} ({' and '.join(ways)}) to {names[1]} "
                 f"for {seconds:.2f} s")
        network.cut(a, network.addresses[b], ways)
        self.faults.append(Fault("no network", (a, b), seconds,
                                 lambda: network.heal(a, network.addresses[b])))
        return True

    def end_faults(self, all_of_them=False):
        for fault in list(self.faults):
            if all_of_them or fault.until <= time.monotonic():
                self.log(f"end of {fault.what} {getattr(fault.target, 'name', '')}")
                fault.end()
                self.faults.remove(fault)
        # A node that finds no database at its start ends, and is started again, as by a manager.
        down = {fault.target for fault in self.faults if fault.what in ("kill -9", "SIGTERM")}
        for node in self.cluster.nodes:
            if not node.is_alive() and node not in down:
                status = node.process.returncode
                if status not in (1, -9) and not node.process.stdout.closed:
                    self.problems.append(f"{node.name} died with {status}: "
                                         f"{node.stderr()[-1500:]}")
                self.counts["ended at its start"] += 1
                time.sleep(0.05)
                node.launch()

    def see(self, event, node):
        """An event that has come to a reader: is it early?"""
        due = millis(json.loads(event.data)["timestamp"]) / 1000
        if event.at < due - OFF and not self.leaping:
            if not any(begun <= event.at <= end for begun, end in self.skewed):
                self.problems.append(f"{event.id} came {due - event.at:.3f} s early, "
                                     f"from {node.name}")

    # ---- a run

    def run(self):
        """Returns what is wrong, a sentence each."""
        try:
            self.cluster.start()
            for thread in self.clients + self.readers:
                thread.start()
            end = time.monotonic() + self.seconds
            weights, kinds = zip(*self.kinds)
            next_fault = time.monotonic() + 1
            while time.monotonic() < end:
                self.end_faults()
                if time.monotonic() >= next_fault and len(self.faults) < 3:
                    kind = self.chance.choices(kinds, weights)[0]
                    if kind():
                        self.counts[kind.__name__] += 1
                    next_fault = time.monotonic() + self.chance.expovariate(1 / (2 * self.lease))
                time.sleep(0.02)
            self.rest()
            return self.problems + self.verify()
        finally:
            self.resting.set()
            self.over.set()
            try:
                for thread in self.clients + self.readers:
                    if thread.ident:
                        thread.join(20)
                self.receiver.close()
                self.logs = {node.name: node.stderr() for node in self.cluster.nodes
                             if node.process is not None}
            finally:
                self.cluster.remove()

    def rest(self):
        """Mends all, and waits until nothing more is to come."""
        self.end_faults(True)
        self.resting.set()
        for client in self.clients:
            client.join(30)
            if client.is_alive():
                self.problems.append(f"client {client.number} hangs")
        self.log("all is mended")

        def is_quiet():
            self.end_faults()
            for node in self.cluster.nodes:
                found = node.cluster()
                if not found or not found["owner"] or not found["connected"]:
                    return False
                if node.page(f"/tasks?limit=1&due_before={iso(60)}")["data"]:
                    return False
            return True
        self.soon(is_quiet, "that what is due is emitted, and every node has an owner")
        self.soon(lambda: self.cluster.settle(10), "that all nodes have the same")
        total = self.cluster.nodes[0].page("/events?limit=1")["page_info"]["total_count"]
        self.soon(lambda: all(len(reader.events) >= total for reader in self.readers),
                  "that every reader has all events", 20)
        self.soon(lambda: len(set(self.receiver.ids)) >= total, "that the webhook has all events")
        self.over.set()
        for reader in self.readers:
            reader.join(20)

    def soon(self, condition, what, seconds=60.0):
        def holds():
            try:
                return condition()
            except LOST:
                return False
        try:
            support.wait_for(holds, seconds, what)
        except AssertionError as error:
            said = {node.name: node.cluster() for node in self.cluster.nodes}
            self.problems.append(f"{error}; {said}")

    # ---- the oracle

    def verify(self):
        wrong = [error for thread in self.clients + self.readers for error in thread.errors]
        pages = [(node.walk("/events"), node.walk("/tasks")) for node in self.cluster.nodes]
        for node, page in zip(self.cluster.nodes[1:], pages[1:]):
            for name, mine, theirs in zip(("history", "pending tasks"), pages[0], page):
                if mine != theirs:
                    wrong.append(f"{node.name} and {self.cluster.nodes[0].name} differ in their "
                                 f"{name}: {difference(mine, theirs)}")
        history, pending = pages[0]
        ids = [event["id"] for event in history]
        twice = [task for task, n in collections.Counter(ids).items() if n > 1]
        if twice:
            wrong.append(f"emitted more than once: {twice}")
        whole = [(event["id"], event["payload"]) for event in history]
        for reader in self.readers:
            seen = [(task, json.loads(data)) for task, data in reader.events]
            if seen != whole:
                wrong.append(f"reader {reader.number} is not history: {difference(whole, seen)}")
        if set(self.receiver.ids) != set(ids):
            wrong.append("what the webhook has got is not history: "
                         f"{sorted(set(self.receiver.ids) ^ set(ids))}")
        for verify, found in ((self.verify_tasks, (history, pending)),
                              (self.verify_order, (history,)),
                              (self.verify_database, (ids, pending)), (self.verify_epochs, ())):
            try:
                wrong += verify(*found)
            except Exception as error:  # what the others find is told all the same
                wrong.append(f"{verify.__name__}: {error!r}")
        return wrong

    def known(self):
        tasks, stamps, unsure, refused, unsure_of = {}, {}, set(), set(), {}
        for client in self.clients:
            tasks.update(client.tasks)
            stamps.update(client.stamps)
            unsure |= client.unsure
            refused |= client.refused
            unsure_of.update(client.kept_unsure)
        return tasks, stamps, unsure, refused, unsure_of

    def verify_tasks(self, history, pending):
        tasks, stamps, unsure, refused, unsure_of = self.known()
        wrong = []
        emitted = {event["id"]: event for event in history}
        there = {task["id"]: task for task in pending}
        for what, found in (("emitted", emitted), ("pending", there)):
            for item in found.values():
                payload, task = item["payload"], tasks.get(item["id"])
                marker = payload["message"]
                if marker in refused:
                    wrong.append(f"{what} although it was refused: {item}")
                allowed = (task.markers | unsure_of.get(task.name, set())) if task else unsure
                if marker not in allowed:
                    wrong.append(f"{what} with another content than {allowed if task else '?'}: "
                                 f"{item}")
                if payload["timestamp"] != stamps.get(marker):
                    wrong.append(f"{what} with another time: {item}")
        for event in history:
            if millis(event["emitted_at"]) < millis(event["due"]):
                wrong.append(f"early: {event}")
        for task in tasks.values():
            is_emitted, is_there = task.id in emitted, task.id in there
            if is_emitted and is_there:
                wrong.append(f"emitted and pending: {task.id}")
            if task.cancelled and (is_emitted or is_there):
                wrong.append(f"cancelled, and {'emitted' if is_emitted else 'pending'}: {task.id}, "
                             f"cancelled at {task.cancelled:.3f}, {emitted.get(task.id)}")
            if task.swept and is_there:
                wrong.append(f"cancelled in bulk, and pending: {task.id}")
            if task.swept and is_emitted and not self.skewed[1:]:
                if millis(emitted[task.id]["emitted_at"]) / 1000 > task.swept + OFF:
                    wrong.append(f"cancelled in bulk, and emitted later: {emitted[task.id]}")
            if task.emitted and not is_emitted:
                wrong.append(f"was said to be emitted, and is not: {task.id}")
            if not (is_emitted or is_there or task.cancelled or task.may_be_cancelled
                    or task.swept):
                wrong.append(f"LOST: {task.id} {task.markers}")
        return wrong

    def verify_order(self, history):
        """Of all that is due and stored, the earliest goes first: whatever comes behind something
        that was due later has been stored, or changed, after that was emitted."""
        if self.skewed[1:]:
            return []  # the times of emission do not compare
        tasks, wrong = self.known()[0], []
        dues, times = [], []  # of each event that was due later than all before it
        for event in history:
            due, at = millis(event["due"]), millis(event["emitted_at"])
            first, task = bisect.bisect_right(dues, due), tasks.get(event["id"])
            if first < len(dues) and task and task.is_sure:
                if task.changed + OFF < times[first] / 1000:
                    wrong.append(f"out of order: {event}, behind what was due at {dues[first]} "
                                 f"and emitted at {times[first]}")
            if first == len(dues):
                dues.append(due)
                times.append(at)
        return wrong

    def verify_database(self, ids, pending):
        database, wrong = self.cluster.database, []
        numbers, emitted, last_epoch = [], {}, 0  # by seq: a copy and what follows it may overlap
        for n, epoch, lines in journal_lines(database):
            if n > 0:
                numbers.append(n)
                if epoch < last_epoch:
                    wrong.append(f"row {n} has epoch {epoch}, and the one before {last_epoch}")
                last_epoch = epoch
            for line in lines.splitlines():
                record = json.loads(line)
                if record.get("op") == "emit":  # a copy begins with a line that has none
                    for seq, task in enumerate(record["ids"], record["seq"]):
                        if emitted.setdefault(seq, task) != task:
                            wrong.append(f"row {n} emits {task} as {seq}, and another did "
                                         f"{emitted[seq]}")
        if numbers and numbers != list(range(numbers[0], numbers[-1] + 1)):
            wrong.append("the numbers of the rows have gaps")
        emitted = [task for _, task in sorted(emitted.items())]
        if emitted != ids:
            wrong.append(f"what the rows emit is not history: {difference(ids, emitted)}")
        self.generation = database.psql("SELECT generation FROM task_scheduler.lease")
        view = database.psql("SELECT id FROM task_scheduler.events ORDER BY seq").split()
        if view != ids:
            wrong.append(f"the view of events is not history: {difference(ids, view)}")
        view = set(database.psql("SELECT id FROM task_scheduler.tasks").split())
        if view != {task["id"] for task in pending}:
            wrong.append("the view of tasks is not what is pending: "
                         f"{view ^ {task['id'] for task in pending}}")
        return wrong

    def verify_epochs(self):
        owners = collections.defaultdict(list)
        for node in self.cluster.nodes:
            for line in node.stderr().splitlines():
                if "cluster.owner: this process owns the journal, as epoch " in line:
                    owners[line.rsplit(" ", 1)[1]].append(node.name)
        self.epochs = len(owners)
        return [f"epoch {epoch} had the owners {names}" for epoch, names in owners.items()
                if len(names) > 1]

    def summary(self):
        counts = collections.Counter()
        for client in self.clients:
            counts.update({str(what): n for what, n in client.counts.items()})
        tasks = sum(len(client.tasks) for client in self.clients)
        return (f"{tasks} tasks, {len(self.readers[0].events)} emitted, "
                f"{getattr(self, 'epochs', '?')} owners, "
                f"{getattr(self, 'generation', '?')} generations, "
                f"answers {dict(sorted(counts.items()))}, "
                f"faults {dict(self.counts)}, "
                f"{sum(reader.connects for reader in self.readers)} connects of streams, "
                f"{len(self.receiver.ids) - len(set(self.receiver.ids))} webhooks sent again")


def difference(mine, theirs):
    """The first place at which two lists differ, in words."""
    for n, (a, b) in enumerate(zip(mine, theirs)):
        if a != b:
            return f"at {n} of {len(mine)} and {len(theirs)}: {a} and {b}"
    n = min(len(mine), len(theirs))
    return f"{len(mine)} and {len(theirs)}, from {n} on {(mine[n:] or theirs[n:])[:2]}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--lease", type=float, default=1.0)
    parser.add_argument("--pace", type=float, default=0.08, help="seconds a client rests")
    parser.add_argument("--no-network", action="store_true")
    parser.add_argument("--no-clocks", action="store_true")
    parser.add_argument("--logs", type=pathlib.Path, help="where the nodes' logs are kept")
    options = parser.parse_args()
    work = tempfile.mkdtemp(prefix="task-scheduler-chaos-")
    support.configure(options.binary.resolve(), work, False, options.seed)
    network = not options.no_network and Network.is_possible()
    print(f"seed {support.SEED}, {'with' if network else 'WITHOUT'} a network that is cut",
          flush=True)
    chaos = Chaos(support.SEED, options.seconds, options.lease, network,
                  not options.no_clocks and not support.SANITIZED, options.pace,
                  say=lambda text: print(text, flush=True))
    try:
        wrong = chaos.run()
    finally:
        if options.logs:
            options.logs.mkdir(parents=True, exist_ok=True)
            for name, text in getattr(chaos, "logs", {}).items():
                (options.logs / name).write_text(text)
        shutil.rmtree(work, ignore_errors=True)
    print(chaos.summary())
    for sentence in wrong:
        print("WRONG", sentence[:1500])
    print(f"seed {support.SEED}: {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
