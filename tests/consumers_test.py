# SPDX-License-Identifier: MIT
"""Programs of others that use the scheduler by each of its packages: every one is built, installed
and run, in folders of its own.

    consumers_test.py ROOT BUILD [HTTPLIB_DIR]

BUILD is Meson's build folder, HTTPLIB_DIR one with a whole httplib.h, as for -Dhttplib_dir.
"""
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
BUILD = pathlib.Path(sys.argv[2] if len(sys.argv) > 2 else "build").resolve()
HTTPLIB = sys.argv[3] if len(sys.argv) > 3 else ""
del sys.argv[1:4]
PROJECTS = ROOT / "tests/consumers"
sys.path.insert(0, str(ROOT / "tests/postgres"))
from instance import Instance, find_binaries  # noqa: E402

PAGE = (ROOT / "docs/packages.md").read_text(encoding="utf-8")
GIVEN = [f"-DSCHEDULER_HTTPLIB_DIR={HTTPLIB}"] if HTTPLIB else []


def run(*command, cwd=ROOT, **environment):
    """What a command prints.  An error tells all of it."""
    done = subprocess.run(list(map(str, command)), cwd=cwd, text=True, timeout=600,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={**os.environ, "CXXFLAGS": "-O0", **environment})
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}")
    return done.stdout


class Consumers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        # All projects are built ahead, two at once: each test looks at its own.
        cls.pool = concurrent.futures.ThreadPoolExecutor(2)
        cls.addClassCleanup(cls.pool.shutdown)
        cls.with_cmake = shutil.which("cmake") is not None
        modules = BUILD / "meson-private/scheduler-postgres.pc"
        cls.with_postgres = modules.exists() and find_binaries()
        cls.meson_root = cls.pool.submit(cls.install_by_meson)
        cls.cmake_root = cls.pool.submit(cls.install_by_cmake) if cls.with_cmake else None
        makers = [cls.meson, cls.make]
        if cls.with_cmake:
            makers += [cls.added, cls.found, cls.fetched, cls.line]
        if cls.with_postgres:
            makers += [cls.postgres_meson] + ([cls.postgres_cmake] if cls.with_cmake else [])
        cls.built = {maker.__name__: cls.pool.submit(maker) for maker in makers}

    @classmethod
    def project(cls, name, example="embed", copy=None):
        """A copy of a project, with an example as its program."""
        folder = cls.folder / (copy or name)
        shutil.copytree(PROJECTS / name, folder)
        shutil.copy(ROOT / f"examples/{example}.cpp", folder / "app.cpp")
        return folder

    @classmethod
    def install_by_meson(cls):
        root = cls.folder / "meson-root"
        run("meson", "install", "-C", BUILD, "--no-rebuild", "--tags", "devel", "--destdir", root)
        module = next(root.rglob("scheduler.pc"))
        text = module.read_text(encoding="utf-8")
        prefix = re.search(r"^prefix=(.*)$", text, re.M)[1]
        module.write_text(text.replace(f"prefix={prefix}", f"prefix={root}{prefix}"))
        return pathlib.Path(f"{root}{prefix}"), module.parent

    @classmethod
    def install_by_cmake(cls):
        root, build = cls.folder / "cmake-root", cls.folder / "cmake-build"
        run("cmake", "-S", ROOT, "-B", build, "-DSCHEDULER_BINARY=OFF")
        run("cmake", "--install", build, "--prefix", root)
        return root

    @classmethod
    def by_cmake(cls, folder, *options):
        """Configures, builds and installs."""
        run("cmake", "-S", folder, "-B", folder / "build", *options)
        run("cmake", "--build", folder / "build")
        run("cmake", "--install", folder / "build", "--prefix", folder / "root")
        return folder / "root/bin/app"

    @classmethod
    def fetched(cls):
        return cls.by_cmake(cls.project("fetched"), f"-DSCHEDULER={ROOT}")

    @classmethod
    def added(cls):
        folder = cls.project("added", "mount")
        (folder / "third-party").mkdir()
        (folder / "third-party/scheduler").symlink_to(ROOT)
        return cls.by_cmake(folder, *GIVEN)

    @classmethod
    def found(cls):
        return cls.by_cmake(cls.project("found"), f"-DCMAKE_PREFIX_PATH={cls.cmake_root.result()}")

    @classmethod
    def postgres_cmake(cls):
        return cls.by_cmake(cls.project("postgres", "postgres", "postgres-cmake"),
                            f"-DCMAKE_PREFIX_PATH={cls.cmake_root.result()}")

    @classmethod
    def postgres_meson(cls):
        return cls.by_meson(cls.project("postgres", "postgres", "postgres-meson"))

    @classmethod
    def meson(cls):
        return cls.by_meson(cls.project("meson"))

    @classmethod
    def by_meson(cls, folder):
        (folder / "subprojects").mkdir()
        (folder / "subprojects/any-name").symlink_to(ROOT)
        wrap = (ROOT / "packaging/meson/scheduler.wrap").read_text(encoding="utf-8")
        (folder / "subprojects/scheduler.wrap").write_text(
            re.sub("(?m)^directory = .*$", "directory = any-name", wrap))
        run("meson", "setup", folder / "build", folder, f"--prefix={folder}/root",
            "--optimization=0", "--wrap-mode=nodownload")
        run("meson", "compile", "-C", folder / "build")
        run("meson", "install", "-C", folder / "build", "--no-rebuild")
        return folder / "root/bin/app"

    @classmethod
    def make(cls):
        folder = cls.project("make")
        _, modules = cls.meson_root.result()
        run("make", "install", f"PREFIX={folder}/root", "CXXFLAGS=-O0 -DSCHEDULER_NO_HTTP",
            cwd=folder, PKG_CONFIG_PATH=str(modules))
        return folder / "root/bin/app"

    @classmethod
    def line(cls):
        """The page's line without a build system, with this folder in place of /usr/local."""
        folder = cls.folder / "line"
        folder.mkdir()
        shutil.copy(ROOT / "examples/embed.cpp", folder / "app.cpp")
        line = re.search(r"(?m)^g\+\+ .*$", PAGE)[0].replace("-O2 ", "")
        run("sh", "-c", line.replace("/usr/local", str(cls.cmake_root.result())), cwd=folder)
        return folder / "app"

    def need_cmake(self):
        if not self.with_cmake:
            self.assertNotIn("TESTS_PACKAGING", os.environ)
            self.skipTest("there is no cmake")

    def assert_runs(self, way, **environment):
        app = self.built[way].result()
        self.assertTrue(run(app, **environment))
        return app

    def test_programs_with_the_journal_in_postgresql_run(self):
        if not self.with_postgres:
            self.skipTest("there is no libpq, or no PostgreSQL")
        _, modules = self.meson_root.result()
        self.assertIn("-lpq", run("pkg-config", "--libs", "scheduler-postgres",
                                  PKG_CONFIG_PATH=str(modules)))
        with Instance() as server:
            self.assert_runs("postgres_meson", **server.environment())
            if self.with_cmake:
                self.assert_runs("postgres_cmake", **server.environment())

    def test_a_program_that_fetches_it_with_cmake_runs(self):
        self.need_cmake()
        self.assert_runs("fetched")

    def test_a_program_that_has_it_in_a_folder_runs_with_http_and_installs_itself_alone(self):
        self.need_cmake()
        app = self.assert_runs("added")
        self.assertEqual([path for path in app.parents[1].rglob("*") if path.is_file()], [app])

    def test_a_program_that_finds_it_installed_by_cmake_runs(self):
        self.need_cmake()
        self.assert_runs("found")

    def test_a_program_with_it_as_a_subproject_of_meson_runs_and_installs_itself_alone(self):
        app = self.assert_runs("meson")
        self.assertEqual([path for path in app.parents[1].rglob("*") if path.is_file()], [app])

    @unittest.skipUnless(shutil.which("make"), "there is no make")
    def test_a_program_that_is_made_with_pkg_config_runs(self):
        self.assert_runs("make")

    @unittest.skipUnless(os.environ.get("SCHEDULER_TEST_LONG"), "takes a minute: for tests/run --long")
    def test_cmake_builds_and_installs_the_program_and_what_it_says_of_itself(self):
        self.need_cmake()
        build, root = self.folder / "program", self.folder / "program-root"
        run("cmake", "-S", ROOT, "-B", build, *GIVEN)
        run("cmake", "--build", build)
        run("cmake", "--install", build, "--prefix", root)
        self.assertIn("task-scheduler 0", run(root / "bin/task-scheduler", "--version"))
        self.assertIn("page_text", run("nm", "-C", build / "task-scheduler"))
        self.assertEqual(sorted(path.name for path in root.rglob("*task-scheduler*")),
                         ["_task-scheduler", "task-scheduler", "task-scheduler.1",
                          "task-scheduler.bash", "task-scheduler.fish"])

    def test_an_installed_header_is_used_by_the_line_on_the_page(self):
        self.need_cmake()
        self.assert_runs("line")

    def test_the_page_shows_what_these_projects_say(self):
        shown = re.findall(r"(?ms)^```(cmake|meson|make)\n(.*?)^```$", PAGE)
        said = "".join(path.read_text(encoding="utf-8") for path in PROJECTS.rglob("*")
                       if path.is_file())
        self.assertGreater(len(shown), 6)
        for _, text in shown:
            for line in text.splitlines():
                self.assertIn(line.replace(" COMPONENTS http", "") + "\n", said)

    def answers(self, name, calls, *options):
        """What find_package() finds for each of these arguments, and else why not."""
        prefix, _ = self.meson_root.result()
        folder = self.folder / name
        folder.mkdir()
        text = "cmake_minimum_required(VERSION 3.16)\nproject(asked LANGUAGES CXX)\n"
        for call in calls:
            text += (f"find_package(scheduler {call} QUIET)\n"
                     "set(yes no)\nif(scheduler_FOUND)\nset(yes yes)\nendif()\n"
                     f'message("<{call}> ${{yes}} ${{scheduler_NOT_FOUND_MESSAGE}}")\n'
                     "unset(scheduler_NOT_FOUND_MESSAGE)\n")
        (folder / "CMakeLists.txt").write_text(text, encoding="utf-8")
        told = run("cmake", "-S", folder, "-B", folder / "build",
                   f"-DCMAKE_PREFIX_PATH={prefix}", *options)
        return {call: re.search(f"(?m)^<{re.escape(call)}> (.*)$", told)[1].strip()
                for call in calls}

    def test_find_package_tells_what_there_is_and_why_something_is_not(self):
        self.need_cmake()
        calls = {
            "": "yes", "0.1": "yes", "0.1.0 EXACT": "yes", "0": "yes",
            "COMPONENTS http": "yes", "0.2": "no", "1": "no", "0.1.9": "no", "0.0.9": "no",
            "COMPONENTS sqlite": "no there is no component sqlite; there are http and postgres",
            "OPTIONAL_COMPONENTS postgres": "yes",
        }
        if self.with_postgres:
            calls.update({"COMPONENTS postgres": "yes", "COMPONENTS http postgres": "yes"})
        self.assertEqual(self.answers("asked", calls, *GIVEN), calls)

    def test_a_folder_or_a_library_that_is_not_libpq_is_refused(self):
        self.need_cmake()
        for name in ("DIR", "LIBRARY"):
            with self.subTest(name):
                answers = self.answers("no-" + name, ["COMPONENTS postgres"],
                                       f"-DSCHEDULER_LIBPQ_{name}=/nope")
                self.assertRegex(answers["COMPONENTS postgres"], "^no libpq is missing .*libpq-dev")

    def test_a_split_httplib_is_refused_where_a_whole_one_is_needed(self):
        self.need_cmake()
        split = self.folder / "split"
        split.mkdir()
        (split / "httplib.h").write_text("namespace httplib { struct Server { Server(); }; }\n")
        answers = self.answers("refused", ["COMPONENTS http"], f"-DSCHEDULER_HTTPLIB_DIR={split}")
        self.assertRegex(answers["COMPONENTS http"], "^no the httplib.h that was found does not ")

    def test_a_folder_without_the_header_that_it_is_given_for_is_refused(self):
        self.need_cmake()
        for name in ("picojson", "httplib"):
            with self.subTest(name):
                variable = f"SCHEDULER_{name.upper()}_DIR"
                answers = self.answers("nowhere-" + name, ["COMPONENTS http"], f"-D{variable}=/nope")
                self.assertEqual(answers["COMPONENTS http"],
                                 f"no there is no {name}.h in /nope, which {variable} says")


if __name__ == "__main__":
    unittest.main()
