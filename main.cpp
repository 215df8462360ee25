// SPDX-License-Identifier: MIT
//
// task-scheduler: the one binary.  It instantiates what scheduler.hpp holds, as the
// flags and the environment say (cli/flags.hpp), and waits for a signal; or it runs
// one verb of the command line (cli/verbs.hpp).

#include "cli/flags.hpp"
#include "cli/verbs.hpp"
#include "scheduler.hpp"

namespace {

void run(const cli::Settings& settings) {
    const sigset_t stop = cli::set_of({SIGINT, SIGTERM});
    pthread_sigmask(SIG_BLOCK, &stop, nullptr);  // inherited by every thread
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);

    std::vector<scheduler::SinkOptions> configured = cli::read_sinks(settings);
    scheduler::Scheduler tasks(settings.scheduler);
    scheduler::Sinks sinks(tasks, std::move(configured));
    scheduler::HttpServer server(tasks, settings.http);
    const int port = server.listen(settings.host, settings.port);
    const bool six = settings.host.find(':') != std::string::npos;
    std::printf(
        "task-scheduler %s listening on http://%s%s%s:%d, journal %s, %zu pending tasks "
        "recovered\n",
        SCHEDULER_VERSION, six ? "[" : "", settings.host.c_str(), six ? "]" : "", port,
        settings.scheduler.journal.c_str(), tasks.stats().recovered);
    std::fflush(stdout);

    int signal = 0;
    sigwait(&stop, &signal);
    server.stop();
    sinks.stop();
    tasks.stop();
}

}  // namespace

int main(int argc, char** argv) {
    return cli::guarded("--help", [&] {
        if (const auto status = cli::run_verb(argc, argv)) return *status;
        cli::Settings settings;
        settings.scheduler.journal = "tasks.jsonl";
        settings.scheduler.log = cli::report;
        if (cli::read_flags(argc, argv, settings)) return 0;
        cli::read_secrets(settings);
        run(settings);
        return 0;
    });
}
