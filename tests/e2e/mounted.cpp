// SPDX-License-Identifier: MIT
//
// The routes of a scheduler on a plain httplib::Server, for the tests in test_mounted.py.  It
// takes the flags of task-scheduler and, in TESTS_PREFIX, what all paths begin with; beside them
// the server has two routes of its own.

#include "../../cli/config.hpp"
#include "../../cli/page.hpp"

namespace {

void add_own_routes(httplib::Server& server) {
    server.Get("/own", [](const httplib::Request&, httplib::Response& response) {
        response.set_content("mine", "text/plain");
    });
    server.Post("/own", [](const httplib::Request& request, httplib::Response& response) {
        response.set_content(request.body, "text/plain");
    });
}

void run(cli::Settings settings) {
    const sigset_t signals = cli::set_of({SIGINT, SIGTERM});
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // inherited by every thread
    std::signal(SIGPIPE, SIG_IGN);
    const char* const prefix = std::getenv("TESTS_PREFIX");
    settings.http.check_host = settings.http.secrets.empty();
    settings.http.page = cli::page();

    settings.source = "mounted";
    scheduler::Scheduler tasks(settings.scheduler);
    scheduler::Sinks sinks(tasks, cli::read_sinks(settings));
    scheduler::HttpApi api(tasks, settings.http);
    httplib::Server server;
    server.new_task_queue = [] { return new httplib::ThreadPool(64); };
    server.set_keep_alive_max_count(1'000);
    add_own_routes(server);
    api.mount(server, prefix ? prefix : "");
    const std::string host = settings.host.value_or("127.0.0.1");
    int port = settings.port.value_or(8'080);
    if (port == 0) {
        port = server.bind_to_any_port(host);
    } else if (!server.bind_to_port(host, port)) {
        throw std::runtime_error("cannot listen on port " + std::to_string(port));
    }
    std::thread listening([&] { server.listen_after_bind(); });
    while (!server.is_running()) std::this_thread::yield();
    std::printf("mounted at http://%s:%d\n", host.c_str(), port);
    std::fflush(stdout);

    int signal = 0;
    sigwait(&signals, &signal);
    api.stop();  // ends the streams, which the server waits for
    server.stop();
    listening.join();
}

}  // namespace

int main(int argc, char** argv) {
    cli::secret_variables();
    return cli::guarded("--help", [&] {
        cli::Settings settings;
        settings.scheduler.journal = "tasks.jsonl";
        settings.scheduler.log = [](const auto& record) { cli::report(record.text); };
        if (cli::read_flags(argc, argv, settings)) return 0;
        cli::read_secrets(settings);
        run(std::move(settings));
        return 0;
    });
}
