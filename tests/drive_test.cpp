// SPDX-License-Identifier: MIT
//
// Who runs what: subscriptions and other callbacks, waiting, draining, stopping, and a scheduler
// without any thread.
#include "support.hpp"

namespace drive_test {

using namespace scheduler;
using namespace support;

namespace {

constexpr milliseconds a_while{30};  // for what must not happen

// What a callback was given.
class Heard {
public:
    Scheduler::Callback callback() {
        return [this](const Event& event) {
            const std::lock_guard<std::mutex> guard(mutex_);
            ids_.push_back(event.id);
        };
    }
    std::vector<TaskId> ids() const {
        const std::lock_guard<std::mutex> guard(mutex_);
        return ids_;
    }
    bool has(const std::vector<TaskId>& all) const {
        return eventually([&] { return ids().size() >= all.size(); }) && ids() == all;
    }

private:
    mutable std::mutex mutex_;
    std::vector<TaskId> ids_;
};

Options with(TestClock& clock, Drive drive = Drive::thread) {
    Options options;
    options.now = clock.source();
    options.drive = drive;
    return options;
}

// Emits one event.
TaskId emit(Scheduler& tasks) {
    const std::uint64_t next = tasks.newest().seq();
    const TaskId id = tasks.schedule(milliseconds(0), "\"x\"");
    if (tasks.drive() == Drive::caller) tasks.run_due();
    REQUIRE(tasks.wait_for(Cursor(next), long_enough));
    return id;
}

// The threads of this process; one that has ended may be among them for a moment longer.
std::set<std::string> threads() {
    std::set<std::string> names;
    DIR* directory = ::opendir("/proc/self/task");
    while (const dirent* entry = ::readdir(directory)) {
        if (entry->d_name[0] != '.') names.insert(entry->d_name);
    }
    ::closedir(directory);
    return names;
}

// How many there are now that were not there before.
std::size_t threads_since(const std::set<std::string>& before) {
    const std::set<std::string> now = threads();
    return static_cast<std::size_t>(std::count_if(
        now.begin(), now.end(), [&](const auto& name) { return before.count(name) == 0; }));
}

}  // namespace

TEST_SUITE("drive") {
    TEST_CASE("a subscription begins where its cursor says, whoever drives") {
        for (const Drive drive : {Drive::thread, Drive::caller}) {
            CAPTURE(drive == Drive::caller);
            TestClock clock;
            Scheduler tasks(with(clock, drive));
            std::vector<TaskId> ids;
            for (int i = 0; i < 3; ++i) ids.push_back(emit(tasks));
            const Event second = support::events_from(tasks, 1).events.front();
            Heard all;
            Heard later;
            Heard behind;
            Heard beyond;
            const Subscription a = tasks.subscribe(all.callback(), Cursor::earliest());
            const Subscription b = tasks.subscribe(later.callback());
            const Subscription c = tasks.subscribe(behind.callback(), Cursor::behind(second));
            const Subscription d = tasks.subscribe(beyond.callback(), Cursor(1'000'000));
            ids.push_back(emit(tasks));
            if (drive == Drive::caller) CHECK(tasks.next_wake() == std::nullopt);
            CHECK(all.has(ids));
            CHECK(later.has({ids[3]}));
            CHECK(behind.has({ids[2], ids[3]}));
            CHECK(beyond.has({ids[3]}));  // no event that comes is passed over
        }
    }

    TEST_CASE("what was stopped is not called again, and stopping waits for a running call") {
        TestClock clock;
        Scheduler tasks(with(clock));
        int calls = 2;  // more than one: on a busy machine the first may end before the stop begins
        for (int round = 0; round < 20 && calls > 1; ++round) {
            Gate gate;
            std::atomic<int> begun{0};
            std::atomic<int> returned{0};
            Subscription subscription = tasks.subscribe([&](const Event&) {
                ++begun;
                gate.pass();
                ++returned;
            });
            emit(tasks);
            emit(tasks);
            REQUIRE(gate.was_reached());
            std::thread opener([&] {
                std::this_thread::sleep_for(a_while);
                gate.open();
            });
            subscription.stop();
            calls = begun;
            CHECK(returned == calls);
            opener.join();
            subscription.stop();  // once more is nothing
            emit(tasks);
            CHECK(begun == calls);
        }
        CHECK(calls == 1);
    }

    TEST_CASE("a subscription may end itself inside its call, and leaves no thread behind") {
        for (const Drive drive : {Drive::thread, Drive::caller}) {
            CAPTURE(drive == Drive::caller);
            TestClock clock;
            Scheduler tasks(with(clock, drive));
            const auto before = threads();
            for (int i = 0; i < 50; ++i) {
                auto holder = std::make_shared<Subscription>();
                auto ready = std::make_shared<Gate>();
                std::atomic<int> calls{0};
                *holder = tasks.subscribe([&calls, holder, ready](const Event&) {
                    ready->pass();
                    ++calls;
                    holder->stop();
                    *holder = Subscription();
                });
                ready->open();
                emit(tasks);
                emit(tasks);
                REQUIRE(eventually([&] { return calls == 1; }));
            }
            Heard heard;
            const Subscription last = tasks.subscribe(heard.callback());
            CHECK(heard.has({emit(tasks)}));
            CHECK(eventually([&] { return threads_since(before) <= 2; }));
        }
    }

    TEST_CASE("a subscription may outlive its scheduler, or be moved") {
        for (const Drive drive : {Drive::thread, Drive::caller}) {
            TestClock clock;
            Heard heard;
            Subscription outer;
            std::vector<TaskId> ids;
            {
                Scheduler tasks(with(clock, drive));
                Subscription inner = tasks.subscribe(heard.callback());
                ids.push_back(emit(tasks));
                outer = std::move(inner);
                ids.push_back(emit(tasks));
            }
            CHECK(heard.ids() == ids);  // the end hands out what was emitted
            outer.stop();
        }
    }

    TEST_CASE("what a callback throws goes to on_error, and it is called on") {
        for (const Drive drive : {Drive::thread, Drive::caller}) {
            TestClock clock;
            Options options = with(clock, drive);
            std::atomic<int> errors{0};
            options.on_error = [&](std::exception_ptr error) {
                ++errors;
                std::rethrow_exception(error);  // nor does that end anything
            };
            Scheduler tasks(options);
            const Subscription a = tasks.subscribe([](const Event&) { throw 5; });
            Heard heard;
            tasks.on_event(heard.callback());
            const std::vector<TaskId> ids{emit(tasks), emit(tasks)};
            CHECK(eventually([&] { return errors == 2; }));
            CHECK(heard.has(ids));
        }
    }

    TEST_CASE("many subscribe and stop at once, beside emission and the end") {
        for (int round = 0; round < 5; ++round) {
            auto tasks = std::make_unique<Scheduler>();
            std::vector<std::thread> clients;
            for (int i = 0; i < 6; ++i) {
                clients.emplace_back([&] {
                    std::vector<Subscription> mine;
                    std::atomic<std::uint64_t> heard{0};
                    for (int n = 0; n < 60; ++n) {
                        try {
                            mine.push_back(tasks->subscribe([&heard](const Event&) { ++heard; },
                                                            Cursor::earliest()));
                            static_cast<void>(tasks->submit({NewTask{tasks->now(), "\"x\""}}));
                        } catch (const Error& error) {
                            CHECK(error.code() == Errc::stopped);
                        }
                        if (n % 3 == 0) mine.clear();
                    }
                    mine.clear();
                });
            }
            std::thread stopper([&] {
                while (tasks->stats().emitted < 50) std::this_thread::yield();
                tasks->stop();
            });
            CHECK(returns([&] {
                for (std::thread& client : clients) client.join();
                stopper.join();
            }));
        }
    }

    TEST_CASE("waiting for the next event waits for one that is still to come") {
        TestClock clock;
        Scheduler tasks(with(clock));
        emit(tasks);
        CHECK(tasks.wait_for(Cursor::earliest(), milliseconds(0)));
        CHECK_FALSE(tasks.wait_for(Cursor::now(), a_while));
        CHECK_FALSE(tasks.wait_for(Cursor(1), milliseconds(-5)));
        auto woken = std::async(std::launch::async, [&] {
            return tasks.wait_for(Cursor::now(), milliseconds::max() - milliseconds(1));
        });
        REQUIRE(eventually([&] {  // the first may come before it waits
            emit(tasks);
            return woken.wait_for(a_while) == std::future_status::ready;
        }));
        CHECK(woken.get());
        auto stopped = std::async(
            std::launch::async, [&] { return tasks.wait_for(Cursor::now(), milliseconds::max()); });
        tasks.stop();
        REQUIRE(stopped.wait_for(long_enough) == std::future_status::ready);
        CHECK_FALSE(stopped.get());
    }

    TEST_CASE("draining stores what was begun, also what the one that drains holds the ticket of") {
        for (const Drive drive : {Drive::thread, Drive::caller}) {
            CAPTURE(drive == Drive::caller);
            const TempDir dir;
            Options options;
            options.drive = drive;
            options.journal = dir.journal();
            Scheduler tasks(options);
            tasks.schedule(std::chrono::hours(1), "\"never\"");
            const Ticket added = tasks.submit({NewTask{tasks.now() + a_while, "\"x\""}});
            const Ticket bulk =
                tasks.begin_cancel(DueRange{tasks.now() + std::chrono::minutes(1), {}});
            Heard heard;
            tasks.on_event(heard.callback());
            CHECK(returns([&] { CHECK(tasks.drain()); }));
            CHECK(heard.ids() == added.ids());
        }
    }

    TEST_CASE("draining and stopping inside a callback are refused, whoever drives") {
        for (const Drive drive : {Drive::thread, Drive::caller}) {
            CAPTURE(drive == Drive::caller);
            Options options;
            options.drive = drive;
            Scheduler tasks(options);
            std::atomic<int> refused{0};
            tasks.on_event([&](const Event&) {
                refused += errc_of([&] { tasks.drain(); }) == Errc::invalid_argument;
                refused += errc_of([&] { tasks.stop(); }) == Errc::invalid_argument;
                CHECK(tasks.run_due() == 0);
            });
            emit(tasks);
            CHECK(tasks.drain());
            CHECK(refused == 2);
        }
    }

    TEST_CASE("draining under a clock that does not go by itself is refused by who must move it") {
        TestClock clock;
        Scheduler tasks(with(clock, Drive::caller));
        CHECK(tasks.drain());
        tasks.schedule(milliseconds(0), "\"x\"");
        CHECK(tasks.drain());
        CHECK(tasks.stats().emitted == 1);
        tasks.schedule(milliseconds(1), "\"x\"");
        CHECK(errc_of([&] { tasks.drain(); }) == Errc::invalid_argument);
        clock.advance(milliseconds(1));
        CHECK(tasks.drain());
    }

    TEST_CASE("whoever drives draining ends when another thread stops the scheduler") {
        for (const Drive drive : {Drive::thread, Drive::caller}) {
            CAPTURE(drive == Drive::caller);
            Options options;
            options.drive = drive;
            Scheduler tasks(options);
            tasks.schedule(std::chrono::hours(1), "\"x\"");
            auto drained = std::async(std::launch::async, [&] { return tasks.drain(); });
            std::this_thread::sleep_for(a_while);
            std::thread first([&] { tasks.stop(); });
            tasks.stop();
            first.join();
            REQUIRE(drained.wait_for(long_enough) == std::future_status::ready);
            CHECK_FALSE(drained.get());
            CHECK(tasks.next_wake() == (drive == Drive::caller ? std::nullopt : tasks.next_wake()));
            CHECK(tasks.run_due() == 0);
        }
    }

    TEST_CASE("the policy says how often the journal of a task is synced") {
        const auto syncs_of = [](Fsync fsync) {
            const TempDir dir;
            TestClock clock;
            Options options = with(clock, Drive::caller);
            options.journal = dir.journal();
            options.fsync = fsync;
            Scheduler tasks(options);
            const std::uint64_t before = tasks.stats().journal_syncs;
            for (int i = 0; i < 100; ++i) {
                tasks.schedule(std::chrono::seconds(1), "\"x\"");
                clock.advance(std::chrono::seconds(1));
                CHECK(tasks.run_due() == 1);
            }
            if (fsync == Fsync::answers) CHECK_FALSE(tasks.next_wake());
            return tasks.stats().journal_syncs - before;
        };
        CHECK(syncs_of(Fsync::always) == 200);
        CHECK(syncs_of(Fsync::answers) == 100);
        CHECK(syncs_of(Fsync::no) == 0);
    }

    TEST_CASE("without threads there is none, and everything is done by who drives") {
        const TempDir dir;
        TestClock clock;
        Options options = with(clock, Drive::caller);
        options.journal = dir.journal();
        options.fsync = Fsync::everysec;
        options.rewrite_min_bytes = 20'000;
        options.history = 5;
        const auto before = threads();
        std::vector<TaskId> ids;
        Heard heard;
        Heard sunk;
        {
            Scheduler tasks(options);
            const Subscription subscription = tasks.subscribe(heard.callback());
            int tries = 0;
            Sinks sinks(tasks,
                        {{"sink", make_sink([&, callback = sunk.callback()](const Event& event) {
                              if (tries++ == 0) throw std::runtime_error("not now");
                              callback(event);
                          })}});
            for (int i = 0; i < 100; ++i) {
                const TimePoint due = clock.now() + std::chrono::hours(1);
                ids.push_back(tasks.schedule(due, '"' + std::string(500, 'x') + '"'));
                CHECK(tasks.run_due() == 0);
                CHECK(tasks.find(ids.back()));
                clock.set(due - milliseconds(1));
                CHECK(tasks.run_due() == 0);
                REQUIRE(tasks.next_wake());
                CHECK(*tasks.next_wake() >= clock.now());
                clock.set(due);
                CHECK(*tasks.next_wake() <= due);
                CHECK(tasks.run_due() == 1);
                CHECK(tasks.stats().emitted == ids.size());
            }
            CHECK(heard.ids() == ids);
            CHECK(sunk.ids() == ids);
            CHECK(tasks.stats().journal_rewrites > 1);
            CHECK(threads_since(before) == 0);
            // The last second is synced when next_wake() says so.
            const auto begin = tasks.stats().journal_syncs;
            CHECK(eventually([&] {
                const auto wake = tasks.next_wake();
                if (wake && *wake <= clock.now() + std::chrono::seconds(1)) {
                    clock.set(std::max(clock.now(), *wake));
                }
                tasks.run_due();
                return tasks.stats().journal_syncs > begin;
            }));
            clock.advance(std::chrono::hours(1));
            tasks.run_due();
            CHECK(tasks.stats().retained == 5);  // trimming is a wake-up like any other
            CHECK_FALSE(tasks.next_wake());
        }
        CHECK(threads_since(before) == 0);
        Scheduler again(options);
        CHECK(support::event_ids(again) == std::vector<TaskId>(ids.end() - 5, ids.end()));
        CHECK(threads_since(before) == 0);
    }

    TEST_CASE("without threads a failed journal is replaced by who meets that, one at a time") {
        const TempDir dir;
        const auto files = std::make_shared<AskingFiles>();
        Options options;
        options.drive = Drive::caller;
        options.journal = dir.journal();
        options.files = files;
        std::atomic<int> replacing{0};
        std::atomic<int> most{0};
        std::atomic<int> count{0};
        std::size_t kept = 0;
        {
            Scheduler tasks(options);
            files->ask([&](const AskingFiles::Call& call) {
                const bool is_new = call.path.find(".new") != std::string::npos;
                if (call.name == "open" && is_new) most = std::max<int>(most, ++replacing);
                if (call.name == "fsync") --replacing;
                return call.name == "fdatasync" && !is_new && ++count % 5 == 0 ? EIO : 0;
            });
            std::vector<std::thread> clients;
            std::atomic<std::size_t> stored{0};
            std::atomic<bool> over{false};
            for (int i = 0; i < 4; ++i) {
                clients.emplace_back([&] {
                    for (int n = 0; n < 50; ++n) {
                        try {
                            tasks.schedule(std::chrono::hours(1), "\"x\"");
                            ++stored;
                        } catch (const Error& error) {
                            CHECK(error.code() == Errc::journal_failed);
                        }
                    }
                });
            }
            std::thread driver([&] {
                while (!over) {
                    tasks.run_due();
                    std::this_thread::yield();
                }
            });
            CHECK(returns([&] {
                for (std::thread& client : clients) client.join();
                over = true;
                driver.join();
            }));
            CHECK(most == 1);
            kept = stored;
            CHECK(tasks.stats().pending == kept);
        }
        files->ask(nullptr);
        CHECK(Scheduler(options).stats().pending == kept);
    }

    TEST_CASE("without threads a journal that cannot be replaced has nobody run in circles") {
        const TempDir dir;
        TestClock clock;
        const auto files = std::make_shared<AskingFiles>();
        Options options = with(clock, Drive::caller);
        options.journal = dir.journal();
        options.files = files;
        Scheduler tasks(options);
        tasks.schedule(std::chrono::hours(1), "\"x\"");
        std::atomic<int> attempts{0};
        files->ask([&](const AskingFiles::Call& call) {
            attempts += call.name == "open" && call.path.find(".new") != std::string::npos;
            return call.name == "fdatasync" ? EIO : 0;
        });
        CHECK(errc_of([&] { tasks.schedule(std::chrono::hours(1), "\"y\""); }) ==
              Errc::outcome_unknown);
        tasks.run_due();
        REQUIRE(tasks.next_wake());
        CHECK(*tasks.next_wake() > clock.now());
        const int before = attempts;
        for (int i = 0; i < 5; ++i) tasks.run_due();
        CHECK(attempts == before);
        clock.set(*tasks.next_wake());
        tasks.run_due();
        CHECK(attempts == before + 1);
        files->ask(nullptr);
        clock.advance(-std::chrono::hours(1));
        clock.set(*tasks.next_wake());
        tasks.run_due();
        CHECK_FALSE(tasks.stats().journal_failed);
        tasks.schedule(std::chrono::hours(1), "\"y\"");
    }

    TEST_CASE(
        "without threads what was emitted is synced although the journal cannot be replaced") {
        const TempDir dir;
        TestClock clock;
        const auto files = std::make_shared<AskingFiles>();
        Options options = with(clock, Drive::caller);
        options.journal = dir.journal();
        options.files = files;
        options.rewrite_min_bytes = 1;
        Scheduler tasks(options);
        std::string last;  // call on the journal
        std::size_t attempts = 0;
        files->ask([&](const AskingFiles::Call& call) {
            const bool is_new = call.path.find(".new") != std::string::npos;
            if (!is_new) last = call.name;
            attempts += is_new && call.name == "open";
            return is_new && call.name == "pwrite" ? ENOSPC : 0;
        });
        for (int round = 0; round < 3; ++round) {
            for (int i = 0; i < 100; ++i)
                CHECK(tasks.cancel(tasks.schedule(std::chrono::hours(1), "\"x\"")));
            tasks.schedule(milliseconds(0), "\"x\"");
            CHECK(tasks.run_due() == 1);
            CHECK(last == "fdatasync");
        }
        CHECK(attempts > 0);
        files->ask(nullptr);
    }

    TEST_CASE("several threads that drive take turns: each event is given once, and in order") {
        Options options;
        options.drive = Drive::caller;
        Scheduler tasks(options);
        Heard heard;
        Heard sunk;
        tasks.on_event(heard.callback());
        std::vector<TaskId> ids;
        const TimePoint now = tasks.now();
        for (int i = 0; i < 3'000; ++i) ids.push_back(tasks.schedule(now, "\"x\""));
        std::atomic<std::size_t> emitted{0};
        {
            Sinks sinks(tasks, {{"sink", make_sink(sunk.callback())}});
            std::vector<std::thread> drivers;
            for (int i = 0; i < 4; ++i) {
                drivers.emplace_back([&] {
                    while (heard.ids().size() < ids.size()) emitted += tasks.run_due();
                });
            }
            for (std::thread& driver : drivers) driver.join();
            tasks.run_due();
        }
        CHECK(heard.ids() == ids);
        CHECK(sunk.ids() == ids);
        CHECK(emitted == ids.size());
    }

    TEST_CASE("a companion that was removed is not being run any more") {
        Options options;
        options.drive = Drive::caller;
        Scheduler tasks(options);
        Gate gate;
        std::atomic<bool> inside{false};
        std::atomic<bool> removed{false};
        const std::size_t handle = tasks.add_companion({nullptr,
                                                        [&] {
                                                            inside = true;
                                                            gate.pass();
                                                            CHECK_FALSE(removed);
                                                            inside = false;
                                                        },
                                                        nullptr});
        std::thread driver([&] { tasks.run_due(); });
        REQUIRE(gate.was_reached());
        std::thread remover([&] {
            tasks.remove_companion(handle);
            CHECK_FALSE(inside);
            removed = true;
        });
        std::this_thread::sleep_for(a_while);
        gate.open();
        remover.join();
        driver.join();
        // One may also remove itself.
        std::size_t own = 0;
        int runs = 0;
        own = tasks.add_companion({nullptr,
                                   [&] {
                                       ++runs;
                                       tasks.remove_companion(own);
                                   },
                                   nullptr});
        tasks.run_due();
        tasks.run_due();
        CHECK(runs == 1);
    }

    TEST_CASE("a clock of one's own shows what it was set to, and wakes the scheduler when told") {
        ManualClock clock(support::at("2026-03-01T12:00:00Z"));
        Options options;
        options.now = clock.source();
        Scheduler tasks(options);
        const TaskId id = tasks.schedule(std::chrono::hours(1), "\"x\"");
        clock.set(support::at("2026-03-01T13:00:00Z") - milliseconds(1));
        tasks.clock_changed();
        CHECK_FALSE(tasks.wait_for(Cursor(0), a_while));
        clock.advance(-std::chrono::hours(2));
        clock.advance(std::chrono::hours(2) + milliseconds(1));
        tasks.clock_changed();
        REQUIRE(tasks.wait_for(Cursor(0), long_enough));
        CHECK(tasks.now() == support::at("2026-03-01T13:00:00Z"));
        CHECK(tasks.find(id)->ended_at == tasks.now());
    }
}

}  // namespace drive_test
