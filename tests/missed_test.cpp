// SPDX-License-Identifier: MIT
//
// Tasks that were too late to be emitted: which they are, and where they are found.
#include "support.hpp"

namespace missed_test {

using namespace scheduler;
using namespace support;

namespace {

struct House {
    TempDir dir;
    TestClock clock;

    Options options(std::optional<milliseconds> max_lateness = std::nullopt) {
        Options options;
        options.journal = dir.journal();
        options.now = clock.source();
        options.drive = Drive::caller;
        options.max_lateness = max_lateness;
        return options;
    }
};

NewTask task_in(const Scheduler& tasks, milliseconds delay,
                std::optional<milliseconds> max_lateness = std::nullopt) {
    return {tasks.now() + delay, "\"x\"", {}, max_lateness};
}

TaskId schedule_one(Scheduler& tasks, const NewTask& task) {
    Ticket ticket = tasks.submit({task});
    ticket.wait();
    return ticket.ids().front();
}

TaskQuery missed(std::size_t limit = 100) {
    TaskQuery query;
    query.limit = limit;
    query.status = Status::missed;
    return query;
}

std::vector<TaskId> ids_of(const TaskPage& page) {
    std::vector<TaskId> ids;
    for (const Task& task : page.tasks) ids.push_back(task.id);
    return ids;
}

}  // namespace

TEST_SUITE("missed") {
    TEST_CASE("a task's own lateness stands above the scheduler's, whichever is larger") {
        for (const bool restarts : {false, true}) {
            CAPTURE(restarts);
            House house;
            auto tasks = std::make_unique<Scheduler>(house.options(std::chrono::minutes(1)));
            const TaskId strict =
                schedule_one(*tasks, task_in(*tasks, milliseconds(0), std::chrono::seconds(1)));
            const TaskId usual = schedule_one(*tasks, task_in(*tasks, milliseconds(0)));
            const TaskId patient =
                schedule_one(*tasks, task_in(*tasks, milliseconds(0), std::chrono::hours(1)));
            house.clock.advance(std::chrono::minutes(1));
            if (restarts) {
                tasks.reset();
                tasks = std::make_unique<Scheduler>(house.options(std::chrono::minutes(1)));
            }
            CHECK(tasks->run_due() == 2);
            CHECK(event_ids(*tasks) == std::vector<TaskId>{usual, patient});
            CHECK(tasks->find(strict)->status == Status::missed);
            CHECK(tasks->find(strict)->ended_at == tasks->now());
            const TaskId later = schedule_one(*tasks, task_in(*tasks, milliseconds(0)));
            const TaskId much_later =
                schedule_one(*tasks, task_in(*tasks, milliseconds(0), std::chrono::hours(1)));
            house.clock.advance(std::chrono::minutes(1) + milliseconds(1));
            CHECK(tasks->run_due() == 1);
            CHECK(event_ids(*tasks).back() == much_later);
            CHECK(ids_of(tasks->tasks(missed())) == std::vector<TaskId>{strict, later});
        }
    }

    TEST_CASE("a task is missed only when it is later than its lateness, to the millisecond") {
        House house;
        Scheduler tasks(house.options());
        const milliseconds most(std::chrono::seconds(1));
        const TaskId first = schedule_one(tasks, task_in(tasks, milliseconds(0), most));
        house.clock.advance(most);
        tasks.run_due();
        CHECK(tasks.find(first)->status == Status::emitted);
        const TaskId second = schedule_one(tasks, task_in(tasks, milliseconds(0), most));
        house.clock.advance(most + milliseconds(1));
        tasks.run_due();
        CHECK(tasks.find(second)->status == Status::missed);
    }

    TEST_CASE("what lies in wait under a pause is missed by its own lateness at the end of that") {
        House house;
        Scheduler tasks(house.options());
        tasks.pause();
        const TaskId strict =
            schedule_one(tasks, task_in(tasks, milliseconds(0), std::chrono::seconds(1)));
        const TaskId usual = schedule_one(tasks, task_in(tasks, milliseconds(0)));
        house.clock.advance(std::chrono::hours(1));
        tasks.run_due();
        CHECK(tasks.stats().missed == 0);
        tasks.resume();
        tasks.run_due();
        CHECK(tasks.stats().missed == 1);
        CHECK(tasks.find(strict)->status == Status::missed);
        CHECK(tasks.find(usual)->status == Status::emitted);
        CHECK(tasks.overview().missed == 1);
    }

    TEST_CASE("a change of a task keeps its lateness") {
        House house;
        Scheduler tasks(house.options());
        const TaskId id =
            schedule_one(tasks, task_in(tasks, milliseconds(0), std::chrono::seconds(5)));
        tasks.change(id, TaskChange{tasks.now() + std::chrono::minutes(1), {}});
        CHECK(tasks.find(id)->max_lateness() == std::chrono::seconds(5));
        house.clock.advance(std::chrono::minutes(2));
        tasks.run_due();
        CHECK(tasks.find(id)->status == Status::missed);
    }

    TEST_CASE("missed tasks are read in pages, the newest last, also after a restart") {
        House house;
        std::vector<TaskId> ids;
        {
            Scheduler tasks(house.options(std::chrono::seconds(1)));
            for (int i = 0; i < 25; ++i) {
                // The later ones are due earlier: it is the order of missing that counts.
                ids.push_back(schedule_one(tasks, task_in(tasks, milliseconds(25 - i))));
                house.clock.advance(std::chrono::minutes(1));
                tasks.run_due();
            }
            CHECK(tasks.tasks().total == 0);
        }
        Scheduler tasks(house.options(std::chrono::seconds(1)));
        TaskQuery query = missed(10);
        std::vector<TaskId> read;
        for (bool more = true; more;) {
            const TaskPage page = tasks.tasks(query);
            CHECK(page.total == 25);
            for (const TaskId id : ids_of(page)) read.push_back(id);
            more = page.more;
            if (more) query.after = TaskCursor{page.tasks.back().due, page.tasks.back().id};
        }
        CHECK(read == ids);
        query = missed();
        query.due.after = tasks.find(ids[20])->due;
        CHECK(ids_of(tasks.tasks(query)) == std::vector<TaskId>(ids.begin() + 21, ids.end()));
        query.due.before = tasks.find(ids[22])->due;
        CHECK(ids_of(tasks.tasks(query)) == std::vector<TaskId>{ids[21]});
    }

    TEST_CASE(
        "as many missed tasks are kept as events, and all that are kept follow one that is gone") {
        House house;
        Options options = house.options(std::chrono::seconds(1));
        options.history = 5;
        options.min_retention = milliseconds(0);
        Scheduler tasks(options);
        std::vector<TaskId> ids;
        for (int i = 0; i < 12; ++i) {
            ids.push_back(schedule_one(tasks, task_in(tasks, milliseconds(0))));
            house.clock.advance(std::chrono::minutes(1));
            tasks.run_due();
        }
        const std::vector<TaskId> kept(ids.end() - 5, ids.end());
        CHECK(ids_of(tasks.tasks(missed())) == kept);
        TaskQuery query = missed();
        query.after = TaskCursor{TimePoint(), ids[0]};
        CHECK(ids_of(tasks.tasks(query)) == kept);
        CHECK(tasks.stats().missed == 12);
        CHECK_FALSE(tasks.find(ids[0]));
        CHECK_FALSE(tasks.cancel(ids[11]));
        CHECK(errc_of([&] {
                  tasks.change(ids[11], TaskChange{tasks.now(), {}});
              }) == Errc::unknown_task);
    }
}

}  // namespace missed_test
