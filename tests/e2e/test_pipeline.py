# SPDX-License-Identifier: MIT
"""Pipelined requests of several clients, cut anywhere, against a plain model of their tasks."""
import json
import random

import support
from support import UNKNOWN, TestCase

HOST = "Host: 127.0.0.1\r\n"


class Client:
    """One connection, what it knows of its own tasks, and what it still has to be answered.

    Each expectation is a method and a function that judges the answer and learns from it.
    """

    def __init__(self, test, server, chance, number):
        self.test, self.chance, self.number = test, chance, number
        self.wire = test.opened(server.wire(seconds=20))
        self.tasks, self.count = {}, 0  # messages by id
        self.gone = [UNKNOWN]
        self.unsent, self.expected = b"", []

    def framed(self, line, fields, text):
        data = text.encode()
        if self.chance.random() < 0.6:
            return f"{line} HTTP/1.1\r\n{HOST}{fields}Content-Length: {len(data)}\r\n\r\n", data
        chunks, at = b"", 0
        sizes = (1, 10, 100, 5000) if len(data) < 1000 else (1000, 5000, 70_000)
        while at < len(data):
            part = data[at:at + self.chance.choice(sizes)]
            chunks += b"%x\r\n%b\r\n" % (len(part), part)
            at += len(part)
        return (f"{line} HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n{fields}\r\n",
                chunks + b"0\r\n\r\n")

    def add(self, method, path, judge, text=None, fields=""):
        if text is None:
            head, content = f"{method} {path} HTTP/1.1\r\n{HOST}{fields}\r\n", b""
        else:
            head, content = self.framed(f"{method} {path}", fields, text)
        self.unsent += head.encode() + content
        self.expected.append((method, path, judge))

    def message(self):
        self.count += 1
        size = self.chance.choice((0, 0, 0, 0, 10, 100, 3000, 20_000, 90_000))
        return {"client": self.number, "n": self.count, "x": "é" * (size // 2)}

    def schedule(self):
        message = self.message()
        text = json.dumps({"delay": 3600, "message": message}, ensure_ascii=False)
        fields, first = "", []
        if self.chance.random() < 0.2:
            fields = f"Idempotency-Key: {self.number}-{self.count}\r\n"

        def judge(answer):
            self.test.assertEqual(answer.status, 200)
            first.append(answer.body)
            self.tasks[answer.json["id"]] = message

        def judge_repeat(answer):
            self.test.assertEqual((answer.status, answer.body), (200, first[0]))

        self.add("POST", "/schedule", judge, text, fields)
        if fields and self.chance.random() < 0.7:
            if self.chance.random() < 0.5:
                self.look()
            self.add("POST", "/schedule", judge_repeat, text, fields)

    def some(self):
        """The id of a task that is there when the request before has been answered, or not."""
        known = sorted(self.tasks) if self.chance.random() < 0.8 else self.gone
        return self.chance.choice(known or self.gone)

    def look(self):
        task = self.some()

        def judge(answer):
            if task not in self.tasks:
                return self.test.assertEqual(answer.status, 404)
            self.test.assertEqual(answer.status, 200)
            self.test.assertEqual(answer.json["payload"]["message"], self.tasks[task])

        self.add("GET", "/tasks/" + task, judge)

    def change(self):
        task, message = self.some(), self.message()

        def judge(answer):
            if task not in self.tasks:
                return self.test.assertEqual(answer.status, 404)
            self.test.assertEqual(answer.status, 200)
            self.test.assertEqual(answer.json["payload"]["message"], message)
            self.tasks[task] = message

        text = json.dumps({"message": message}, ensure_ascii=False)
        self.add("PATCH", "/tasks/" + task, judge, text)

    def cancel(self):
        task = self.some()

        def judge(answer):
            self.test.assertEqual(answer.status, 200 if task in self.tasks else 404)
            self.tasks.pop(task, None)
            self.gone.append(task)

        if self.chance.random() < 0.5:
            self.add("DELETE", "/tasks/" + task, judge)
        else:
            self.add("POST", "/cancel", judge, json.dumps({"id": task}))

    def err(self):
        """What is refused, and does not end the connection."""
        method, path, text, status = self.chance.choice((
            ("GET", "/nothing", None, 404), ("PUT", "/schedule", "x" * 500, 405),
            ("POST", "/schedule", "no JSON", 400), ("POST", "/schedule", "", 400),
            ("HEAD", "/nothing", None, 404), ("GET", "/tasks?nonsense=1", None, 400),
            ("POST", "/schedule", '[{"delay":1,"message":1}]', 400)))
        self.add(method, path, lambda answer: self.test.assertEqual(answer.status, status), text)

    def ask(self):
        path = self.chance.choice(("/healthz", "/tasks?limit=3", "/events", "/metrics", "/sinks"))
        method = self.chance.choice(("GET", "HEAD"))
        self.add(method, path, lambda answer: self.test.assertEqual(answer.status, 200))

    def plan(self, count):
        kinds = (self.schedule, self.look, self.change, self.cancel, self.err, self.ask)
        for _ in range(count):
            self.chance.choices(kinds, (6, 3, 2, 2, 1, 1))[0]()

    def send_some(self):
        size = self.chance.choice((1, 2, 3, 20, 100, 1000, 20_000, 1 << 20))
        data, self.unsent = memoryview(self.unsent[:size]), self.unsent[size:]
        while data:  # a server whose answers nobody takes need not take more
            readable, writable = self.wire.wait(20)
            self.test.assertTrue(readable or writable, "it neither takes nor sends for 20 s")
            if readable:
                self.wire.fill()
            if writable:
                data = data[self.wire.socket.send(data[:20_000]):]

    def read_some(self, most):
        for method, path, judge in self.expected[:most]:
            answer = self.wire.answer(method)
            with self.test.subTest(f"{method} {path}", status=answer.status):
                judge(answer)
        del self.expected[:most]


class Pipeline(TestCase):
    def test_whatever_is_pipelined_and_however_it_is_cut_each_answer_is_its_requests(self):
        chance = random.Random(support.SEED)
        for policy in ("always", "everysec"):
            server = self.server("--fsync", policy)
            clients = [Client(self, server, chance, n) for n in range(8)]
            count = 0
            for _ in range(200 if support.LONG else 15):
                for client in clients:
                    client.plan(chance.randrange(1, 25))
                    count += len(client.expected)
                while any(client.unsent for client in clients):
                    chance.choice([client for client in clients if client.unsent]).send_some()
                for client in chance.sample(clients, len(clients)):
                    client.read_some(len(client.expected))
            expected = {task: message for c in clients for task, message in c.tasks.items()}
            for _ in range(2):  # and after a crash
                found = {task["id"]: task["payload"]["message"] for task in server.walk("/tasks")}
                self.assertEqual(set(found), set(expected))
                self.assertTrue(found == expected, "the messages too")
                server.kill()
                server.start()
            self.note(f"{policy}: {count} requests, {len(expected)} tasks left")
