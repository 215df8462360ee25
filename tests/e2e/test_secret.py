# SPDX-License-Identifier: MIT
"""Who may speak to the server: the secret on every route, and the Origin and Host checks."""
import json
import os

from support import UNKNOWN, TestCase, Wire, body

SECRET = "s3cret-Of_Tests~42"
# Every route, and what is no request: the secret is judged before all else.
ROUTES = [
    ("POST", "/schedule", body("x")), ("POST", "/cancel", json.dumps({"id": UNKNOWN})),
    ("DELETE", "/tasks/" + UNKNOWN, None), ("GET", "/tasks/" + UNKNOWN, None),
    ("GET", "/tasks", None), ("GET", "/events", None), ("GET", "/sse", None),
    ("HEAD", "/tasks", None),
]
JUDGED_LATER = [
    ("PUT", "/schedule", "{}"),
    ("GET", "/schedule", None), ("POST", "/healthz", "{}"), ("POST", "/schedule", ""),
    ("POST", "/schedule", "no json"), ("POST", "/schedule", "{}"), ("POST", "/cancel", "[]"),
    ("POST", "/schedule", "[" * 100_000), ("GET", "/tasks?limit=0", None),
    ("GET", "/events?after=" + UNKNOWN, None), ("DELETE", "/tasks/nonsense", None),
]


NOWHERE = [("GET", "/nope", None), ("POST", "/nope", "{}")]


class Secret(TestCase):
    nowhere = NOWHERE  # paths that are no route

    def guarded(self, **options):
        return self.server(env={"SCHEDULER_SECRET": SECRET}, **options)

    def assert_401(self, answer):
        self.assertEqual(answer.status, 401, answer)
        self.assertTrue(answer.header("WWW-Authenticate"), answer)
        self.assertNotIn(SECRET.encode(), answer.body)

    def test_without_the_secret_every_request_is_401_before_anything_else_is_judged(self):
        server = self.guarded()
        wrong = [[], [("x-pd-secret", "wrong")], [("x-pd-secret", "")],
                 [("x-pd-secret", SECRET[:-1])], [("x-pd-secret", SECRET + "x")],
                 [("x-pd-secret", SECRET.lower())], [("Authorization", "Bearer wrong")],
                 [("Authorization", "Bearer")], [("Authorization", "Basic " + SECRET)],
                 [("Authorization", SECRET)], [("Cookie", "secret=" + SECRET)],
                 [("secret", SECRET)], [("Content-Encoding", "gzip")],
                 [("Origin", "http://evil.example")]]
        for method, path, content in ROUTES + JUDGED_LATER + self.nowhere:
            for headers in wrong:
                with self.subTest(f"{method} {path} {(content or '')[:20]} {headers}"):
                    answer = server.call(method, path, content, headers)
                    self.assert_401(answer)
                    if method != "HEAD":
                        self.assert_errors(answer, 401)
        for value in ('"wrong"', '""', "null", "5", f'["{SECRET}"]'):
            text = f'{{"timestamp":"2020-01-01","message":"x","secret":{value}}}'
            self.assert_401(server.call("POST", "/schedule", text))
        self.assert_401(server.call("POST", "/schedule", body({"secret": SECRET})))
        right = [("x-pd-secret", SECRET)]
        tasks = server.call("GET", "/tasks", None, right).json
        events = server.call("GET", "/events", None, right).json
        self.assertEqual((tasks["data"], events["data"]), ([], []), "no trace")

    def test_without_the_secret_an_unknown_method_is_401_too(self):
        self.assert_401(self.guarded().call("BREW", "/tasks"))

    def test_a_body_over_the_limit_carries_no_secret(self):
        server = self.server("--max-body", "1000", env={"SCHEDULER_SECRET": SECRET})
        self.assert_401(server.call("POST", "/schedule", body("x" * 2000, secret=SECRET)))
        big = server.call("POST", "/schedule", body("x" * 2000), [("x-pd-secret", SECRET)])
        self.assert_errors(big, 413)

    def test_the_secret_is_taken_from_each_header_on_every_route(self):
        server = self.guarded()
        for headers in ([("x-pd-secret", SECRET)], [("X-PD-Secret", SECRET)],
                        [("Authorization", "Bearer " + SECRET)],
                        [("authorization", "bearer " + SECRET)]):
            for method, path, content in ROUTES:
                with self.subTest(f"{method} {path} {headers[0][0]}"):
                    with server.wire() as wire:
                        wire.request(method, path, content, headers)
                        status = wire.head().status
                    self.assertEqual(status, 404 if UNKNOWN in path + (content or "") else 200)
            for method, path, content in self.nowhere:
                self.assert_errors(server.call(method, path, content, headers), 404)
            self.assert_errors(server.call("PUT", "/schedule", "{}", headers), 405)
            self.assert_errors(server.call("POST", "/schedule", "{}", headers), 400, 2)

    def test_the_secret_is_taken_from_the_body_of_any_request(self):
        server = self.guarded()
        answer = server.call("POST", "/schedule", body("x", secret=SECRET))
        self.assertEqual(answer.status, 200, answer)
        spelled = json.dumps(SECRET).replace("s3", "\\u00733")
        text = f'{{"s\\u0065cret":{spelled},"timestamp":"2020-01-01","message":"x"}}'
        self.assertEqual(server.call("POST", "/schedule", text).status, 200)
        carried = {"id": answer.json["id"], "secret": SECRET}
        self.assertEqual(server.call("POST", "/cancel", json.dumps(carried)).status, 200)
        task = server.call("POST", "/schedule", body("x", secret=SECRET)).json["id"]
        secret = json.dumps({"secret": SECRET})
        self.assertEqual(server.call("DELETE", "/tasks/" + task, secret).status, 200)
        # With the secret right, all else that is wrong is told.
        self.assert_errors(server.call("POST", "/schedule", secret), 400, 2)

    def test_the_secret_is_taken_from_the_query_of_the_stream_only(self):
        server = self.guarded()
        with server.stream(query="?secret=" + SECRET) as stream:
            server.schedule("x", 0, secret=SECRET)
            self.assertEqual(stream.next().message, "x")
        for query in ("?secret=wrong", "?secret=", "?secret", "?Secret=" + SECRET):
            self.assert_401(server.call("GET", "/sse" + query))
        for method, path, content in ROUTES:
            if path != "/sse":
                with self.subTest(f"{method} {path}"):
                    self.assert_401(server.call(method, f"{path}?secret={SECRET}", content))

    def test_a_read_secret_opens_get_and_head_and_nothing_else_on_every_route(self):
        server = self.server(env={"SCHEDULER_SECRET": SECRET, "SCHEDULER_READ_SECRET": "reader"})
        for headers in ([("x-pd-secret", "reader")], [("Authorization", "Bearer reader")]):
            for method, path, content in ROUTES + JUDGED_LATER + self.nowhere:
                if "100_000" in (content or "") or path == "/healthz":
                    continue
                with self.subTest(f"{method} {path} {(content or '')[:20]} {headers[0][0]}"):
                    with server.wire() as wire:
                        wire.request(method, path, content, headers)
                        answer = wire.head() if path == "/sse" else wire.answer(method)
                    if method in ("GET", "HEAD"):
                        self.assertNotIn(answer.status, (401, 403), answer)
                    else:
                        self.assertEqual(answer.status, 403, answer)
                        self.assertNotIn(b"reader", answer.body)
        carried = server.call("POST", "/schedule", body("x", secret="reader"))
        self.assert_errors(carried, 403)
        both = server.call("POST", "/schedule", body("x", secret="reader"),
                           [("x-pd-secret", SECRET)])
        self.assertEqual(both.status, 200, both)
        with server.stream(query="?secret=reader"):
            pass
        for method in ("PATCH", "DELETE"):
            answer = server.call(method, "/tasks/" + both.json["id"], json.dumps(
                {"delay": 0, "secret": "reader"}))
            self.assert_errors(answer, 403)
        self.assert_401(server.call("GET", "/tasks?secret=reader"))
        self.assert_401(server.call("GET", "/tasks", None, [("x-pd-secret", "reade")]))
        self.assertEqual(len(server.call("GET", "/tasks", None, [("x-pd-secret", "reader")])
                             .json["data"]), 1)

    def test_health_is_free_of_it(self):
        server = self.guarded()
        for method in ("GET", "HEAD"):
            for headers in ([], [("x-pd-secret", "wrong")]):
                self.assertEqual(server.call(method, "/healthz", None, headers).status, 200)

    def test_the_secret_is_never_stored_logged_or_emitted(self):
        server = self.guarded()
        headers = [("x-pd-secret", SECRET)]
        with server.stream(headers=headers) as stream:
            for seconds in (0, 3600):
                server.call("POST", "/schedule", body("x", seconds=seconds, secret=SECRET))
            self.assertNotIn("secret", stream.next().data)
        server.call("GET", "/sse?secret=" + SECRET + "x")
        server.call("POST", "/schedule", body("x", secret=SECRET)[:-1])
        outputs = [server.call("GET", p, None, headers).body for p in ("/tasks", "/events")]
        with open(server.journal, "rb") as file:
            outputs.append(file.read())
        outputs += [server.stderr().encode(), server.line.encode()]
        with open(f"/proc/{server.process.pid}/cmdline", "rb") as file:
            outputs.append(file.read())
        for output in outputs:
            self.assertNotIn(SECRET.encode(), output)
        self.assertNotIn(b'"secret"', b"".join(outputs))

    def test_the_secret_is_read_from_a_file_and_two_may_hold_at_once(self):
        server = self.server()
        path = os.path.join(server.dir, "secret")
        for text, good in ((SECRET + "\n", {SECRET}), (SECRET, {SECRET}),
                           (SECRET + "\nnext\n", {SECRET, "next"})):
            with open(path, "w") as file:
                file.write(text)
            server.restart("--secret-file", path)
            for secret in (SECRET, "next", "other"):
                answer = server.call("GET", "/tasks", None, [("x-pd-secret", secret)])
                self.assertEqual(answer.status, 200 if secret in good else 401)


class Origin(TestCase):
    nowhere = NOWHERE
    PATHS = [("GET", "/tasks", None), ("GET", "/events", None), ("GET", "/sse", None),
             ("POST", "/schedule", body("x")), ("POST", "/cancel", "{}"),
             ("DELETE", "/tasks/" + UNKNOWN, None)]

    def test_a_foreign_origin_is_403_and_gets_no_cors_headers(self):
        server = self.server()
        own = f"http://127.0.0.1:{server.port}"
        for origin in ("http://evil.example", "https://evil.example:443", "null", "file://",
                       "http://127.0.0.1", "http://127.0.0.1:1", own + ".evil.example", own + "0",
                       "http://evil.example:" + str(server.port)):
            for method, path, content in self.PATHS + self.nowhere:
                with self.subTest(f"{method} {path} from {origin}"):
                    answer = server.call(method, path, content, [("Origin", origin)])
                    self.assert_errors(answer, 403)
                    self.assertIsNone(answer.header("Access-Control-Allow-Origin"))
        self.assertEqual(server.pending(), 0)

    def test_an_empty_origin_is_a_foreign_one_too(self):
        server = self.server()
        answer = server.call("POST", "/schedule", body("x"), [("Origin", "")])
        self.assert_errors(answer, 403)

    def test_the_servers_own_origin_is_welcome(self):
        server = self.server()
        for name in ("127.0.0.1", "localhost"):
            own = f"{name}:{server.port}"
            answer = server.call("POST", "/schedule", body("x"), [("Origin", "http://" + own)], own)
            self.assertEqual(answer.status, 200, answer)

    def test_a_host_that_is_no_loopback_name_is_403_without_a_secret(self):
        server = self.server()
        port = server.port
        for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}",
                     "localhost.evil.example", "xlocalhost", "10.0.0.1", f"192.168.0.1:{port}",
                     "127.0.0.1evil", "[::2]"):
            for method, path, content in self.PATHS + self.nowhere:
                with self.subTest(f"{method} {path} at {host}"):
                    self.assert_errors(server.call(method, path, content, [], host), 403)
        no_host = server.call("GET", "/tasks", None, [], "localhost@evil.example")
        self.assertIn(no_host.status, (400, 403), no_host)
        self.assertEqual(server.pending(), 0)
        for host in ("localhost", f"localhost:{port}", "127.0.0.1", f"127.0.0.1:{port}",
                     "LocalHost", f"[::1]:{port}"):
            with self.subTest(host):
                self.assertEqual(server.call("GET", "/tasks", None, [], host).status, 200)

    def test_with_a_secret_any_host_name_will_do(self):
        server = self.server(env={"SCHEDULER_SECRET": SECRET})
        headers = [("x-pd-secret", SECRET)]
        answer = server.call("GET", "/tasks", None, headers, "scheduler.example")
        self.assertEqual(answer.status, 200, answer)
        headers.append(("Origin", "http://evil.example"))
        self.assert_errors(server.call("GET", "/tasks", None, headers), 403)

    def test_a_request_without_a_host_is_refused(self):
        # RFC 9112 asks for 400; the contract's Host check for 403.
        server = self.server()
        with Wire(server.port) as wire:
            wire.send(f"GET {server.prefix}/tasks HTTP/1.1\r\n\r\n")
            self.assertIn(wire.answer().status, (400, 403))
        with Wire(server.port) as wire:
            wire.send(f"GET {server.prefix}/tasks HTTP/1.1\r\n"
                      "Host: localhost\r\nHost: evil.example\r\n\r\n")
            self.assertIn(wire.answer().status, (400, 403))
