// Mounts the scheduler's routes on one's own httplib::Server, behind a prefix and beside one's own.
#include <scheduler.hpp>

#include <cstdio>

int main() {
    scheduler::Scheduler tasks;
    scheduler::HttpApi api(tasks);
    httplib::Server server;
    server.Get("/", [](const httplib::Request&, httplib::Response& response) {
        response.set_content("one's own", "text/plain");
    });
    api.mount(server, "/scheduler");
    const int port = server.bind_to_any_port("127.0.0.1");
    std::thread listening([&] { server.listen_after_bind(); });
    httplib::Client client("127.0.0.1", port);
    client.set_connection_timeout(5);
    const auto answer = client.Get("/scheduler/healthz");
    api.stop();  // ends the event streams, which server.stop() waits for
    server.stop();
    listening.join();
    std::puts(answer ? answer->body.c_str() : "no answer");
    return answer && answer->status == 200 ? 0 : 1;
}
