// SPDX-License-Identifier: MIT
//
// Several schedulers with one journal: one owns it, the others follow, and any of them goes on
// where that stood.
#include "shared_journal.hpp"
#include "support.hpp"

namespace follower_test {

using namespace scheduler;
using namespace support;

namespace {

constexpr std::size_t no_limit = ~std::size_t{0};

// Everything that a scheduler shows of what is stored, as text, line by line.  When something was
// emitted the owner knows best: it looks at its clock again when that is stored.
std::string shown(const Scheduler& tasks) {
    std::ostringstream out;
    for (const Status status : {Status::pending, Status::missed}) {
        TaskQuery query;
        query.limit = query.max_bytes = no_limit;
        query.status = status;
        for (const Task& task : tasks.tasks(query).tasks) {
            out << (status == Status::pending ? "pending " : "missed ") << task.id.str() << ' '
                << format_time(task.due) << ' ' << task.name() << ' ' << task.topic() << ' '
                << task.text() << '\n';
        }
    }
    for (const Event& event : events_from(tasks, 0, no_limit, no_limit).events) {
        out << "event " << event.seq << ' ' << event.id.str() << ' ' << format_time(event.due)
            << ' ' << event.name() << ' ' << event.text() << '\n';
    }
    out << "newest " << tasks.newest().seq() << '\n';
    if (const auto pause = tasks.paused()) {
        out << "paused " << format_time(pause->since) << ' ' << pause->reason << '\n';
    }
    for (const SinkStatus& sink : tasks.sinks()) {
        out << "sink " << sink.name << ' ' << static_cast<int>(sink.state) << ' '
            << (sink.cursor ? sink.cursor->str() : "") << ' ' << sink.lag << ' ' << sink.attempts
            << ' ' << sink.last_error << '\n';
        for (const DeadLetter& letter : tasks.dead_letters(sink.name).letters) {
            out << "dead " << letter.event.seq << ' ' << letter.attempts << ' ' << letter.error
                << ' ' << letter.redelivering << '\n';
        }
    }
    return out.str();
}

// A scheduler on the shared log, with a clock that stands still.
struct Node {
    std::unique_ptr<Scheduler> tasks;
    Scheduler* operator->() const { return tasks.get(); }
    Scheduler& operator*() const { return *tasks; }
};

struct House {
    explicit House(Drive what = Drive::caller) : drive(what) {}

    const Drive drive;
    const std::shared_ptr<SharedLog> log = std::make_shared<SharedLog>();
    TestClock clock;

    Options options(const std::string& name) {
        Options options;
        const Telling telling = drive == Drive::thread ? Telling::thread : Telling::caller;
        options.make_journal = [log = log, name, telling] { return log->open(name, telling); };
        options.now = clock.source();
        options.drive = drive;
        return options;
    }
    Node open(const std::string& name) { return {std::make_unique<Scheduler>(options(name))}; }
    void advance(milliseconds by, std::initializer_list<Node*> nodes) {
        clock.advance(by);
        for (const Node* node : nodes) (*node)->clock_changed();
    }
    // Another node becomes the owner, without the old one's leave.
    void hand_over(const std::string& name) {
        log->take(name);
        if (drive == Drive::caller) log->pump(name);
        REQUIRE(eventually([&] { return log->is_owner(name); }));
    }
    // Everybody has been told everything.
    void settle() {
        if (drive == Drive::caller) return log->pump_all();
    }
};

// The first line of which two texts differ; empty: they are the same.
std::string difference(const std::string& a, const std::string& b) {
    std::istringstream one(a);
    std::istringstream other(b);
    for (std::string line, another; one || other;) {
        if (!std::getline(one, line)) line.clear();
        if (!std::getline(other, another)) another.clear();
        if (line != another) return line + " | " + another;
    }
    return "";
}

// With threads, what is told arrives soon.
void check_same(const Scheduler& a, const Scheduler& b) {
    eventually([&] { return shown(a) == shown(b); });
    CHECK(difference(shown(a), shown(b)) == "");
}

NewTask task_at(TimePoint due, std::string message = "\"x\"", std::string topic = "") {
    NewTask task;
    task.due = due;
    task.message = std::move(message);
    task.topic = std::move(topic);
    return task;
}

TaskChange postponed(TimePoint due) {
    TaskChange change;
    change.due = due;
    return change;
}

// A sink that keeps what it is given.
struct Taken {
    std::mutex mutex;
    std::vector<std::uint64_t> seqs;
    bool fails = false;

    std::vector<std::uint64_t> all() {
        const std::lock_guard<std::mutex> guard(mutex);
        return seqs;
    }
    SinkOptions options(const std::string& name) {
        SinkOptions options;
        options.name = name;
        options.from_earliest = true;
        options.retry = {};
        options.sink = make_sink([this](const Event& event) {
            const std::lock_guard<std::mutex> guard(mutex);
            if (fails) throw std::runtime_error("it is full");
            seqs.push_back(event.seq);
        });
        return options;
    }
};

using Seqs = std::vector<std::uint64_t>;

}  // namespace

TEST_SUITE("followers") {
    TEST_CASE("a follower shows what the owner stores, with the same ids, places and order") {
        for (const Drive drive : {Drive::caller, Drive::thread}) {
            CAPTURE(static_cast<int>(drive));
            House house(drive);
            Node a = house.open("a");
            REQUIRE(a->is_owner());
            a->schedule(milliseconds(0), "\"before\"");
            Node b = house.open("b");
            CHECK_FALSE(b->is_owner());
            const auto now = house.clock.now();
            Ticket keyed = a->submit({task_at(now + milliseconds(10), "[1]", "orders/eu")}, "k");
            keyed.wait();
            a->put("nightly", task_at(now + milliseconds(20)));
            a->put("nightly", task_at(now + milliseconds(5), "{\"n\":1.10}"));
            const TaskId gone = a->schedule(milliseconds(1), "\"gone\"");
            CHECK(a->cancel(gone));
            const TaskId later = a->schedule(milliseconds(1), "\"later\"");
            a->change(later, postponed(now + std::chrono::hours(1)));
            NewTask late = task_at(now + milliseconds(30));
            late.max_lateness = std::chrono::seconds(1);
            a->submit({late}).wait();
            house.advance(std::chrono::minutes(1), {&a, &b});
            a->run_due();
            REQUIRE(eventually([&] { return a->stats().emitted == 3; }));
            a->pause("the receiver moves");
            house.settle();
            check_same(*a, *b);
            CHECK(b->events().events.size() == 3);
            CHECK(eventually([&] { return b->applied() == a->applied(); }));
            CHECK(b->find("nightly") == std::nullopt);
            CHECK(b->find(later)->due == now + std::chrono::hours(1));
            a->resume();
            CHECK(a->forget({}) == 3);
            house.settle();
            check_same(*a, *b);
        }
    }

    TEST_CASE("a follower refuses every change, and says why") {
        House house;
        Node a = house.open("a");
        const TaskId id = a->put("job", task_at(house.clock.now() + milliseconds(5))).id;
        Taken taken;
        taken.fails = true;
        const Sinks sinks(*a, {taken.options("s")});
        a->schedule(milliseconds(0), "\"dead\"");
        a->run_due();
        REQUIRE(a->dead_letters("s").total == 1);
        Node b = house.open("b");
        const std::string before = shown(*b);
        const auto refuses = [](const std::function<void()>& call) {
            return errc_of(call) == Errc::not_owner;
        };
        CHECK(refuses([&] { b->schedule(milliseconds(1), "\"x\""); }));
        CHECK(refuses([&] { b->submit({task_at(house.clock.now())}, "key").wait(); }));
        CHECK(refuses([&] { b->cancel(id); }));
        CHECK(refuses([&] { b->cancel("job"); }));
        CHECK(refuses([&] { b->cancel(DueRange()); }));
        CHECK(refuses([&] { b->change(id, postponed(house.clock.now())); }));
        CHECK(refuses([&] { b->put("job", task_at(house.clock.now())); }));
        CHECK(refuses([&] { b->forget({}); }));
        CHECK(refuses([&] { b->pause(); }));
        CHECK(refuses([&] { b->resume(); }));
        CHECK(refuses([&] { b->pause_sink("s"); }));
        CHECK(refuses([&] { b->resume_sink("s"); }));
        CHECK(refuses([&] { (void)b->redeliver("s"); }));
        house.advance(std::chrono::minutes(1), {&a, &b});
        CHECK(b->run_due() == 0);
        CHECK(shown(*b) == before);
        CHECK(house.log->stored() == a->applied());
    }

    TEST_CASE("whoever takes over has everything, and goes on where the owner stood") {
        for (const Drive drive : {Drive::caller, Drive::thread}) {
            CAPTURE(static_cast<int>(drive));
            House house(drive);
            Node a = house.open("a");
            Node b = house.open("b");
            const auto now = house.clock.now();
            Ticket keyed = a->submit({task_at(now + milliseconds(10), "\"keyed\"")}, "key");
            keyed.wait();
            const TaskId first = a->schedule(milliseconds(1), "\"first\"");
            house.advance(milliseconds(5), {&a, &b});
            a->run_due();
            REQUIRE(eventually([&] { return a->stats().emitted == 1; }));
            const TaskId earliest = a->schedule(milliseconds(1), "\"earliest\"");
            a.tasks.reset();
            house.settle();
            REQUIRE(eventually([&] { return b->is_owner(); }));
            Ticket repeated = b->submit({task_at(now + milliseconds(10), "\"keyed\"")}, "key");
            repeated.wait();
            CHECK(repeated.repeats());
            CHECK(repeated.ids() == keyed.ids());
            CHECK(errc_of([&] { (void)b->submit({task_at(now)}, "key"); }) == Errc::key_reused);
            house.advance(milliseconds(10), {&b});
            b->run_due();
            REQUIRE(eventually([&] { return events_from(*b, 0).events.size() == 3; }));
            CHECK(event_ids(*b) == std::vector<TaskId>{first, earliest, keyed.ids().front()});
            Node c = house.open("a");
            CHECK_FALSE(c->is_owner());
            check_same(*b, *c);
            CHECK(earliest < b->schedule(milliseconds(1), "\"new\""));
        }
    }

    TEST_CASE("what an owner has begun when another takes over is undone, and that alone") {
        House house;
        Node a = house.open("a");
        Node b = house.open("b");
        const auto now = house.clock.now();
        std::vector<TaskId> ids;
        for (int i = 0; i < 6; ++i) ids.push_back(a->schedule(milliseconds(10 + i), "\"kept\""));
        a->schedule(milliseconds(0), "\"event\"");
        CHECK(a->run_due() == 1);
        a->put("named", task_at(now + milliseconds(30)));
        house.settle();
        const std::string before = shown(*a);
        std::vector<Ticket> tickets;
        tickets.push_back(a->submit({task_at(now), task_at(now)}, "key"));
        tickets.push_back(a->begin_cancel(ids[0]));
        tickets.push_back(a->begin_change(ids[1], postponed(now)));
        tickets.push_back(a->begin_put("named", task_at(now)));
        tickets.push_back(a->begin_put("other", task_at(now)));
        tickets.push_back(a->begin_pause("not at all"));
        tickets.push_back(a->begin_cancel(DueRange{now + milliseconds(12), std::nullopt}));
        tickets.push_back(a->begin_forget({}));
        house.hand_over("b");
        SUBCASE("whoever waits is told") {
            for (Ticket& ticket : tickets) {
                CHECK(errc_of([&] { ticket.wait(); }) == Errc::not_owner);
            }
        }
        SUBCASE("also when nobody has waited before it follows") {
            b->schedule(milliseconds(50), "\"new\"");
            house.settle();
            for (Ticket& ticket : tickets) {
                CHECK(errc_of([&] { ticket.wait(); }) == Errc::not_owner);
            }
            check_same(*a, *b);
            return;
        }
        SUBCASE("also when nobody ever waits") {
            tickets.clear();
            a->run_due();
        }
        house.settle();
        CHECK(shown(*a) == before);
        check_same(*a, *b);
        house.advance(milliseconds(40), {&a, &b});
        CHECK(a->run_due() == 0);
        CHECK(b->run_due() == 7);
        house.settle();
        check_same(*a, *b);
        // And it can do all of that when it is the owner again.
        house.hand_over("a");
        a->submit({task_at(now), task_at(now)}, "key").wait();
        CHECK(a->put("named", task_at(now)).created);
        CHECK(a->run_due() == 3);
        house.settle();
        check_same(*a, *b);
    }

    TEST_CASE("a change of which nobody knows whether it is stored is shown when it is, by all") {
        for (const Fault fault : {Fault::lost, Fault::unknown, Fault::late}) {
            for (const bool arrives : {false, true}) {
                CAPTURE(static_cast<int>(fault));
                CAPTURE(arrives);
                House house;
                Node a = house.open("a");
                Node b = house.open("b");
                const TaskId kept = a->schedule(milliseconds(10), "\"kept\"");
                house.settle();
                Ticket added = a->submit({task_at(house.clock.now() + milliseconds(5))}, "key");
                Ticket gone = a->begin_cancel(kept);
                house.log->fail("a", fault);
                CHECK(errc_of([&] { added.wait(); }) == Errc::outcome_unknown);
                CHECK(errc_of([&] { gone.wait(); }) == Errc::outcome_unknown);
                CHECK_FALSE(a->is_owner());
                CHECK(pending_ids(*a) == std::vector<TaskId>{kept});
                CHECK(errc_of([&] { a->schedule(milliseconds(1), "\"x\""); }) == Errc::not_owner);
                if (arrives) house.log->arrive();
                const bool stored = fault == Fault::unknown || (fault == Fault::late && arrives);
                const TaskId now_pending = stored ? added.ids().front() : kept;
                house.hand_over(arrives ? "b" : "a");
                house.settle();
                CHECK_FALSE(house.log->arrive());  // too late, as the epoch is another
                CHECK(pending_ids(*a) == std::vector<TaskId>{now_pending});
                check_same(*a, *b);
                house.advance(milliseconds(20), {&a, &b});
                CHECK((arrives ? b : a)->run_due() == 1);
                house.settle();
                check_same(*a, *b);
                CHECK(event_ids(*a) == std::vector<TaskId>{now_pending});
                CHECK_FALSE(a->stats().journal_failed);
            }
        }
    }

    TEST_CASE("a bulk cancel of which an owner has stored a part has cancelled nothing") {
        House house;
        Node a = house.open("a");
        Node b = house.open("b");
        const auto now = house.clock.now();
        std::vector<NewTask> many(5'000, task_at(now + milliseconds(10)));
        a->submit(many).wait();
        const TaskId last = a->schedule(milliseconds(20), "\"last\"");
        SUBCASE("what follows may be lost") {
            house.log->fail("a", Fault::lost, 1);
            CHECK(errc_of([&] { a->cancel(DueRange()); }) == Errc::outcome_unknown);
        }
        SUBCASE("another may take over") {
            Ticket bulk = a->begin_cancel(DueRange());
            house.log->fail("a", Fault::refused, 1);
            CHECK(errc_of([&] { bulk.wait(); }) == Errc::journal_failed);
        }
        CHECK(a->stats().pending == 5'001);
        house.hand_over("b");
        CHECK(b->stats().pending == 5'001);
        // The new owner's first bulk cancel takes what it says, and not what the other had begun.
        CHECK(b->cancel(DueRange{now + milliseconds(15), std::nullopt}) == 1);
        house.settle();
        CHECK(a->stats().pending == 5'000);
        CHECK_FALSE(b->find(last));
        check_same(*a, *b);
        Node c = house.open("c");
        check_same(*a, *c);
    }

    TEST_CASE(
        "a bulk cancel takes the same tasks everywhere, whatever others had begun and not stored") {
        House house;
        Node a = house.open("a");
        Node b = house.open("b");
        a->submit(std::vector<NewTask>(5'000, task_at(house.clock.now() + milliseconds(10))))
            .wait();
        for (int i = 0; i < 2; ++i) {
            house.log->fail("a", Fault::refused);
            CHECK(errc_of([&] { a->cancel(DueRange()); }) == Errc::journal_failed);
        }
        house.hand_over("b");
        CHECK(b->cancel(DueRange()) == 5'000);
        house.settle();
        CHECK(a->stats().pending == 0);
        house.hand_over("a");
        house.advance(milliseconds(20), {&a, &b});
        CHECK(a->run_due() == 0);
    }

    TEST_CASE("what an owner could not store as missed is told to be missed by the next alone") {
        House house;
        const auto open = [&house](const std::string& name, int& told) {
            Options options = house.options(name);
            options.max_lateness = std::chrono::seconds(1);
            options.log = [&told](const LogRecord& record) {
                if (record.event == "tasks.missed") ++told;
            };
            return Node{std::make_unique<Scheduler>(options)};
        };
        int told_by_a = 0;
        int told_by_b = 0;
        Node a = open("a", told_by_a);
        Node b = open("b", told_by_b);
        a->schedule(milliseconds(10), "\"x\"");
        house.settle();
        house.log->pause("a", true);
        house.log->take("b");
        house.log->pump("b");
        REQUIRE(house.log->believes_to_be_owner("a"));
        house.advance(std::chrono::minutes(1), {&a, &b});
        a->run_due();
        CHECK(told_by_a == 0);
        b->run_due();
        CHECK(told_by_b == 1);
        house.log->pause("a", false);
        house.settle();
        check_same(*a, *b);
    }

    TEST_CASE("a bulk cancel whose end turns out to be stored has cancelled all of it, also here") {
        House house;
        Node a = house.open("a");
        Node b = house.open("b");
        a->submit(std::vector<NewTask>(5'000, task_at(house.clock.now() + milliseconds(10))))
            .wait();
        house.log->fail("a", Fault::unknown, 1);
        CHECK(errc_of([&] { a->cancel(DueRange()); }) == Errc::outcome_unknown);
        CHECK(a->stats().pending == 5'000);
        house.settle();
        CHECK(a->stats().pending == 0);
        check_same(*a, *b);
    }

    TEST_CASE("what an owner was about to emit when another took over is emitted once, by that") {
        for (const bool knows : {false, true}) {
            CAPTURE(knows);
            House house;
            Node a = house.open("a");
            Node b = house.open("b");
            for (int i = 0; i < 3; ++i) a->schedule(milliseconds(i), "\"x\"");
            house.settle();
            house.advance(milliseconds(5), {&a, &b});
            std::vector<std::uint64_t> seen;
            a->on_event([&seen](const Event& event) { seen.push_back(event.seq); });
            house.log->take("b");
            if (knows) house.log->pump("a");
            CHECK(a->run_due() == 0);
            CHECK(events_from(*a, 0).events.empty());
            CHECK(a->stats().pending == 3);
            CHECK_FALSE(a->is_owner());
            house.settle();
            CHECK(a->run_due() == 0);
            CHECK(b->run_due() == 3);
            house.settle();
            a->run_due();
            check_same(*a, *b);
            CHECK(seen == Seqs{0, 1, 2});
        }
    }

    TEST_CASE(
        "an emission of which nobody knows whether it is stored is shown once that is known") {
        for (const bool is_stored : {false, true}) {
            CAPTURE(is_stored);
            House house;
            Node a = house.open("a");
            Node b = house.open("b");
            a->schedule(milliseconds(0), "\"x\"");
            house.settle();
            house.log->fail("a", is_stored ? Fault::unknown : Fault::lost);
            CHECK(a->run_due() == 0);
            CHECK(events_from(*a, 0).events.empty());
            house.hand_over("b");
            CHECK(events_from(*b, 0).events.size() == (is_stored ? 1 : 0));
            CHECK(b->run_due() == (is_stored ? 0 : 1));
            house.settle();
            check_same(*a, *b);
            CHECK(events_from(*a, 0).events.size() == 1);
        }
    }

    TEST_CASE(
        "while the database is away nothing is taken or emitted, and then all of it in order") {
        for (const Drive drive : {Drive::caller, Drive::thread}) {
            CAPTURE(static_cast<int>(drive));
            House house(drive);
            Node a = house.open("a");
            Node b = house.open("b");
            std::vector<TaskId> ids;
            for (int i = 0; i < 3; ++i) {
                ids.insert(ids.begin(), a->schedule(milliseconds(10 - i), "\"x\""));
            }
            house.settle();
            house.log->away(Away::refuses);
            house.settle();
            CHECK(eventually([&] { return !a->is_owner(); }));
            CHECK(errc_of([&] { a->schedule(milliseconds(1), "\"no\""); }) == Errc::not_owner);
            house.advance(milliseconds(20), {&a, &b});
            CHECK(a->run_due() + b->run_due() == 0);
            CHECK(a->stats().pending == 3);
            CHECK_FALSE(a->cluster()->is_connected);
            house.log->away(Away::no);
            house.settle();
            REQUIRE(eventually([&] { return a->is_owner() || b->is_owner(); }));
            a->run_due();
            b->run_due();
            CHECK(eventually([&] {
                return a->stats().pending + b->stats().pending == 0 || (house.settle(), false);
            }));
            CHECK(event_ids(*a) == ids);
            check_same(*a, *b);
        }
    }

    TEST_CASE("a call that waits for the database ends when that answers") {
        House house(Drive::thread);
        Node a = house.open("a");
        house.log->away(Away::hangs);
        Ticket ticket = a->submit({task_at(house.clock.now() + std::chrono::hours(1))});
        std::thread waits([&] { ticket.wait(); });
        house.log->away(Away::no);
        waits.join();
        CHECK(a->stats().pending == 1);
        CHECK(a->is_owner());
    }

    TEST_CASE("what is under way is settled before what another has stored behind it") {
        House house(Drive::thread);
        Node a = house.open("a");
        Node b = house.open("b");
        house.log->fail("a", Fault::slow);
        std::thread schedules([&] { a->schedule(std::chrono::hours(1), "\"slow\""); });
        REQUIRE(eventually([&] { return house.log->stored() == 1; }));
        house.hand_over("b");
        CHECK(b->stats().pending == 1);
        const TaskId second = b->schedule(std::chrono::hours(2), "\"second\"");
        CHECK(a->stats().pending == 0);
        house.log->answer("a");
        schedules.join();
        REQUIRE(eventually([&] { return a->stats().pending == 2; }));
        CHECK(a->find(second));
        check_same(*a, *b);
    }

    TEST_CASE("a follower that has fallen behind what is kept reads it anew, and misses nothing") {
        House house;
        Options options = house.options("a");
        options.rewrite_min_bytes = 1'000;
        Node a{std::make_unique<Scheduler>(options)};
        Node b = house.open("b");
        std::vector<std::uint64_t> seen;
        b->on_event([&seen](const Event& event) { seen.push_back(event.seq); });
        const TaskId first = a->schedule(std::chrono::hours(1), "\"first\"");
        house.log->pump("b");
        const std::string large = quote_json(std::string(1'000, 'x'));
        for (int i = 0; i < 40; ++i) {
            const TaskId id = a->schedule(std::chrono::hours(2), large);
            CHECK(a->cancel(id));
            a->schedule(milliseconds(0), "\"event\"");
            a->run_due();
        }
        a->put("job", task_at(house.clock.now() + milliseconds(5)));
        a->pause("later");
        REQUIRE(house.log->generations() > 0);
        CHECK(b->stats().pending == 1);
        house.settle();
        b->run_due();
        CHECK(b->find(first));
        CHECK(b->find("job"));
        check_same(*a, *b);
        CHECK(seen.size() == 40);
        // One that kept up has nothing to read anew, and each goes on.
        a->resume();
        a.tasks.reset();
        house.settle();
        REQUIRE(b->is_owner());
        house.advance(milliseconds(10), {&b});
        CHECK(b->run_due() == 1);
        CHECK(seen.size() == 41);
    }

    TEST_CASE("history is trimmed on every node, and none forgets what it may not") {
        House house;
        const auto short_history = [&](const std::string& name) {
            Options options = house.options(name);
            options.history = 5;
            options.min_retention = std::chrono::seconds(10);
            return Node{std::make_unique<Scheduler>(options)};
        };
        Node a = short_history("a");
        Node b = short_history("b");
        for (int i = 0; i < 20; ++i) {
            a->schedule(milliseconds(0), "\"x\"");
            a->run_due();
        }
        house.settle();
        CHECK(b->run_due() == 0);
        CHECK(events_from(*b, 0).events.size() == 20);
        REQUIRE(b->next_wake());
        CHECK(*b->next_wake() == house.clock.now() + std::chrono::seconds(10));
        house.advance(std::chrono::seconds(11), {&a, &b});
        a->run_due();
        b->run_due();
        CHECK(events_from(*b, 0).events.size() == 5);
        check_same(*a, *b);
    }

    TEST_CASE("sinks rest on a follower, and go on from the cursor when it takes over") {
        for (const Drive drive : {Drive::caller, Drive::thread}) {
            CAPTURE(static_cast<int>(drive));
            House house(drive);
            Node a = house.open("a");
            Node b = house.open("b");
            Taken by_a;
            Taken by_b;
            auto sinks_a = std::make_unique<Sinks>(*a, std::vector{by_a.options("s")});
            auto sinks_b = std::make_unique<Sinks>(*b, std::vector{by_b.options("s")});
            for (int i = 0; i < 3; ++i) a->schedule(milliseconds(0), "\"x\"");
            a->run_due();
            REQUIRE(eventually([&] { return by_a.all().size() == 3; }));
            house.settle();
            b->run_due();
            CHECK(eventually([&] {
                house.settle();
                const auto sinks = b->sinks();
                return sinks.size() == 1 && sinks.front().lag == 0;
            }));
            sinks_a.reset();
            a.tasks.reset();
            house.settle();
            REQUIRE(eventually([&] { return b->is_owner(); }));
            b->schedule(milliseconds(0), "\"y\"");
            b->run_due();
            b->run_due();
            CHECK(eventually([&] { return by_b.all().size() == 1; }));
            CHECK(by_a.all() == Seqs{0, 1, 2});
            CHECK(by_b.all() == Seqs{3});
            CHECK(b->sinks().front().state == SinkState::active);
        }
    }

    TEST_CASE("what a sink has taken and an owner could not store is delivered again by the next") {
        House house;
        Node a = house.open("a");
        Node b = house.open("b");
        Taken by_a;
        Taken by_b;
        const Sinks sinks_a(*a, {by_a.options("s")});
        const Sinks sinks_b(*b, {by_b.options("s")});
        a->schedule(milliseconds(0), "\"x\"");
        a->schedule(milliseconds(0), "\"y\"");
        // The emission is stored, and nothing behind it.
        house.log->fail("a", Fault::lost, 1);
        a->run_due();
        CHECK(by_a.all().size() > 0);
        house.hand_over("b");
        for (int i = 0; i < 4; ++i) b->run_due();
        CHECK(by_b.all() == Seqs{0, 1});
        house.settle();
        a->run_due();
        check_same(*a, *b);
        // Dead letters, pauses and attempts are the same everywhere, too.
        by_b.fails = true;
        b->schedule(milliseconds(0), "\"z\"");
        for (int i = 0; i < 4; ++i) b->run_due();
        b->pause_sink("s");
        house.settle();
        CHECK(a->dead_letters("s").total == 1);
        check_same(*a, *b);
        house.hand_over("a");
        a->resume_sink("s");
        CHECK(a->redeliver("s") == 1);
        for (int i = 0; i < 4; ++i) a->run_due();
        CHECK(by_a.all().back() == 2);
        house.settle();
        check_same(*a, *b);
    }

    TEST_CASE("what a sink has taken before its node lost the journal is told when it owns again") {
        House house;
        Node a = house.open("a");
        Node b = house.open("b");
        Taken by_a;
        const Sinks sinks_a(*a, {by_a.options("s")});
        a->schedule(milliseconds(0), "\"x\"");
        a->schedule(milliseconds(0), "\"y\"");
        house.log->fail("a", Fault::lost, 1);  // the emission is stored, and nothing behind it
        a->run_due();
        REQUIRE(by_a.all() == Seqs{0});
        house.hand_over("b");
        b->schedule(std::chrono::hours(1), "\"later\"");
        house.settle();
        house.hand_over("a");
        a->schedule(milliseconds(0), "\"z\"");
        for (int i = 0; i < 4; ++i) a->run_due();
        CHECK(by_a.all() == Seqs{0, 1, 2});
        house.settle();
        CHECK(b->dead_letters("s").total == 0);
        CHECK(b->sinks().front().lag == 0);
    }

    TEST_CASE("callbacks, subscriptions and wait_for() on a follower get every event, in order") {
        House house(Drive::thread);
        Node a = house.open("a");
        a->schedule(milliseconds(0), "\"before\"");
        REQUIRE(eventually([&] { return a->stats().emitted == 1; }));
        Node b = house.open("b");
        Taken all;
        Taken from_now;
        const auto take_to = [](Taken& taken) {
            return [&taken](const Event& event) {
                const std::lock_guard<std::mutex> guard(taken.mutex);
                taken.seqs.push_back(event.seq);
            };
        };
        const Subscription earliest = b->subscribe(take_to(all), Cursor::earliest());
        b->on_event(take_to(from_now));
        CHECK_FALSE(b->wait_for(Cursor(1), milliseconds(0)));
        for (int i = 0; i < 5; ++i) a->schedule(milliseconds(0), "\"x\"");
        CHECK(b->wait_for(Cursor(5), std::chrono::duration_cast<milliseconds>(long_enough)));
        CHECK(eventually([&] { return all.all() == Seqs{0, 1, 2, 3, 4, 5}; }));
        CHECK(eventually([&] { return from_now.all() == Seqs{1, 2, 3, 4, 5}; }));
        // And all go on when the follower is the owner.
        a.tasks.reset();
        REQUIRE(eventually([&] { return b->is_owner(); }));
        b->schedule(milliseconds(0), "\"z\"");
        CHECK(eventually([&] { return all.all().size() == 7; }));
        CHECK(eventually([&] { return from_now.all() == Seqs{1, 2, 3, 4, 5, 6}; }));
    }

    TEST_CASE("whoever runs beside a scheduler is told when its node owns or has applied more") {
        House house;
        Node a = house.open("a");
        Node b = house.open("b");
        int told = 0;
        Companion companion;
        companion.notify = [&told] { ++told; };
        const std::size_t number = b->add_companion(companion);
        a->schedule(std::chrono::hours(1), "\"x\"");
        house.settle();
        CHECK(std::exchange(told, 0) > 0);
        house.hand_over("b");
        CHECK(std::exchange(told, 0) > 0);
        house.hand_over("a");
        house.settle();
        CHECK(std::exchange(told, 0) > 0);
        b->remove_companion(number);
    }

    TEST_CASE("a node whose clock is behind the owner's emits nothing early when it takes over") {
        House house;
        Node a = house.open("a");
        TestClock behind;
        behind.advance(milliseconds(-400));
        Options options = house.options("b");
        options.now = behind.source();
        Node b{std::make_unique<Scheduler>(options)};
        a->schedule(milliseconds(100), "\"x\"");
        a->schedule(milliseconds(0), "\"y\"");
        a->run_due();
        house.settle();
        CHECK(events_from(*b, 0).events.size() == 1);
        house.hand_over("b");
        CHECK(b->run_due() == 0);
        behind.advance(*b, milliseconds(450));
        CHECK(b->run_due() == 0);
        behind.advance(*b, milliseconds(50));
        CHECK(b->run_due() == 1);
        house.settle();
        check_same(*a, *b);
    }

    TEST_CASE("with threads, nodes that own in turn emit every task once and agree on all of it") {
        House house(Drive::thread);
        const std::array<std::string, 3> names{"a", "b", "c"};
        std::vector<Node> nodes;
        for (const std::string& name : names) {
            Options options = house.options(name);
            options.now = nullptr;  // the real one
            options.rewrite_min_bytes = 5'000;
            nodes.push_back({std::make_unique<Scheduler>(options)});
        }
        std::atomic<bool> is_over{false};
        std::mutex mutex;
        std::set<TaskId> stored;
        std::set<TaskId> cancelled;
        std::vector<std::thread> clients;
        for (std::size_t number = 0; number < 2; ++number) {
            clients.emplace_back([&, number] {
                for (std::size_t i = number; !is_over; ++i) {
                    Scheduler& tasks = *nodes[i % nodes.size()];
                    const milliseconds delay(i % 3 == 0 ? 60'000 : i % 7);
                    try {
                        const TaskId id = tasks.schedule(delay, "\"x\"");
                        const std::lock_guard<std::mutex> guard(mutex);
                        stored.insert(id);
                    } catch (const Error&) {
                        std::this_thread::yield();
                    }
                    if (i % 3 != 0) continue;
                    try {
                        const auto ids = pending_ids(tasks);
                        if (ids.empty() || !tasks.cancel(ids.back())) continue;
                        const std::lock_guard<std::mutex> guard(mutex);
                        cancelled.insert(ids.back());
                    } catch (const Error&) {
                    }
                }
            });
        }
        for (std::size_t i = 0; i < 60; ++i) {
            if (i % 4 == 1) house.log->fail(names[i % 3], static_cast<Fault>(1 + i % 4));
            house.log->take(names[(i * 7) % 3]);
            const std::uint64_t before = house.log->stored();
            REQUIRE(eventually([&] { return house.log->stored() > before; }));
            if (i % 5 == 0) house.log->arrive();
        }
        is_over = true;
        for (std::thread& client : clients) client.join();
        house.log->stand("b", false);
        house.log->stand("c", false);
        for (const std::string& name : names) house.log->fail(name, Fault::none);
        house.log->take("a");
        REQUIRE(eventually([&] { return nodes[0]->is_owner(); }));
        CHECK(nodes[0]->cancel(DueRange{nodes[0]->now() + std::chrono::seconds(30), {}}) < 100'000);
        REQUIRE(eventually([&] { return nodes[0]->stats().pending == 0; }));
        check_same(*nodes[0], *nodes[1]);
        check_same(*nodes[0], *nodes[2]);
        const std::vector<TaskId> ids = event_ids(*nodes[0]);
        const std::set<TaskId> emitted(ids.begin(), ids.end());
        CHECK(emitted.size() == ids.size());
        for (const TaskId id : cancelled) CHECK(emitted.count(id) == 0);
    }
}

}  // namespace follower_test
