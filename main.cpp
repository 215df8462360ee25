// SPDX-License-Identifier: MIT
//
// task-scheduler: the one binary.  It reads flags and the environment, handles
// signals, and instantiates what scheduler.hpp holds.

#include "scheduler.hpp"

#include <getopt.h>
#include <signal.h>

#include <cstdio>
#include <fstream>

namespace {

struct Settings {
    std::string host = "127.0.0.1";
    int port = 8080;
    std::string secret_file;
    scheduler::Options scheduler;
    scheduler::HttpOptions http;
};

// Why the command line or the environment cannot be used: exit status 2.
struct UsageError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

std::uint64_t number(const std::string& text, std::uint64_t least, std::uint64_t most) {
    const bool digits = !text.empty() && text.size() <= 18 &&
                        text.find_first_not_of("0123456789") == std::string::npos;
    const std::uint64_t value = digits ? std::stoull(text) : 0;
    if (!digits || value < least || value > most) {
        throw UsageError("must be a whole number from " + std::to_string(least) + " to " +
                         std::to_string(most) + ", not '" + text + "'");
    }
    return value;
}

scheduler::Fsync fsync_policy(const std::string& text) {
    if (text == "always") return scheduler::Fsync::always;
    if (text == "everysec") return scheduler::Fsync::everysec;
    if (text == "no") return scheduler::Fsync::no;
    throw UsageError("must be always, everysec or no, not '" + text + "'");
}

constexpr std::uint64_t any_size = 1'000'000'000'000;

// A flag with a value.  The environment variable SCHEDULER_NAME says the same,
// and the command line wins.
struct Flag {
    const char* name;
    const char* value;
    const char* help;
    void (*set)(Settings&, const std::string&);
};

const Flag flags[] = {
    {"host", "ADDRESS", "address to listen on (default 127.0.0.1)",
     [](Settings& s, const std::string& v) { s.host = v; }},
    {"port", "PORT", "port to listen on; 0 takes a free one (default 8080)",
     [](Settings& s, const std::string& v) { s.port = static_cast<int>(number(v, 0, 65'535)); }},
    {"journal", "FILE", "where tasks are kept (default tasks.jsonl)",
     [](Settings& s, const std::string& v) {
         if (v.empty()) throw UsageError("must name a file");
         s.scheduler.journal = v;
     }},
    {"fsync", "POLICY", "always, everysec or no: when a task counts as stored (default always)",
     [](Settings& s, const std::string& v) { s.scheduler.fsync = fsync_policy(v); }},
    {"secret-file", "FILE",
     "file with the secret that every request must carry, or two, a line each",
     [](Settings& s, const std::string& v) { s.secret_file = v; }},
    {"history", "N", "past events that are kept, each for 60 s at least (default 10000)",
     [](Settings& s, const std::string& v) { s.scheduler.history = number(v, 0, any_size); }},
    {"max-body", "BYTES", "largest request body (default 1048576)",
     [](Settings& s, const std::string& v) { s.http.max_body = number(v, 1, 1U << 30); }},
    {"max-tasks", "N", "pending tasks at once (default 10000000)",
     [](Settings& s, const std::string& v) { s.scheduler.max_tasks = number(v, 1, any_size); }},
    {"max-bytes", "BYTES", "payload bytes pending and retained together (default 4294967296)",
     [](Settings& s, const std::string& v) { s.scheduler.max_bytes = number(v, 1, any_size); }},
    {"max-streams", "N", "event streams at once (default 1024)",
     [](Settings& s, const std::string& v) { s.http.max_streams = number(v, 0, 1'000'000); }},
    {"max-connections", "N", "other connections at once (default 4096)",
     [](Settings& s, const std::string& v) { s.http.max_connections = number(v, 1, 1'000'000); }},
    {"max-lateness", "DURATION",
     "give up a task that is later than this, such as 1h (default: never)",
     [](Settings& s, const std::string& v) {
         s.scheduler.max_lateness = scheduler::parse_duration(v);
         if (!s.scheduler.max_lateness) throw UsageError("must be a duration such as 90s or 1h30m");
     }},
    {"cors-origin", "ORIGIN", "origin whose pages may call the server; may be repeated",
     [](Settings& s, const std::string& v) { s.http.cors_origins.push_back(v); }},
    {"allowed-host", "HOST", "name by which the server may be called on loopback; may be repeated",
     [](Settings& s, const std::string& v) { s.http.allowed_hosts.push_back(v); }},
};

void print_help() {
    std::printf(
        "Usage: task-scheduler [OPTION]...\n"
        "Keeps JSON messages and emits each at its due time, over HTTP.\n\n"
        "  curl -d '{\"timestamp\":\"2026-08-21T04:29:00Z\",\"message\":{\"name\":\"Luke\"}}' \\\n"
        "       http://127.0.0.1:8080/schedule       schedules a message\n"
        "  curl -N http://127.0.0.1:8080/sse         shows messages as they are emitted\n\n");
    for (const Flag& flag : flags) {
        const std::string left = std::string("--") + flag.name + " " + flag.value;
        std::printf("  %-24s %s\n", left.c_str(), flag.help);
    }
    std::printf(
        "  %-24s %s\n  %-24s %s\n  %-24s %s\n\n"
        "Each option may also be given in the environment: --max-body as SCHEDULER_MAX_BODY,\n"
        "and so on; the secret itself as SCHEDULER_SECRET.\n",
        "--trust-clock", "believe the clock although it is behind the journal's newest record",
        "--help", "show this help", "--version", "show the version");
}

std::string variable_of(const char* flag) {
    std::string name = "SCHEDULER_";
    for (; *flag; ++flag) {
        name +=
            *flag == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(*flag)));
    }
    return name;
}

void apply(const Flag& flag, Settings& settings, const std::string& shown, const char* value) {
    try {
        flag.set(settings, value);
    } catch (const UsageError& error) {
        throw UsageError(shown + ": " + error.what());
    }
}

// Returns true if the program has nothing more to do.
bool read_flags(int argc, char** argv, Settings& settings) {
    for (const Flag& flag : flags) {
        const std::string name = variable_of(flag.name);
        const char* value = std::getenv(name.c_str());
        if (value && *value) apply(flag, settings, name, value);
    }
    const char* trust = std::getenv("SCHEDULER_TRUST_CLOCK");
    settings.scheduler.trust_clock = trust && *trust && std::string(trust) != "0";
    std::vector<option> options;
    for (const Flag& flag : flags) options.push_back({flag.name, required_argument, nullptr, 1});
    options.push_back({"trust-clock", no_argument, nullptr, 't'});
    options.push_back({"help", no_argument, nullptr, 'h'});
    options.push_back({"version", no_argument, nullptr, 'V'});
    options.push_back({nullptr, 0, nullptr, 0});
    opterr = 0;
    int index = 0;
    for (int c; (c = getopt_long(argc, argv, ":h", options.data(), &index)) != -1;) {
        const std::string given = optind > 1 ? argv[optind - 1] : "";
        switch (c) {
            case 1: {
                const Flag& flag = flags[index];
                apply(flag, settings, std::string("--") + flag.name, optarg);
                break;
            }
            case 't':
                settings.scheduler.trust_clock = true;
                break;
            case 'h':
                print_help();
                return true;
            case 'V':
                std::printf("task-scheduler %s\n", SCHEDULER_VERSION);
                return true;
            case ':':
                throw UsageError(given + " needs a value");
            default:
                throw UsageError("unknown option " + given);
        }
    }
    if (optind < argc) throw UsageError(std::string("unexpected argument ") + argv[optind]);
    return false;
}

void add_secret(Settings& settings, const std::string& secret, const std::string& origin) {
    for (const char c : secret) {
        if (c == '%' || static_cast<unsigned char>(c) <= 0x20 || c == 0x7F) {
            throw UsageError(origin + ": a secret must not hold %, blanks or control characters");
        }
    }
    settings.http.secrets.push_back(secret);
}

void read_secrets(Settings& settings) {
    const char* secret = std::getenv("SCHEDULER_SECRET");
    if (secret && *secret) add_secret(settings, secret, "SCHEDULER_SECRET");
    // Commands that this process starts one day must not inherit it.
    ::unsetenv("SCHEDULER_SECRET");
    if (settings.secret_file.empty()) return;
    std::ifstream file(settings.secret_file);
    if (!file) throw UsageError("cannot read the secret file " + settings.secret_file);
    const std::size_t before = settings.http.secrets.size();
    for (std::string line; std::getline(file, line);) {
        if (!line.empty() && line.back() == '\r') line.pop_back();
        if (!line.empty()) add_secret(settings, line, settings.secret_file);
    }
    const std::size_t count = settings.http.secrets.size() - before;
    if (count < 1 || count > 2) {
        throw UsageError(settings.secret_file + ": must hold one secret, or two, a line each");
    }
}

sigset_t stop_signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    return set;
}

void run(const Settings& settings) {
    const sigset_t stop = stop_signals();
    pthread_sigmask(SIG_BLOCK, &stop, nullptr);  // inherited by every thread
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);

    scheduler::Scheduler tasks(settings.scheduler);
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
    tasks.stop();
}

}  // namespace

int main(int argc, char** argv) {
    Settings settings;
    settings.scheduler.journal = "tasks.jsonl";
    settings.scheduler.log = [](const std::string& line) {
        std::fprintf(stderr, "task-scheduler: %s\n", line.c_str());
    };
    try {
        if (read_flags(argc, argv, settings)) return 0;
        read_secrets(settings);
        run(settings);
        return 0;
    } catch (const UsageError& error) {
        std::fprintf(stderr, "task-scheduler: %s (see --help)\n", error.what());
        return 2;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "task-scheduler: %s\n", error.what());
        return 1;
    }
}
