// SPDX-License-Identifier: MIT
//
// What is promised whatever else goes on at the same time: stopping, cancelling in bulk,
// replacing the journal, syncing and logging.
#include "support.hpp"

namespace promises_test {

using namespace scheduler;
using namespace support;

namespace {

// A journal that asks before its calls, and a clock that stands still.
struct Asked {
    TempDir dir;
    TestClock clock;
    std::shared_ptr<AskingFiles> files = std::make_shared<AskingFiles>();

    Options options() {
        Options options;
        options.journal = dir.journal();
        options.now = clock.source();
        options.files = files;
        options.rewrite_min_bytes = 64'000;
        return options;
    }
    // Leaves that much in the journal that is of no more use.
    static void waste(Scheduler& tasks, std::uint64_t bytes) {
        const std::string message = '"' + std::string(1'000, 'x') + '"';
        while (tasks.stats().journal_bytes < bytes) {
            tasks.cancel(tasks.schedule(std::chrono::hours(24), message));
        }
    }
};

constexpr milliseconds soon = long_enough;  // less than a gate stays closed

// Schedules that many tasks, a second apart and from an hour ahead on.
std::vector<TaskId> schedule_many(Scheduler& tasks, int count) {
    std::vector<TaskRequest> requests;
    for (int i = 0; i < count; ++i) {
        const TimePoint due = tasks.now() + std::chrono::hours(1) + std::chrono::seconds(i);
        requests.push_back(TaskRequest::parse(
            R"({"timestamp":")" + format_time(due) + R"(","message":{}})", tasks.now()));
    }
    return support::schedule(tasks, requests).ids;
}

bool ends_tasks(const AskingFiles::Call& call) {
    return call.name == "pwrite" && (call.text.find(R"({"op":"cancel")") != call.text.npos ||
                                     call.text.find(R"({"op":"part")") != call.text.npos);
}

constexpr int many = 10'000;  // more than fit into two lines of a record

}  // namespace

TEST_SUITE("promises") {
    TEST_CASE("several threads may stop a scheduler at once, and each returns when it is over") {
        for (int round = 0; round < 20; ++round) {
            // On its own, so that a stop() that hangs fails the test and does not hang it.
            struct Run {
                Scheduler tasks;
                std::atomic<bool> ended{false};
                std::atomic<int> returned{0};
                std::atomic<int> too_early{0};
            };
            const auto run = std::make_shared<Run>();
            run->tasks.on_event([run = run.get()](const Event&) { run->ended = true; });
            run->tasks.schedule(milliseconds(0), "{}");
            REQUIRE(run->tasks.wait_for(scheduler::Cursor(0), support::long_enough));
            std::vector<std::thread> threads;
            for (int i = 0; i < 4; ++i) {
                threads.emplace_back([run] {
                    run->tasks.stop();
                    if (!run->ended) ++run->too_early;
                    ++run->returned;
                });
            }
            const bool all_returned = eventually([&] { return run->returned == 4; });
            for (std::thread& thread : threads) all_returned ? thread.join() : thread.detach();
            REQUIRE(all_returned);
            CHECK(run->too_early == 0);
            CHECK(errc_of([&] { run->tasks.schedule(milliseconds(0), "{}"); }) == Errc::stopped);
        }
    }

    TEST_CASE("under everysec syncs begin a second apart, however long they take") {
        using Clock = std::chrono::steady_clock;
        for (const milliseconds taken : {milliseconds(1'200), milliseconds(0)}) {
            CAPTURE(taken.count());
            const TempDir dir;
            const auto files = std::make_shared<AskingFiles>();
            Options options;
            options.journal = dir.journal();
            options.fsync = Fsync::everysec;
            options.files = files;
            std::mutex mutex;
            std::vector<std::pair<Clock::time_point, Clock::time_point>> syncs;  // begin and end
            Scheduler tasks(options);
            const auto start = Clock::now();
            files->ask([&](const AskingFiles::Call& call) {
                if (call.name != "fdatasync") return 0;
                const auto begin = Clock::now();
                if (taken > milliseconds(0)) std::this_thread::sleep_for(taken);  // a slow disk
                const std::lock_guard<std::mutex> guard(mutex);
                syncs.emplace_back(begin, Clock::now());
                return 0;
            });
            const auto count = [&] {
                const std::lock_guard<std::mutex> guard(mutex);
                return syncs.size();
            };
            CHECK(eventually([&] {  // something is written all the time
                tasks.schedule(std::chrono::hours(1), "{}");
                return count() >= 4;
            }));
            const std::size_t counted = count();
            const auto end = Clock::now();
            files->ask(nullptr);
            tasks.stop();
            // One that took longer than a second is followed at once by the next, unless this
            // machine was late every time.
            Clock::duration least = Clock::duration::max();
            for (std::size_t i = 1; i < 4; ++i) {
                least = std::min(least, syncs[i].first - syncs[i - 1].second);
            }
            if (taken > milliseconds(0)) CHECK(least / milliseconds(1) < 1'000);
            CHECK(counted <= static_cast<std::size_t>((end - start) / std::chrono::seconds(1)) + 2);
        }
    }

    TEST_CASE("while a new journal's directory is synced tasks are emitted, and changes wait") {
        Asked asked;
        const auto gate = std::make_shared<Gate>();
        {
            Scheduler tasks(asked.options());
            const TaskId id = tasks.schedule(std::chrono::hours(1), "{}");
            asked.files->ask([gate](const AskingFiles::Call& call) {
                if (call.name == "fsync") gate->pass();
                return 0;
            });
            Asked::waste(tasks, 60'000);
            std::thread last([&] { Asked::waste(tasks, 64'001); });
            REQUIRE(gate->was_reached());
            std::atomic<bool> stored{false};
            std::thread change([&] {
                tasks.schedule(std::chrono::hours(2), "{}");
                stored = true;
            });
            asked.clock.advance(tasks, std::chrono::hours(1));
            CHECK(tasks.wait_for(scheduler::Cursor(0), soon));
            CHECK(tasks.find(id)->status == Status::emitted);
            CHECK_FALSE(stored);
            gate->open();
            last.join();
            change.join();
            CHECK(tasks.stats().journal_rewrites >= 2);  // the first was that of opening
            CHECK_FALSE(tasks.stats().journal_failed);
        }
        asked.files->ask(nullptr);
        const Scheduler again(asked.options());
        CHECK(again.stats().retained == 1);  // the emission is in the new journal
        CHECK(again.stats().pending == 1);
    }

    TEST_CASE("while a replacement waits for a running sync tasks are emitted") {
        Asked asked;
        Gate sync;
        Gate prepared;
        std::atomic<bool> armed{false};
        Scheduler tasks(asked.options());
        std::vector<TaskId> ids;
        for (int i = 1; i <= 20; ++i) ids.push_back(tasks.schedule(std::chrono::hours(i), "{}"));
        Asked::waste(tasks, 62'000);
        prepared.open();
        asked.files->ask([&](const AskingFiles::Call& call) {
            const bool is_new = call.path.find(".new") != std::string::npos;
            if (call.name == "fdatasync" && !is_new && armed.exchange(false)) sync.pass();
            if (call.name == "open" && is_new) prepared.pass();
            return 0;
        });
        armed = true;
        std::thread group(
            [&] { tasks.schedule(std::chrono::hours(30), '"' + std::string(3'000, 'x') + '"'); });
        REQUIRE(sync.was_reached());
        asked.clock.advance(tasks, std::chrono::hours(1));  // which sees that the journal is large
        REQUIRE(tasks.wait_for(scheduler::Cursor(0), soon));
        REQUIRE(prepared.was_reached());
        for (std::uint64_t seq = 1; seq < 20; ++seq) {
            CAPTURE(seq);
            asked.clock.advance(tasks, std::chrono::hours(1));
            if (!tasks.wait_for(scheduler::Cursor(seq), soon)) {
                CHECK_MESSAGE(false, "a task waits for the sync");
                break;
            }
        }
        CHECK(tasks.stats().journal_rewrites == 1);  // that of opening: the sync still runs
        sync.open();
        group.join();
        CHECK(eventually([&] { return tasks.stats().journal_rewrites == 2; }));
        CHECK(support::event_ids(tasks) == ids);
        asked.files->ask(nullptr);
    }

    TEST_CASE("an event says when it was shown, not when its record was begun") {
        Asked asked;
        Gate gate;
        Scheduler tasks(asked.options());
        const TaskId id = tasks.schedule(std::chrono::hours(1), "{}");
        asked.files->ask([&](const AskingFiles::Call& call) {
            if (call.text.find(R"({"op":"emit")") == 0) gate.pass();
            return 0;
        });
        asked.clock.advance(tasks, std::chrono::hours(1));
        REQUIRE(gate.was_reached());
        CHECK(tasks.find(id)->status == Status::pending);
        asked.clock.advance(std::chrono::seconds(7));  // a slow disk
        gate.open();
        REQUIRE(tasks.wait_for(scheduler::Cursor(0), support::long_enough));
        const Event event = support::events_from(tasks, 0).events.front();
        CHECK(event.late() == std::chrono::seconds(7));
        CHECK(event.emitted_at == asked.clock.now());
        CHECK(tasks.stats().late == 1);
        asked.files->ask(nullptr);
    }

    TEST_CASE("whatever is said is said while no lock is held: a log may ask the scheduler") {
        // Asks on another thread, so that a lock which is held fails the test and does not hang
        // it.
        struct Asker {
            std::atomic<Scheduler*> tasks{nullptr};
            std::mutex mutex;
            std::vector<std::future<void>> answers;
            std::vector<std::string> said;
            std::vector<std::string> said_under_a_lock;

            void ask(const std::string& line) {
                auto answer = std::async(std::launch::async, [asked = tasks.load()] {
                    asked->stats();
                    asked->wait_for(Cursor(0), milliseconds(0));
                });
                const bool free = answer.wait_for(soon) == std::future_status::ready;
                const std::lock_guard<std::mutex> guard(mutex);
                said.push_back(line);
                if (!free) said_under_a_lock.push_back(line);
                answers.push_back(std::move(answer));
            }
            bool has_heard(const std::string& part) {
                const std::lock_guard<std::mutex> guard(mutex);
                return std::any_of(said.begin(), said.end(), [&part](const std::string& line) {
                    return line.find(part) != std::string::npos;
                });
            }
        } asker;
        Asked asked;
        Options options = asked.options();
        { const Scheduler first(options); }
        options.now = [clock = &asked.clock] { return clock->now(); };
        {
            Scheduler tasks(options);
            tasks.schedule(milliseconds(0), "{}");
            REQUIRE(tasks.wait_for(scheduler::Cursor(0), support::long_enough));
        }
        options.log = [&asker](const scheduler::LogRecord& record) {
            if (asker.tasks) asker.ask(record.text);
        };
        options.max_dead = 1;
        options.history = 1;
        options.sink_backlog = 4;
        options.max_lateness = std::chrono::minutes(1);
        asked.clock.advance(-std::chrono::hours(1));
        Scheduler tasks(options);
        asker.tasks = &tasks;
        CHECK(errc_of([&] { tasks.schedule(milliseconds(0), "{}"); }) == Errc::clock_untrusted);
        asked.clock.advance(std::chrono::hours(2));
        const TaskId late = tasks.schedule(std::chrono::minutes(1), "{}");
        CHECK(eventually([&] { return asker.has_heard("the clock has caught up"); }));
        asked.clock.advance(tasks, std::chrono::hours(1));
        CHECK(eventually([&] { return tasks.find(late)->status == Status::missed; }));
        CHECK(eventually([&] { return asker.has_heard("largest lateness"); }));

        tasks.open_sinks({{"slow", "test", "", false}});
        for (std::uint64_t seq = 1; seq <= 8; ++seq) {
            tasks.schedule(milliseconds(0), "{}");
            REQUIRE(tasks.wait_for(scheduler::Cursor(seq), support::long_enough));
            if (seq > 2) continue;
            tasks.settle(*tasks.next_delivery("slow"), Outcome::failed("it does not like it"));
        }
        CHECK(eventually([&] { return asker.has_heard("more than 1 dead letters"); }));
        asked.clock.advance(tasks, std::chrono::hours(1));  // then the history is trimmed
        CHECK(eventually([&] { return asker.has_heard("too far behind"); }));
        tasks.stop();
        const std::lock_guard<std::mutex> guard(asker.mutex);
        std::string under_a_lock;
        for (const std::string& line : asker.said_under_a_lock) under_a_lock += line + '\n';
        CHECK(under_a_lock == "");
        asker.answers.clear();
    }

    TEST_CASE("an event is shown before anything is said about it") {
        Asked asked;
        Gate gate;
        Options options = asked.options();
        options.max_lateness = std::chrono::minutes(1);
        options.log = [&gate](const scheduler::LogRecord&) { gate.pass(); };
        Scheduler tasks(options);
        tasks.schedule(std::chrono::hours(1), R"("missed")");
        tasks.schedule(std::chrono::hours(2), R"("shown")");
        asked.clock.advance(tasks, std::chrono::hours(2));
        REQUIRE(gate.was_reached());
        CHECK(tasks.wait_for(scheduler::Cursor(0), soon));
        gate.open();
        tasks.stop();
    }

    TEST_CASE("cancelling in bulk that fails on its way has cancelled nothing") {
        for (int failing = 0; failing < 3; ++failing) {
            CAPTURE(failing);
            Asked asked;
            std::vector<TaskId> ids;
            {
                Scheduler tasks(asked.options());
                ids = schedule_many(tasks, many);
                int written = 0;
                asked.files->ask([&](const AskingFiles::Call& call) {
                    return ends_tasks(call) && written++ == failing ? EIO : 0;
                });
                CHECK(errc_of([&] { tasks.cancel(DueRange{}); }) == Errc::journal_failed);
                CHECK(written > failing);
                asked.files->ask(nullptr);
                CHECK((support::pending_ids(tasks) == ids));
                CHECK(tasks.stats().cancelled == 0);
                CHECK(tasks.cancel(ids.back()));  // what was begun is not ended by another record
                ids.pop_back();
                CHECK((support::pending_ids(tasks) == ids));
            }
            Scheduler again(asked.options());
            CHECK((support::pending_ids(again) == ids));
            asked.clock.advance(again, std::chrono::hours(2));  // and they are emitted as ever
            CHECK(eventually([&] { return again.stats().emitted >= 3'600; }));
            const std::size_t rest = again.cancel(DueRange{});
            CHECK(rest == again.stats().cancelled);
            CHECK(again.stats().pending == 0);
            CHECK(again.stats().emitted + again.stats().cancelled == ids.size());
        }
    }

    TEST_CASE("cancelling in bulk ends with what was stored before it, whatever comes meanwhile") {
        Asked asked;
        Options options = asked.options();
        options.fsync = Fsync::no;
        Scheduler tasks(options);
        schedule_many(tasks, many);
        const auto later =
            TaskRequest::parse(R"({"timestamp":"2026-03-01T13:30:00Z","message":{}})", tasks.now());
        const std::vector<TaskRequest> batch(2'000, later);
        std::vector<TaskId> come;
        std::vector<Ticket> tickets;
        int rounds = 0;
        asked.files->ask([&](const AskingFiles::Call& call) {
            if (!ends_tasks(call) || ++rounds > 50) return 0;
            // On a thread of its own, as whoever writes holds the file.
            std::thread([&] { tickets.push_back(tasks.submit(batch)); }).join();
            const std::vector<TaskId>& ids = tickets.back().ids();
            come.insert(come.end(), ids.begin(), ids.end());
            return 0;
        });
        CHECK(tasks.cancel(DueRange{}) == many);
        CHECK(rounds <= 50);
        asked.files->ask(nullptr);
        for (Ticket& ticket : tickets) ticket.wait();
        CHECK(!come.empty());
        CHECK((support::pending_ids(tasks) == come));
        asked.files->ask(nullptr);
    }

    TEST_CASE("while tasks are cancelled in bulk they are shown, and everything else goes on") {
        Asked asked;
        Gate gate;
        std::atomic<int> written{0};  // lives longer than the thread that syncs
        Scheduler tasks(asked.options());
        const TaskId other = tasks.schedule(std::chrono::minutes(30), R"("other")");
        const std::vector<TaskId> ids = schedule_many(tasks, many);
        asked.files->ask([&](const AskingFiles::Call& call) {  // a slow sync, when all is written
            if (ends_tasks(call)) ++written;
            if (call.name == "fdatasync" && written == 3) gate.pass();
            return 0;
        });
        const TimePoint half_past = tasks.now() + std::chrono::minutes(45);
        std::atomic<bool> cancelled{false};
        std::thread bulk([&] {
            CHECK(tasks.cancel(DueRange{half_past, std::nullopt}) == many);
            cancelled = true;
        });
        REQUIRE(gate.was_reached());
        CHECK(tasks.stats().pending == many + 1);
        CHECK(support::pending_ids(tasks).size() == many + 1);
        CHECK(tasks.find(ids[5'000])->status == Status::pending);
        asked.clock.advance(tasks, std::chrono::hours(2));  // some of them are due by now
        CHECK(tasks.wait_for(scheduler::Cursor(0), soon));
        CHECK((support::event_ids(tasks) == std::vector<TaskId>{other}));
        CHECK(support::pending_ids(tasks).size() == many);
        CHECK_FALSE(cancelled);
        gate.open();
        bulk.join();
        CHECK(tasks.stats().pending == 0);
        CHECK(tasks.stats().cancelled == many);
        CHECK_FALSE(tasks.find(ids[5'000]));
        CHECK((support::event_ids(tasks) == std::vector<TaskId>{other}));
        asked.files->ask(nullptr);
    }

    TEST_CASE("a journal that ends before the last line of a bulk cancel has cancelled nothing") {
        Asked asked;
        std::vector<TaskId> ids;
        {
            Options options = asked.options();
            options.rewrite_min_bytes = std::uint64_t{1} << 30;
            Scheduler tasks(options);
            ids = schedule_many(tasks, many);
            CHECK(tasks.cancel(DueRange{}) == many);
        }
        const std::string whole = asked.dir.read("tasks.jsonl");
        std::vector<std::size_t> ends;  // of its lines
        for (std::size_t at = 0; at < whole.size(); ++at) {
            if (whole[at] == '\n') ends.push_back(at + 1);
        }
        REQUIRE(ends.size() > 4);  // a head, tasks and three lines of ids
        for (std::size_t line = ends.size() - 4; line < ends.size(); ++line) {
            for (const std::size_t cut : {ends[line] - 1, ends[line]}) {
                CAPTURE(cut);
                asked.dir.write("tasks.jsonl", whole.substr(0, cut));
                const Scheduler tasks(asked.options());
                const bool is_whole = cut >= whole.size() - 1;
                CHECK(tasks.stats().pending == (is_whole ? 0 : many));
                CHECK(tasks.stats().damaged_lines == 0);
            }
        }
    }

    TEST_CASE("a journal that is replaced beside bulk cancels keeps what they did, whole") {
        for (unsigned seed = 1; seed <= 3; ++seed) {
            CAPTURE(seed);
            Asked asked;
            Options options = asked.options();
            options.fsync = Fsync::no;
            std::size_t pending = 0;
            {
                Scheduler tasks(options);
                std::atomic<bool> done{false};
                std::thread churn([&] {  // the journal is replaced again and again
                    const std::string message = '"' + std::string(1'000, 'x') + '"';
                    while (!done) tasks.cancel(tasks.schedule(std::chrono::minutes(5), message));
                });
                const DueRange range{tasks.now() + std::chrono::minutes(30), std::nullopt};
                for (int round = 0; round < 4; ++round) {
                    schedule_many(tasks, many);
                    CHECK(tasks.cancel(range) == many);
                }
                schedule_many(tasks, 10);
                CHECK(eventually([&] { return tasks.stats().journal_rewrites > 5; }));
                done = true;
                churn.join();
                pending = tasks.stats().pending;
                CHECK(pending == 10);
            }
            const Scheduler again(options);
            CHECK(again.stats().pending == pending);
            CHECK(again.stats().damaged_lines == 0);
        }
    }

    TEST_CASE("single changes beside bulk cancels: each task is ended once, by one of them") {
        TestClock clock;
        Options options;
        options.now = clock.source();
        for (int round = 0; round < 5; ++round) {
            CAPTURE(round);
            Scheduler tasks(options);
            const std::vector<TaskId> ids = schedule_many(tasks, 5'000);
            std::atomic<std::size_t> ended{0};
            std::vector<std::thread> threads;
            for (std::size_t first = 0; first < 2; ++first) {
                threads.emplace_back([&, first] {
                    for (std::size_t i = first; i < ids.size(); i += 7) {
                        ended += tasks.cancel(ids[i]) ? 1 : 0;
                    }
                });
                threads.emplace_back([&] { ended += tasks.cancel(DueRange{}); });
            }
            threads.emplace_back([&] {
                const auto move = TaskRequest::parse_change(R"({"delay":"30m"})", clock.now());
                for (std::size_t i = ids.size(); i-- > 0;) {
                    try {
                        support::change(tasks, ids[i], move);
                    } catch (const Error& error) {
                        CHECK(error.code() == Errc::unknown_task);
                    }
                }
            });
            for (std::thread& thread : threads) thread.join();
            CHECK(ended == ids.size());
            CHECK(tasks.stats().pending == 0);
            CHECK(tasks.stats().bytes == 0);
            CHECK(tasks.stats().cancelled == ids.size());
        }
    }

    TEST_CASE("tickets that nobody waits for may go at any moment of their being stored") {
        const TempDir dir;
        Options options;
        options.journal = dir.journal();
        options.fsync = Fsync::no;
        Scheduler tasks(options);
        std::atomic<bool> over{false};
        std::thread waiting([&] {  // whose waiting stores what others have begun
            while (!over) tasks.schedule(std::chrono::hours(1), "\"x\"");
        });
        std::size_t begun = 0;
        for (; begun < 30'000; ++begun) {
            const Ticket dropped = tasks.submit(std::vector<NewTask>{{tasks.now(), "\"x\""}});
        }
        over = true;
        waiting.join();
        CHECK(eventually([&] { return tasks.stats().emitted == begun; }));
    }

    TEST_CASE("what a journal could not say, or not read again, is refused") {
        const TempDir dir;
        Options options;
        options.journal = dir.journal();
        const auto refused = [](auto call) {
            try {
                call();
            } catch (const Error& error) {
                return error.code() == Errc::invalid_argument;
            }
            return false;
        };
        {
            Scheduler tasks(options);
            const std::vector<NewTask> one{{tasks.now() + std::chrono::hours(1), "\"x\""}};
            CHECK(refused([&] { tasks.submit(one, "\xff\xfe").wait(); }));
            CHECK(refused([&] { tasks.submit(std::vector<TaskRequest>(1)).wait(); }));
            CHECK(refused([&] { tasks.schedule(milliseconds::max(), "\"x\""); }));
            CHECK(refused([&] { tasks.schedule(TimePoint::max(), "\"x\""); }));
            CHECK(refused([&] { tasks.schedule(TimePoint::min(), "\"x\""); }));
            CHECK(!tasks.wait_for(Cursor::now(), milliseconds::min()));
            Options none;
            none.make_journal = [] { return nullptr; };
            CHECK(refused([&] { const Scheduler without(none); }));
            tasks.submit(one, "a good key").wait();
        }
        for (const TimePoint time : {TimePoint::min(), TimePoint::max()}) {
            options.now = [time] { return time; };
            options.trust_clock = true;
            CHECK(Scheduler(options).stats().recovered == 1);
        }
    }
}

}  // namespace promises_test
