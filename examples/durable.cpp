// Keeps a task on disk: it outlives the scheduler, and is emitted by the next one.
#include <scheduler.hpp>

#include <cstdio>

int main() {
    using namespace std::chrono_literals;
    scheduler::Options options;
    options.journal = "durable-example.jsonl";
    scheduler::TaskId id;
    {
        scheduler::Scheduler tasks(options);
        id = tasks.schedule(100ms, R"({"name": "Leia"})");
    }  // stops, as a crash would; what schedule() has returned for is on the disk
    scheduler::Scheduler tasks(options);
    tasks.on_event([id](const scheduler::Event& event) {
        std::puts(event.id == id ? event.payload.c_str() : "an earlier run's task");
    });
    tasks.drain();
}
