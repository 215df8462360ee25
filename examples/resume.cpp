// Goes on with the event behind the last one that was dealt with, also after a restart.
#include <scheduler.hpp>

#include <cstdio>

int main() {
    using namespace std::chrono_literals;
    scheduler::Options options;
    options.journal = "resume-example.jsonl";
    auto next = scheduler::Cursor::earliest();
    const auto deal_with = [&next](const scheduler::Event& event) {
        std::puts(event.payload.c_str());
        next = scheduler::Cursor::behind(event);  // one keeps next.seq() with what one makes of it
    };
    {
        scheduler::Scheduler tasks(options);
        tasks.schedule(1ms, R"("first")");
        const scheduler::Subscription events = tasks.subscribe(deal_with, next);
        tasks.drain();
    }
    scheduler::Scheduler tasks(options);  // after a restart
    tasks.schedule(1ms, R"("while nobody listens")");
    tasks.drain();
    const scheduler::Subscription events = tasks.subscribe(deal_with, next);
    tasks.schedule(1ms, R"("third")");
    tasks.drain();
}
