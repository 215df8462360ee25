// SPDX-License-Identifier: MIT
//
// Tasks that are put by a name: which task a name means, and when it is free again.
#include "support.hpp"

#include <random>

namespace names_test {

using namespace scheduler;
using namespace support;

namespace {

struct Desk {
    TempDir dir;
    TestClock clock;
    std::shared_ptr<AskingFiles> files = std::make_shared<AskingFiles>();

    Options options() {
        Options options;
        options.journal = dir.journal();
        options.now = clock.source();
        options.files = files;
        options.rewrite_min_bytes = 20'000;
        return options;
    }
    NewTask in(milliseconds delay, std::string message = "\"x\"") {
        return {clock.now() + delay, std::move(message)};
    }
    // The next write of the journal that holds `part` waits at the gate.
    void hold_write_of(const std::string& part, Gate& gate) {
        auto held = std::make_shared<std::atomic<bool>>(false);
        files->ask([&gate, held, part](const AskingFiles::Call& call) {
            const bool is_it = call.name == "pwrite" && call.text.find(part) != call.text.npos;
            if (is_it && !held->exchange(true)) gate.pass();
            return 0;
        });
    }
    // The next sync waits at the gate, and then fails with that error, if it is one.
    void hold_next_sync(Gate& gate, int error = 0) {
        auto held = std::make_shared<std::atomic<bool>>(false);
        files->ask([&gate, held, error](const AskingFiles::Call& call) {
            if (call.name != "fdatasync" || held->exchange(true)) return 0;
            gate.pass();
            return error;
        });
    }
};

constexpr std::chrono::hours hour{1};

bool is_emitted(Scheduler& tasks, std::uint64_t seq) {
    return tasks.wait_for(Cursor(seq), long_enough);
}

}  // namespace

TEST_SUITE("names") {
    TEST_CASE("a put makes a task or replaces it in place, with everything but its id") {
        Desk desk;
        Scheduler tasks(desk.options());
        NewTask first = desk.in(hour, "\"first\"");
        first.topic = "garden";
        first.max_lateness = std::chrono::seconds(9);
        const PutResult made = tasks.put("valve", first);
        CHECK(made.created);
        CHECK(tasks.find("valve")->topic() == "garden");
        const PutResult replaced = tasks.put("valve", desk.in(2 * hour, "\"second\""));
        CHECK_FALSE(replaced.created);
        CHECK(replaced.id == made.id);
        const Task task = *tasks.find(made.id);
        CHECK(task.name() == "valve");
        CHECK(task.due == desk.clock.now() + 2 * hour);
        CHECK(message_of(task.text()) == "\"second\"");
        CHECK(task.topic().empty());
        CHECK_FALSE(task.max_lateness());
        CHECK(tasks.stats().pending == 1);
        CHECK(tasks.stats().scheduled == 1);
    }

    TEST_CASE("a name means the pending task alone, and is free again when that has ended") {
        Desk desk;
        Scheduler tasks(desk.options());
        const TaskId first = tasks.put("valve", desk.in(hour)).id;
        CHECK(tasks.change("valve", {desk.clock.now() + 2 * hour, {}}).id == first);
        CHECK(tasks.find("valve")->due == desk.clock.now() + 2 * hour);
        CHECK(tasks.cancel("valve"));
        CHECK_FALSE(tasks.cancel("valve"));
        CHECK_FALSE(tasks.find("valve"));
        CHECK(errc_of([&] { tasks.change("valve", {}); }) == Errc::unknown_task);
        const TaskId second = tasks.put("valve", desk.in(milliseconds(0))).id;
        CHECK(second != first);
        REQUIRE(is_emitted(tasks, 0));
        CHECK_FALSE(tasks.find("valve"));
        CHECK(tasks.find(second)->name() == "valve");  // as it was called
        const PutResult third = tasks.put("valve", desk.in(hour));
        CHECK(third.created);
        CHECK(third.id != second);
    }

    TEST_CASE("a put may be told only to make a task, or only to replace one") {
        Desk desk;
        Scheduler tasks(desk.options());
        CHECK(errc_of([&] { tasks.put("a", desk.in(hour), PutIf::present); }) ==
              Errc::condition_failed);
        CHECK_FALSE(tasks.find("a"));
        CHECK(tasks.put("a", desk.in(hour), PutIf::absent).created);
        CHECK(errc_of([&] { tasks.put("a", desk.in(2 * hour), PutIf::absent); }) ==
              Errc::condition_failed);
        CHECK(tasks.find("a")->due == desk.clock.now() + hour);
        CHECK_FALSE(tasks.put("a", desk.in(2 * hour), PutIf::present).created);
    }

    TEST_CASE("what cannot be a name is refused, and nothing else is looked at") {
        Desk desk;
        Scheduler tasks(desk.options());
        CHECK(tasks.put(std::string(128, 'n'), desk.in(hour)).created);
        CHECK(tasks.put("A-z_0.~", desk.in(hour)).created);
        for (const std::string& name :
             {std::string(), std::string(129, 'n'), std::string("."), std::string(".."),
              std::string("a/b"), std::string("a b"), std::string("ü"), std::string("a\0", 2),
              std::string("%41"), TaskId(1, 2).str()}) {
            CAPTURE(name);
            CHECK_FALSE(is_task_name(name));
            CHECK(errc_of([&] { tasks.put(name, desk.in(hour)); }) == Errc::invalid_argument);
            CHECK_FALSE(tasks.find(name));
            CHECK_FALSE(tasks.cancel(name));
        }
        CHECK(tasks.stats().pending == 2);
    }

    TEST_CASE("names outlive restarts and the journal's replacement") {
        Desk desk;
        TaskId first;
        {
            Scheduler tasks(desk.options());
            first = tasks.put("first", desk.in(hour)).id;
            tasks.put("second", desk.in(hour));
            for (int i = 0; i < 400; ++i) {
                tasks.put("second", desk.in(hour, '"' + std::string(100, 'x') + '"'));
            }
            CHECK(eventually([&] { return tasks.stats().journal_rewrites > 1; }));
            tasks.put("gone", desk.in(milliseconds(0)));
            REQUIRE(is_emitted(tasks, 0));
        }
        for (int round = 0; round < 2; ++round) {
            Scheduler tasks(desk.options());
            CHECK(tasks.stats().pending == 2);
            CHECK(tasks.find("first")->id == first);
            CHECK(tasks.find("second"));
            CHECK_FALSE(tasks.find("gone"));
            CHECK(events_from(tasks, 0).events.front().name() == "gone");
            CHECK_FALSE(tasks.put("first", desk.in(2 * hour)).created);
        }
    }

    TEST_CASE("where a journal has two tasks of one name, the newer has it") {
        for (const bool newer_ends : {false, true}) {
            for (const bool reversed : {false, true}) {
                CAPTURE(newer_ends);
                CAPTURE(reversed);
                Desk desk;
                detail::Details details;
                details.name = "valve";
                details.topic = "garden";
                std::vector<detail::TaskRef> both;
                for (const std::uint64_t number : {1U, 2U}) {
                    both.push_back(detail::TaskRef::make(id_of(number), desk.clock.now() + hour,
                                                         R"({"message":1})", details));
                }
                if (reversed) std::swap(both[0], both[1]);
                std::string lines;
                detail::write(lines, detail::HeadRecord());
                for (const auto& task : both) {
                    detail::write(lines, detail::ScheduleRecord{{}, {}, {task}});
                }
                if (newer_ends) {
                    detail::write(lines, detail::CancelRecord{desk.clock.now(), {}, {id_of(2)}});
                }
                desk.dir.write("tasks.jsonl", lines);
                Scheduler tasks(desk.options());
                CHECK(tasks.stats().pending == (newer_ends ? 1 : 2));
                CHECK(tasks.find("valve")->id == id_of(newer_ends ? 1 : 2));
                CHECK(tasks.find(id_of(1))->name() == (newer_ends ? "valve" : ""));
                CHECK(tasks.find(id_of(1))->topic() == "garden");
                CHECK(tasks.cancel("valve"));
                CHECK_FALSE(tasks.find("valve"));
            }
        }
    }

    TEST_CASE("what meets a put on its way is to be done again, and two puts end in one task") {
        Desk desk;
        Gate gate;
        Scheduler tasks(desk.options());
        desk.hold_next_sync(gate);
        std::thread first([&] { tasks.put("valve", desk.in(hour, "\"first\"")); });
        REQUIRE(gate.was_reached());
        CHECK_FALSE(tasks.find("valve"));  // what is not stored is not shown
        CHECK(tasks.tasks().tasks.empty());
        Ticket put = tasks.begin_put("valve", desk.in(2 * hour));
        Ticket cancelled = tasks.begin_cancel("valve");
        Ticket changed = tasks.begin_change("valve", TaskChange{{}, "\"changed\""});
        Ticket other = tasks.begin_put("other", desk.in(hour));
        CHECK(put.again());
        CHECK(cancelled.again());
        CHECK(changed.again());
        CHECK_FALSE(other.again());
        std::thread second([&] { CHECK_FALSE(tasks.put("valve", desk.in(2 * hour)).created); });
        gate.open();
        put.wait();
        first.join();
        second.join();
        other.wait();
        CHECK(tasks.stats().pending == 2);
        CHECK(tasks.find("valve")->due == desk.clock.now() + 2 * hour);
    }

    TEST_CASE("a put that could not be stored leaves no trace") {
        Desk desk;
        Scheduler tasks(desk.options());
        for (const bool is_known : {false, true}) {
            Gate gate;
            gate.open();
            desk.hold_next_sync(gate, EIO);
            CHECK(errc_of([&] { tasks.put("valve", desk.in(2 * hour)); }) == Errc::journal_failed);
            CHECK(tasks.find("valve").has_value() == is_known);
            if (is_known) CHECK(tasks.find("valve")->due == desk.clock.now() + hour);
            desk.files->ask(nullptr);
            CHECK(tasks.put("valve", desk.in(hour)).created == !is_known);
        }
    }

    TEST_CASE("a put that meets the emission of its task begins when that is shown") {
        Desk desk;
        Gate gate;
        Scheduler tasks(desk.options());
        const TaskId first = tasks.put("valve", desk.in(hour)).id;
        desk.hold_write_of(R"({"op":"emit")", gate);
        desk.clock.advance(tasks, hour);
        REQUIRE(gate.was_reached());
        Ticket ticket = tasks.begin_put("valve", desk.in(hour));
        CHECK(ticket.again());
        CHECK_FALSE(ticket.try_store());
        PutResult second;
        std::thread putting([&] { second = tasks.put("valve", desk.in(hour)); });
        CHECK(errc_of([&] { tasks.cancel("valve"); }) == Errc::already_emitted);
        gate.open();
        CHECK(returns([&ticket] { ticket.wait(); }));
        putting.join();
        CHECK(second.created);
        CHECK(second.id != first);
        CHECK(tasks.find(first)->status == Status::emitted);
        CHECK(tasks.find("valve")->id == second.id);
    }

    TEST_CASE("names count towards the limit of bytes, and are given back") {
        Desk desk;
        Options options = desk.options();
        options.max_bytes = 10'000;
        options.history = 0;
        options.min_retention = milliseconds(0);
        Scheduler tasks(options);
        std::size_t count = 0;
        const auto add = [&] {
            tasks.put(std::string(100, 'n') + std::to_string(count), desk.in(hour));
        };
        while (!errc_of(add)) ++count;
        CHECK(count > 20);
        CHECK(count < 50);
        for (std::size_t i = 0; i < count; ++i) {
            CHECK(tasks.cancel(std::string(100, 'n') + std::to_string(i)));
        }
        CHECK(tasks.stats().bytes == 0);
    }

    TEST_CASE("many threads put, change and cancel one name while it falls due") {
        const TempDir dir;
        Options options;
        options.journal = dir.journal();
        options.fsync = Fsync::no;
        options.rewrite_min_bytes = 20'000;
        options.history = 1'000'000;
        std::atomic<std::size_t> created{0};
        std::atomic<std::size_t> cancelled{0};
        std::atomic<bool> several{false};
        std::size_t pending = 0;
        std::size_t emitted = 0;
        {
            Scheduler tasks(options);
            const auto work = [&](unsigned seed) {
                std::mt19937 random(seed);
                for (int n = 0; n < 60; ++n) {
                    const milliseconds delay(random() % 3);
                    try {
                        switch (random() % 6) {
                            case 0:
                                if (tasks.cancel("valve")) ++cancelled;
                                break;
                            case 1:
                                tasks.change("valve", {tasks.now() + delay, {}});
                                break;
                            default:
                                created +=
                                    tasks.put("valve", {tasks.now() + delay, "\"x\""}).created;
                        }
                    } catch (const Error& error) {
                        const bool expected = error.code() == Errc::unknown_task ||
                                              error.code() == Errc::already_emitted;
                        if (!expected) throw;
                    }
                    if (tasks.stats().pending > 1) several = true;
                }
            };
            std::vector<std::thread> clients;
            for (unsigned i = 0; i < 64; ++i) clients.emplace_back(work, i);
            for (std::thread& client : clients) client.join();
            pending = tasks.stats().pending;
            tasks.stop();
            emitted = tasks.stats().retained;
        }
        CHECK_FALSE(several);
        CHECK(created > 0);
        Scheduler tasks(options);
        CHECK(eventually([&] { return tasks.stats().pending == 0; }));
        CHECK(tasks.stats().retained + cancelled == created);
        CHECK(tasks.stats().retained - emitted <= pending);
        CHECK_FALSE(tasks.find("valve"));
    }
}

}  // namespace names_test
