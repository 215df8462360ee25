// SPDX-License-Identifier: MIT
//
// How a change flows: what is begun, who stores it, who wins, who waits, and what is shown
// meanwhile.
#include "support.hpp"

#include <random>

namespace tickets_test {

using namespace scheduler;
using namespace support;

namespace {

// A journal whose syncs can be held at a gate, made to fail, and counted; and a clock that
// stands still.
struct Disk {
    TempDir dir;
    TestClock clock;
    std::shared_ptr<AskingFiles> files = std::make_shared<AskingFiles>();
    std::mutex mutex;
    std::vector<std::string> said;  // guarded by mutex

    Options options(Drive drive = Drive::thread) {
        Options options;
        options.journal = dir.journal();
        options.now = clock.source();
        options.files = files;
        options.drive = drive;
        options.log = [this](const scheduler::LogRecord& record) {
            const std::lock_guard<std::mutex> guard(mutex);
            said.push_back(record.text);
        };
        return options;
    }
    // The next sync of the journal waits at the gate.
    void hold_next_sync(Gate& gate) {
        auto held = std::make_shared<std::atomic<bool>>(false);
        files->ask([&gate, held](const AskingFiles::Call& call) {
            if (call.name == "fdatasync" && !held->exchange(true)) gate.pass();
            return 0;
        });
    }
    // The next sync of the journal waits at the gate and fails then.
    void fail_next_sync(Gate& gate) {
        auto failed = std::make_shared<std::atomic<bool>>(false);
        files->ask([&gate, failed](const AskingFiles::Call& call) {
            if (call.name != "fdatasync" || failed->exchange(true)) return 0;
            gate.pass();
            return EIO;
        });
    }
    // From now on no record can be written; those of tasks that end can.
    void refuse_writes_of(const std::string& start) {
        files->ask([start](const AskingFiles::Call& call) {
            const bool refused =
                call.name == "pwrite" && call.text.find(start) != std::string_view::npos;
            return refused ? ENOSPC : 0;
        });
    }
    void go_well() { files->ask(nullptr); }
    void forget_what_was_said() {
        const std::lock_guard<std::mutex> guard(mutex);
        said.clear();
    }
    bool has_said(const std::string& part) {
        const std::lock_guard<std::mutex> guard(mutex);
        return std::any_of(said.begin(), said.end(), [&part](const std::string& line) {
            return line.find(part) != std::string::npos;
        });
    }
};

NewTask in_an_hour(const Scheduler& tasks, std::string message = "\"x\"") {
    return {tasks.now() + std::chrono::hours(1), std::move(message)};
}

std::vector<NewTask> many(const Scheduler& tasks, std::size_t count) {
    return std::vector<NewTask>(count, in_an_hour(tasks));
}

}  // namespace

TEST_SUITE("tickets") {
    TEST_CASE("nothing that is begun waits for the disk, whatever it is") {
        Disk disk;
        Gate gate;
        Scheduler tasks(disk.options());
        const TaskId one = tasks.schedule(std::chrono::hours(1), "\"one\"");
        const TaskId two = tasks.schedule(std::chrono::hours(1), "\"two\"");
        tasks.schedule(milliseconds(0), "\"event\"");
        REQUIRE(tasks.wait_for(Cursor(0), long_enough));
        disk.hold_next_sync(gate);
        std::thread waiter([&] { tasks.schedule(std::chrono::hours(3), "\"held\""); });
        REQUIRE(gate.was_reached());
        CHECK(returns([&] {
            Ticket added = tasks.submit(many(tasks, 3), "key");
            Ticket repeated = tasks.submit(many(tasks, 3), "key");
            Ticket cancelled = tasks.begin_cancel(one);
            Ticket changed = tasks.begin_change(two, TaskChange{{}, "\"new\""});
            Ticket forgotten = tasks.begin_forget(EventRange());
            Ticket bulk = tasks.begin_cancel(DueRange());
            CHECK(repeated.ids() == added.ids());
            CHECK(forgotten.count() == 1);
            CHECK(tasks.find(one)->status == Status::pending);
            CHECK(tasks.stats().pending == 2);  // what is not stored is not shown
            gate.open();
            for (Ticket* ticket : {&bulk, &added, &cancelled, &changed, &forgotten, &repeated}) {
                CHECK_FALSE(ticket->again());
                ticket->wait();
            }
        }));
        waiter.join();
        // Those that were stored before the bulk call was begun, and had not ended.
        CHECK_FALSE(tasks.find(one));
        CHECK_FALSE(tasks.find(two));
        CHECK(tasks.stats().pending == 4);
        CHECK(tasks.stats().retained == 0);
    }

    TEST_CASE("a dropped ticket is stored all the same, by the journal's thread") {
        Disk disk;
        TaskId id;
        {
            Scheduler tasks(disk.options());
            for (int i = 0; i < 50; ++i) {
                id = tasks.submit({in_an_hour(tasks)}).ids().front();
                REQUIRE(eventually([&] { return tasks.find(id).has_value(); }));
            }
            static_cast<void>(tasks.begin_cancel(id));
            REQUIRE(eventually([&] { return !tasks.find(id); }));
            static_cast<void>(tasks.begin_cancel(DueRange()));
            CHECK(eventually([&] { return tasks.stats().pending == 0; }));
            id = tasks.submit({in_an_hour(tasks)}).ids().front();
        }
        const Scheduler again(disk.options());
        CHECK(again.stats().pending == 1);
        CHECK(again.find(id));
    }

    TEST_CASE(
        "where nobody has threads the next run_due() stores what was begun, and next_wake() "
        "says so") {
        Disk disk;
        Scheduler tasks(disk.options(Drive::caller));
        tasks.run_due();
        CHECK_FALSE(tasks.next_wake());
        const Ticket kept = tasks.submit({in_an_hour(tasks)});
        CHECK(tasks.next_wake() == tasks.now());
        CHECK_FALSE(tasks.find(kept.ids().front()));
        CHECK(tasks.run_due() == 0);
        CHECK(tasks.find(kept.ids().front()));
        CHECK(tasks.next_wake() == tasks.now() + std::chrono::hours(1));
        static_cast<void>(tasks.begin_cancel(DueRange()));
        CHECK(tasks.next_wake() == tasks.now());
        tasks.run_due();
        CHECK(tasks.stats().pending == 0);
    }

    TEST_CASE(
        "stop() stores what was begun, whoever still holds the tickets, and they outlive it") {
        for (const Drive drive : {Drive::thread, Drive::caller}) {
            CAPTURE(drive == Drive::caller);
            Disk disk;
            std::vector<Ticket> tickets;
            {
                Scheduler tasks(disk.options(drive));
                const TaskId one = tasks.schedule(std::chrono::hours(1), "\"x\"");
                const TaskId two = tasks.schedule(std::chrono::hours(3), "\"x\"");
                tickets.push_back(tasks.submit({in_an_hour(tasks)}));
                tickets.push_back(tasks.begin_cancel(one));
                tickets.push_back(tasks.begin_cancel(one));
                tickets.push_back(tasks.begin_cancel(DueRange{tasks.now() + milliseconds(1), {}}));
                tickets.push_back(tasks.begin_cancel(two));
                tickets.push_back(tasks.submit({in_an_hour(tasks)}));
                CHECK(returns([&] { tasks.stop(); }));
                for (Ticket& ticket : tickets) ticket.wait();
                CHECK(tickets[3].count() == 1);
                CHECK(errc_of([&] { tasks.begin_cancel(two).wait(); }) == Errc::stopped);
                CHECK(errc_of([&] { tasks.begin_cancel(DueRange()).wait(); }) == Errc::stopped);
            }
            tickets.front().wait();
            disk.refuse_writes_of("\"op\":\"");
            {
                Scheduler tasks(disk.options(drive));
                CHECK(tasks.stats().pending == 2);
                tickets.push_back(tasks.submit({in_an_hour(tasks)}));
                tickets.push_back(tasks.begin_cancel(DueRange()));
            }
            tickets.clear();
            disk.go_well();
            CHECK(Scheduler(disk.options()).stats().pending == 2);
        }
    }

    TEST_CASE("waiting for a ticket again says the same again") {
        Disk disk;
        Scheduler tasks(disk.options());
        Ticket good = tasks.submit({in_an_hour(tasks)});
        good.wait();
        good.wait();
        CHECK(good.try_store());
        disk.refuse_writes_of("\"op\":\"schedule\"");
        Ticket bad = tasks.submit({in_an_hour(tasks)});
        for (int i = 0; i < 3; ++i) CHECK(errc_of([&] { bad.wait(); }) == Errc::disk_full);
        CHECK_FALSE(bad.try_store());
        CHECK_FALSE(disk.has_said("nobody waited"));
    }

    TEST_CASE("what nobody waited for and could not be stored is logged and counted") {
        Disk disk;
        Scheduler tasks(disk.options());
        tasks.schedule(std::chrono::hours(2), "\"x\"");
        disk.refuse_writes_of("\"op\":\"");
        const std::uint64_t before = tasks.stats().journal_failures;
        static_cast<void>(tasks.submit({in_an_hour(tasks)}));
        CHECK(eventually([&] { return disk.has_said("nobody waited"); }));
        CHECK(tasks.stats().journal_failures == before + 1);
        CHECK(tasks.stats().refused == 1);
        disk.forget_what_was_said();
        static_cast<void>(tasks.begin_cancel(DueRange()));
        CHECK(eventually([&] { return disk.has_said("nobody waited"); }));
        CHECK(tasks.stats().pending == 1);
    }

    TEST_CASE("a journal that fails under what nobody waits for is replaced, and all goes on") {
        Disk disk;
        Scheduler tasks(disk.options());
        tasks.schedule(std::chrono::hours(1), "\"x\"");
        Gate open;
        open.open();
        disk.fail_next_sync(open);
        static_cast<void>(tasks.submit({in_an_hour(tasks)}));
        CHECK(eventually([&] { return disk.has_said("nobody waited"); }));
        CHECK(eventually([&] { return !tasks.stats().journal_failed; }));
        CHECK(returns([&] { tasks.schedule(std::chrono::hours(1), "\"y\""); }));
        CHECK(tasks.stats().pending == 2);
    }

    TEST_CASE("the first who waits stores for all: one write and one sync") {
        Disk disk;
        Scheduler tasks(disk.options());
        std::vector<TaskId> ids;
        for (int i = 0; i < 3; ++i) ids.push_back(tasks.schedule(std::chrono::hours(1), "\"x\""));
        std::atomic<int> writes{0};
        std::atomic<int> syncs{0};
        disk.files->ask([&](const AskingFiles::Call& call) {
            if (call.name == "pwrite") ++writes;
            if (call.name == "fdatasync") ++syncs;
            return 0;
        });
        std::vector<Ticket> all;
        for (int i = 0; i < 20; ++i) all.push_back(tasks.submit({in_an_hour(tasks)}));
        all.push_back(tasks.begin_cancel(ids[0]));
        all.push_back(tasks.begin_change(ids[1], TaskChange{{}, "\"y\""}));
        all[7].wait();
        CHECK(tasks.stats().pending == 22);
        for (Ticket& ticket : all) ticket.wait();
        CHECK(writes == 1);
        CHECK(syncs == 1);
        disk.go_well();
    }

    TEST_CASE("a group that fails is undone as a whole, and later ones stand") {
        Disk disk;
        Gate gate;
        std::vector<TaskId> left;
        {
            Scheduler tasks(disk.options());
            std::vector<TaskId> ids;
            for (int i = 0; i < 3; ++i) {
                ids.push_back(tasks.schedule(std::chrono::hours(1), "\"old\""));
            }
            disk.fail_next_sync(gate);
            std::vector<Ticket> failing;
            failing.push_back(tasks.submit({in_an_hour(tasks)}, "key"));
            failing.push_back(tasks.begin_cancel(ids[0]));
            failing.push_back(tasks.begin_change(ids[1], TaskChange{{}, "\"new\""}));
            std::thread waiter(
                [&] { CHECK(errc_of([&] { failing[0].wait(); }) == Errc::journal_failed); });
            REQUIRE(gate.was_reached());
            Ticket later = tasks.submit({in_an_hour(tasks, "\"later\"")});
            Ticket repeated = tasks.submit({in_an_hour(tasks)}, "key");
            CHECK(repeated.ids() == failing[0].ids());
            gate.open();
            waiter.join();
            for (Ticket& ticket : failing) {
                CHECK(errc_of([&] { ticket.wait(); }) == Errc::journal_failed);
            }
            // It was on its way when its first request failed, and fails with it.
            CHECK(errc_of([&] { repeated.wait(); }) == Errc::journal_failed);
            later.wait();
            ids.push_back(later.ids().front());
            CHECK(support::pending_ids(tasks) == ids);
            CHECK(tasks.find(ids[1])->payload.str().find("old") != std::string::npos);
            CHECK(tasks.cancel(ids[0]));
            // The key belongs to nobody again.
            Ticket fresh = tasks.submit({in_an_hour(tasks)}, "key");
            CHECK(fresh.ids() != repeated.ids());
            fresh.wait();
            left = support::pending_ids(tasks);
            disk.go_well();
        }
        CHECK(support::pending_ids(Scheduler(disk.options())) == left);
    }

    TEST_CASE("a change that meets another begins nothing, and waits for the end of that alone") {
        Disk disk;
        Gate gate;
        Scheduler tasks(disk.options());
        const TaskId id = tasks.schedule(std::chrono::hours(1), "\"old\"");
        disk.fail_next_sync(gate);
        Ticket first = tasks.begin_change(id, TaskChange{{}, "\"new\""});
        std::thread waiter([&] { CHECK(errc_of([&] { first.wait(); }) == Errc::journal_failed); });
        REQUIRE(gate.was_reached());
        // Others come meanwhile, whose group the second one has no reason to wait for.
        Ticket other = tasks.submit({in_an_hour(tasks)});
        Ticket second = tasks.begin_cancel(id);
        Ticket third = tasks.begin_change(id, TaskChange{{}, "\"newer\""});
        CHECK(second.again());
        CHECK(third.again());
        CHECK_FALSE(second.try_store());
        gate.open();
        second.wait();  // without the other one's failure
        CHECK_FALSE(tasks.find(other.ids().front()));
        third.wait();
        waiter.join();
        CHECK(tasks.find(id)->payload.str().find("old") != std::string::npos);
        CHECK(tasks.cancel(id));
        disk.go_well();
    }

    TEST_CASE("whoever meets a bulk call that nobody waits for yet stores it") {
        Disk disk;
        Scheduler tasks(disk.options());
        const TaskId id = tasks.schedule(std::chrono::hours(1), "\"x\"");
        Ticket bulk = tasks.begin_cancel(DueRange());
        CHECK(tasks.find(id));
        CHECK(tasks.begin_cancel(id).again());
        CHECK(returns([&] { CHECK_FALSE(tasks.cancel(id)); }));
        CHECK_FALSE(tasks.find(id));
        bulk.wait();
        CHECK(bulk.count() == 1);
        CHECK(tasks.stats().cancelled == 1);
    }

    TEST_CASE("what is on its way is shown as it was, and is not emitted") {
        Disk disk;
        Gate gate;
        Scheduler tasks(disk.options());
        std::vector<TaskId> ids;
        for (int i = 1; i <= 9; ++i) {
            ids.push_back(tasks.schedule(std::chrono::minutes(i), "\"x\""));
        }
        disk.hold_next_sync(gate);
        Ticket cancelled = tasks.begin_cancel(ids[1]);
        Ticket changed =
            tasks.begin_change(ids[2], TaskChange{tasks.now() + std::chrono::hours(2), {}});
        Ticket sooner = tasks.begin_change(ids[8], TaskChange{tasks.now(), {}});
        Ticket bulk = tasks.begin_cancel(
            DueRange{tasks.now() + std::chrono::minutes(3), tasks.now() + std::chrono::minutes(6)});
        Ticket added = tasks.submit({NewTask{tasks.now(), "\"x\""}});
        std::thread waiter([&] { added.wait(); });
        REQUIRE(gate.was_reached());
        const auto check_shown = [&](std::size_t from) {
            TaskQuery query;
            query.limit = 2;
            std::vector<TaskId> shown;
            for (bool more = true; more;) {
                const TaskPage page = tasks.tasks(query);
                CHECK(page.total == ids.size() - from);
                for (const Task& task : page.tasks) {
                    shown.push_back(task.id);
                    CHECK(tasks.find(task.id)->due == task.due);
                }
                more = page.more;
                if (more) query.after = TaskCursor{page.tasks.back().due, page.tasks.back().id};
            }
            CHECK(shown ==
                  std::vector<TaskId>(ids.begin() + static_cast<std::ptrdiff_t>(from), ids.end()));
        };
        check_shown(0);
        disk.clock.advance(tasks, std::chrono::minutes(1));
        REQUIRE(tasks.wait_for(Cursor(0), long_enough));
        check_shown(1);
        disk.clock.advance(tasks, std::chrono::minutes(19));  // all are due
        // Only those are emitted that nothing is on its way for, and that is not waited for.
        REQUIRE(tasks.wait_for(Cursor(3), long_enough));
        CHECK(support::event_ids(tasks) == std::vector<TaskId>{ids[0], ids[5], ids[6], ids[7]});
        CHECK(tasks.find(ids[1])->status == Status::pending);
        CHECK_FALSE(tasks.find(added.ids().front()));
        gate.open();
        waiter.join();
        bulk.wait();
        CHECK(bulk.count() == 2);
        REQUIRE(tasks.wait_for(Cursor(5), long_enough));
        CHECK(tasks.stats().pending == 1);
        CHECK(tasks.find(ids[2])->due == at("2026-03-01T14:00:00Z"));
        CHECK(tasks.stats().emitted == 6);
    }

    TEST_CASE("what takes no more than a write can be stored by who must not wait for a sync") {
        for (const Fsync fsync : {Fsync::always, Fsync::answers, Fsync::everysec, Fsync::no}) {
            CAPTURE(static_cast<int>(fsync));
            const bool waits = fsync == Fsync::always || fsync == Fsync::answers;
            Disk disk;
            Options options = disk.options();
            options.fsync = fsync;
            Scheduler tasks(options);
            Ticket one = tasks.submit({in_an_hour(tasks)});
            CHECK(one.try_store() == !waits);
            CHECK(tasks.find(one.ids().front()).has_value() == !waits);
            one.wait();
            CHECK(one.try_store());
            CHECK(tasks.find(one.ids().front()));
            Ticket large = tasks.submit(many(tasks, 5'000));
            Ticket beside = tasks.submit({in_an_hour(tasks)});
            CHECK_FALSE(large.try_store());
            CHECK_FALSE(beside.try_store());
            large.wait();
            CHECK(beside.try_store());
            Ticket bulk = tasks.begin_cancel(DueRange());
            CHECK_FALSE(bulk.try_store());
            bulk.wait();
            CHECK(bulk.count() == 5'002);
            CHECK(bulk.try_store());
        }
    }

    TEST_CASE("every event is forgotten once, by whoever was first") {
        Disk disk;
        Scheduler tasks(disk.options());
        for (int i = 0; i < 20; ++i) tasks.schedule(milliseconds(0), "\"x\"");
        REQUIRE(tasks.wait_for(Cursor(19), long_enough));
        Ticket first = tasks.begin_forget(EventRange{Cursor(), Cursor(5)});
        CHECK(first.count() == 5);
        CHECK(tasks.begin_forget(EventRange()).again());
        std::atomic<std::size_t> count{0};
        std::vector<std::thread> others;
        for (int i = 0; i < 4; ++i) {
            others.emplace_back([&] { count += tasks.forget(EventRange()); });
        }
        for (std::thread& other : others) other.join();
        first.wait();
        CHECK(count == 15);
        CHECK(tasks.stats().retained == 0);
    }

    TEST_CASE("cancelling and emission race for a task, and one of them has it") {
        Disk disk;
        disk.clock.set(wall_clock());
        Options options = disk.options();
        options.now = nullptr;
        options.fsync = Fsync::no;
        Scheduler tasks(options);
        std::size_t cancelled = 0;
        std::size_t emitted = 0;
        for (int i = 0; i < 300; ++i) {
            const TaskId id = tasks.schedule(milliseconds(i % 3), "\"x\"");
            const auto met = errc_of([&] { cancelled += tasks.cancel(id); });
            if (met) {
                CHECK(*met == Errc::already_emitted);
                ++emitted;
            }
        }
        CHECK(tasks.drain());
        CHECK(cancelled + emitted == 300);
        CHECK(tasks.stats().emitted == emitted);
        CHECK(tasks.stats().retained == emitted);
    }

    TEST_CASE("a bulk call takes all that was stored before it, whatever is on its way to what") {
        const std::uint32_t seed = std::random_device{}();
        CAPTURE(seed);
        std::mt19937 random(seed);
        for (int round = 0; round < 200; ++round) {
            CAPTURE(round);
            TestClock clock;
            Options options;
            options.now = clock.source();
            Scheduler tasks(options);
            const auto hours = [&](std::uint_fast32_t n) {
                return tasks.now() + std::chrono::hours(n);
            };
            std::map<TaskId, TimePoint> model;  // what must be left: by id, when it is due
            for (int i = 0; i < 12; ++i) {
                const TimePoint due = hours(1 + random() % 10);
                model[tasks.schedule(due, "\"x\"")] = due;
            }
            std::vector<Ticket> on_their_way;
            std::map<TaskId, TimePoint> added;
            for (auto at = model.begin(); at != model.end();) {
                const auto what = random() % 4;
                if (what == 0) {
                    on_their_way.push_back(tasks.begin_cancel(at->first));
                    at = model.erase(at);
                    continue;
                }
                if (what == 1) {
                    at->second = hours(1 + random() % 10);
                    on_their_way.push_back(
                        tasks.begin_change(at->first, TaskChange{at->second, {}}));
                }
                if (what == 2) {
                    on_their_way.push_back(tasks.submit(many(tasks, 3)));
                    for (const TaskId id : on_their_way.back().ids()) added[id] = hours(1);
                }
                ++at;
            }
            const DueRange range{hours(random() % 8), hours(2 + random() % 10)};
            std::size_t count = 0;
            for (auto at = model.begin(); at != model.end();) {
                const bool taken = at->second > *range.after && at->second < *range.before;
                at = taken ? model.erase(at) : std::next(at);
                count += taken;
            }
            Ticket bulk = tasks.begin_cancel(range);
            // What comes after the call may meet it, and is not taken along.
            for (auto& [id, due] : model) {
                if (random() % 3 != 0) continue;
                Ticket change = tasks.begin_change(id, TaskChange{hours(3), {}});
                if (!change.again()) due = hours(3);
                on_their_way.push_back(std::move(change));
            }
            // Its tasks were not all stored when the call came: it takes none of a batch.
            model.insert(added.begin(), added.end());
            const auto settle = [&](Ticket& ticket) { ticket.wait(); };
            if (random() % 2 == 0) settle(bulk);
            std::shuffle(on_their_way.begin(), on_their_way.end(), random);
            for (Ticket& ticket : on_their_way) settle(ticket);
            settle(bulk);
            CHECK(bulk.count() == count);
            std::map<TaskId, TimePoint> left;
            TaskQuery all;
            all.limit = 1'000;
            for (const Task& task : tasks.tasks(all).tasks) left[task.id] = task.due;
            REQUIRE(left == model);
        }
    }

    TEST_CASE("what one bulk call has to let go the next one takes") {
        Disk disk;
        Scheduler tasks(disk.options());
        for (int i = 0; i < 10; ++i) tasks.schedule(std::chrono::hours(1 + i), "\"x\"");
        Ticket first = tasks.begin_cancel(DueRange());
        Ticket second = tasks.begin_cancel(DueRange{tasks.now() + std::chrono::hours(5), {}});
        CHECK(second.count() == 0);
        auto refused = std::make_shared<std::atomic<bool>>(false);
        disk.files->ask([refused](const AskingFiles::Call& call) {
            const bool is_cancel = call.text.find("\"op\":\"cancel\"") != std::string_view::npos;
            return is_cancel && !refused->exchange(true) ? ENOSPC : 0;
        });
        second.wait();
        CHECK(second.count() == 5);
        CHECK(errc_of([&] { first.wait(); }) == Errc::disk_full);
        CHECK(tasks.stats().pending == 5);
        CHECK(tasks.stats().cancelled == 5);
    }

    TEST_CASE(
        "a bulk call that the disk fails at any part has cancelled nothing, nor after a "
        "restart") {
        for (const bool syncing : {false, true}) {
            for (const int failing : {0, 1, 2}) {
                CAPTURE(syncing);
                CAPTURE(failing);
                Disk disk;
                {
                    Scheduler tasks(disk.options());
                    tasks.submit(many(tasks, 10'000)).wait();
                    std::atomic<int> part{0};
                    disk.files->ask([&](const AskingFiles::Call& call) {
                        if (call.path.find(".new") != std::string::npos) return 0;
                        if (syncing && call.name == "fdatasync") return part++ == failing ? EIO : 0;
                        const bool is_part = call.name == "pwrite" && call.text.size() > 1 &&
                                             call.text.find("\"ids\":[") != std::string_view::npos;
                        return !syncing && is_part && part++ == failing ? ENOSPC : 0;
                    });
                    REQUIRE(returns([&] {
                        CHECK(errc_of([&] { tasks.cancel(DueRange()); }) ==
                              (syncing ? Errc::journal_failed : Errc::disk_full));
                    }));
                    CHECK(tasks.stats().pending == 10'000);
                    CHECK(tasks.stats().cancelled == 0);
                    disk.go_well();
                    CHECK(returns([&] { tasks.schedule(std::chrono::hours(1), "\"more\""); }));
                }
                Scheduler again(disk.options());
                CHECK(again.stats().pending == 10'001);
                CHECK(again.cancel(DueRange()) == 10'001);
            }
        }
    }

    TEST_CASE("beside a large bulk call others schedule, change, read and emit as ever") {
        Disk disk;
        Options options = disk.options();
        options.fsync = Fsync::no;
        options.now = nullptr;
        options.rewrite_min_bytes = 1'000'000;  // so that the journal is replaced meanwhile too
        std::size_t kept = 0;
        {
            Scheduler tasks(options);
            constexpr std::size_t count = 200'000;
            std::vector<TaskId> before;
            for (std::size_t i = 0; i < count; i += 10'000) {
                Ticket batch = tasks.submit(many(tasks, 10'000));
                before.insert(before.end(), batch.ids().begin(), batch.ids().end());
                batch.wait();
            }
            std::atomic<bool> over{false};
            std::atomic<std::size_t> added{0};
            std::atomic<std::size_t> cancelled{0};
            std::vector<double> waits;  // for the lock, in milliseconds
            std::thread adding([&] {
                while (!over) {
                    tasks.schedule(std::chrono::hours(1), "\"new\"");
                    ++added;
                    std::this_thread::sleep_for(std::chrono::microseconds(200));
                }
            });
            std::thread changing([&] {
                std::mt19937 random(1);
                while (!over) {
                    const TaskId id = before[random() % before.size()];
                    try {
                        if (random() % 2 == 0) {
                            tasks.change(id, TaskChange{{}, "\"changed\""});
                        } else {
                            cancelled += tasks.cancel(id);
                        }
                    } catch (const Error& error) {
                        CHECK(error.code() == Errc::unknown_task);
                    }
                    std::this_thread::sleep_for(std::chrono::microseconds(200));
                }
            });
            std::thread reading([&] {
                do {
                    const auto start = std::chrono::steady_clock::now();
                    tasks.find(before.front());
                    const std::chrono::duration<double, std::milli> wait =
                        std::chrono::steady_clock::now() - start;
                    waits.push_back(wait.count());
                    std::this_thread::sleep_for(std::chrono::microseconds(100));
                } while (!over);
            });
            REQUIRE(eventually([&] { return added > 10; }));
            static_cast<void>(
                tasks.begin_cancel(DueRange{tasks.now() + std::chrono::hours(3), {}}));
            Ticket bulk = tasks.begin_cancel(DueRange());
            tasks.schedule(milliseconds(0), "\"due\"");
            CHECK(tasks.wait_for(Cursor(0), long_enough));
            bulk.wait();
            const std::size_t taken = bulk.count();
            const std::size_t then = added;
            REQUIRE(eventually([&] { return added > then + 10; }));
            over = true;
            for (std::thread* thread : {&adding, &changing, &reading}) thread->join();
            for (const TaskId id : before) REQUIRE_FALSE(tasks.find(id));
            kept = tasks.stats().pending;
            CHECK(tasks.stats().cancelled == taken + cancelled);
            CHECK(kept + taken + cancelled == count + added);
            std::sort(waits.begin(), waits.end());
            MESSAGE("waits for the lock: p99 ", waits[waits.size() * 99 / 100], " ms, at most ",
                    waits.back(), " ms");
            CHECK(waits[waits.size() / 2] < 50);
        }
        const Scheduler again(options);
        CHECK(again.stats().pending == kept);
    }
}

}  // namespace tickets_test
