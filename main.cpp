// SPDX-License-Identifier: MIT
//
// task-scheduler: the one binary.  It instantiates what scheduler.hpp holds, as the
// flags and the environment say (cli/flags.hpp), and waits for a signal; or it runs
// one verb of the command line (cli/table.hpp).

#include "cli/flags.hpp"
#include "cli/logger.hpp"
#include "cli/page.hpp"
#include "cli/table.hpp"
#include "scheduler.hpp"

#include <sys/resource.h>

namespace {

// Connections are descriptors, of which a login gives 1,024 where there may be more.
void raise_descriptor_limit() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
}

void warn_if_open(const cli::Settings& settings, const scheduler::HttpListener& listener) {
    if (listener.is_loopback() || !settings.http.secrets.empty()) return;
    settings.scheduler.log({scheduler::LogLevel::warning,
                            "server.open",
                            "at the address " + settings.host +
                                " there is no secret, so everybody who can reach this machine over "
                                "the network can read, schedule and cancel tasks; set a secret "
                                "with --secret-file, or listen on 127.0.0.1 only",
                            {}});
}

void say(scheduler::Scheduler& tasks, const char* event, std::string text,
         std::vector<scheduler::LogRecord::Field> fields = {}) {
    tasks.log({scheduler::LogLevel::info, event, std::move(text), std::move(fields)});
}

std::string url_of(const cli::Settings& settings, int port) {
    const std::string& host = settings.host;
    const bool six = host.find(':') != std::string::npos;
    const std::string scheme = settings.http.tls_certificate.empty() ? "http://" : "https://";
    return scheme + (six ? '[' + host + ']' : host) + ':' + std::to_string(port);
}

void run(cli::Settings settings) {
    const sigset_t signals = cli::set_of({SIGINT, SIGTERM, SIGHUP});
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // inherited by every thread
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);
    raise_descriptor_limit();
    cli::Logger logger(settings.scheduler.log_level, settings.log_format);
    settings.scheduler.log = [&logger](const auto& record) { logger.say(record); };

    // Before the journal, of which nothing is made if the port is taken.
    scheduler::HttpListener listener(settings.host, settings.port);
    const std::string url = url_of(settings, listener.port());
    if (settings.source.empty()) settings.source = url;
    std::vector<scheduler::SinkOptions> configured = cli::read_sinks(settings);
    warn_if_open(settings, listener);
    scheduler::Scheduler tasks(settings.scheduler);
    scheduler::Sinks sinks(tasks, std::move(configured));
    settings.http.page = cli::page();
    scheduler::HttpServer server(tasks, settings.http);
    server.listen(std::move(listener));
    std::printf("task-scheduler %s listening on %s, journal %s, %zu pending tasks recovered\n",
                SCHEDULER_VERSION, url.c_str(), settings.scheduler.journal.c_str(),
                tasks.stats().recovered);
    std::fflush(stdout);
    const std::string recovered = std::to_string(tasks.stats().recovered);
    say(tasks, "server.started",
        "listening on " + url + ", journal " + settings.scheduler.journal + ", " + recovered +
            " pending tasks recovered",
        {{"url", url},
         {"version", SCHEDULER_VERSION},
         {"journal", settings.scheduler.journal},
         {"recovered", recovered, true}});

    int signal = SIGHUP;
    while (signal == SIGHUP) {
        sigwait(&signals, &signal);
        if (signal == SIGHUP) cli::Reload(settings, tasks, logger, server, sinks).run();
    }
    say(tasks, "server.stopping", std::string("stopping: ") + strsignal(signal));
    server.stop();
    sinks.stop();
    tasks.stop();
    say(tasks, "server.stopped", "stopped: whatever was accepted is stored");
}

}  // namespace

int main(int argc, char** argv) {
    cli::secret_variables();  // nobody else is to find them in the environment
    return cli::guarded("--help", [&] {
        if (const auto status = cli::run_verb(argc, argv)) return *status;
        cli::Settings settings;
        settings.scheduler.journal = "tasks.jsonl";
        settings.scheduler.log = [](const auto& record) { cli::report(record.text); };
        if (cli::read_flags(argc, argv, settings)) return 0;
        cli::read_secrets(settings);
        for (const std::string& line : cli::unknown_variables()) cli::report(line);
        run(std::move(settings));
        return 0;
    });
}
