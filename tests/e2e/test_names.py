# SPDX-License-Identifier: MIT
"""Tasks that are put by a name: the contract, many clients at one name, and kill -9 between."""
import collections
import json
import random
import threading
import time

import support
from support import UNKNOWN, UUID, Closed, TestCase, Wire, body, iso, wait_for

LOST = (Closed, ConnectionError, TimeoutError)
ABSENT = (("If-None-Match", "*"),)
PRESENT = (("If-Match", "*"),)


class Names(TestCase):
    def put(self, server, name, message="x", headers=(), **others):
        others = others or {"delay": 3600}
        content = json.dumps({"message": message, **others})
        return server.call("PUT", "/tasks/" + name, content, headers)

    def test_a_put_makes_a_task_or_replaces_it_with_everything_it_has(self):
        server = self.server()
        stamp = iso(3600)
        made = self.put(server, "valve", 'first', timestamp=stamp, topic="garden", more=1.10)
        self.assertEqual(made.status, 201, made)
        self.assertRegex(made.body.decode(), r'^\{"message":"Scheduled task at ' + stamp +
                         r'","id":"' + UUID + r'","name":"valve"\}$')
        task = made.json["id"]
        self.assertEqual(made.header("Location"), f"{server.prefix}/tasks/{task}")
        replaced = self.put(server, "valve", "second", delay="2h")
        self.assertEqual((replaced.status, replaced.json["id"]), (200, task))
        self.assertEqual(replaced.header("Location"), f"{server.prefix}/tasks/{task}")
        shown = server.page("/tasks")["data"]
        self.assertEqual([(one["id"], one["name"]) for one in shown], [(task, "valve")])
        self.assertEqual(set(shown[0]["payload"]), {"timestamp", "message"})
        self.assertEqual(shown[0]["payload"]["message"], "second")

    def test_a_name_stands_wherever_an_id_may(self):
        server = self.server()
        task = self.put(server, "A-z_0.~").json["id"]
        self.assertEqual(server.ask("GET", "/tasks/A-z_0.~")[2]["id"], task)
        self.assertEqual(server.ask("GET", "/tasks/A-z_0.%7E")[2]["id"], task)
        changed = server.call("PATCH", "/tasks/A-z_0.~", '{"message":"changed"}')
        self.assertEqual((changed.status, changed.json["name"]), (200, "A-z_0.~"))
        cancelled = server.call("POST", "/cancel", '{"id":"A-z_0.~"}')
        self.assertEqual(cancelled.json, {"message": "Cancelled task " + task})
        for method, path, content in (("GET", "/tasks/A-z_0.~", None),
                                      ("PATCH", "/tasks/A-z_0.~", '{"message":"x"}'),
                                      ("DELETE", "/tasks/A-z_0.~", None),
                                      ("POST", "/cancel", '{"id":"A-z_0.~"}')):
            self.assert_errors(server.call(method, path, content), 404)
        self.put(server, "A-z_0.~")
        self.assertEqual(server.call("DELETE", "/tasks/A-z_0.~").status, 200)

    def test_a_name_is_free_again_when_its_task_is_emitted_and_events_show_it(self):
        server = self.server()
        with server.stream() as stream:
            first = self.put(server, "valve", delay=0).json["id"]
            self.assertEqual(stream.next().id, first)
        self.assertEqual(server.call("GET", "/tasks/valve").status, 404)
        self.assertEqual(server.page("/events")["data"][0]["name"], "valve")
        self.assertEqual(server.ask("GET", "/tasks/" + first)[2]["name"], "valve")
        second = self.put(server, "valve")
        self.assertEqual(second.status, 201)
        self.assertNotEqual(second.json["id"], first)

    def test_conditions_let_a_put_only_make_or_only_replace(self):
        server = self.server()
        self.assert_errors(self.put(server, "valve", headers=PRESENT), 412)
        self.assertEqual(self.put(server, "valve", headers=ABSENT).status, 201)
        self.assert_errors(self.put(server, "valve", headers=ABSENT), 412)
        self.assertEqual(self.put(server, "valve", headers=PRESENT).status, 200)
        self.assertEqual(server.page("/tasks")["page_info"]["total_count"], 1)

    def test_all_that_is_wrong_with_a_put_is_answered_at_once(self):
        server = self.server()
        headers = (*ABSENT, *PRESENT, ("Idempotency-Key", "k"))
        answer = server.call("PUT", "/tasks/..valve%20", '{"message":7}', headers)
        self.assert_errors(answer, 400, 5)
        for value in ('"etag"', "", "*, *"):
            self.assert_errors(self.put(server, "valve", headers=(("If-Match", value),)), 400)
        for content in ("", "[]", json.dumps([{"delay": 1, "message": "x"}]), '"x"', "{}"):
            self.assert_errors(server.call("PUT", "/tasks/valve", content), 400)
        self.assertEqual(server.page("/tasks")["data"], [])

    def test_what_cannot_be_a_name_is_refused(self):
        server = self.server()
        self.assertEqual(self.put(server, "n" * 128).status, 201)
        for name in ("n" * 129, UNKNOWN, UNKNOWN.upper(), ".", "..", "%2E%2E", "a%00b", "%C3%BC",
                     "a%20b", "a+b", "a:b", "a%25"):
            with self.subTest(name):
                self.assert_errors(self.put(server, name), 400)
        for name in ("", "a/b", "a%2Fb"):
            with self.subTest(name):
                self.assert_errors(self.put(server, name), 404)
        self.assertEqual(server.page("/tasks")["page_info"]["total_count"], 1)

    def test_bad_lateness_and_topics_twice_are_refused_with_all_errors(self):
        server = self.server()
        for value in (0, -1, 0.5, 1e300, 31622401, "367d", "1", "soon", None, [], True):
            with self.subTest(value):
                self.assert_errors(self.put(server, "valve", delay=1, max_lateness=value), 400)
        twice = '{"delay":1,"message":"x","topic":"a","topic":"b","max_lateness":0}'
        self.assert_errors(server.call("POST", "/schedule", twice), 400, 2)
        for value in ("", "a b", "t" * 129, "a*", 7, None, {"a": 1}):
            with self.subTest(value):  # just a member of the payload
                self.assertEqual(self.put(server, "valve", delay=60, topic=value).status // 100, 2)
                self.assertEqual(server.page("/tasks")["data"][0]["payload"]["topic"], value)

    def test_many_clients_at_one_name_that_falls_due_end_in_one_task_each_time(self):
        server = self.server("--history", "1000000", "--fsync", "no")
        tally, failures = collections.Counter(), []
        made, ended = set(), set()
        lock = threading.Lock()

        def work(number):
            chance = random.Random(f"{support.SEED} {number}")
            try:
                with Wire(server.port, prefix=server.prefix) as wire:
                    for _ in range(40):
                        content = json.dumps({"delay": chance.choice((0, 0.002, 0.01)),
                                              "message": str(number)})
                        deed = chance.choice(("PUT", "PUT", "PUT", "PATCH", "DELETE"))
                        answer = wire.call(deed, "/tasks/valve",
                                           None if deed == "DELETE" else content)
                        with lock:
                            tally[deed, answer.status] += 1
                            if answer.status == 201:
                                made.add(answer.json["id"])
                            if deed == "DELETE" and answer.status == 200:
                                ended.add(answer.json["message"].split()[-1])
            except Exception as error:
                failures.append(repr(error))

        clients = [threading.Thread(target=work, args=(n,)) for n in range(64)]
        for client in clients:
            client.start()
        while any(client.is_alive() for client in clients):
            self.assertLessEqual(len(server.page("/tasks")["data"]), 1)
        for client in clients:
            client.join()
        self.assertEqual(failures, [])
        self.assertLessEqual(set(tally), {("PUT", 200), ("PUT", 201), ("PATCH", 200),
                                          ("PATCH", 404), ("PATCH", 409), ("DELETE", 200),
                                          ("DELETE", 404), ("DELETE", 409)})
        wait_for(lambda: server.page("/tasks")["data"] == [], what="emission")
        history = [event["id"] for event in server.walk("/events")]
        self.assertEqual(len(history), len(set(history)))
        self.assertEqual(made, set(history) | ended)
        self.assertEqual(set(history) & ended, set())
        self.note(str(dict(tally)))


class Owner(threading.Thread):
    """The only client of its name: knows after each answer what the name must mean."""

    def __init__(self, number, server, stopping):
        super().__init__(daemon=True)
        self.chance = random.Random(f"{support.SEED} {number}")
        self.name, self.server, self.stopping = f"name-{number}", server, stopping
        self.made, self.cancelled, self.unsure = set(), set(), set()
        self.messages = collections.defaultdict(set)  # by id: what it may carry
        self.asked = set()  # messages of requests without an answer
        self.errors, self.count = [], 0

    def run(self):
        while not self.stopping.is_set():
            try:
                with Wire(self.server.port) as wire:
                    while not self.stopping.is_set():
                        self.step(wire)
            except LOST:
                time.sleep(0.005)  # it is down for a moment
            except Exception as error:
                self.errors.append(repr(error))
                return

    def step(self, wire):
        path = "/tasks/" + self.name
        if self.chance.random() < 0.15:
            doubtful = self.made - self.cancelled - self.unsure
            self.unsure |= doubtful  # until it is answered
            answer = wire.call("DELETE", path)
            if answer.status == 200:
                self.cancelled.add(answer.json["message"].split()[-1])
            elif answer.status not in (404, 409, 503):
                self.errors.append(repr(answer))
            self.unsure -= doubtful
            return
        self.count += 1
        message = f"{self.name} {self.count}"
        self.asked.add(message)
        seconds = self.chance.choice((0, 0.1, 0.3, 3600, 3600))
        answer = wire.call("PUT", path, body(message, seconds=seconds))
        if answer.status in (200, 201):
            self.asked.discard(message)
            self.messages[answer.json["id"]].add(message)
            self.made.add(answer.json["id"])
        elif answer.status != 503:
            self.errors.append(repr(answer))


class Crash(TestCase):
    def test_kill_9_at_any_moment_leaves_no_name_that_means_two_tasks_and_loses_none(self):
        server = self.server("--history", "1000000")
        stopping = threading.Event()
        self.addCleanup(stopping.set)
        owners = [Owner(n, server, stopping) for n in range(16 if support.LONG else 4)]
        for owner in owners:
            owner.start()
        chance = random.Random(support.SEED)
        for round in range(100 if support.LONG else 6):
            time.sleep(chance.uniform(0.05, 0.5))
            server.kill()
            server.start("--fsync", ("always", "everysec", "no")[round % 3])
            names = [task["name"] for task in server.walk("/tasks")]
            self.assertEqual(len(names), len(set(names)), "a name of two tasks")
        stopping.set()
        for owner in owners:
            owner.join(20)
            self.assertFalse(owner.is_alive(), "a client hangs")
            self.assertEqual(owner.errors, [])
        wait_for(lambda: server.page(f"/tasks?due_before={iso(60)}")["data"] == [], what="emission")
        self.verify(owners, list(server.walk("/tasks")), list(server.walk("/events")))

    def verify(self, owners, pending, events):
        there = collections.Counter(task["id"] for task in pending + events)
        self.assertEqual([task for task, count in there.items() if count > 1], [], "twice")
        for owner in owners:
            mine = [task for task in pending + events if task["name"] == owner.name]
            self.assertLessEqual(len([one for one in pending if one["name"] == owner.name]), 1)
            ids = {task["id"] for task in mine}
            lost = owner.made - ids - owner.cancelled - owner.unsure
            self.assertEqual(lost, set(), "lost")
            self.assertEqual(ids & owner.cancelled, set(), "cancelled, and there")
            for task in mine:
                message = task["payload"]["message"]
                self.assertTrue(message in owner.messages[task["id"]] or message in owner.asked)
        self.note(f"{sum(len(owner.made) for owner in owners)} made, {len(events)} emitted, "
                  f"{sum(len(owner.cancelled) for owner in owners)} cancelled")
        self.assertGreater(len(events), 10, "it was no load")
