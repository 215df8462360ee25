// SPDX-License-Identifier: MIT
//
// The main job on whatever machine it is built for, and a journal that every machine reads alike.
//
//   job run FILE     keeps tasks in a new journal, restarts, and emits them on time by this
//                    machine's clock
//   job write FILE   writes a new journal with something of everything, and shows what is in it
//   job show FILE    shows what is in a journal that another machine may have written
#include <scheduler.hpp>

#include <cstdio>
#include <string>

using namespace scheduler;

namespace {

int failures = 0;

void check(bool is_so, const char* what) {
    if (is_so) return;
    std::fprintf(stderr, "not so: %s\n", what);
    ++failures;
}

TimePoint at(const char* text) {
    return *parse_time(text);
}

void run(const std::string& journal) {
    Options options;
    options.journal = journal;
    TaskId later;
    {
        Scheduler tasks(options);
        later = tasks.put("later", {tasks.now() + std::chrono::hours(24 * 365), "[1.10]"}).id;
        const TaskId never = tasks.schedule(milliseconds(200), R"("never")");
        tasks.schedule(milliseconds(200), R"({"n": 9007199254740993, "n": "\u00e9"})");
        check(tasks.cancel(never), "a pending task is cancelled");
    }
    Scheduler tasks(options);
    std::vector<Event> events;
    const Subscription subscription =
        tasks.subscribe([&events](const Event& event) { events.push_back(event); }, Cursor());
    check(tasks.find(later).has_value(), "a task is there after a restart");
    check(tasks.stats().pending + tasks.stats().emitted == 2, "what was cancelled is not");
    tasks.change("later", {tasks.now() + milliseconds(300), std::nullopt});
    check(tasks.drain(), "all tasks are emitted");
    tasks.stop();
    check(events.size() == 2, "each task is emitted once");
    for (const Event& event : events) check(event.late().count() >= 0, "no task is early");
    const std::string_view first = events.empty() ? std::string_view() : events[0].payload.view();
    check(first.find(R"({"n":9007199254740993,"n":"\u00e9"})") != first.npos,
          "a message comes out as it went in");
}

Options at_noon(const std::string& journal, ManualClock& clock) {
    Options options;
    options.journal = journal;
    options.drive = Drive::caller;
    options.now = clock.source();
    return options;
}

const std::vector<NewTask> keyed{
    {at("2026-03-02"), R"(["keyed"])", "a/topic", milliseconds(1'500)}};

void write(const std::string& journal) {
    ManualClock clock(at("2026-03-01T12:00:00.001Z"));
    Scheduler tasks(at_noon(journal, clock));
    tasks.schedule(at("2027-02-28T23:59:59.999Z"), R"({"far": 1e999, "text": "\ud83d\ude00 é"})");
    tasks.put("name-of_it", {at("2026-04-01"), "[-0, 0.10, 12345678901234567890]", "b"});
    tasks.submit(keyed, "key").wait();
    tasks.schedule(at("2026-03-01T11:59"), R"("past")");
    const TaskId cancelled = tasks.schedule(at("2026-03-05"), R"("cancelled")");
    tasks.cancel(cancelled);
    tasks.run_due();
    tasks.submit({{at("2026-03-01T11:00"), "[]", "missed", milliseconds(1'000)}}).wait();
    clock.advance(std::chrono::seconds(2));
    tasks.run_due();
    tasks.schedule(at("2026-03-03"), '"' + std::string(100'000, 'x') + '"');
    tasks.change("name-of_it", {at("2026-04-02T03:04:05.678Z"), std::nullopt});
    tasks.pause("a reason");
}

void print(std::string kind, TaskId id, TimePoint due, std::string_view payload) {
    kind.append(1, ' ').append(id.str()).append(1, ' ').append(format_time(due)).append(1, ' ');
    std::puts(kind.append(payload).c_str());
}

void show(const std::string& journal) {
    ManualClock clock(at("2026-03-01T12:00:10Z"));
    Scheduler tasks(at_noon(journal, clock));
    for (const Status status : {Status::pending, Status::missed}) {
        TaskQuery query;
        query.status = status;
        for (const Task& task : tasks.tasks(query).tasks) {
            print(std::string(task.name()), task.id, task.due, task.payload.view());
        }
    }
    for (const Event& event : tasks.events().events) {
        print("emitted", event.id, event.emitted_at, event.payload.view());
    }
    const auto paused = tasks.paused();
    print("paused", TaskId(), paused ? paused->since : TimePoint(), paused ? paused->reason : "");
    Ticket repeated = tasks.submit(keyed, "key");
    repeated.wait();
    print("key", repeated.ids().at(0), TimePoint(), "");
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    const std::string mode = argv[1];
    try {
        if (mode == "run") run(argv[2]);
        if (mode == "write") write(argv[2]);
        if (mode == "write" || mode == "show") show(argv[2]);
    } catch (const std::exception& error) {
        check(false, error.what());
    }
    return failures == 0 ? 0 : 1;
}
