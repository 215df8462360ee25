# SPDX-License-Identifier: MIT
"""How scheduler.hpp is compiled by others: each g++ line of the README, macros of other headers,
and what cannot work, told in one sentence.

    build_test.py ROOT BUILD [HTTPLIB_DIR]

BUILD is Meson's build folder, HTTPLIB_DIR one with a whole httplib.h, as for -Dhttplib_dir.
"""
import concurrent.futures
import itertools
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
HEADER = (ROOT / "scheduler.hpp").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = re.findall(r"^g\+\+ .*$", README, re.M)


def run(command, folder, **environment):
    return subprocess.run(command, cwd=folder, shell=isinstance(command, str), text=True,
                          capture_output=True, timeout=600, env={**os.environ, **environment})


def library_flags():
    """What pkg-config says of the distribution's cpp-httplib, or None where there is none."""
    found = run("pkg-config --cflags --libs cpp-httplib", ROOT)
    return found.stdout.split() if found.returncode == 0 else None


class TestCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def compile(self, text, *flags):
        (self.folder / "unit.cpp").write_text(text, encoding="utf-8")
        return run(["g++", "-std=c++17", "-fsyntax-only", "-I", str(ROOT), *flags, "unit.cpp"],
                   self.folder)

    def assert_compiles(self, done):
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        self.assertEqual(done.returncode, 0, "\n".join(errors[:10]) or done.stderr[:2000])


class Readme(TestCase):
    """Its g++ lines, each as it stands, in a folder like the one that its reader is in."""

    def try_line(self, wanted, program):
        lines = [line for line in LINES if re.search(wanted, line)]
        self.assertEqual(len(lines), 1, f"lines with {wanted}: {lines}")
        for name in ("scheduler.hpp", "main.cpp", "cli", "examples"):
            (self.folder / name).symlink_to(ROOT / name)
        shutil.copy(ROOT / "examples/embed.cpp", self.folder / "app.cpp")
        environment = self.installed() if "libs scheduler" in lines[0] else {}
        # As quickly as it can be compiled.
        self.assert_compiles(run(lines[0].replace("-O2 ", ""), self.folder, **environment))
        done = run([f"./{program}"] + (["--version"] if program == "task-scheduler" else []),
                   self.folder)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertTrue(done.stdout)

    def installed(self):
        """Installs the header and its pkg-config file into the folder."""
        done = run(["meson", "install", "-C", str(BUILD), "--no-rebuild", "--tags", "devel",
                    "--destdir", str(self.folder / "root")], self.folder)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        module = next((self.folder / "root").rglob("scheduler.pc"))
        text = module.read_text(encoding="utf-8")
        prefix = re.search(r"^prefix=(.*)$", text, re.M)[1]
        module.write_text(text.replace(f"prefix={prefix}", f"prefix={self.folder}/root{prefix}"))
        return {"PKG_CONFIG_PATH": str(module.parent)}

    def test_every_line_is_tried_here(self):
        self.assertEqual(len(LINES), 5, LINES)

    def test_the_line_without_http_works(self):
        self.try_line("-DSCHEDULER_NO_HTTP", "embed")

    def test_the_line_with_the_library_of_the_distribution_works(self):
        if not library_flags():
            self.skipTest("cpp-httplib is not installed with pkg-config")
        self.try_line(r"mount\.cpp.*pkg-config", "mount")

    def test_the_line_of_the_binary_works(self):
        if not library_flags():
            self.skipTest("cpp-httplib is not installed with pkg-config")
        self.try_line(r"main\.cpp", "task-scheduler")

    def test_the_line_with_an_httplib_of_ones_own_works(self):
        if not HTTPLIB:
            self.skipTest("no folder with a whole httplib.h was given: tests/run --httplib FOLDER")
        (self.folder / "httplib.h").symlink_to(pathlib.Path(HTTPLIB) / "httplib.h")
        self.try_line(r"mount\.cpp -o mount -", "mount")

    def test_the_line_after_an_installation_works(self):
        self.try_line("libs scheduler", "app")


class Split(TestCase):
    """What packaging/split.py makes of the header."""

    def test_the_lines_of_the_page_build_a_program_that_runs(self):
        text = (ROOT / "docs/packages.md").read_text(encoding="utf-8")
        lines = re.search(r"^python3 packaging/split\.py .*\n(?:g\+\+ .*\n)+", text, re.M)[0]
        (self.folder / "packaging").symlink_to(ROOT / "packaging")
        shutil.copy(ROOT / "examples/embed.cpp", self.folder / "app.cpp")
        self.assert_compiles(run("set -e\n" + lines.replace("-O2", "-O0"), self.folder))
        done = run("./app", self.folder)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn('"message":{"name":"Luke","title":"Jedi"}}', done.stdout)

    def test_no_body_stays_behind_but_of_a_function_that_others_need_there(self):
        done = run(["python3", str(ROOT / "packaging/split.py"), "."], self.folder)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        header = (self.folder / "scheduler.hpp").read_text(encoding="utf-8")
        left = re.findall(r"(?m)^inline (?!constexpr |const |auto ).*\{$", header)
        self.assertEqual(left, [])


class Documentation(TestCase):
    def test_the_tour_shows_every_example_as_it_is(self):
        text = (ROOT / "docs/cpp.md").read_text(encoding="utf-8")
        shown = [one for one in re.findall(r"^```cpp\n(.*?)^```$", text, re.M | re.S)
                 if "int main()" in one]
        examples = {path.name: path.read_text(encoding="utf-8")
                    for path in ROOT.glob("examples/*.cpp")}
        self.assertEqual(sorted(shown), sorted(examples.values()))
        for name in examples:
            self.assertIn(f"[{name}](#", text)

    def test_the_snippets_of_the_tour_compile(self):
        flags = [flag for flag in library_flags() or [] if not flag.startswith("-l")]
        if HTTPLIB:
            flags = ["-I", HTTPLIB]
        if not flags:
            self.skipTest("cpp-httplib is not installed with pkg-config")
        text = (ROOT / "docs/cpp.md").read_text(encoding="utf-8")
        snippets = re.findall(r"^```cpp\n(.*?)^```$", text, re.M | re.S)
        snippets = [one for one in snippets if "int main()" not in one]  # examples are built
        self.assertGreater(len(snippets), 8)
        self.assert_compiles(self.compile(
            "#include <scheduler.hpp>\n#include <cstdio>\n"
            "int main() {\n" + "".join(snippets) + "}\n", *flags))


class Warnings(TestCase):
    """None comes from the header in any compiler's strict mode; libraries are for their makers."""
    STRICT = {
        "g++": ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wold-style-cast",
                "-Wuseless-cast"],
        # Without those that older standards and the layout of types are not told apart by.
        "clang++": ["-Weverything", "-Wno-c++98-compat", "-Wno-c++98-compat-pedantic",
                    "-Wno-padded", "-Wno-weak-vtables", "-Wno-switch-enum"],
    }
    COMPILERS = {"g++": ["g++"], "clang++": ["clang++"], "libc++": ["clang++", "-stdlib=libc++"]}
    # Each of them meets each standard, or does without RTTI or HTTP, in one of these.
    PAIRS = [("g++", "c++17", "", "http"), ("clang++", "c++20", "", "http"),
             ("g++", "c++2b", "-fno-rtti", ""), ("libc++", "c++2b", "-fno-rtti", "")]

    def can_compile(self, compiler):
        command = self.COMPILERS[compiler]
        if not shutil.which(command[0]):
            return False
        (self.folder / "empty.cpp").write_text("#include <vector>\n", encoding="utf-8")
        return run([*command, "-fsyntax-only", "empty.cpp"], self.folder).returncode == 0

    def strict(self, compiler, standard, rtti, http):
        """What this compiler says of a unit that has nothing but the header in it."""
        command = self.COMPILERS[compiler]
        flags = ["-DSCHEDULER_NO_HTTP"]
        if http:
            flags = ["-isystem", HTTPLIB] if HTTPLIB else library_flags()
        return run([*command, f"-std={standard}", *filter(None, [rtti]), "-fsyntax-only", "-Werror",
                    *self.STRICT[command[0]], *[f for f in flags if not f.startswith("-l")],
                    "-I", str(ROOT), "unit.cpp"], self.folder)

    def test_no_compiler_warns_of_the_header_in_any_standard(self):
        pairs = self.PAIRS
        if os.environ.get("SCHEDULER_TEST_LONG"):
            pairs = list(itertools.product(self.COMPILERS, ("c++17", "c++20", "c++2b"),
                                           ("", "-fno-rtti"), ("http", "")))
        if not (HTTPLIB or library_flags()):
            pairs = [pair for pair in pairs if not pair[3]]
        (self.folder / "unit.cpp").write_text('#include "scheduler.hpp"\n', encoding="utf-8")
        able = {name for name in self.COMPILERS if self.can_compile(name)}
        if os.environ.get("TESTS_COMPILERS"):
            self.assertEqual(able, set(self.COMPILERS))
        pairs = [pair for pair in pairs if pair[0] in able]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for pair, done in zip(pairs, pool.map(lambda pair: self.strict(*pair), pairs)):
                with self.subTest(" ".join(pair)):
                    self.assert_compiles(done)


class Refusals(TestCase):
    """What cannot work is one sentence that says what to do."""

    def assert_says(self, done, sentence):
        self.assertNotEqual(done.returncode, 0)
        errors = re.findall(r"error: .*", done.stderr)
        self.assertEqual(len(errors), 1, "\n".join(errors[:5]))
        self.assertIn(sentence, errors[0])

    def test_a_standard_before_cpp17_is_told_and_nothing_else(self):
        for standard in ("c++11", "c++14", "gnu++14"):
            with self.subTest(standard):
                self.assert_says(self.compile('#include "scheduler.hpp"\n', f"-std={standard}"),
                                 "scheduler.hpp needs C++17 or later: compile with -std=c++17")

    def test_missing_exceptions_are_told_and_nothing_else(self):
        self.assert_says(self.compile('#include "scheduler.hpp"\n', "-fno-exceptions"),
                         "scheduler.hpp needs exceptions")

    def test_on_another_system_than_linux_only_http_is_refused(self):
        unit = '#include "scheduler.hpp"\nint main() {}\n'
        self.assert_says(self.compile(unit, "-U__linux__"), "scheduler.hpp needs Linux for HTTP")
        self.assert_compiles(self.compile(unit, "-U__linux__", "-DSCHEDULER_NO_HTTP"))

    def test_missing_flags_of_an_installed_library_are_told_and_crash_nothing(self):
        flags = library_flags()
        if not flags or "-DCPPHTTPLIB_OPENSSL_SUPPORT" not in flags:
            self.skipTest("there is no installed cpp-httplib that was compiled with OpenSSL")
        libraries = [flag for flag in flags if flag.startswith(("-L", "-l"))]
        programs = {
            "mount": ((ROOT / "examples/mount.cpp").read_text(encoding="utf-8"),
                      "the installed cpp-httplib was compiled with OpenSSL and this program "
                      "without: compile it with $(pkg-config --cflags --libs cpp-httplib) "
                      "-lssl -lcrypto"),
            # It needs nothing of the library.
            "client": ('#include "scheduler.hpp"\n'
                       'int main() { scheduler::Client client({"http://127.0.0.1:1", {}}); '
                       'client.tasks(); }\n', "cannot reach http://127.0.0.1:1"),
        }
        for name, (text, says) in programs.items():
            with self.subTest(name):
                (self.folder / f"{name}.cpp").write_text(text, encoding="utf-8")
                done = run(["g++", "-std=c++17", "-I", str(ROOT), f"{name}.cpp", "-o", name,
                            *libraries, "-pthread"], self.folder)
                self.assertEqual(done.returncode, 0, done.stderr[:2000])
                self.assertIn(says, run([f"./{name}"], self.folder).stderr)


class Elsewhere(TestCase):
    """Other C libraries and processors than those of this machine."""

    def test_it_compiles_against_the_headers_of_musl(self):
        musl = pathlib.Path("/usr/include/x86_64-linux-musl")
        libcxx = sorted(pathlib.Path("/usr/lib").glob("llvm-*/include/c++/v1"))
        if not (musl.exists() and libcxx and pathlib.Path("/usr/include/httplib.h").exists()):
            self.skipTest("musl, libc++ or cpp-httplib is not installed: musl-dev, libc++-dev")
        for name in ("picojson.h", "httplib.h"):
            (self.folder / name).symlink_to(f"/usr/include/{name}")
        builtin = run(["clang++", "-print-resource-dir"], ROOT).stdout.strip() + "/include"
        system = [word for folder in (libcxx[-1], musl, builtin, self.folder)
                  for word in ("-isystem", str(folder))]
        self.assert_compiles(run(
            ["clang++", "--target=x86_64-linux-musl", "-std=c++17", "-fsyntax-only", "-Werror",
             "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-nostdinc",
             "-nostdinc++", "-D_LIBCPP_HAS_MUSL_LIBC", *system, "main.cpp"], ROOT))

    def test_a_library_of_this_machine_is_refused_for_another(self):
        if not (shutil.which("aarch64-linux-gnu-g++") and library_flags()):
            self.skipTest("needs aarch64-linux-gnu-g++ and the cpp-httplib of the distribution")
        done = run(["meson", "setup", "--cross-file", str(ROOT / "packaging/cross/aarch64.ini"),
                    str(self.folder / "build"), str(ROOT)], self.folder)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("it only declares what a library of this machine has", done.stdout)
        self.assertIn("-Dhttplib_dir=FOLDER", done.stdout)


class Surroundings(TestCase):
    MACROS = {
        # As Windows, Qt, X11 and careless headers define them.
        "functions": ["min(a, b) ((a) < (b) ? (a) : (b))", "max(a, b) ((a) > (b) ? (a) : (b))",
                      "emit", "slots", "signals public", "near", "far", "error(x) x", "Status int",
                      "status(x) x"],
        # Whatever they stand for.
        "nonsense": [f"{name} )nonsense(" for name in
                     ("min", "max", "emit", "slots", "signals", "near", "far", "error", "status",
                      "Status")],
    }

    def test_macros_of_other_headers_are_survived_and_come_back(self):
        flags = [flag for flag in library_flags() or ["-DSCHEDULER_NO_HTTP"]
                 if not flag.startswith("-l")]
        if HTTPLIB:
            flags = ["-I", HTTPLIB]
        for name, macros in self.MACROS.items():
            with self.subTest(name):
                names = [re.match(r"\w+", macro)[0] for macro in macros]
                text = "".join(f"#define {macro}\n" for macro in macros)
                text += '#include "scheduler.hpp"\n'
                text += "".join(f"#ifndef {name}\n#error {name} is gone\n#endif\n" for name in names)
                self.assert_compiles(self.compile(text + "int main() {}\n", *flags))

    def test_its_own_text_survives_macros_that_were_defined_after_other_headers(self):
        others = "\n".join(re.findall(r"^#include <.*>$", HEADER.split("\nnamespace")[0], re.M))
        others = re.sub(r".*(httplib|openssl|picojson/).*\n", "", others)
        text = others + "\n" + "".join(f"#define {m}\n" for m in self.MACROS["nonsense"])
        self.assert_compiles(self.compile(text + '#include "scheduler.hpp"\nint main() {}\n',
                                          "-DSCHEDULER_NO_HTTP"))

    def test_the_preprocessor_reads_it_where_there_is_no_glibc(self):
        # Without any header nothing defines __GLIBC__ and what belongs to it, as with musl.
        bare = re.sub(r"^#include .*$", "", HEADER, flags=re.M)
        done = subprocess.run(["g++", "-std=c++17", "-E", "-x", "c++", "-"], input=bare, text=True,
                              capture_output=True, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_it_includes_a_header_for_every_standard_name_that_it_uses(self):
        # The headers that have the names which are not like their header.
        homes = {
            "algorithm": "all_of any_of clamp copy copy_if copy_n count count_if equal fill find "
                         "find_if find_if_not for_each is_sorted lower_bound make_heap max "
                         "max_element merge min min_element minmax_element move_backward none_of "
                         "nth_element partition pop_heap push_heap remove remove_if reverse rotate "
                         "sort stable_partition stable_sort transform unique upper_bound",
            "atomic": "atomic_flag memory_order_acq_rel memory_order_acquire memory_order_relaxed "
                      "memory_order_release memory_order_seq_cst",
            "charconv": "chars_format from_chars from_chars_result to_chars to_chars_result",
            "condition_variable": "cv_status", "cstddef": "byte max_align_t ptrdiff_t size_t",
            "cstdint": "int16_t int32_t int64_t int8_t intmax_t uint16_t uint32_t uint64_t uint8_t "
                       "uintmax_t uintptr_t",
            "cstdio": "FILE fclose fopen fprintf fwrite printf puts rename snprintf",
            "cstdlib": "abort abs atoi atoll calloc exit free getenv malloc realloc strtod strtol "
                       "strtoll strtoul strtoull",
            "cstring": "memchr memcmp memcpy memmove memset strchr strcmp strcspn strerror strlen",
            "ctime": "gmtime time_t tm",
            "exception": "current_exception exception_ptr make_exception_ptr rethrow_exception "
                         "terminate uncaught_exceptions",
            "future": "async launch",
            "functional": "cref equal_to function greater hash invoke less ref",
            "iterator": "advance back_inserter begin distance end make_move_iterator next prev "
                        "reverse_iterator",
            "limits": "numeric_limits", "map": "multimap", "set": "multiset",
            "memory": "addressof allocator default_delete destroy_at enable_shared_from_this make_shared "
                      "make_unique shared_ptr uninitialized_copy unique_ptr weak_ptr",
            "mutex": "adopt_lock call_once defer_lock lock_guard once_flag scoped_lock try_to_lock "
                     "unique_lock",
            "new": "align_val_t bad_alloc launder nothrow nothrow_t",
            "numeric": "accumulate iota partial_sum",
            "optional": "in_place make_optional nullopt nullopt_t",
            "random": "minstd_rand mt19937 mt19937_64 random_device uniform_int_distribution",
            "stdexcept": "invalid_argument length_error logic_error out_of_range runtime_error",
            "string": "char_traits getline stoi stol stoll stoul stoull to_string",
            "system_error": "errc error_code generic_category system_category",
            "thread": "this_thread", "tuple": "make_tuple tie",
            "type_traits": "conditional_t decay_t enable_if_t false_type integral_constant "
                           "invoke_result_t is_base_of_v is_enum_v is_integral_v "
                           "is_nothrow_move_constructible_v is_same_v make_signed_t "
                           "make_unsigned_t remove_pointer_t remove_reference_t true_type underlying_type_t void_t",
            "unordered_map": "unordered_multimap",
            "utility": "as_const declval exchange forward index_sequence make_pair move pair "
                       "piecewise_construct swap",
            "variant": "get get_if holds_alternative in_place_type monostate "
                       "variant_alternative_t variant_size_v visit",
        }
        home = {name: header for header, names in homes.items() for name in names.split()}
        included = set(re.findall(r"^#include <([\w/.]+)>$", HEADER, re.M))
        code = re.sub(r"//.*", "", HEADER)
        used = {home.get(name, name) for name in re.findall(r"\bstd::(\w+)", code)}
        self.assertEqual(used - included, set(), "not included, or unknown to this test")
        posix = {"stdio.h": r"::rename\(", "time.h": r"::(timegm|strptime)\(",
                 "stdlib.h": r"::realpath\("}
        for header, call in posix.items():
            if re.search(call, code):
                self.assertTrue({header, "c" + header.removesuffix(".h")} & included, header)


unittest.main()
