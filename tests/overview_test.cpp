// SPDX-License-Identifier: MIT
//
// What a scheduler tells of itself: what is overdue, how late events were, what explains that.
#include "support.hpp"

namespace overview_test {

using namespace scheduler;
using namespace support;

TEST_SUITE("overview") {
    TEST_CASE("lateness is told by the minute, to a sixteenth of what it was") {
        detail::LatenessBook book;
        const TimePoint noon = at("2026-03-01T12:00:00Z");
        CHECK(book.minutes().empty());
        for (int late = 1; late <= 1'000; ++late) book.add(noon, milliseconds(late));
        book.add(noon + std::chrono::seconds(59), milliseconds(100'000));
        book.add(noon + std::chrono::minutes(1), milliseconds(-5));  // which cannot be
        const std::vector<LatenessMinute> minutes = book.minutes();
        REQUIRE(minutes.size() == 2);
        CHECK(minutes[0].at == noon);
        CHECK(minutes[0].events == 1'001);
        CHECK(minutes[0].p50 >= milliseconds(501));
        CHECK(minutes[0].p50 < milliseconds(501 + 32));
        CHECK(minutes[0].p99 >= milliseconds(991));
        CHECK(minutes[0].p99 < milliseconds(991 + 62));
        CHECK(minutes[0].max == milliseconds(100'000));
        CHECK(minutes[1].at == noon + std::chrono::minutes(1));
        CHECK(minutes[1].max == milliseconds(0));
        CHECK(minutes[1].p50 == milliseconds(0));
    }

    TEST_CASE("durations are counted by the span that they fall into, bounds belong to the left") {
        using std::chrono::microseconds;
        Durations durations;
        for (const auto us : {0, 100, 101, 1'000}) durations.add(microseconds(us));
        durations.add(std::chrono::hours(1));
        durations.add(std::chrono::hours(1) + microseconds(1));
        CHECK(durations.counts[0] == 2);
        CHECK(durations.counts[1] == 1);
        CHECK(durations.counts[2] == 1);
        CHECK(durations.counts[Durations::bounds.size() - 1] == 1);
        CHECK(durations.counts.back() == 1);
        CHECK(durations.sum == std::chrono::hours(2) + microseconds(1'202));
    }

    TEST_CASE(
        "all events and all syncs are in the durations of an overview, and the clock's steps") {
        TempDir dir;
        TestClock clock;
        Options options;
        options.journal = dir.journal();
        options.now = clock.source();
        options.drive = Drive::caller;
        Scheduler tasks(options);
        const auto count = [](const Durations& durations) {
            return std::accumulate(durations.counts.begin(), durations.counts.end(),
                                   std::uint64_t{0});
        };
        tasks.schedule(std::chrono::seconds(1), "\"x\"");
        clock.advance(std::chrono::seconds(4));
        tasks.run_due();
        clock.advance(-std::chrono::hours(1));
        tasks.schedule(milliseconds(0), "\"x\"");
        tasks.run_due();
        const Overview overview = tasks.overview();
        CHECK(count(overview.late) == 2);
        CHECK(overview.late.sum == std::chrono::seconds(3));
        CHECK(count(overview.syncs) == overview.stats.journal_syncs);
        CHECK(count(overview.syncs) >= 2);
        CHECK(overview.clock_steps == 1);
    }

    TEST_CASE("lateness of up to 31 ms is told as it was, and no lateness is too large") {
        for (int late = 0; late < 32; ++late) {
            detail::LatenessBook book;
            book.add(TimePoint(), milliseconds(late));
            book.add(TimePoint(), std::chrono::hours(24 * 365 * 1'000));
            CHECK(book.minutes().at(0).p50 == milliseconds(late));
            CHECK(book.minutes().at(0).p99 > std::chrono::hours(24 * 365 * 4));
        }
    }

    TEST_CASE("the last 240 minutes with events are told, and 100 marks") {
        detail::LatenessBook book;
        for (int i = 0; i < 1'000; ++i) {
            book.add(TimePoint(std::chrono::minutes(3 * i)), milliseconds(1));
            book.mark({Mark::Kind::resume, TimePoint(milliseconds(i))});
        }
        const auto minutes = book.minutes();
        CHECK(minutes.size() == 241);  // the one at hand among them
        CHECK(minutes.back().at == TimePoint(std::chrono::minutes(3 * 999)));
        CHECK(minutes.front().at == TimePoint(std::chrono::minutes(3 * 759)));
        CHECK(book.marks().size() == 100);
        CHECK(book.marks().front().at == TimePoint(milliseconds(900)));
    }

    TEST_CASE("what is overdue, and since when, is told while a pause holds it back") {
        TestClock clock;
        Options options;
        options.now = clock.source();
        Scheduler tasks(options);
        const TimePoint noon = tasks.now();
        tasks.pause("why");
        tasks.schedule(milliseconds(1'000), "\"x\"");
        tasks.schedule(milliseconds(2'000), "\"x\"");
        tasks.schedule(milliseconds(9'000), "\"x\"");
        clock.advance(tasks, milliseconds(8'000));
        const Overview paused = tasks.overview();
        CHECK(paused.overdue == 2);
        CHECK(paused.stats.overdue == milliseconds(7'000));
        CHECK(paused.next_due == noon + milliseconds(1'000));
        REQUIRE(paused.paused);
        CHECK(paused.paused->reason == "why");
        CHECK(paused.now == noon + milliseconds(8'000));
        CHECK(paused.started_at == noon);
        CHECK(paused.lateness.empty());
        tasks.resume();
        REQUIRE(eventually([&] { return tasks.stats().emitted == 2; }));
        const Overview after = tasks.overview();
        CHECK(after.overdue == 0);
        CHECK(after.stats.overdue == milliseconds(0));
        CHECK(after.next_due == noon + milliseconds(9'000));
        REQUIRE(after.lateness.size() == 1);
        CHECK(after.lateness[0].events == 2);
        CHECK(after.lateness[0].max == milliseconds(7'000));
        std::vector<Mark::Kind> kinds;
        for (const Mark& mark : after.marks) kinds.push_back(mark.kind);
        CHECK(kinds ==
              std::vector<Mark::Kind>{Mark::Kind::start, Mark::Kind::pause, Mark::Kind::resume});
    }

    TEST_CASE("a task whose time was past when it came is not late, nor overdue since then") {
        TestClock clock;
        Options options;
        options.now = clock.source();
        Scheduler tasks(options);
        tasks.pause();
        tasks.schedule(at("2020-01-01T00:00:00Z"), "\"x\"");
        CHECK(tasks.stats().overdue == milliseconds(0));
        CHECK(tasks.overview().overdue == 1);
        tasks.resume();
        REQUIRE(eventually([&] { return tasks.stats().emitted == 1; }));
        CHECK(tasks.overview().lateness.at(0).max == milliseconds(0));
    }

    TEST_CASE("a clock that was set back, and a journal that was replaced, leave marks") {
        TempDir dir;
        TestClock clock;
        Options options;
        options.journal = dir.journal();
        options.now = clock.source();
        options.rewrite_min_bytes = 1;
        Scheduler tasks(options);
        for (int i = 0; i < 40; ++i) tasks.cancel(tasks.schedule(std::chrono::hours(1), "\"x\""));
        const auto has = [&tasks](Mark::Kind kind) {
            const auto marks = tasks.overview().marks;
            return std::any_of(marks.begin(), marks.end(),
                               [kind](const Mark& mark) { return mark.kind == kind; });
        };
        CHECK(eventually([&] { return has(Mark::Kind::replacement); }));
        CHECK_FALSE(has(Mark::Kind::clock_step));
        clock.advance(tasks, std::chrono::hours(-1));
        tasks.schedule(milliseconds(0), "\"x\"");
        REQUIRE(eventually([&] { return tasks.stats().emitted == 1; }));
        REQUIRE(has(Mark::Kind::clock_step));
        for (const Mark& mark : tasks.overview().marks) {
            if (mark.kind == Mark::Kind::clock_step) CHECK(mark.by == std::chrono::hours(-1));
        }
    }

    TEST_CASE("a task's story tells of each sink whether it has the event") {
        TestClock clock;
        Options options;
        options.now = clock.source();
        options.drive = Drive::caller;
        Scheduler tasks(options);
        const auto takes = make_sink([](const Event&) {});
        const auto refuses = make_sink([](const Event&) { throw std::runtime_error("not today"); });
        Sinks sinks(tasks, {{"keen", takes, {}, false},
                            {"never", refuses, {}, false},
                            {"slow", refuses, {std::chrono::minutes(1)}, false}});
        tasks.pause_sink("keen");
        const TaskId id = tasks.schedule(std::chrono::seconds(10), "\"x\"");
        const TaskId second = tasks.schedule(std::chrono::seconds(10), "\"x\"");
        CHECK(tasks.story(id)->sinks.empty());
        CHECK(tasks.story(id)->stored_at == tasks.now());
        clock.advance(std::chrono::seconds(10));
        tasks.run_due();
        const auto share = [&](TaskId task, std::size_t sink) {
            return tasks.story(task)->sinks[sink];
        };
        using State = SinkShare::State;
        CHECK(tasks.story(id)->stored_at == tasks.now() - std::chrono::seconds(10));
        CHECK(share(id, 0).sink == "keen");
        CHECK(share(id, 0).state == State::waiting);
        CHECK(share(id, 0).attempts == 0);
        tasks.resume_sink("keen");
        tasks.run_due();
        CHECK(share(id, 0).state == State::taken);
        CHECK(share(id, 1).sink == "never");
        CHECK(share(id, 1).state == State::dead);
        CHECK(share(id, 1).attempts == 1);
        CHECK(share(id, 1).error == "not today");
        CHECK(share(id, 2).state == State::waiting);
        CHECK(share(id, 2).attempts == 1);
        CHECK(share(id, 2).error == "not today");
        CHECK(share(id, 2).next_attempt);
        CHECK(share(second, 2).state == State::waiting);
        CHECK(share(second, 2).attempts == 0);  // it stands behind the first
        CHECK_FALSE(share(second, 2).next_attempt);
        CHECK_FALSE(tasks.story(TaskId(1, 2)));
    }
}

}  // namespace overview_test
