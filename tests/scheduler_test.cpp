// SPDX-License-Identifier: MIT
#include "support.hpp"

#include <future>
#include <random>

namespace scheduler_test {

using namespace scheduler;
using support::at;
using support::errc_of;
using support::eventually;
using support::TestClock;
using support::TempDir;

namespace {

Options with(TestClock& clock) {
    Options options;
    options.now = clock.source();
    return options;
}

// The events that a callback was given, as their payloads.
class Collector {
public:
    Scheduler::Callback callback() {
        return [this](const Event& event) {
            const std::lock_guard<std::mutex> guard(mutex_);
            payloads_.push_back(event.payload.str());
        };
    }
    std::vector<std::string> wait_for(std::size_t count) {
        CHECK(eventually([&] { return payloads().size() >= count; }));
        return payloads();
    }
    std::vector<std::string> payloads() {
        const std::lock_guard<std::mutex> guard(mutex_);
        return payloads_;
    }

private:
    std::mutex mutex_;
    std::vector<std::string> payloads_;
};

const TimePoint noon = at("2026-03-01T12:00:00Z");

std::vector<std::string> errors_of(const char* json) {
    return TaskRequest::parse(json, noon).errors;
}

}  // namespace

TEST_SUITE("scheduler") {
    TEST_CASE("a task is emitted at its time and not a millisecond before") {
        TestClock clock;
        Scheduler tasks(with(clock));
        const TaskId id = tasks.schedule(std::chrono::seconds(10), R"({"n": 1.10})");
        clock.advance(tasks, milliseconds(9'999));
        CHECK_FALSE(tasks.wait_for(scheduler::Cursor(0), milliseconds(20)));
        CHECK(tasks.find(id)->status == Status::pending);
        clock.advance(tasks, milliseconds(1));
        CHECK(tasks.wait_for(scheduler::Cursor(0), support::long_enough));
        const Event event = support::events_from(tasks, 0).events.front();
        CHECK(event.id == id);
        CHECK(event.late() == milliseconds(0));
        CHECK(event.payload.str() ==
              R"({"timestamp":"2026-03-01T12:00:10.000Z","message":{"n":1.10}})");
        CHECK(tasks.find(id)->status == Status::emitted);
    }

    TEST_CASE("by the real clock a task is never early") {
        Scheduler tasks;
        for (int i = 0; i < 20; ++i) {
            const TimePoint due = wall_clock() + milliseconds(5 + i % 7);
            tasks.schedule(due, "\"x\"");
            REQUIRE(tasks.wait_for(scheduler::Cursor(static_cast<std::uint64_t>(i)),
                                   support::long_enough));
            REQUIRE(wall_clock() >= due);
        }
        for (const Event& event : support::events_from(tasks, 0).events) {
            CHECK(event.late() >= milliseconds(0));
        }
    }

    TEST_CASE("a task that becomes the earliest is not slept through") {
        Scheduler tasks;
        tasks.schedule(std::chrono::hours(1), "\"later\"");
        tasks.schedule(milliseconds(20), "\"sooner\"");
        CHECK(tasks.wait_for(scheduler::Cursor(0), support::long_enough));
    }

    TEST_CASE("what is due together is emitted by due time, ties in order of arrival") {
        TestClock clock;
        Scheduler tasks(with(clock));
        std::vector<TaskId> expected(3'000);
        for (std::size_t i = 0; i < 3'000; ++i) {
            const std::size_t group = i % 3;
            const auto due = noon + std::chrono::seconds(10 - group);
            expected[(2 - group) * 1'000 + i / 3] = tasks.schedule(due, "\"x\"");
        }
        clock.advance(tasks, std::chrono::seconds(30));
        CHECK(tasks.wait_for(scheduler::Cursor(2'999), support::long_enough));
        CHECK(support::event_ids(tasks) == expected);
    }

    TEST_CASE("a clock that steps forward emits at once, and one that steps back emits nothing") {
        TestClock clock;
        Scheduler tasks(with(clock));
        tasks.schedule(std::chrono::hours(1), "\"a\"");
        tasks.schedule(std::chrono::hours(2), "\"b\"");
        clock.advance(tasks, std::chrono::minutes(90));
        CHECK(tasks.wait_for(scheduler::Cursor(0), support::long_enough));
        CHECK(support::events_from(tasks, 0).events.front().late() == std::chrono::minutes(30));
        clock.advance(tasks, std::chrono::hours(-24));
        CHECK_FALSE(tasks.wait_for(scheduler::Cursor(1), milliseconds(20)));
        clock.advance(tasks, std::chrono::hours(25));
        CHECK(tasks.wait_for(scheduler::Cursor(1), support::long_enough));
        CHECK(tasks.stats().emitted == 2);
    }

    TEST_CASE("a callback gets every event, in order, and may use the scheduler") {
        TestClock clock;
        Collector seen;
        Scheduler tasks(with(clock));
        const TaskId victim = tasks.schedule(std::chrono::hours(1), "\"victim\"");
        tasks.on_event([&](const Event& event) {
            if (event.text().find("first") == std::string_view::npos) return;
            tasks.schedule(milliseconds(0), "\"second\"");
            tasks.cancel(victim);
        });
        tasks.on_event(seen.callback());
        tasks.schedule(milliseconds(0), "\"first\"");
        const auto payloads = seen.wait_for(2);
        REQUIRE(payloads.size() == 2);
        CHECK(payloads[1].find("second") != std::string::npos);
        CHECK(eventually([&] { return tasks.stats().pending == 0; }));
    }

    TEST_CASE("a callback that comes late still gets the events of this object") {
        TestClock clock;
        Collector seen;
        Scheduler tasks(with(clock));
        tasks.schedule(milliseconds(0), "\"early bird\"");
        CHECK(tasks.wait_for(scheduler::Cursor(0), support::long_enough));
        tasks.on_event(seen.callback());
        CHECK(seen.wait_for(1).size() == 1);
    }

    TEST_CASE("what a callback throws is reported, and the next event comes all the same") {
        TestClock clock;
        std::atomic<int> errors{0};
        std::atomic<int> calls{0};
        Options options = with(clock);
        options.on_error = [&](std::exception_ptr) { ++errors; };
        Scheduler tasks(options);
        tasks.on_event([&](const Event&) {
            ++calls;
            throw std::runtime_error("no");
        });
        tasks.schedule(milliseconds(0), "\"a\"");
        tasks.schedule(milliseconds(0), "\"b\"");
        CHECK(eventually([&] { return errors == 2; }));
        CHECK(calls == 2);
    }

    TEST_CASE("stopping hands out what was emitted, and refuses every later change") {
        TestClock clock;
        Collector seen;
        Scheduler tasks(with(clock));
        tasks.on_event(seen.callback());
        for (int i = 0; i < 100; ++i) tasks.schedule(milliseconds(0), "\"x\"");
        CHECK(tasks.wait_for(scheduler::Cursor(99), support::long_enough));
        const TaskId left = tasks.schedule(std::chrono::hours(1), "\"left\"");
        tasks.stop();
        CHECK(seen.payloads().size() == 100);
        CHECK(errc_of([&] { tasks.schedule(milliseconds(0), "\"x\""); }) == Errc::stopped);
        CHECK(errc_of([&] { tasks.cancel(left); }) == Errc::stopped);
        tasks.stop();
    }

    TEST_CASE("draining waits until nothing is pending and every callback has had all") {
        Scheduler tasks;
        std::atomic<int> had{0};
        std::atomic<bool> slow_has_had{false};
        tasks.on_event([&](const Event&) {
            // Twice, a callback schedules one more.
            if (++had < 3) tasks.schedule(milliseconds(1), "[]");
        });
        tasks.on_event([&](const Event& event) {
            if (event.seq < 2) return;
            eventually([&] { return had == 3; });
            slow_has_had = true;
        });
        tasks.schedule(milliseconds(20), "[]");
        CHECK(tasks.drain());
        CHECK(had == 3);
        CHECK(slow_has_had);
        CHECK(tasks.stats().pending == 0);
        CHECK(tasks.drain());  // with nothing to do
    }

    TEST_CASE("draining ends when the last task is cancelled, or given up") {
        TestClock clock;
        Options options = with(clock);
        options.max_lateness = milliseconds(1'000);
        Scheduler tasks(options);
        const TaskId far = tasks.schedule(std::chrono::hours(1), "[]");
        const TaskId farther = tasks.schedule(std::chrono::hours(2), "[]");
        auto drained = std::async(std::launch::async, [&] { return tasks.drain(); });
        CHECK(tasks.cancel(far));
        CHECK(drained.wait_for(milliseconds(20)) == std::future_status::timeout);
        SUBCASE("cancelled") { CHECK(tasks.cancel(farther)); }
        SUBCASE("given up") { clock.advance(tasks, std::chrono::hours(3)); }
        CHECK(drained.get());
        CHECK(tasks.stats().emitted == 0);
    }

    TEST_CASE("draining says when the scheduler was stopped instead") {
        Scheduler tasks;
        tasks.schedule(std::chrono::hours(1), "[]");
        auto drained = std::async(std::launch::async, [&] { return tasks.drain(); });
        CHECK(drained.wait_for(milliseconds(20)) == std::future_status::timeout);
        tasks.stop();
        CHECK_FALSE(drained.get());
        CHECK_FALSE(tasks.drain());
    }

    TEST_CASE("draining inside a callback is refused, for it would wait for itself") {
        std::atomic<int> refused{0};
        Options options;
        options.on_error = [&](std::exception_ptr error) {
            try {
                std::rethrow_exception(error);
            } catch (const Error& e) {
                if (e.code() == Errc::invalid_argument) ++refused;
            }
        };
        Scheduler tasks(options);
        tasks.on_event([&](const Event&) { tasks.drain(); });
        tasks.schedule(milliseconds(0), "[]");
        CHECK(tasks.drain());
        CHECK(refused == 1);
    }

    TEST_CASE("a hook is called for events, and not after it was removed") {
        TestClock clock;
        std::atomic<int> calls{0};
        Scheduler tasks(with(clock));
        const std::size_t hook = tasks.add_companion({[&] { ++calls; }, nullptr, nullptr});
        tasks.schedule(milliseconds(0), "\"x\"");
        CHECK(eventually([&] { return calls == 1; }));
        tasks.remove_companion(hook);
        tasks.schedule(milliseconds(0), "\"x\"");
        CHECK(tasks.wait_for(scheduler::Cursor(1), support::long_enough));
        tasks.stop();
        CHECK(calls == 1);
    }

    TEST_CASE("a cancelled task is gone, and cancelling tells what it met") {
        TestClock clock;
        Scheduler tasks(with(clock));
        const TaskId id = tasks.schedule(std::chrono::hours(1), "\"x\"");
        const TaskId done = tasks.schedule(milliseconds(0), "\"y\"");
        CHECK(tasks.wait_for(scheduler::Cursor(0), support::long_enough));
        CHECK(tasks.cancel(id));
        CHECK_FALSE(tasks.cancel(id));
        CHECK_FALSE(tasks.find(id));
        CHECK(errc_of([&] { tasks.cancel(done); }) == Errc::already_emitted);
        clock.advance(tasks, std::chrono::hours(2));
        CHECK_FALSE(tasks.wait_for(scheduler::Cursor(1), milliseconds(20)));
    }

    TEST_CASE("a task is changed in place and emitted at its new time only") {
        TestClock clock;
        Scheduler tasks(with(clock));
        const TaskId id = tasks.schedule(std::chrono::minutes(1), "\"old\"");
        const auto change = TaskRequest::parse_change(
            R"({"timestamp":"2026-03-01T12:10:00Z","message":{"new":1.0}})", noon);
        const Task task = support::change(tasks, id, change);
        CHECK(task.id == id);
        CHECK(task.payload.str() ==
              R"({"timestamp":"2026-03-01T12:10:00Z","message":{"new":1.0}})");
        clock.advance(tasks, std::chrono::minutes(5));
        CHECK_FALSE(tasks.wait_for(scheduler::Cursor(0), milliseconds(20)));
        clock.advance(tasks, std::chrono::minutes(5));
        CHECK(tasks.wait_for(scheduler::Cursor(0), support::long_enough));
        CHECK(errc_of([&] { support::change(tasks, id, change); }) == Errc::already_emitted);
        CHECK(errc_of([&] { support::change(tasks, support::id_of(5), change); }) == Errc::unknown_task);
    }

    TEST_CASE("tasks are cancelled by range, bounds excluded") {
        TestClock clock;
        Scheduler tasks(with(clock));
        for (int i = 0; i < 5'000; ++i) tasks.schedule(milliseconds(1'000 + i), "\"x\"");
        CHECK(tasks.cancel(DueRange{noon + milliseconds(1'000), noon + milliseconds(4'000)}) ==
              2'999);
        CHECK(tasks.stats().pending == 2'001);
        CHECK(tasks.cancel(DueRange{noon, {}}) == 2'001);
    }

    TEST_CASE("a histogram counts what a walk through all pending tasks meets") {
        TestClock clock;
        Scheduler tasks(with(clock));
        std::mt19937 random(1);
        std::vector<TimePoint> dues;
        for (int i = 0; i < 3'000; ++i) {
            const milliseconds ahead(1 + random() % 10'000);
            dues.push_back(noon + ahead);
            tasks.schedule(ahead, "\"x\"");
        }
        for (const std::size_t buckets : {1U, 7U, 24U, 500U}) {
            for (const auto& span : {std::pair(0, 20'000), {2'000, 2'003}, {3'000, 9'999}}) {
                const int from = span.first;
                const int to = span.second;
                CAPTURE(buckets);
                CAPTURE(from);
                const DueRange range{noon + milliseconds(from), noon + milliseconds(to)};
                const Histogram histogram = tasks.histogram(range, buckets);
                CHECK(histogram.from == *range.after);
                CHECK(histogram.to == *range.before);
                std::vector<std::size_t> counts(buckets);
                for (const TimePoint due : dues) {
                    if (due <= *range.after || due >= *range.before) continue;
                    std::size_t i = 0;
                    const auto n = static_cast<std::int64_t>(buckets);
                    while (due >= *range.after + milliseconds((to - from) / n * (int(i) + 1) +
                                                              (to - from) % n * (int(i) + 1) / n))
                        ++i;
                    ++counts[i];
                }
                CHECK(histogram.counts == counts);
            }
        }
    }

    TEST_CASE("an open histogram goes from the first task to the last, and counts all") {
        TestClock clock;
        Scheduler tasks(with(clock));
        const std::size_t none = 0;
        CHECK(tasks.histogram({}, 3).counts == std::vector<std::size_t>(3, none));
        for (const int ahead : {1'000, 2'000, 3'000, 3'000}) {
            tasks.schedule(milliseconds(ahead), "\"x\"");
        }
        const Histogram all = tasks.histogram({}, 2);
        CHECK(all.from == noon + milliseconds(1'000));
        CHECK(all.to == noon + milliseconds(3'001));
        CHECK(all.counts == std::vector<std::size_t>{1, 3});
        const DueRange late{noon + milliseconds(9'000), {}};
        CHECK(tasks.histogram(late, 1).counts == std::vector<std::size_t>{0});
        const DueRange early{{}, noon - milliseconds(9'000)};
        CHECK(tasks.histogram(early, 1).counts == std::vector<std::size_t>{0});
        // A task whose cancel is on its way is still pending.
        Ticket ticket = tasks.begin_cancel(DueRange{{}, noon + milliseconds(2'500)});
        CHECK(tasks.histogram({}, 2).counts == std::vector<std::size_t>{1, 3});
        ticket.wait();
        CHECK(tasks.histogram({}, 1).counts == std::vector<std::size_t>{2});
    }

    TEST_CASE("a histogram that cannot be is refused") {
        TestClock clock;
        Scheduler tasks(with(clock));
        CHECK(errc_of([&] { tasks.histogram({}, 0); }) == Errc::invalid_argument);
        CHECK(errc_of([&] { tasks.histogram({}, 501); }) == Errc::invalid_argument);
        CHECK(errc_of([&] { tasks.histogram({noon, noon}, 5); }) == Errc::invalid_argument);
    }

    TEST_CASE("a limit refuses what is too much and nothing else") {
        TestClock clock;
        Options options = with(clock);
        options.max_tasks = 3;
        options.max_bytes = 1'000;
        Scheduler tasks(options);
        const std::string large = '"' + std::string(2'000, 'x') + '"';
        CHECK(errc_of([&] { tasks.schedule(std::chrono::hours(1), large); }) == Errc::task_limit);
        const TaskId id = tasks.schedule(std::chrono::hours(1), "\"a\"");
        tasks.schedule(std::chrono::hours(1), "\"b\"");
        tasks.schedule(std::chrono::hours(1), "\"c\"");
        CHECK(errc_of([&] { tasks.schedule(std::chrono::hours(1), "\"d\""); }) == Errc::task_limit);
        CHECK(tasks.cancel(id));
        tasks.schedule(std::chrono::hours(1), "\"d\"");
    }

    TEST_CASE("the history keeps the newest events, and each for a minute") {
        TestClock clock;
        Options options = with(clock);
        options.history = 5;
        Scheduler tasks(options);
        for (int i = 0; i < 20; ++i) tasks.schedule(milliseconds(0), "\"x\"");
        CHECK(tasks.wait_for(scheduler::Cursor(19), support::long_enough));
        CHECK(tasks.stats().retained == 20);
        clock.advance(tasks, milliseconds(59'999));
        CHECK(tasks.stats().retained == 20);
        clock.advance(tasks, milliseconds(1));
        CHECK(eventually([&] { return tasks.stats().retained == 5; }));
        CHECK(tasks.oldest().seq() == 15);
        CHECK(support::events_from(tasks, 0).lost);
    }

    TEST_CASE("events are forgotten on demand, also across a restart") {
        const TempDir dir;
        TestClock clock;
        Options options = with(clock);
        options.journal = dir.journal();
        {
            Scheduler tasks(options);
            for (int i = 0; i < 10; ++i) tasks.schedule(milliseconds(0), "\"x\"");
            CHECK(tasks.wait_for(scheduler::Cursor(9), support::long_enough));
            CHECK(support::forget(tasks, 2, 5) == 3);
            CHECK(tasks.stats().retained == 7);
        }
        Scheduler tasks(options);
        CHECK(tasks.stats().retained == 7);
        CHECK(tasks.newest().seq() == 10);
        CHECK(support::forget(tasks, 0, 100) == 7);
    }

    TEST_CASE("a task and its place in history survive a restart") {
        const TempDir dir;
        TestClock clock;
        Options options = with(clock);
        options.journal = dir.journal();
        TaskId emitted;
        TaskId pending;
        {
            Scheduler tasks(options);
            emitted = tasks.schedule(milliseconds(0), "\"emitted\"");
            pending = tasks.schedule(std::chrono::hours(1), "\"pending\"");
            CHECK(tasks.wait_for(scheduler::Cursor(0), support::long_enough));
        }
        Scheduler tasks(options);
        CHECK(tasks.stats().recovered == 1);
        CHECK(tasks.cursor_of(emitted) == scheduler::Cursor(0U));
        CHECK(tasks.newest().seq() == 1);
        CHECK(pending < tasks.schedule(std::chrono::hours(1), "\"newer\""));
        clock.advance(tasks, std::chrono::hours(2));
        CHECK(tasks.wait_for(scheduler::Cursor(1), support::long_enough));
        CHECK(tasks.event_before(scheduler::Cursor(2)) == pending);
    }

    TEST_CASE("what fell due while nobody ran is emitted at start, in order, with its lateness") {
        const TempDir dir;
        TestClock clock;
        Options options = with(clock);
        options.journal = dir.journal();
        {
            Scheduler tasks(options);
            tasks.schedule(std::chrono::minutes(2), "\"second\"");
            tasks.schedule(std::chrono::minutes(1), "\"first\"");
        }
        clock.advance(std::chrono::minutes(5));
        Scheduler tasks(options);
        CHECK(tasks.wait_for(scheduler::Cursor(1), support::long_enough));
        const auto events = support::events_from(tasks, 0).events;
        CHECK(events[0].late() == std::chrono::minutes(4));
        CHECK(events[1].late() == std::chrono::minutes(3));
    }

    TEST_CASE("what is later than the largest lateness is given up, and stays so") {
        const TempDir dir;
        TestClock clock;
        Options options = with(clock);
        options.journal = dir.journal();
        options.max_lateness = std::chrono::minutes(1);
        TaskId missed;
        {
            Scheduler tasks(options);
            missed = tasks.schedule(std::chrono::minutes(1), "\"missed\"");
            tasks.schedule(std::chrono::minutes(4), "\"late\"");
        }
        clock.advance(std::chrono::minutes(5));
        for (int restart = 0; restart < 2; ++restart) {
            Scheduler tasks(options);
            CHECK(tasks.wait_for(scheduler::Cursor(0), support::long_enough));
            CHECK(eventually([&] { return tasks.find(missed)->status == Status::missed; }));
            CHECK(support::event_ids(tasks).size() == 1);
            CHECK_FALSE(tasks.cancel(missed));
        }
        Scheduler tasks(options);
        tasks.schedule(noon, "\"long past, but just come\"");
        CHECK(tasks.wait_for(scheduler::Cursor(1), support::long_enough));
    }

    TEST_CASE("a clock that starts behind the journal is not trusted until it has caught up") {
        const TempDir dir;
        TestClock clock;
        Options options = with(clock);
        options.journal = dir.journal();
        TaskId id;
        {
            Scheduler tasks(options);
            id = tasks.schedule(std::chrono::seconds(5), "\"x\"");
        }
        clock.advance(std::chrono::hours(-1));
        Scheduler tasks(options);
        CHECK_FALSE(tasks.stats().clock_trusted);
        CHECK(errc_of([&] { tasks.schedule(milliseconds(0), "\"y\""); }) == Errc::clock_untrusted);
        const TaskRequest later = TaskRequest::parse_change(R"({"delay":9})", clock.now());
        CHECK(errc_of([&] { support::change(tasks, id, later); }) == Errc::clock_untrusted);
        CHECK_FALSE(tasks.wait_for(scheduler::Cursor(0), milliseconds(20)));
        clock.advance(tasks, std::chrono::hours(1));
        CHECK(eventually([&] { return tasks.stats().clock_trusted; }));
        tasks.schedule(milliseconds(0), "\"y\"");
        clock.advance(tasks, std::chrono::seconds(5));
        CHECK(tasks.wait_for(scheduler::Cursor(1), support::long_enough));
    }

    TEST_CASE("a clock that once ran ahead does not lock a scheduler out") {
        const TempDir dir;
        TestClock clock("2030-01-01T00:00:00Z");
        Options options = with(clock);
        options.journal = dir.journal();
        {
            Scheduler tasks(options);
            tasks.schedule(std::chrono::hours(1), "\"from the future\"");
        }
        clock.set(noon);
        options.trust_clock = true;
        TaskId id;
        {
            Scheduler tasks(options);
            CHECK(tasks.stats().clock_trusted);
            id = tasks.schedule(std::chrono::hours(1), "\"x\"");
        }
        options.trust_clock = false;
        Scheduler tasks(options);
        CHECK(tasks.stats().clock_trusted);
        CHECK(tasks.find(id));
        CHECK(tasks.stats().pending == 2);
    }

    TEST_CASE("an event of a clock that ran ahead does not keep the history from being trimmed") {
        const TempDir dir;
        TestClock clock("2030-01-01T00:00:00Z");
        Options options = with(clock);
        options.journal = dir.journal();
        options.history = 2;
        {
            Scheduler tasks(options);
            tasks.schedule(milliseconds(0), "\"from the future\"");
            REQUIRE(tasks.wait_for(scheduler::Cursor(0), support::long_enough));
        }
        clock.set(noon);
        options.trust_clock = true;
        Scheduler tasks(options);
        for (std::uint64_t i = 1; i <= 5; ++i) {
            tasks.schedule(milliseconds(0), "\"now\"");
            REQUIRE(tasks.wait_for(scheduler::Cursor(i), support::long_enough));
        }
        clock.advance(tasks, std::chrono::minutes(2));
        CHECK(eventually([&] { return tasks.stats().retained == 2; }));
    }

    TEST_CASE("a repeated request changes nothing and gets the first answer") {
        const TempDir dir;
        TestClock clock;
        Options options = with(clock);
        options.journal = dir.journal();
        options.rewrite_min_bytes = 0;
        const auto request = [&](const char* json) {
            return TaskRequest::parse(json, clock.now());
        };
        const char* json = R"({"delay":60,"message":"x"})";
        support::Scheduled first;
        {
            Scheduler tasks(options);
            first = support::schedule(tasks, {request(json)}, "key");
            clock.advance(tasks, std::chrono::seconds(1));
            const support::Scheduled again = support::schedule(tasks, {request(json)}, "key");
            CHECK(again.ids == first.ids);
            CHECK(again.timestamp == first.timestamp);
            CHECK(errc_of([&] {
                      support::schedule(tasks, {request(R"({"delay":61,"message":"x"})")}, "key");
                  }) == Errc::key_reused);
            CHECK(support::schedule(tasks, {request(json)}, "other key").ids != first.ids);
        }
        clock.advance(std::chrono::hours(23));
        {
            Scheduler tasks(options);
            CHECK(support::schedule(tasks, {request(json)}, "key").ids == first.ids);
            CHECK(eventually([&] { return tasks.stats().pending == 0; }));
        }
        clock.advance(std::chrono::hours(2));
        Scheduler tasks(options);
        CHECK(support::schedule(tasks, {request(json)}, "key").ids != first.ids);
    }

    TEST_CASE("a key is known for as long as its task is pending") {
        TestClock clock;
        Scheduler tasks(with(clock));
        const auto request = [&] {
            return TaskRequest::parse(R"({"timestamp":"2026-05-01","message":"x"})", clock.now());
        };
        const support::Scheduled first = support::schedule(tasks, {request()}, "key");
        clock.advance(tasks, std::chrono::hours(24 * 30));
        CHECK(support::schedule(tasks, {request()}, "key").ids == first.ids);
    }

    TEST_CASE("keys that were chosen to collide cost no more than any others") {
        // Two pairs of words between which the hash of libstdc++ does not tell, whatever it
        // is started with: what the first changes the second takes back.
        constexpr std::uint64_t multiplier = 0xC6A4A7935BD1E995U;
        std::uint64_t inverse = 1;
        for (int i = 0; i < 6; ++i) inverse *= 2 - multiplier * inverse;
        const auto word = [inverse](std::uint64_t mixed) {
            mixed *= inverse;
            mixed ^= mixed >> 47;
            mixed *= inverse;
            return std::string(reinterpret_cast<const char*>(&mixed), sizeof mixed);
        };
        constexpr std::size_t count = 1 << 12;
        std::vector<std::string> chosen(count);
        std::vector<std::string> others(count);
        for (std::size_t i = 0; i < count; ++i) {
            for (unsigned bit = 0; bit < 12; ++bit) {
                const std::uint64_t top = (i >> bit & 1) != 0 ? std::uint64_t{1} << 63 : 0;
                chosen[i] += word(bit ^ top) + word(bit ^ top);
            }
            others[i] = std::to_string(i) + std::string(chosen[i].size() - 8, 'x');
        }
        REQUIRE(std::set<std::string>(chosen.begin(), chosen.end()).size() == count);
        const auto request = TaskRequest::parse(R"({"delay":"1h","message":"x"})", wall_clock());
        struct Repeats {
            const std::vector<std::string>& keys;
            Scheduler tasks = Scheduler();
            std::chrono::nanoseconds best = std::chrono::hours(1);
        };
        Repeats of_chosen{chosen};
        Repeats of_others{others};
        for (Repeats* repeats : {&of_chosen, &of_others}) {
            for (const std::string& key : repeats->keys) {
                support::schedule(repeats->tasks, {request}, key);
            }
        }
        const auto is_as_fast = [&] { return of_chosen.best < 4 * of_others.best; };
        for (int round = 0; round < 5 || (round < 500 && !is_as_fast()); ++round) {
            for (Repeats* repeats : {&of_chosen, &of_others}) {
                const auto start = std::chrono::steady_clock::now();
                for (std::size_t i = 0; i < count; i += 16) {
                    support::schedule(repeats->tasks, {request}, repeats->keys[i]);
                }
                repeats->best = std::min<std::chrono::nanoseconds>(
                    repeats->best, std::chrono::steady_clock::now() - start);
            }
        }
        CHECK(is_as_fast());
    }

    TEST_CASE("the key of a large batch takes little of the journal, and tells all its ids") {
        const TempDir dir;
        TestClock clock;
        Options options = with(clock);
        options.journal = dir.journal();
        options.history = 0;
        options.min_retention = milliseconds(0);
        options.rewrite_min_bytes = 1;
        const std::vector<TaskRequest> batch(
            5'000, TaskRequest::parse(R"({"timestamp":"2026-03-01","message":"x"})", clock.now()));
        std::vector<TaskId> ids;
        {
            Scheduler tasks(options);
            ids = support::schedule(tasks, batch, "key").ids;
            clock.advance(tasks, std::chrono::seconds(1));
            CHECK(eventually([&] { return tasks.stats().retained + tasks.stats().pending == 0; }));
            CHECK(eventually([&] { return tasks.stats().journal_bytes < 2'000; }));
        }
        CHECK(std::set<TaskId>(ids.begin(), ids.end()).size() == batch.size());
        CHECK(std::is_sorted(ids.begin(), ids.end()));
        Scheduler tasks(options);
        CHECK(support::schedule(tasks, batch, "key").ids == ids);
    }

    TEST_CASE("requests with one key at the same time schedule one task") {
        const TempDir dir;
        Options options;
        options.journal = dir.journal();
        Scheduler tasks(options);
        const auto request = TaskRequest::parse(R"({"delay":"1h","message":"x"})", wall_clock());
        std::vector<std::thread> clients;
        std::mutex mutex;
        std::set<TaskId> ids;
        for (int i = 0; i < 8; ++i) {
            clients.emplace_back([&] {
                for (int n = 0; n < 20; ++n) {
                    const support::Scheduled got = support::schedule(tasks, {request}, "key" + std::to_string(n));
                    const std::lock_guard<std::mutex> guard(mutex);
                    ids.insert(got.ids.front());
                }
            });
        }
        for (std::thread& client : clients) client.join();
        CHECK(ids.size() == 20);
        CHECK(tasks.stats().pending == 20);
    }

    TEST_CASE("a request may hold other members, and never emits its secret") {
        const TaskRequest request = TaskRequest::parse(
            R"( {"a":1, "secret" : "s", "timestamp":"2026-03-02", "s\u0065cret2":0,
                "message":[1.10 , 12345678901234567890,{"b":1,"b":-0.0}]} )",
            noon);
        CHECK(request.errors.empty());
        CHECK(request.payload == R"({"a":1,"timestamp":"2026-03-02","s\u0065cret2":0,)"
                                 R"("message":[1.10,12345678901234567890,{"b":1,"b":-0.0}]})");
        CHECK(TaskRequest::parse(R"({"message":"x","s\u0065cret":"s","timestamp":"2026"})", noon)
                  .payload == R"({"message":"x","timestamp":"2026"})");
    }

    TEST_CASE("a delay is counted from now and emitted as the time that it comes to") {
        const TaskRequest request =
            TaskRequest::parse(R"({"x":1,"delay":"1h30m","message":"m","y":2})", noon);
        CHECK(request.errors.empty());
        CHECK(request.due == at("2026-03-01T13:30:00Z"));
        CHECK(request.payload ==
              R"({"x":1,"timestamp":"2026-03-01T13:30:00.000Z","message":"m","y":2})");
        CHECK(TaskRequest::parse(R"({"delay":1.5,"message":"m"})", noon).due ==
              noon + milliseconds(1'500));
    }

    TEST_CASE("all that is wrong with a request is said at once") {
        CHECK(errors_of("{}").size() == 2);
        CHECK(errors_of(R"({"timestamp":5,"message":5,"secret":5})").size() == 3);
        CHECK(errors_of(R"({"timestamp":"2026","timestamp":"2026","message":"a","message":"b"})")
                  .size() == 2);
        CHECK(errors_of(R"({"timestamp":"2026","delay":1,"message":"a"})").size() == 1);
        CHECK(errors_of(R"({"delay":"soon","message":"a"})").size() == 1);
        CHECK(errors_of(R"({"timestamp":"2026","message":null})").size() == 1);
        CHECK(errors_of("[]").size() == 1);
        CHECK(errors_of("").size() == 1);
        CHECK(errors_of("{\"timestamp\":\"2026\",\"message\":\"a\"} x").size() == 1);
        CHECK(errors_of(R"({"timestamp":"2027-03-01T12:00:00.000Z","message":"a"})").empty());
        const auto far = errors_of(R"({"timestamp":"2027-03-01T12:00:00.001Z","message":"a"})");
        REQUIRE(far.size() == 1);
        CHECK(far[0].find("2027-03-01T12:00:00.000Z") != std::string::npos);
        CHECK(errors_of(R"({"delay":"366d","message":"a"})").size() == 1);
    }

    TEST_CASE("a message is JSON, one value of it") {
        Scheduler tasks;
        for (const char* message : {"", "1 2", "{\"a\":1},\"b\":{}", "nonsense", "12", "null"}) {
            CAPTURE(message);
            CHECK(errc_of([&] { tasks.schedule(std::chrono::hours(1), message); }) ==
                  Errc::invalid_argument);
        }
    }

    TEST_CASE("many threads schedule, cancel and change, and nothing is lost or doubled") {
        const TempDir dir;
        Options options;
        options.journal = dir.journal();
        options.fsync = Fsync::no;
        options.rewrite_min_bytes = 10'000;
        std::atomic<std::size_t> kept{0};
        {
            Scheduler tasks(options);
            std::vector<std::thread> clients;
            for (int i = 0; i < 6; ++i) {
                clients.emplace_back([&, i] {
                    for (int n = 0; n < 300; ++n) {
                        const TaskId id =
                            tasks.schedule(milliseconds(n % 3 ? 3'600'000 : 1), "\"x\"");
                        try {
                            if (n % 3 == 1 && tasks.cancel(id)) continue;
                            if (n % 5 == i % 5) {
                                support::change(tasks, id, TaskRequest::parse_change("{\"message\":\"y\"}",
                                                                           tasks.now()));
                            }
                        } catch (const Error& error) {
                            if (error.code() != Errc::already_emitted) throw;
                        }
                        ++kept;
                    }
                });
            }
            for (std::thread& client : clients) client.join();
            CHECK(eventually([&] { return tasks.stats().emitted == 600; }));
            CHECK(tasks.stats().pending + tasks.stats().retained == kept);
            CHECK(tasks.stats().journal_rewrites > 0);
        }
        Scheduler tasks(options);
        CHECK(tasks.stats().pending + tasks.stats().retained == kept);
        CHECK(tasks.stats().retained == 600);
    }

    TEST_CASE("a key that has had its day belongs to its next request, also after a restart") {
        const TempDir dir;
        TestClock clock;
        Options options = with(clock);
        options.journal = dir.journal();
        const auto parse = [&](const char* message) {
            return TaskRequest::parse(
                R"({"timestamp":"2026-03-01T13:00:00Z","message":")" + std::string(message) + "\"}",
                clock.now());
        };
        std::vector<TaskId> second;
        {
            Scheduler tasks(options);
            support::schedule(tasks, {parse("first")}, "key");
            clock.advance(tasks, std::chrono::hours(25));
            REQUIRE(tasks.wait_for(scheduler::Cursor(0), support::long_enough));
            second = support::schedule(tasks, {parse("second")}, "key").ids;
        }
        Scheduler tasks(options);
        CHECK(support::schedule(tasks, {parse("second")}, "key").ids == second);
        CHECK(errc_of([&] { support::schedule(tasks, {parse("third")}, "key"); }) == Errc::key_reused);
    }

    TEST_CASE("a hook may be removed after the scheduler has stopped") {
        Scheduler tasks;
        std::atomic<int> calls{0};
        const std::size_t hook = tasks.add_companion({[&] { ++calls; }, nullptr, nullptr});
        tasks.stop();
        CHECK(calls == 1);
        tasks.remove_companion(hook);
        tasks.stop();
        CHECK(calls == 1);
    }

    TEST_CASE("a change takes no place beside the task that it changes") {
        TestClock clock;
        Options options = with(clock);
        options.max_tasks = 1;
        Scheduler tasks(options);
        const TaskId id = tasks.schedule(std::chrono::hours(1), "\"x\"");
        options.max_bytes = tasks.stats().bytes;
        const auto longer = TaskRequest::parse_change(R"({"message":"longer"})", clock.now());
        CHECK(support::change(tasks, id, longer).payload.str().find("longer") != std::string::npos);
        CHECK(tasks.stats().pending == 1);
    }
}

}  // namespace scheduler_test
