// Delivers events durably to a callback: what it throws is tried again, and what a crash
// interrupts comes again after the restart.
#include <scheduler.hpp>

#include <cstdio>
#include <future>

int main() {
    scheduler::Options options;
    options.journal = "sinks-example.jsonl";
    scheduler::Scheduler tasks(options);

    int attempts = 0;
    std::promise<void> taken;
    scheduler::SinkOptions billing;
    billing.name = "billing";  // of its cursor in the journal
    billing.retry = {std::chrono::milliseconds(50), std::chrono::minutes(5)};
    billing.sink = scheduler::make_sink([&](const scheduler::Event& event) {
        if (++attempts == 1) throw std::runtime_error("the first attempt fails");
        std::printf("%s taken at attempt %d\n", event.payload.c_str(), attempts);
        if (attempts == 2) taken.set_value();
    });
    scheduler::Sinks sinks(tasks, {billing});

    tasks.schedule(std::chrono::milliseconds(100), R"({"invoice": 4711})");
    taken.get_future().wait();
}
