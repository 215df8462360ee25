// SPDX-License-Identifier: MIT
//
// task-scheduler: the one binary.  It instantiates what scheduler.hpp holds, as the
// flags and the environment say (cli/flags.hpp), and waits for a signal; or it runs
// one verb of the command line (cli/table.hpp).

#include "cli/flags.hpp"
#include "cli/logger.hpp"
#include "cli/memory.hpp"
#include "cli/page.hpp"
#include "cli/service.hpp"
#include "cli/store.hpp"
#include "cli/table.hpp"
#include "scheduler.hpp"

namespace {

void warn_if_open(const cli::Settings& settings, const scheduler::HttpListener& listener) {
    if (listener.is_loopback() || !settings.http.secrets.empty()) return;
    settings.scheduler.log({scheduler::LogLevel::warning,
                            "server.open",
                            "at the address " + listener.address() +
                                " there is no secret, so everybody who can reach this machine over "
                                "the network can read, schedule and cancel tasks; set a secret "
                                "with --secret-file, or listen on 127.0.0.1 only",
                            {}});
}

void say(const cli::Settings& settings, scheduler::LogLevel level, const char* event,
         std::string text, std::vector<scheduler::LogRecord::Field> fields = {}) {
    settings.scheduler.log({level, event, std::move(text), std::move(fields)});
}

// Waits for signals until one ends the server, which is returned; SIGHUP has it read its files
// again.
int wait_for_end(const sigset_t& signals, const cli::ServiceManager& manager,
                 cli::Settings& settings, scheduler::Scheduler& tasks, cli::Logger& logger,
                 scheduler::HttpServer& server, scheduler::Sinks& sinks) {
    const auto problem = [&]() -> std::string {
        if (!server.check_pulse()) return "the server's loop does not turn";
        return tasks.check_pulse() ? "" : "what is due is not emitted";
    };
    const auto log = [&settings](const std::string& sentence) {
        say(settings, scheduler::LogLevel::error, "service.watchdog", sentence);
    };
    for (;;) {
        const int signal = manager.wait_for_signal(signals, problem, log);
        if (signal != SIGHUP) return signal;
        manager.tell_reloading();
        cli::Reload(settings, tasks, logger, server, sinks).run();
        manager.notify("READY=1");
    }
}

void run(cli::Settings settings) {
    cli::ServiceManager manager;  // before there is another thread
    const sigset_t signals = cli::set_of({SIGINT, SIGTERM, SIGHUP});
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // inherited by every thread
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);
    cli::raise_descriptor_limit();
    cli::make_threads_small(settings.scheduler.max_memory > 0);
    cli::Logger logger(settings.scheduler.log_level, settings.log_format);
    settings.scheduler.log = [&logger](const auto& record) { logger.say(record); };

    // Before the journal, of which nothing is made if the port is taken.
    std::vector<scheduler::HttpListener> listeners = cli::open_listeners(settings, manager);
    const std::string urls = cli::urls_of(settings, listeners, " and ");
    const std::string url = cli::url_of(settings, listeners.front());
    const std::string all_urls = cli::urls_of(settings, listeners, " ");
    if (settings.source.empty()) settings.source = url;
    std::vector<scheduler::SinkOptions> configured = cli::read_sinks(settings);
    for (const scheduler::HttpListener& one : listeners) warn_if_open(settings, one);
    cli::warn_of_open_files(settings);
    cli::warn_of_manager(manager, settings);
    cli::warn_of_tls(settings, listeners);
    cli::use_store(settings, listeners);
    cli::share_memory(settings, configured.size());
    settings.http.page = cli::page();

    std::optional<scheduler::Scheduler> tasks;  // the server ends before it
    scheduler::HttpServer server(settings.http);
    const auto listen = [&] { server.listen(std::move(listeners)); };
    const auto tell = [&](const std::string& progress) {
        say(settings, scheduler::LogLevel::info, "journal.opening", progress);
        manager.notify("STATUS=" + progress + "\nEXTEND_TIMEOUT_USEC=60000000");
    };
    cli::OpeningWatch opening(settings.scheduler.journal, listen, tell);
    settings.scheduler.on_opening = [&opening](const auto& now) { opening.look(now); };
    try {
        tasks.emplace(settings.scheduler);
    } catch (const cli::Interrupted&) {
        tell("a signal has ended it while the journal was opened");
        manager.notify("STOPPING=1");
        return;
    }
    scheduler::Sinks sinks(*tasks, std::move(configured));
    server.serve(*tasks);
    if (!opening.is_slow()) listen();
    const std::string recovered = std::to_string(tasks->stats().recovered);
    const std::string started = "listening on " + urls + ", journal " + settings.scheduler.journal +
                                ", " + recovered + " pending tasks recovered";
    std::printf("task-scheduler %s %s\n", SCHEDULER_VERSION, started.c_str());
    std::fflush(stdout);
    say(settings, scheduler::LogLevel::info, "server.started", started,
        {{"url", url},
         {"urls", all_urls},
         {"version", SCHEDULER_VERSION},
         {"journal", settings.scheduler.journal},
         {"recovered", recovered, true}});
    manager.notify("READY=1\nSTATUS=" + started);

    const int signal = wait_for_end(signals, manager, settings, *tasks, logger, server, sinks);
    say(settings, scheduler::LogLevel::info, "server.stopping",
        std::string("stopping: ") + strsignal(signal));
    manager.notify("STOPPING=1");
    server.stop();
    sinks.stop();
    tasks->stop();
    say(settings, scheduler::LogLevel::info, "server.stopped",
        "stopped: whatever was accepted is stored");
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
        cli::check_store(settings);
        cli::check_tls_files(settings.http);
        cli::read_secrets(settings);
        for (const std::string& line : cli::unknown_variables()) cli::report(line);
        run(std::move(settings));
        return 0;
    });
}
