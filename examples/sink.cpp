// A sink of one's own: it gets every event durably.  What fails is tried again, and what a crash
// interrupts comes again after the restart.
#include <scheduler.hpp>

#include <cstdio>
#include <future>

class Billing : public scheduler::Sink {
public:
    scheduler::Outcome deliver(const scheduler::Delivery& delivery) override {
        if (delivery.attempt == 1) return scheduler::Outcome::failed("the first attempt fails");
        std::printf("%s taken at attempt %u\n", delivery.event.payload.c_str(), delivery.attempt);
        taken.set_value();
        return {};
    }
    std::promise<void> taken;
};

int main() {
    using namespace std::chrono_literals;
    scheduler::Options options;
    options.journal = "sink-example.jsonl";
    scheduler::Scheduler tasks(options);

    const auto billing = std::make_shared<Billing>();
    scheduler::SinkOptions listed;
    listed.name = "billing";  // of its cursor in the journal
    listed.sink = billing;
    listed.retry = {50ms, 5min};
    scheduler::Sinks sinks(tasks, {listed});
    tasks.schedule(100ms, R"({"invoice": 4711})");
    billing->taken.get_future().wait();
}
