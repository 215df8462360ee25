// SPDX-License-Identifier: MIT
//
// A pause: what it holds back, for how long, and what becomes of that.
#include "support.hpp"

#include <signal.h>
#include <sys/wait.h>

#include <random>

namespace pause_test {

using namespace scheduler;
using namespace support;

namespace {

// A journal and a clock that stands still.
struct House {
    TempDir dir;
    TestClock clock;
    std::shared_ptr<AskingFiles> files = std::make_shared<AskingFiles>();

    Options options() {
        Options options;
        options.journal = dir.journal();
        options.now = clock.source();
        options.files = files;
        return options;
    }
    // The writes, or the syncs, whose text begins so wait at the gate, and then fail with `error`
    // unless that is 0.
    void hold(const std::string& name, const std::string& start, Gate& gate, int error = 0) {
        files->ask([name, start, &gate, error](const AskingFiles::Call& call) {
            if (call.name != name || call.text.find(start) == std::string_view::npos) return 0;
            gate.pass();
            return error;
        });
    }
};

std::vector<std::string> operations_of(const std::string& journal) {
    std::vector<std::string> operations;
    std::istringstream lines(journal);
    for (std::string line; std::getline(lines, line);) {
        const std::size_t begin = line.find("\"op\":\"");
        if (begin == std::string::npos) continue;
        operations.push_back(line.substr(begin + 6, line.find('"', begin + 6) - begin - 6));
    }
    return operations;
}

}  // namespace

TEST_SUITE("pause") {
    TEST_CASE("nothing is emitted while paused, and all of it in order after that") {
        for (const Drive drive : {Drive::thread, Drive::caller}) {
            CAPTURE(static_cast<int>(drive));
            House house;
            Options options = house.options();
            options.drive = drive;
            Scheduler tasks(options);
            const TaskId late = tasks.schedule(milliseconds(20), "\"late\"");
            const TaskId early = tasks.schedule(milliseconds(10), "\"early\"");
            tasks.pause("the receiver moves");
            REQUIRE(tasks.paused());
            CHECK(tasks.paused()->reason == "the receiver moves");
            CHECK(tasks.paused()->since == tasks.now());
            CHECK(tasks.stats().paused);
            house.clock.advance(tasks, std::chrono::minutes(1));
            CHECK(tasks.run_due() == 0);
            const TaskId past = tasks.schedule(milliseconds(0), "\"past\"");
            const TaskId gone = tasks.schedule(milliseconds(0), "\"gone\"");
            CHECK(tasks.cancel(gone));  // what is overdue can still be cancelled
            CHECK(tasks.stats().emitted == 0);
            CHECK(tasks.find(early)->status == Status::pending);
            tasks.resume();
            CHECK_FALSE(tasks.paused());
            tasks.run_due();
            REQUIRE(eventually([&] { return tasks.stats().emitted == 3; }));
            CHECK(event_ids(tasks) == std::vector<TaskId>{early, late, past});
            tasks.resume();  // which changes nothing
        }
    }

    TEST_CASE("nothing wakes up for what a pause holds back") {
        House house;
        Scheduler tasks(house.options());
        tasks.schedule(milliseconds(10), "\"x\"");
        tasks.pause();
        CHECK_FALSE(tasks.next_wake());
        house.clock.advance(tasks, std::chrono::hours(1));
        CHECK_FALSE(tasks.next_wake());
        tasks.schedule(milliseconds(0), "\"x\"");
        CHECK_FALSE(tasks.next_wake());
        tasks.resume();
        CHECK(eventually([&] { return tasks.stats().emitted == 2; }));
    }

    TEST_CASE("a pause stays across restarts and replacements of the journal, with its reason") {
        House house;
        const std::string reason = "\"quoted\", \xC3\xA9, back\\slash";
        const TimePoint since = house.clock.now();
        {
            Scheduler tasks(house.options());
            tasks.schedule(milliseconds(10), "\"x\"");
            tasks.pause(reason);
        }
        for (const std::uint64_t least : {std::uint64_t{4} << 20, std::uint64_t{1}}) {
            CAPTURE(least);
            house.clock.advance(std::chrono::hours(1));
            Options options = house.options();
            options.rewrite_min_bytes = least;
            Scheduler tasks(options);
            // Much that is dead has the journal replaced, if it may be.
            for (int i = 0; i < 40; ++i) {
                tasks.cancel(tasks.schedule(std::chrono::hours(1), "\"x\""));
            }
            if (least == 1) {
                REQUIRE(eventually([&] { return tasks.stats().journal_rewrites > 0; }));
            }
            REQUIRE(tasks.paused());
            CHECK(tasks.paused()->reason == reason);
            CHECK(tasks.paused()->since == since);
            CHECK(tasks.stats().emitted == 0);
        }
        {
            Scheduler tasks(house.options());
            REQUIRE(tasks.paused());
            CHECK(tasks.paused()->reason == reason);
            tasks.resume();
            CHECK(eventually([&] { return tasks.stats().emitted == 1; }));
        }
        CHECK_FALSE(Scheduler(house.options()).paused());
    }

    TEST_CASE("a pause that follows another keeps its beginning, and its reason without another") {
        House house;
        Scheduler tasks(house.options());
        const TimePoint since = tasks.now();
        tasks.pause("first");
        house.clock.advance(tasks, std::chrono::minutes(1));
        tasks.pause();
        CHECK(tasks.paused()->reason == "first");
        tasks.pause("second");
        CHECK(tasks.paused()->reason == "second");
        CHECK(tasks.paused()->since == since);
        tasks.resume();
        tasks.pause();
        CHECK(tasks.paused()->reason.empty());
        CHECK(tasks.paused()->since == tasks.now());
    }

    TEST_CASE("a pause waits until what is being emitted is shown, and its record follows") {
        House house;
        Gate gate;
        Scheduler tasks(house.options());
        const TaskId id = tasks.schedule(milliseconds(10), "\"x\"");
        house.hold("pwrite", R"("op":"emit")", gate);
        house.clock.advance(tasks, milliseconds(10));
        REQUIRE(gate.was_reached());
        auto paused = std::async(std::launch::async, [&] {
            tasks.pause();
            return tasks.find(id)->status == Status::emitted;
        });
        CHECK(paused.wait_for(milliseconds(20)) == std::future_status::timeout);
        gate.open();
        CHECK(paused.get());
        tasks.stop();
        const auto operations = operations_of(house.dir.read("tasks.jsonl"));
        CHECK(std::find(operations.begin(), operations.end(), "emit") <
              std::find(operations.begin(), operations.end(), "pause"));
    }

    TEST_CASE(
        "nothing begins to be emitted while a pause is being stored, and all does if it fails") {
        House house;
        Gate gate;
        Scheduler tasks(house.options());
        tasks.schedule(milliseconds(10), "\"x\"");
        house.hold("pwrite", R"("op":"pause")", gate, ENOSPC);
        std::thread pauser([&] { CHECK(errc_of([&] { tasks.pause(); }) == Errc::disk_full); });
        REQUIRE(gate.was_reached());
        house.clock.advance(tasks, milliseconds(10));
        CHECK_FALSE(tasks.next_wake());
        CHECK_FALSE(tasks.paused());  // it is not, as long as that is not stored
        CHECK(tasks.stats().emitted == 0);
        gate.open();
        pauser.join();
        CHECK_FALSE(tasks.paused());
        CHECK(eventually([&] { return tasks.stats().emitted == 1; }));
        house.files->ask(nullptr);
        tasks.pause();
        CHECK(tasks.paused());
    }

    TEST_CASE("what was held back for too long is missed when the pause ends") {
        House house;
        Options options = house.options();
        options.max_lateness = std::chrono::minutes(1);
        Scheduler tasks(options);
        const TaskId too_late = tasks.schedule(milliseconds(10), "\"x\"");
        const TaskId in_time = tasks.schedule(std::chrono::minutes(5), "\"x\"");
        tasks.pause();
        house.clock.advance(tasks, std::chrono::minutes(5));
        CHECK(tasks.find(too_late)->status == Status::pending);  // nothing is decided yet
        tasks.resume();
        REQUIRE(eventually([&] { return tasks.stats().emitted == 1; }));
        CHECK(tasks.find(too_late)->status == Status::missed);
        CHECK(tasks.find(in_time)->status == Status::emitted);
        CHECK(tasks.stats().missed == 1);
    }

    TEST_CASE("draining waits for the end of a pause, whoever drives") {
        for (const Drive drive : {Drive::thread, Drive::caller}) {
            CAPTURE(static_cast<int>(drive));
            Options options;
            options.drive = drive;
            Scheduler tasks(options);
            tasks.pause();
            tasks.schedule(milliseconds(0), "\"x\"");
            auto drained = std::async(std::launch::async, [&] { return tasks.drain(); });
            CHECK(drained.wait_for(milliseconds(20)) == std::future_status::timeout);
            CHECK(tasks.stats().emitted == 0);
            tasks.resume();
            REQUIRE(drained.wait_for(long_enough) == std::future_status::ready);
            CHECK(drained.get());
            CHECK(tasks.stats().emitted == 1);
        }
    }

    TEST_CASE("a reason is short text that can be shown anywhere") {
        Scheduler tasks;
        tasks.pause(std::string(500, 'x'));
        const std::string refused[] = {std::string(501, 'x'),
                                       std::string(10'000, 'x'),
                                       "a\nb",
                                       std::string("a\0b", 3),
                                       "\x1b[31m",
                                       "\x7f",
                                       "\xC3"};
        for (const std::string& reason : refused) {
            CAPTURE(reason);
            CHECK(errc_of([&] { tasks.pause(reason); }) == Errc::invalid_argument);
        }
        CHECK(tasks.paused()->reason == std::string(500, 'x'));
        tasks.stop();
        CHECK(errc_of([&] { tasks.pause(); }) == Errc::stopped);
        CHECK(errc_of([&] { tasks.resume(); }) == Errc::stopped);
    }

    TEST_CASE("the log tells of a pause, of its end, and at a start that nothing is emitted") {
        House house;
        std::mutex mutex;
        std::string said;
        Options options = house.options();
        options.log = [&](const scheduler::LogRecord& record) {
            const std::lock_guard<std::mutex> guard(mutex);
            said += record.text + '\n';
        };
        {
            Scheduler tasks(options);
            tasks.pause("why");
            tasks.pause("why not");
        }
        {
            Scheduler tasks(options);
            tasks.resume();
            tasks.resume();
        }
        CHECK(
            said ==
            "paused: nothing is emitted until resumed: why\n"
            "nothing is emitted until resumed: it was paused at 2026-03-01T12:00:00.000Z: why not\n"
            "resumed: tasks are emitted again\n");
    }

    TEST_CASE("pauses whose tickets are dropped are stored all the same, in their order") {
        House house;
        {
            Scheduler tasks(house.options());
            { (void)tasks.begin_pause("one"); }
            { (void)tasks.begin_resume(); }
            { (void)tasks.begin_pause("two"); }
        }
        Scheduler tasks(house.options());
        REQUIRE(tasks.paused());
        CHECK(tasks.paused()->reason == "two");
    }

    TEST_CASE("beside tasks that fall due all the time nothing is emitted after a pause") {
        TempDir dir;
        Options options;
        options.journal = dir.journal();
        options.fsync = Fsync::no;
        options.rewrite_min_bytes = 100'000;
        Scheduler tasks(options);
        std::atomic<bool> over{false};
        std::thread client([&] {
            std::mt19937 random(1);
            while (!over) tasks.schedule(milliseconds(random() % 3), "\"x\"");
        });
        std::thread reader([&] {
            while (!over) {
                (void)tasks.paused();
                (void)tasks.next_wake();
            }
        });
        for (int round = 0; round < 100; ++round) {
            tasks.pause();
            const std::uint64_t emitted = tasks.stats().emitted;
            std::this_thread::yield();
            CHECK(tasks.stats().emitted == emitted);
            CHECK(tasks.newest().seq() == emitted);
            tasks.resume();
        }
        over = true;
        client.join();
        reader.join();
        CHECK(tasks.drain());
        CHECK(tasks.stats().pending == 0);
    }

    TEST_CASE("a scheduler may be stopped while others pause and resume it") {
        for (int round = 0; round < 20; ++round) {
            Scheduler tasks;
            tasks.schedule(milliseconds(0), "\"x\"");
            std::vector<std::thread> threads;
            for (int i = 0; i < 3; ++i) {
                threads.emplace_back([&tasks, i] {
                    try {
                        for (;;) i % 2 == 0 ? tasks.pause() : tasks.resume();
                    } catch (const Error& error) {
                        CHECK(error.code() == Errc::stopped);
                    }
                });
            }
            tasks.stop();
            for (std::thread& thread : threads) thread.join();
        }
    }
}

namespace {

// Schedules what falls due at once and pauses for ever, and tells: "p" paused, "r" about to
// resume.
[[noreturn]] void work(const std::string& journal, std::uint64_t rewrite_min_bytes, int answers) {
    Options options;
    options.journal = journal;
    options.rewrite_min_bytes = rewrite_min_bytes;
    Scheduler tasks(options);
    std::thread client([&] {
        for (;;) tasks.schedule(milliseconds(1), "\"some text\"");
    });
    const auto tell = [answers](char what) {
        if (::write(answers, &what, 1) < 0) ::_exit(1);
    };
    for (;;) {
        tasks.pause("round");
        tell('p');
        std::this_thread::sleep_for(milliseconds(1));
        tell('r');
        tasks.resume();
        tell('R');
    }
}

// What a child told before it was killed.
std::string killed_at(milliseconds after, const std::string& journal,
                      std::uint64_t rewrite_min_bytes) {
    int answers[2];
    REQUIRE(::pipe(answers) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
        ::close(answers[0]);
        work(journal, rewrite_min_bytes, answers[1]);
    }
    ::close(answers[1]);
    std::thread killer([&] {
        std::this_thread::sleep_for(after);
        ::kill(child, SIGKILL);
    });
    std::string told;
    char buffer[4'096];
    for (ssize_t n; (n = ::read(answers[0], buffer, sizeof buffer)) > 0;) {
        told.append(buffer, static_cast<std::size_t>(n));
    }
    ::close(answers[0]);
    killer.join();
    ::waitpid(child, nullptr, 0);
    return told;
}

}  // namespace

TEST_SUITE("crash") {
    TEST_CASE("kill -9 takes no pause away, and nothing was emitted in one") {
        std::mt19937 random(4);
        for (int round = 0; round < 10; ++round) {
            CAPTURE(round);
            const TempDir dir;
            const bool replaces = round % 2 == 1;
            const std::string told = killed_at(milliseconds(10 + random() % 100), dir.journal(),
                                               replaces ? 20'000 : std::uint64_t{1} << 30);
            bool paused = false;
            // A replacement ends with the pause that it met, and then has what came meanwhile.
            for (const std::string& operation : operations_of(dir.read("tasks.jsonl"))) {
                if (operation == "pause") paused = true;
                if (operation == "resume") paused = false;
                if (!replaces) CHECK_FALSE((paused && operation == "emit"));
            }
            Options options;
            options.journal = dir.journal();
            const Scheduler tasks(options);
            CHECK(tasks.paused().has_value() == paused);
            if (!told.empty() && told.back() == 'p') CHECK(paused);
            if (!told.empty() && told.back() == 'R') CHECK((tasks.paused() || !paused));
        }
    }
}

}  // namespace pause_test
