#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The end-to-end tests: the real binary, driven from outside with real clients.

    run.py BINARY [--mounted PROGRAM] [--work DIR] [--long] [--seed N] [-k PATTERN]

Without PROGRAM, which is made of mounted.cpp, the tests of a mounted HttpApi are skipped.  They
need Python 3.11; curl and openssl; strace for the idle test; and, skipped where they are not
installed, node, npm and chromium for the tests of other clients, nginx, caddy and haproxy for those
of proxies, PostgreSQL for those of several nodes, between which the network is cut where root has
ip and nft, promtool for those of metrics, and systemd and busybox for those of packaging/; and with
--long, as root, debootstrap and systemd-container for those of whole installations.  Prints a line
for each test and ends with "N passed, N failed".
"""
import argparse
import fnmatch
import pathlib
import resource
import shutil
import sys
import tempfile
import time
import traceback
import unittest

sys.dont_write_bytecode = True
import support  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent


def why(err):
    """The exception and where our own files raised it, without the frames of unittest."""
    kind, value, trace = err
    frames = [f for f in traceback.extract_tb(trace) if pathlib.Path(f.filename).parent == HERE]
    where = "".join(f"{pathlib.Path(f.filename).name}:{f.lineno}: {f.line}\n" for f in frames)
    return where + "".join(traceback.format_exception_only(kind, value))


class Report(unittest.TestResult):
    """One line a test, and why it failed at once.  Parts (subTest) belong to their test."""

    def __init__(self):
        super().__init__()
        self.passed = self.failed = 0
        self.names = []

    def startTest(self, test):
        super().startTest(test)
        self.problems, self.reason, self.began = [], None, time.monotonic()

    def addError(self, test, err):
        if not hasattr(test, "_testMethodName"):  # a module or a class that could not be set up
            self.failed += 1
            print(f"FAILED {test}\n{why(err)}", flush=True)
        else:
            self.problems.append(why(err))

    addFailure = addError

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.problems.append(f"part {subtest._subDescription()[:300]}\n{why(err)}")

    def addSkip(self, test, reason):
        self.reason = reason
        self.skipped.append((test, reason))
        if not hasattr(test, "_testMethodName"):
            print(f"skipped {test}: {reason}", flush=True)

    def stopTest(self, test):
        super().stopTest(test)
        module, cls, method = test.id().rsplit(".", 2)
        name = f"{module.removeprefix('test_')}: {method.removeprefix('test_').replace('_', ' ')}"
        notes = "; ".join([f"{time.monotonic() - self.began:.1f} s", *getattr(test, "notes", [])])
        if self.problems:
            self.failed += 1
            self.names.append(f"{module}.{cls}.{method}")
            print(f"FAILED  {name} ({notes})")
            for problem in self.problems[:12]:
                print("    " + problem.rstrip()[:1500].replace("\n", "\n    "))
            if len(self.problems) > 12:
                print(f"    … and {len(self.problems) - 12} more parts of it")
        elif self.reason is not None:
            print(f"skipped {name}: {self.reason}")
        else:
            self.passed += 1
            print(f"ok      {name} ({notes})")
        sys.stdout.flush()


def all_tests(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from all_tests(item)
        else:
            yield item


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--mounted", type=pathlib.Path, help="what mounted.cpp makes")
    parser.add_argument("--work", type=pathlib.Path, help="where npm packages and journals go")
    parser.add_argument("--long", action="store_true", help="more rounds, real waits: minutes")
    parser.add_argument("--seed", type=int, help="repeats what chance chose in another run")
    parser.add_argument("-k", action="append", metavar="PATTERN", help="only tests of this name")
    options = parser.parse_args()

    # A thousand streams need a thousand descriptors here too.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    support.SOFT_FILES = min(1024, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(65536, hard), hard))

    work = options.work or pathlib.Path(tempfile.mkdtemp(prefix="task-scheduler-e2e-"))
    work.mkdir(parents=True, exist_ok=True)
    support.configure(options.binary.resolve(), work.resolve(), options.long, options.seed,
                      options.mounted and options.mounted.resolve())
    print(f"seed {support.SEED} (--seed repeats it)", flush=True)
    tests = list(all_tests(unittest.TestLoader().discover(str(HERE), pattern="test_*.py")))
    if options.k:
        wanted = [f"*{pattern}*" for pattern in options.k]
        tests = [t for t in tests if any(fnmatch.fnmatchcase(t.id(), w) for w in wanted)]
    report = Report()
    try:
        unittest.TestSuite(tests).run(report)
    finally:
        if not options.work:
            shutil.rmtree(work, ignore_errors=True)
    for name in report.names:
        print(f"failed: {name}")
    line = f"{report.passed} passed, {report.failed} failed"
    print(line + (f", {len(report.skipped)} skipped" if report.skipped else ""), flush=True)
    return 1 if report.failed or not report.passed else 0


if __name__ == "__main__":
    sys.exit(main())
