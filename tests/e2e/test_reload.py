# SPDX-License-Identifier: MIT
"""SIGHUP: secrets and sinks are read again while the server goes on."""
import os
import signal
import threading

from support import body, wait_for
import test_sinks
from test_sinks import reply

NOTHING_GOOD = {  # what a file of secrets may be instead
    "empty": b"", "blank lines": b"\n\r\n\n", "a NUL": b"new\0one\n", "a blank": b"new one\n",
    "a percent": b"new%31\n", "three": b"new\nnewer\nnewest\n", "large": b"new" * 350_000,
}


class Reload(test_sinks.Sinks):
    def write(self, name, content):
        """Writes a file of the test's own, as a whole, as a careful person does."""
        if not hasattr(self, "place"):
            self.place = self.folder()
        path = os.path.join(self.place, name)
        with open(path + ".new", "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.rename(path + ".new", path)
        return path

    def reload(self, server, files=1):
        """Sends SIGHUP and returns what is said of it, a line for each file."""
        before = server.stderr().count("SIGHUP: ")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.stderr().count("SIGHUP: ") == before + files)
        lines = [line for line in server.stderr().splitlines() if "SIGHUP: " in line]
        return lines[-files:]

    def status(self, server, secret, method="GET"):
        return server.call(method, "/tasks", None, [("x-pd-secret", secret)]).status

    def guarded(self, *flags):
        return self.server("--secret-file", self.write("secret", "old\n"),
                           "--read-secret-file", self.write("reader", "old-reader\n"), *flags)

    def test_secrets_are_rotated_and_what_each_opens_changes_at_once(self):
        server = self.guarded()
        self.write("secret", "old\r\nnew\r\n")
        self.write("reader", "new-reader")
        for line in self.reload(server, 2):
            self.assertIn("read again", line)
        for secret, got, other in (("old", 200, 204), ("new", 200, 204), ("new-reader", 200, 403),
                                   ("old-reader", 401, 401)):
            self.assertEqual(self.status(server, secret), got, secret)
            self.assertEqual(self.status(server, secret, "OPTIONS"), other, secret)
        self.write("secret", "new\n")
        self.reload(server, 2)
        self.assertEqual(self.status(server, "old"), 401)
        self.assertEqual(self.status(server, "new"), 200)

    def test_a_read_secret_becomes_the_secret_in_one_step(self):
        server = self.guarded()
        self.write("secret", "old-reader\n")
        self.write("reader", "fresh")
        self.reload(server, 2)
        for secret, got in (("old", 401), ("old-reader", 200), ("fresh", 200)):
            self.assertEqual(self.status(server, secret), got, secret)
        self.assertEqual(self.status(server, "fresh", "OPTIONS"), 403)
        self.assertEqual(self.status(server, "old-reader", "OPTIONS"), 204)

    def test_what_is_wrong_in_a_file_is_told_and_all_of_the_old_stays(self):
        server = self.guarded()
        self.write("reader", "second-reader")
        for name, content in NOTHING_GOOD.items():
            with self.subTest(name):
                self.write("secret", content)
                wrong, good = self.reload(server, 2)
                self.assertIn("before stays", wrong)
                self.assertIn("read again", good)
                self.assertNotIn("newer", wrong)
                self.assertEqual(self.status(server, "old", "OPTIONS"), 204)
                self.assertEqual(self.status(server, "new"), 401)
                self.assertEqual(self.status(server, "second-reader"), 200)
        os.unlink(os.path.join(self.place, "secret"))
        self.assertIn("No such file", self.reload(server, 2)[0])
        os.mkdir(os.path.join(self.place, "secret"))
        self.assertIn("directory", self.reload(server, 2)[0])
        os.rmdir(os.path.join(self.place, "secret"))
        os.mkfifo(os.path.join(self.place, "secret"))
        self.assertIn("before stays", self.reload(server, 2)[0])
        os.unlink(os.path.join(self.place, "secret"))
        if os.geteuid() != 0:
            os.chmod(self.write("secret", "new\n"), 0)
            self.assertIn("denied", self.reload(server, 2)[0])
        self.assertEqual(self.status(server, "old", "OPTIONS"), 204)
        # One that would make the other useless is no better.
        self.write("secret", "second-reader\n")
        self.assertIn("read secret", self.reload(server, 2)[0])
        self.assertEqual(self.status(server, "second-reader", "OPTIONS"), 403)
        self.assertNotIn("second-reader", server.stderr())

    def test_an_option_that_takes_a_restart_is_told_when_the_file_has_it_otherwise(self):
        config = self.write("config", "max-tasks = 10\n")
        server = self.server("--config", config)
        self.write("config", "max-tasks = 20\nhistory = 5\n")
        [line] = self.reload(server)
        self.assertIn("another history, max-tasks now", line)

    def test_under_load_no_connection_is_lost_and_no_stream_misses_an_event(self):
        receiver = self.receiver()
        hook = self.hook(receiver)
        self.configure(hook)
        server = self.server("--secret-file", self.write("secret", "always\nodd"),
                             "--sinks", self.file)
        stop, problems, ids = threading.Event(), [], []

        def load(number):
            try:
                with server.wire(seconds=60) as wire:
                    while not stop.is_set():
                        answer = wire.call("POST", "/schedule", body(str(number), seconds=0),
                                           [("x-pd-secret", "always")])
                        if answer.status != 200:
                            raise AssertionError(answer)
                        ids.append(answer.json["id"])
            except Exception as error:  # it is told by the main thread
                problems.append(repr(error))

        threads = [threading.Thread(target=load, args=(n,)) for n in range(4)]
        with server.stream(query="?secret=odd", seconds=60) as stream:
            for thread in threads:
                thread.start()
            for number in range(20):
                self.write("secret", "always\n" + ("even" if number % 2 else "odd"))
                self.configure(hook, *([self.hook(receiver.url("/other"), "b")] * (number % 2)))
                for line in self.reload(server, 2):
                    self.assertIn("read again", line)
            stop.set()
            for thread in threads:
                thread.join()
            self.assertEqual(problems, [])
            got = [stream.next().id for _ in ids]
        self.assertEqual(sorted(got), sorted(ids))

        def taken():
            return [r.id for r in receiver.requests if r.target == "/hook"]

        wait_for(lambda: len(taken()) >= len(ids), seconds=60)
        self.assertEqual(taken(), got)
        self.assertEqual(len({r.connection for r in receiver.requests if r.target == "/hook"}), 1)
        self.note(f"{len(ids)} tasks")

    def test_an_attempt_ends_as_it_began_and_the_next_goes_where_the_file_says(self):
        went_on = threading.Event()
        old = self.receiver(lambda *_: went_on.wait(30) and reply(500))
        new = self.receiver()
        server = self.serve(self.hook(old), self.hook(new, "same"), self.hook(new, "gone"))
        ids = self.emit(server, "one", "two")
        wait_for(lambda: old.requests)
        self.until(server, "gone", delivered=2)
        self.until(server, "same", delivered=2)
        self.configure(self.hook(new.url("/new")), self.hook(new, "same"),
                       self.hook(new.url("/added"), "added"))
        self.assertIn("read again", self.reload(server)[0])
        self.assertEqual(self.sink(server, "gone")["state"], "unlisted")
        self.assertEqual(len(new.requests), 4)
        went_on.set()
        self.until(server, delivered=2, failed=1)
        self.assertEqual([r.id for r in new.requests if r.target == "/new"], ids)
        self.assertEqual(old.ids, ids[:1])
        ids += self.emit(server, "three")
        self.until(server, "added", delivered=1, lag=0)
        server.call("DELETE", "/sinks/gone")
        self.assertNotIn("gone", [one["name"] for one in server.page("/sinks")["data"]])

    def test_what_the_file_does_not_change_keeps_its_connection(self):
        one, two, three = self.receiver(), self.receiver(), self.receiver()
        server = self.serve(self.hook(one), self.hook(two, "b"), flags=("--webhook", three.url()))
        for number in range(3):
            task = self.emit(server, str(number))[0]
            wait_for(lambda: all(receiver.ids[-1:] == [task] for receiver in (one, two, three)))
            self.configure(self.hook(one), self.hook(two, "b", timeout=f"{number + 6}s"))
            self.reload(server)
        self.assertEqual([len(r.connections) for r in (one, two, three)], [1, 3, 1])

    def test_a_file_of_sinks_with_something_wrong_changes_nothing(self):
        receiver = self.receiver()
        token = self.write("token", "one\n")
        hook = self.hook(receiver, header_files={"X-Token": token})
        server = self.serve(hook)
        for bad in ("", "{", "[]", '{"sinks":[{"name":"b"}]}', "\0", "{" * 3000):
            with self.subTest(bad[:20]):
                with open(self.file, "w") as file:
                    file.write(bad)
                self.assertIn("before stays", self.reload(server)[0])
        self.configure(hook, self.hook(receiver, header_files={"X": "/nowhere"}, name="b"))
        self.assertIn("sinks[1].header_files.X", self.reload(server)[0])
        self.emit(server, "x")
        self.until(server, delivered=1)
        self.assertEqual([one["name"] for one in server.page("/sinks")["data"]], ["a"])
        # The files that it names are read again with it.
        self.configure(hook)
        self.write("token", "two\n")
        self.assertIn("read again", self.reload(server)[0])
        self.emit(server, "y")
        self.until(server, delivered=2)
        self.assertEqual([r.header("X-Token") for r in receiver.requests], ["one", "two"])
        self.write("token", "")
        self.assertIn("empty", self.reload(server)[0])
        self.emit(server, "z")
        self.until(server, delivered=3)
        self.assertEqual(receiver.requests[-1].header("X-Token"), "two")
