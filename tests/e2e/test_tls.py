# SPDX-License-Identifier: MIT
"""TLS, spoken by curl, openssl, Node, Chromium, the command line and Python."""
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time

import support
from support import TestCase, body, wait_for
import test_clients

FAILED = 'task_scheduler_requests_refused_total{reason="handshake"}'


def openssl(*arguments, text=""):
    return subprocess.run(["openssl", *arguments], input=text, capture_output=True, text=True,
                          timeout=30)


def certify(folder, name, host="localhost", authority=None):
    """Makes NAME.pem and NAME.key, for 30 days, signed by an authority of the folder or itself."""
    path = os.path.join(folder, name)
    signer = ["-CA", f"{folder}/{authority}.pem", "-CAkey", f"{folder}/{authority}.key"]
    done = openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                   "-days", "30", "-subj", f"/CN={name}", "-addext",
                   f"subjectAltName=DNS:{host},IP:127.0.0.1", "-keyout", path + ".key",
                   "-out", path + ".pem", *(signer if authority else []))
    assert done.returncode == 0, done.stderr
    return path + ".pem", path + ".key"


class Tls(TestCase):
    def setUp(self):
        super().setUp()
        self.folder = tempfile.mkdtemp(prefix="tls-", dir=support.WORK)
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.certificate, self.key = certify(self.folder, "server")
        self.trust = ssl.create_default_context(cafile=self.certificate)

    def path(self, name):
        return os.path.join(self.folder, name)

    def refusal(self, *flags):
        """What the binary says when it does not start, which must be one line."""
        done = subprocess.run([support.BINARY, "--port", "0", *flags], cwd=self.folder,
                              capture_output=True, text=True, timeout=20)
        self.assertEqual((done.returncode, done.stdout), (2, ""), done)
        self.assertRegex(done.stderr, r"^[^\n]+\n$")
        self.assertEqual([name for name in os.listdir(self.folder) if "jsonl" in name], [])
        return done.stderr

    def secured(self, *flags, **options):
        if not getattr(Tls, "is_there", None):
            said = self.refusal("--tls-cert", self.certificate, "--tls-key", os.devnull)
            Tls.is_there = "OpenSSL" not in said
        if not Tls.is_there:
            self.skipTest("the binary was built without OpenSSL")
        server = self.server("--tls-cert", self.certificate, "--tls-key", self.key, *flags,
                             **options)
        self.assertTrue(server.url.startswith("https://127.0.0.1:"), server.line)
        return server

    def call(self, server, method, path, content=None):
        with server.wire(tls=self.trust) as wire:
            return wire.call(method, path, content)

    def metric(self, server, name):
        text = self.call(server, "GET", "/metrics").body.decode()
        return [int(line[len(name) + 1:]) for line in text.splitlines()
                if line.startswith(name + " ")][0]

    def curl(self, *arguments, status=0):
        done = subprocess.run(["curl", "-sS", "--max-time", "20", *arguments], capture_output=True,
                              text=True, timeout=30)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stdout

    def verb(self, *arguments, env=None):
        done = subprocess.run([support.BINARY, *arguments], capture_output=True, text=True,
                              timeout=30, env=env)
        return done.returncode, done.stdout, done.stderr

    def shake_hands(self, server, *arguments, text=""):
        return openssl("s_client", "-connect", f"127.0.0.1:{server.port}", "-CAfile",
                       self.certificate, *arguments, text=text)


class Clients(Tls):
    def test_curl_schedules_and_hears_the_event_and_the_end_of_its_stream(self):
        server = self.secured()
        listener = subprocess.Popen(["curl", "-sSN", "--cacert", self.certificate,
                                     server.url + "/sse"], stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE, text=True,
                                    preexec_fn=support.end_with_parent())
        self.addCleanup(listener.kill)
        while listener.stdout.readline() != "data: {}\n":
            pass
        answer = json.loads(self.curl("--cacert", self.certificate, "-d", body("x", seconds=0),
                                      server.url + "/schedule"))
        self.assertEqual(listener.stdout.readline(), "\n")
        self.assertEqual(listener.stdout.readline(), f"id: {answer['id']}\n")
        protocol = self.curl("--cacert", self.certificate, "--http2", "-o", os.devnull, "-w",
                             "%{http_version}", server.url + "/healthz")
        self.assertEqual(protocol, "1.1")
        self.curl(server.url + "/healthz", status=60)  # it does not know the certificate
        server.stop()
        errors = listener.communicate(timeout=20)[1]
        self.assertEqual((listener.returncode, errors), (0, ""))

    def test_openssl_finds_new_versions_and_good_ciphers_alone(self):
        server = self.secured()
        for version in ("-tls1_2", "-tls1_3"):
            said = self.shake_hands(server, version, "-alpn", "h2,http/1.1").stdout
            self.assertIn("ALPN protocol: http/1.1", said)
            self.assertIn("Verification: OK", said)
            self.assertIn("Compression: NONE", said)
        low = ("-cipher", "ALL:@SECLEVEL=0")
        refused = [("-tls1", *low), ("-tls1_1", *low), ("-alpn", "h2")]
        for cipher in ("AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES256-SHA384", "aNULL",
                       "eNULL", "3DES"):
            refused.append(("-tls1_2", "-cipher", cipher + ":@SECLEVEL=0"))
        for arguments in refused:
            with self.subTest(arguments):
                self.assertNotEqual(self.shake_hands(server, *arguments).returncode, 0)
        # R begins a renegotiation.
        said = self.shake_hands(server, "-tls1_2", text="R\n")
        self.assertIn("no renegotiation", said.stdout + said.stderr)

    def test_node_and_its_eventsource_are_served(self):
        server = self.secured()
        os.environ["NODE_EXTRA_CA_CERTS"] = self.certificate
        self.addCleanup(os.environ.pop, "NODE_EXTRA_CA_CERTS")
        program = test_clients.Clients.node
        listener = program(self, "listen", server)
        self.assertEqual(listener.json(), {"open": True})
        answer = program(self, "schedule", server, "0").json()["answer"]
        self.assertEqual(listener.json()["id"], answer["id"])

    def test_chromium_is_served(self):
        server = self.secured()
        listener = test_clients.Clients.chromium(self, server)
        self.assertEqual(listener.json(60), {"open": True})
        answer = self.call(server, "POST", "/schedule", body("x", seconds=0)).json
        self.assertEqual(listener.json()["id"], answer["id"])

    program = test_clients.Clients.program
    node = test_clients.Clients.node

    def test_the_command_line_trusts_the_file_that_it_is_given(self):
        server = self.secured()
        common = ("--url", server.url, "--ca-file", self.certificate)
        self.assertEqual(self.verb("add", *common, "--in", "1h", "x")[0], 0)
        self.assertIn('"x"', self.verb("ls", *common)[1])
        follower = subprocess.Popen([support.BINARY, "events", "-f", *common], text=True,
                                    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                    preexec_fn=support.end_with_parent())
        self.addCleanup(follower.communicate)
        self.addCleanup(follower.kill)
        while b"task_scheduler_streams 0" in self.call(server, "GET", "/metrics").body:
            time.sleep(0.05)
        # It may not follow yet: some events are as good as one.
        answers = [self.verb("add", *common, "--in", "0", "y") for _ in range(20)]
        self.assertTrue(all(answer[0] == 0 for answer in answers), answers)
        self.assertIn('"y"', follower.stdout.readline())
        status, _, errors = self.verb("ls", "--url", server.url)
        self.assertEqual(status, 3)
        self.assertIn("--ca-file", errors)
        status, _, errors = self.verb("ls", "--url", server.url, "--ca-file", "missing.pem")
        self.assertEqual(status, 2)
        self.assertIn("missing.pem", errors)
        status, _, errors = self.verb("ls", "--url", server.url.replace("https", "http"))
        self.assertEqual(status, 1)
        self.assertIn("https://", errors)


class Files(Tls):
    def test_what_cannot_be_used_is_one_clear_line_and_touches_no_journal(self):
        self.secured()
        with open(self.path("empty"), "w"):
            pass
        openssl("pkey", "-in", self.key, "-aes256", "-passout", "pass:secret",
                "-out", self.path("locked"))
        other = certify(self.folder, "other")
        for certificate, key, *words in (
                ("missing", self.key, "missing", "No such file"),
                (self.certificate, "missing", "missing", "No such file"),
                (".", self.key, "directory"), ("empty", self.key, "empty is empty"),
                (self.certificate, "empty", "empty is empty"),
                (self.key, self.key, self.key, "no certificate"),
                (self.certificate, self.certificate, self.certificate, "no private key"),
                (self.certificate, "locked", "locked", "passphrase"),
                (self.certificate, other[1], other[1], "not the key", self.certificate)):
            with self.subTest((certificate, key)):
                said = self.refusal("--tls-cert", certificate, "--tls-key", key)
                for word in words:
                    self.assertIn(word, said)
        self.assertIn("--tls-key", self.refusal("--tls-cert", self.certificate))
        self.assertIn("--tls-cert", self.refusal("--tls-client-ca", self.certificate))

    def reload(self, server):
        before = server.stderr().count("SIGHUP: ")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.stderr().count("SIGHUP: ") == before + 1)
        return [line for line in server.stderr().splitlines() if "SIGHUP: " in line][-1]

    def shown(self, server):
        return ssl.get_server_certificate(("127.0.0.1", server.port))

    def test_sighup_takes_the_new_certificate_and_a_broken_one_changes_nothing(self):
        server = self.secured()
        first = self.shown(server)
        with server.wire(tls=self.trust) as kept, server.stream(tls=self.trust) as stream:
            certify(self.folder, "server")
            self.assertIn("read again", self.reload(server))
            second = self.shown(server)
            self.assertNotEqual(first, second)
            self.trust = ssl.create_default_context(cafile=self.certificate)
            for broken in ("", "x", second[:400]):
                with open(self.certificate, "w") as file:
                    file.write(broken)
                said = self.reload(server)
                self.assertIn(self.certificate, said)
                self.assertIn("before stays", said)
                self.assertEqual(self.shown(server), second)
            certify(self.folder, "other")
            os.replace(self.path("other.key"), self.key)  # the other half is still to come
            with open(self.certificate, "w") as file:
                file.write(second)
            self.assertIn("not the key", self.reload(server))
            os.replace(self.path("other.pem"), self.certificate)
            self.trust.load_verify_locations(self.certificate)
            self.assertEqual(self.metric(server, "task_scheduler_tls_reload_failures_total"), 4)
            self.assertIn("read again", self.reload(server))
            # Who was connected has noticed nothing.
            task = kept.call("POST", "/schedule", body("x", seconds=0)).json["id"]
            self.assertEqual(stream.next().id, task)

    def test_only_clients_of_the_authority_are_let_in(self):
        authority = certify(self.folder, "authority")
        guest = certify(self.folder, "guest", "guest", "authority")
        stranger = certify(self.folder, "stranger", "guest")
        server = self.secured("--tls-client-ca", authority[0])
        url = server.url + "/healthz"
        known = ("--cacert", self.certificate)
        self.assertIn("ok", self.curl(*known, "--cert", guest[0], "--key", guest[1], url))
        for version in ("1.2", "1.3"):
            # Over TLS 1.3 a client hears of it only with the first answer.
            for identity in ((), ("--cert", stranger[0], "--key", stranger[1])):
                done = subprocess.run(["curl", "-sS", *known, *identity, "--tls-max", version, url],
                                      capture_output=True, text=True, timeout=30)
                self.assertIn(done.returncode, (35, 56), done)
        common = ("ls", "--url", server.url, "--ca-file", self.certificate)
        self.assertEqual(self.verb(*common, "--client-cert", guest[0], "--client-key", guest[1])[0],
                         0)
        self.assertEqual(self.verb(*common, env=dict(
            os.environ, SCHEDULER_CLIENT_CERT=guest[0], SCHEDULER_CLIENT_KEY=guest[1]))[0], 0)
        for flags, status, words in (
                ((), 3, "asks for a certificate of the client"),
                (("--client-cert", stranger[0], "--client-key", stranger[1]), 3, stranger[0]),
                (("--client-cert", guest[0]), 2, "--client-key"),
                (("--client-cert", guest[0], "--client-key", stranger[1]), 2, stranger[1]),
                (("--client-cert", stranger[1], "--client-key", stranger[1]), 2, stranger[1])):
            with self.subTest(flags):
                done = self.verb(*common, *flags)
                self.assertEqual(done[0], status)
                self.assertIn(words, done[2])
                self.assertNotIn("ClientOptions", done[2])
        server.until_logged("peer did not return a certificate")
        done = self.verb("ls", "--url", server.url.replace("://", "://me:geheim@"))
        self.assertEqual(done[0], 2)
        self.assertNotIn("geheim", done[2])


class Clock(Tls, support.WithClock):
    def test_a_certificate_that_has_expired_is_told_in_the_log(self):
        self.set_clock(40 * 86_400)
        server = self.secured(env=self.env)
        server.until_logged("has expired")
        self.assertIn(self.certificate, server.stderr())
        self.assertIn("ok", self.curl("-k", server.url + "/healthz"))


class Hostile(Tls):
    def test_who_speaks_without_tls_is_told_so(self):
        server = self.secured()
        for method in ("GET", "POST", "PUT", "DELETE"):
            errors = self.assert_errors(server.call(method, "/tasks", "{}"), 400)
            self.assertIn("https://", errors[0])

    def hello(self):
        """A ClientHello as it goes out."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = self.trust.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        return outgoing.read()

    def test_handshakes_that_go_wrong_end_and_are_counted(self):
        server = self.secured()
        hello = self.hello()
        for data in (b"\0" * 500, b"\x16\x03\x01\xff\xff" + b"x" * 70_000,
                     b"\x15\x03\x03\0\2\2\x28", b"\x17\x03\x03\0\4aaaa", b"SSH-2.0-x\r\n" * 10,
                     hello[:60] + b"\xff" * 40 + hello[100:], hello + hello):
            with self.subTest(data[:20]), server.wire() as wire:
                with contextlib.suppress(ConnectionError):
                    wire.send(data)
                wire.rest()  # which times out if it does not end
        self.assertGreaterEqual(self.metric(server, FAILED), 4)
        self.assertEqual(self.call(server, "GET", "/tasks").status, 200)

    def test_hundreds_of_half_handshakes_hold_up_nobody(self):
        server = self.secured()
        hello = self.hello()
        with server.wire(tls=self.trust) as wire, server.stream(tls=self.trust) as stream:
            wire.call("POST", "/schedule", body("x", seconds=0))
            stream.next()
            self.metric(server, FAILED)  # all threads have begun that there ever are
            resident, threads = server.resident_mib(), server.threads()
            held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(450)]
            for number, one in enumerate(held):
                one.sendall(hello[:number % len(hello)])
            worst = 0
            for _ in range(50):
                began = time.monotonic()
                task = wire.call("POST", "/schedule", body("x", seconds=0)).json["id"]
                self.assertEqual(stream.next().id, task)
                worst = max(worst, time.monotonic() - began)
            self.assertLess(worst, support.SOON)
            self.assertEqual(self.call(server, "GET", "/healthz").status, 200)
            self.note(f"worst {worst * 1000:.1f} ms, "
                      f"{(server.resident_mib() - resident) * 1024 / len(held):.0f} KiB each")
            for one in held:
                one.close()
            self.assertLessEqual(server.threads(), threads)

    def test_handshakes_without_a_pause_delay_nobody_who_is_connected(self):
        server = self.secured()
        stop, count = threading.Event(), [0]

        def knock():
            while not stop.is_set():
                with contextlib.suppress(OSError, support.Closed), server.wire(tls=self.trust):
                    count[0] += 1

        threads = [threading.Thread(target=knock) for _ in range(4)]
        with server.wire(tls=self.trust) as wire:
            for thread in threads:
                thread.start()
            times = []
            wait_for(lambda: count[0] > 20)
            for _ in range(100):
                began = time.monotonic()
                self.assertEqual(wire.call("GET", "/healthz").status, 200)
                times.append(time.monotonic() - began)
            stop.set()
            for thread in threads:
                thread.join()
        self.assertLess(max(times), support.SOON)
        self.note(f"{count[0]} handshakes, median {sorted(times)[50] * 1000:.1f} ms")

    def test_a_client_that_does_not_read_its_stream_holds_up_nobody_and_misses_nothing(self):
        server = self.secured()
        with server.stream(tls=self.trust, receive_buffer=4096) as slow, \
                server.stream(tls=self.trust) as fast, server.wire(tls=self.trust) as wire:
            ids = [wire.call("POST", "/schedule", body("x" * 50_000, seconds=0)).json["id"]
                   for _ in range(100)]
            self.assertEqual([event.id for event in fast.messages(100)], ids)
            events = slow.messages(100)
            self.assertEqual([event.id for event in events], ids)
            self.assertTrue(all(event.message == "x" * 50_000 for event in events))


class Without(Tls):
    def test_where_the_build_has_no_openssl_the_flags_are_refused(self):
        said = self.refusal("--tls-cert", self.certificate, "--tls-key", os.devnull)
        if "OpenSSL" not in said:
            self.skipTest("the binary was built with OpenSSL")
        self.assertIn("--tls-cert", said)
        status, _, errors = self.verb("ls", "--url", "https://127.0.0.1:1")
        self.assertEqual(status, 2)
        self.assertIn("OpenSSL", errors)
