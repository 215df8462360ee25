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
                 cli::Settings& settings, std::list<cli::Served>& served, cli::Logger& logger,
                 scheduler::HttpServer& server) {
    const auto problem = [&] { return cli::check_pulse(server, served); };
    const auto log = [&settings](const std::string& sentence) {
        say(settings, scheduler::LogLevel::error, "service.watchdog", sentence);
    };
    for (;;) {
        const int signal = manager.wait_for_signal(signals, problem, log);
        if (signal != SIGHUP) return signal;
        manager.tell_reloading();
        cli::Reload(settings, served, logger, server).run();
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
    std::list<cli::Served> served = cli::schedulers_of(settings);  // the server ends before them
    for (cli::Served& one : served) one.configured = cli::read_sinks(one.settings);
    for (const scheduler::HttpListener& one : listeners) warn_if_open(settings, one);
    cli::warn_of_open_files(settings);
    cli::warn_of_manager(manager, settings);
    cli::warn_of_tls(settings, listeners);
    cli::use_stores(settings, served, listeners);
    cli::share_memory(settings, served);
    settings.http.page = cli::page();
    if (!settings.http.prefixes.empty()) settings.http.log = settings.scheduler.log;

    scheduler::HttpServer server(settings.http);
    const auto listen = [&] { server.listen(std::move(listeners)); };
    const auto tell = [&](const std::string& progress) {
        say(settings, scheduler::LogLevel::info, "journal.opening", progress);
        manager.notify("STATUS=" + progress + "\nEXTEND_TIMEOUT_USEC=60000000");
    };
    cli::OpeningWatch opening(listen, tell);
    try {
        for (cli::Served& one : served) cli::open(one, opening, server);
    } catch (const cli::Interrupted&) {
        tell("a signal has ended it while the journal was opened");
        manager.notify("STOPPING=1");
        return;
    }
    if (!opening.is_slow()) listen();
    std::string started = "listening on " + urls;
    std::string journals;
    std::size_t recovered = 0;
    for (const cli::Served& one : served) {
        started += one.said();
        journals += (journals.empty() ? "" : " and ") + one.settings.scheduler.journal;
        recovered += one.tasks->stats().recovered;
    }
    std::printf("task-scheduler %s %s\n", SCHEDULER_VERSION, started.c_str());
    std::fflush(stdout);
    say(settings, scheduler::LogLevel::info, "server.started", started,
        {{"url", url},
         {"urls", all_urls},
         {"version", SCHEDULER_VERSION},
         {"journal", journals},
         {"recovered", std::to_string(recovered), true}});
    manager.notify("READY=1\nSTATUS=" + started);

    const int signal = wait_for_end(signals, manager, settings, served, logger, server);
    say(settings, scheduler::LogLevel::info, "server.stopping",
        std::string("stopping: ") + strsignal(signal));
    manager.notify("STOPPING=1");
    server.stop();
    for (cli::Served& one : served) one.sinks->stop();
    for (cli::Served& one : served) one.tasks->stop();
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
