// SPDX-License-Identifier: MIT
//
// Random work, restarts and rewrites against a plain map.
#include "support.hpp"

#include <random>

namespace model_test {

using namespace scheduler;
using support::TestClock;
using support::TempDir;

namespace {

struct Model {
    std::map<std::pair<TimePoint, TaskId>, std::string> pending;  // in order of due time
    std::vector<TaskId> events;

    void advance(TimePoint now) {
        while (!pending.empty() && pending.begin()->first.first <= now) {
            events.push_back(pending.begin()->first.second);
            pending.erase(pending.begin());
        }
    }
};

void check_same(const Scheduler& tasks, const Model& model) {
    std::vector<TaskId> expected;
    for (const auto& entry : model.pending) expected.push_back(entry.first.second);
    REQUIRE(support::pending_ids(tasks) == expected);
    REQUIRE(support::event_ids(tasks) == model.events);
    TaskQuery query;
    query.limit = 7;
    std::vector<TaskId> paged;
    for (bool more = true; more;) {
        const TaskPage page = tasks.tasks(query);
        for (const Task& task : page.tasks) {
            paged.push_back(task.id);
            REQUIRE(model.pending.at({task.due, task.id}) == task.payload.str());
        }
        more = page.more;
        if (more) query.after = TaskCursor{page.tasks.back().due, page.tasks.back().id};
    }
    REQUIRE(paged == expected);
}

}  // namespace

TEST_SUITE("model") {
    TEST_CASE("the scheduler agrees with a map whatever is done to it") {
        const char* rounds_text = std::getenv("SCHEDULER_TEST_ROUNDS");
        const unsigned rounds = rounds_text ? static_cast<unsigned>(std::atoi(rounds_text)) : 12;
        for (unsigned seed = 1; seed <= rounds; ++seed) {
            CAPTURE(seed);
            std::mt19937 random(seed);
            const TempDir dir;
            TestClock clock;
            Model model;
            Options options;
            if (seed % 4 != 0) options.journal = dir.journal();
            options.fsync = Fsync::no;
            options.now = clock.source();
            options.rewrite_min_bytes = 2'000;
            auto tasks = std::make_unique<Scheduler>(options);
            for (int step = 0; step < 300; ++step) {
                const auto what = random() % 100;
                const auto ahead = std::chrono::seconds(random() % 200);
                if (what < 55) {
                    const TimePoint due = clock.now() + ahead + milliseconds(1);
                    const TaskId id = tasks->schedule(due, "{\"n\":" + std::to_string(step) + '}');
                    model.pending[{due, id}] = tasks->find(id)->payload.str();
                } else if (what < 70 && !model.pending.empty()) {
                    auto victim = model.pending.begin();
                    std::advance(victim, random() % model.pending.size());
                    REQUIRE(tasks->cancel(victim->first.second));
                    model.pending.erase(victim);
                } else if (what < 80 && !model.pending.empty()) {
                    auto moved = model.pending.begin();
                    std::advance(moved, random() % model.pending.size());
                    const TaskId id = moved->first.second;
                    const TimePoint due = clock.now() + ahead + milliseconds(1);
                    const Task task = support::change(
                        *tasks, id, TaskRequest::parse_change(
                                R"({"timestamp":")" + format_time(due) + "\"}", clock.now()));
                    model.pending.erase(moved);
                    model.pending[{due, id}] = task.payload.str();
                } else if (what < 84) {
                    DueRange range{clock.now() + ahead,
                                   clock.now() + ahead + std::chrono::seconds(20)};
                    std::size_t count = 0;
                    for (auto at = model.pending.begin(); at != model.pending.end();) {
                        const bool inside =
                            at->first.first > *range.after && at->first.first < *range.before;
                        at = inside ? model.pending.erase(at) : std::next(at);
                        count += inside;
                    }
                    REQUIRE(tasks->cancel(range) == count);
                } else if (what < 95) {
                    clock.advance(*tasks, std::chrono::seconds(random() % 20));
                    model.advance(clock.now());
                    REQUIRE(support::eventually([&] {
                        return tasks->stats().retained == model.events.size() &&
                               tasks->stats().pending == model.pending.size();
                    }));
                } else if (!options.journal.empty()) {
                    tasks.reset();
                    tasks = std::make_unique<Scheduler>(options);
                }
                if (step % 20 == 0) check_same(*tasks, model);
            }
            check_same(*tasks, model);
        }
    }
}

}  // namespace model_test
