// SPDX-License-Identifier: MIT
//
// Journals as an operator meets them: verified, compacted and copied, beside a scheduler or alone.
#include "support.hpp"

namespace journals_test {

using namespace scheduler;
using std::chrono::hours;
using support::errc_of;
using support::TempDir;
using support::TestClock;

namespace {

Options options_for(const TempDir& dir) {
    Options options;
    options.journal = dir.journal();
    options.drive = Drive::caller;
    return options;
}

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.push_back(line + '\n');
    return lines;
}

// A journal with a task of each kind of fate: two are pending, one of them with a name, one is
// emitted, one is cancelled; and it is paused.
std::string mixed_journal() {
    const TempDir dir;
    TestClock clock;
    Options options = options_for(dir);
    options.now = clock.source();
    {
        Scheduler tasks(options);
        tasks.submit({NewTask{clock.now() + hours(2), "\"keyed\""}}, "key").wait();
        tasks.put("valve", NewTask{clock.now() + hours(1), "\"named\""});
        tasks.schedule(clock.now(), "\"emitted\"");
        tasks.cancel(tasks.schedule(hours(3), "\"cancelled\""));
        tasks.run_due();
        tasks.pause("work on the pump");
    }
    return dir.read("tasks.jsonl");
}

// What verify_journal() says of a file that holds this; the file and its folder stay as they are.
JournalReport report_of(const std::string& text) {
    const TempDir dir;
    dir.write("tasks.jsonl", text);
    JournalReport report = verify_journal(dir.journal());
    CHECK(dir.read("tasks.jsonl") == text);
    CHECK(dir.names("tasks").size() == 1);
    return report;
}

std::string refusal_of(const std::string& text) {
    try {
        report_of(text);
    } catch (const Error& error) {
        CHECK(error.code() == Errc::journal_unreadable);
        return error.what();
    }
    return "none";
}

bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

// How many tasks wait in a journal with this text.
std::size_t pending_in(const TempDir& dir, const std::string& name = "tasks.jsonl") {
    Options options = options_for(dir);
    options.journal = dir.path(name);
    return Scheduler(options).stats().pending;
}

}  // namespace

TEST_SUITE("journals") {
    TEST_CASE("verifying tells what a scheduler would find") {
        const JournalReport report = report_of(mixed_journal());
        CHECK(report.is_sound());
        CHECK(report.pending == 2);
        CHECK(report.named == 1);
        CHECK(report.emitted == 1);
        CHECK(report.cancelled == 1);
        CHECK(report.keys == 1);
        REQUIRE(report.next_due);
        REQUIRE(report.paused);
        CHECK(report.paused->reason == "work on the pump");
        CHECK(report.operations.at("head") == 1);
        CHECK(report.operations.at("schedule") == 4);
        CHECK(report.torn_bytes == 0);
        CHECK(report.used_by.empty());
        CHECK(json_problem(to_json(report)).empty());
    }

    TEST_CASE("a sink's place and its dead letters are told") {
        const TempDir dir;
        {
            Scheduler tasks(options_for(dir));
            tasks.open_sinks({{"garden", "exec", "true"}});
            tasks.schedule(tasks.now(), "\"one\"");
            tasks.schedule(tasks.now(), "\"two\"");
            tasks.run_due();
            const auto first = tasks.next_delivery("garden");
            REQUIRE(first);
            tasks.settle(*first, Outcome::failed("no water"));
        }
        const JournalReport report = verify_journal(dir.journal());
        REQUIRE(report.sinks.size() == 1);
        CHECK(report.sinks[0].name == "garden");
        CHECK(report.sinks[0].lag == 1);
        CHECK(report.sinks[0].dead == 1);
        CHECK(report.sinks[0].last_error == "no water");
    }

    TEST_CASE(
        "damage is told by its line and what is wrong with it, and all that is whole counts") {
        std::vector<std::string> lines = lines_of(mixed_journal());
        const auto text = [&lines] {
            std::string all;
            for (const std::string& line : lines) all += line;
            return all;
        };
        const std::size_t size = lines.size();
        std::string problem;
        std::size_t pending = 2;
        std::uint64_t kept = 0;
        SUBCASE("a bit has changed") {
            lines[1][30] ^= 1;
            problem = "checksum";
            pending = 1;
        }
        SUBCASE("the newline is gone") {
            lines[1].back() = '?';
            problem = "newline";
            kept = 2;
        }
        SUBCASE("it is cut") {
            lines[1] = lines[1].substr(0, 40) + '\n';
            problem = "its end is missing";
            pending = 1;
        }
        SUBCASE("it is overwritten") {
            lines[1] = std::string(100, '\0') + '\n';
            lines[1][50] = 'x';
            problem = "zero";
            pending = 1;
        }
        SUBCASE("it is something else") {
            lines[1] = "hello\n";
            problem = "begin";
            pending = 1;
        }
        const JournalReport report = report_of(text());
        CHECK_FALSE(report.is_sound());
        REQUIRE(report.damage.size() == 1);
        CHECK(report.damage[0].line == 2);
        CHECK(report.damage[0].at == lines[0].size());
        CHECK(report.damage[0].kept == kept);
        CHECK_MESSAGE(has(report.damage[0].problem, problem), report.damage[0].problem);
        CHECK(report.pending == pending);
        CHECK(report.records == size - (kept > 0 ? 0 : 1));
        CHECK(report.torn_bytes == 0);
        CHECK(json_problem(to_json(report)).empty());
    }

    TEST_CASE("a torn tail is no damage, wherever it is torn") {
        const std::string whole = mixed_journal();
        const std::string last = lines_of(whole).back();
        for (std::size_t cut = 1; cut + 1 < last.size(); ++cut) {
            CAPTURE(cut);
            const JournalReport report = report_of(whole.substr(0, whole.size() - cut - 1));
            CHECK(report.is_sound());
            CHECK(report.torn_bytes == last.size() - cut - 1);
            CHECK_FALSE(report.paused);
        }
    }

    TEST_CASE("an empty file is a new journal, and one without a whole record is damaged") {
        CHECK(report_of("").is_sound());
        CHECK_FALSE(report_of(std::string(4'096, '\0')).is_sound());
        CHECK_FALSE(report_of(R"({"journal":"task-scheduler","ver)").is_sound());
    }

    TEST_CASE("a journal whose first line is missing is damaged, and opening it mends it") {
        const std::string whole = mixed_journal();
        const TempDir dir;
        dir.write("tasks.jsonl", whole.substr(whole.find('\n') + 1));
        const JournalReport report = verify_journal(dir.journal());
        REQUIRE(report.damage.size() == 1);
        CHECK(has(report.damage[0].problem, "begins with is missing"));
        CHECK(report.pending == 2);
        SUBCASE("compacting mends it") {
            CHECK(compact_journal(options_for(dir)).pending == 2);
        }
        SUBCASE("and so does a scheduler, which counts it and puts nothing aside") {
            CHECK(Scheduler(options_for(dir)).stats().damaged_lines == 1);
            CHECK(dir.names("tasks.jsonl.damaged-").empty());
        }
        CHECK(verify_journal(dir.journal()).is_sound());
    }

    TEST_CASE(
        "what is no journal that this version can read is refused, and the sentence says why") {
        const std::string whole = mixed_journal();
        std::string line;
        const auto with = [&line](const std::string& before) {
            line += ",\"x\":1";
            detail::seal_line(line, 0);
            return before + line;
        };
        SUBCASE("an unknown operation, by its line") {
            line = R"({"op":"levitate")";
            const std::string refusal = refusal_of(with(whole));
            CHECK_MESSAGE(has(refusal, "levitate"), refusal);
            const std::string number = std::to_string(lines_of(whole).size() + 1);
            CHECK_MESSAGE(has(refusal, "line " + number + ':'), refusal);
        }
        SUBCASE("a version that is too new") {
            line = R"({"journal":"task-scheduler","version":2)";
            CHECK(has(refusal_of(with("")), "newer version"));
        }
        SUBCASE("somebody's other file") {
            CHECK(has(refusal_of("[client]\nname = somebody\n"), "is not a journal"));
            CHECK(has(refusal_of(std::string(100'000, '\x7F')), "is not a journal"));
        }
        SUBCASE("nothing, or no file") {
            const TempDir dir;
            CHECK(errc_of([&] { verify_journal(dir.journal()); }) == Errc::journal_unreadable);
            CHECK(errc_of([&] { verify_journal(dir.path("")); }) == Errc::journal_unreadable);
            CHECK(dir.names("").empty());
        }
    }

    TEST_CASE("journals of every release verify") {
        const JournalReport report = verify_journal(TESTS_DATA "/journal_v1.jsonl");
        CHECK(report.is_sound());
        CHECK(report.pending == 2);
    }

    TEST_CASE("a journal is verified while a scheduler has it open, and that is told") {
        const TempDir dir;
        Scheduler tasks(options_for(dir));
        tasks.schedule(hours(1), "\"one\"");
        const JournalReport report = verify_journal(dir.journal());
        CHECK(report.pending == 1);
        CHECK(has(report.used_by, "process " + std::to_string(::getpid()) + " on "));
        tasks.schedule(hours(1), "\"two\"");
        CHECK(verify_journal(dir.journal()).pending == 2);
        tasks.stop();
    }

    TEST_CASE("compacting keeps all that is live, and little else") {
        const TempDir dir;
        {
            Options options = options_for(dir);
            options.rewrite_min_bytes = std::uint64_t{1} << 30;
            Scheduler tasks(options);
            for (int i = 0; i < 500; ++i) tasks.cancel(tasks.schedule(hours(1), "\"gone\""));
            tasks.put("valve", NewTask{tasks.now() + hours(1), "\"kept\""});
            tasks.pause("work");
        }
        const CompactResult result = compact_journal(options_for(dir));
        CHECK(result.before > 50'000);
        CHECK(result.after < 2'000);
        CHECK(result.after == dir.read("tasks.jsonl").size());
        CHECK(result.pending == 1);
        const JournalReport report = verify_journal(dir.journal());
        CHECK(report.named == 1);
        CHECK(report.paused);
        CHECK(report.cancelled == 0);
    }

    TEST_CASE("compacting keeps as many events as it is asked to") {
        const TempDir dir;
        TestClock clock;
        Options options = options_for(dir);
        options.now = clock.source();
        {
            Scheduler tasks(options);
            for (int i = 0; i < 50; ++i) tasks.schedule(clock.now(), "\"event\"");
            tasks.run_due();
        }
        clock.set(clock.now() + hours(1));
        compact_journal(options);
        CHECK(verify_journal(dir.journal()).emitted == 50);
        options.history = 10;
        compact_journal(options);
        CHECK(verify_journal(dir.journal()).emitted == 10);
    }

    TEST_CASE("a journal in use is not compacted, and none is made") {
        const TempDir dir;
        CHECK(errc_of([&] { compact_journal(options_for(dir)); }) == Errc::journal_unreadable);
        CHECK(dir.names("").empty());
        Scheduler tasks(options_for(dir));
        tasks.schedule(hours(1), "\"one\"");
        const std::string before = dir.read("tasks.jsonl");
        CHECK(errc_of([&] { compact_journal(options_for(dir)); }) == Errc::journal_busy);
        CHECK(dir.read("tasks.jsonl") == before);
    }

    TEST_CASE("a compaction that fails leaves the journal as it was") {
        const std::string whole = mixed_journal();
        std::size_t failing = 0;
        for (bool failed = true; failed; ++failing) {
            CAPTURE(failing);
            const TempDir dir;
            dir.write("tasks.jsonl", whole);
            const auto files = std::make_shared<support::FailingFiles>();
            Options options = options_for(dir);
            options.files = files;
            files->fail_call(failing, ENOSPC);
            errc_of([&] { compact_journal(options); });
            failed = files->has_failed();
            const JournalReport report = verify_journal(dir.journal());
            CHECK(report.is_sound());
            CHECK(report.pending == 2);
            CHECK(report.named == 1);
        }
        CHECK(failing > 10);
    }

    TEST_CASE("a backup is a journal, and holds all that was stored") {
        const TempDir dir;
        Scheduler tasks(options_for(dir));
        for (int i = 0; i < 100; ++i) tasks.schedule(hours(1), '"' + std::to_string(i) + '"');
        const std::uint64_t size = tasks.backup(dir.path("copy.jsonl"));
        CHECK(size == dir.read("copy.jsonl").size());
        tasks.schedule(hours(1), "\"later\"");
        const JournalReport report = verify_journal(dir.path("copy.jsonl"));
        CHECK(report.is_sound());
        CHECK(report.torn_bytes == 0);
        CHECK(report.pending == 100);
        CHECK(pending_in(dir, "copy.jsonl") == 100);
        CHECK(dir.names("copy.jsonl.part").empty());
    }

    TEST_CASE("a snapshot stays as it was while the journal is replaced") {
        const TempDir dir;
        Options options = options_for(dir);
        options.rewrite_min_bytes = 1'000;
        Scheduler tasks(options);
        std::vector<TaskId> ids;
        for (int i = 0; i < 100; ++i) ids.push_back(tasks.schedule(hours(1), "\"task\""));
        const auto taken = tasks.snapshot();
        REQUIRE(taken);
        const std::string before = dir.read("tasks.jsonl");
        for (const TaskId id : ids) tasks.cancel(id);
        tasks.run_due();
        REQUIRE(tasks.stats().journal_rewrites > 0);
        std::string text(static_cast<std::size_t>(taken->size()) + 100, '\0');
        text.resize(taken->read(&text[0], text.size(), 0));
        CHECK(text == before);
        CHECK(taken->read(&text[0], 10, taken->size() + 5) == 0);
    }

    TEST_CASE(
        "a backup takes no other file's place unless it is to, and never that of a journal in "
        "use") {
        const TempDir dir;
        dir.write("copy.jsonl", "precious");
        Scheduler tasks(options_for(dir));
        tasks.schedule(hours(1), "\"one\"");
        CHECK(errc_of([&] { tasks.backup(dir.path("copy.jsonl")); }) == Errc::invalid_argument);
        CHECK(dir.read("copy.jsonl") == "precious");
        CHECK(errc_of([&] { tasks.backup(dir.journal(), true); }) == Errc::journal_busy);
        CHECK(errc_of([&] { tasks.backup("/dev/null", true); }) == Errc::invalid_argument);
        tasks.backup(dir.path("copy.jsonl"), true);
        CHECK(verify_journal(dir.path("copy.jsonl")).pending == 1);
    }

    TEST_CASE("a journal that has failed is not copied before it was replaced") {
        const TempDir dir;
        TestClock clock;
        const auto files = std::make_shared<support::FailingFiles>();
        Options options = options_for(dir);
        options.files = files;
        options.now = clock.source();
        Scheduler tasks(options);
        tasks.schedule(hours(1), "\"kept\"");
        files->fail_all("fdatasync", EIO);
        CHECK(errc_of([&] { tasks.schedule(hours(1), "\"refused\""); }));
        CHECK(errc_of([&] { tasks.backup(dir.path("copy.jsonl")); }) == Errc::journal_failed);
        CHECK(dir.names("copy").empty());
        files->fail_all("fdatasync", 0);
        clock.advance(std::chrono::seconds(2));
        tasks.run_due();  // which replaces it
        tasks.backup(dir.path("copy.jsonl"));
        CHECK(verify_journal(dir.path("copy.jsonl")).pending == 1);
    }

    TEST_CASE("what is kept in memory alone has no backup") {
        const TempDir dir;
        Scheduler tasks;
        CHECK_FALSE(tasks.snapshot());
        CHECK(errc_of([&] { tasks.backup(dir.path("copy.jsonl")); }) == Errc::invalid_argument);
        CHECK(dir.names("").empty());
    }

    TEST_CASE("what is exported is read back to the letter, with the name apart from the request") {
        const TestClock clock;
        Options options;
        options.now = [&clock] { return clock.now(); };
        Scheduler tasks(options);
        const auto line_of = [&tasks](const char* request, const char* name) {
            const auto parsed = TaskRequest::parse(request, tasks.now());
            CAPTURE(request);
            REQUIRE(parsed.errors.empty());
            if (*name) {
                tasks.begin_put(name, parsed).wait();
                return ExportLine::write(*tasks.find(name));
            }
            Ticket ticket = tasks.submit({parsed});
            ticket.wait();
            return ExportLine::write(*tasks.find(ticket.ids().front()));
        };
        const char* const requests[] = {
            R"({"timestamp":"2026-04-01","message":{"n":12345678901234567890,"f":1.10}})",
            R"({"z":1,"a":2,"z":3,"message":"\u00e9\/","timestamp":"2026-04-01T02:00+02:00"})",
            R"({"timestamp":"2026-04-01","message":[],"name":"valve"})",
            R"({"n\u0061me":7,"timestamp":"2026-04-01","message":[]})",
        };
        for (const char* request : requests) {
            for (const char* name : {"", "valve"}) {
                CAPTURE(name);
                const ExportLine read = ExportLine::read(line_of(request, name));
                CHECK(read.name == name);
                CHECK(read.request == request);
            }
        }
        CHECK(ExportLine::read(R"( {"message": 1, "name": "a.b" } )").request ==
              R"({"message":1})");
        for (const char* bad : {"", "7", "{", R"({"name":"no name"})", R"({"name":7})", "{} {}"}) {
            CAPTURE(bad);
            CHECK(errc_of([&] { ExportLine::read(bad); }) == Errc::invalid_argument);
        }
    }
}

}  // namespace journals_test
