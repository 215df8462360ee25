// Speaks to a server from another program, which here is the same one.
#include <scheduler.hpp>

#include <cstdio>
#include <future>

int main() {
    using namespace std::chrono_literals;
    scheduler::Scheduler tasks;
    scheduler::HttpServer server(tasks);
    scheduler::ClientOptions at;
    at.url = "http://127.0.0.1:" + std::to_string(server.listen("127.0.0.1", 0));

    const scheduler::Client client(at);
    std::promise<void> received;
    const auto events = client.subscribe(
        [&](scheduler::TaskId, std::string_view payload) {
            std::puts(std::string(payload).c_str());
            received.set_value();
        },
        "earliest");  // it reconnects by itself, and goes on where it was
    client.schedule(100ms, R"({"name": "Han"})", "safe to repeat");
    received.get_future().wait();
}
