// SPDX-License-Identifier: MIT
//
// The flags of the server, and the environment variables that say the same.

#pragma once

#include "logger.hpp"

#include <cctype>
#include <cstring>
#include <fstream>
#include <iterator>
#include <list>
#include <map>
#include <set>
#include <sstream>

namespace cli {

// What --store gives: a database that keeps tasks, and the prefix that they are behind.
struct Store {
    std::string prefix;  // empty: none
    std::string uri;
    std::string schema;  // see check_store()
};

struct Settings {
    std::optional<std::string> host;
    std::optional<int> port;
    std::vector<std::string> listen;  // as --listen gives them
    std::string secret_file;
    std::string read_secret_file;
    std::string sinks_file;
    std::string source;  // of CloudEvents; empty: where the server listens
    std::vector<std::string> webhooks;
    std::vector<std::string> commands;
    scheduler::Options scheduler;
    scheduler::HttpOptions http;
    LogFormat log_format = LogFormat::text;
    std::vector<Store> stores;  // empty: a file
    std::string postgres_schema = "task_scheduler";
    std::string node;
    std::string advertise;
    scheduler::milliseconds lease{10'000};
    scheduler::milliseconds max_clock_error{500};
    std::map<std::string, std::string> given;  // what was said of each flag, a line each
    // Reads the options again, as they are in the file by now.
    std::function<Settings()> read_again;
};

inline scheduler::Fsync fsync_policy(const std::string& text) {
    using scheduler::Fsync;
    for (const auto policy : {Fsync::always, Fsync::answers, Fsync::everysec, Fsync::no}) {
        if (text == name_of(policy)) return policy;
    }
    refuse_usage({"must be always, answers, everysec or no, not '", text, "'"});
}

inline scheduler::LogLevel log_level(const std::string& text) {
    using scheduler::LogLevel;
    for (const auto level : {LogLevel::debug, LogLevel::info, LogLevel::warning, LogLevel::error}) {
        if (text == name_of(level)) return level;
    }
    refuse_usage({"must be debug, info, warning or error, not '", text, "'"});
}

inline LogFormat log_format(const std::string& text) {
    if (text == "text") return LogFormat::text;
    if (text == "logfmt") return LogFormat::logfmt;
    if (text == "json") return LogFormat::json;
    refuse_usage({"must be text, logfmt or json, not '", text, "'"});
}

inline void check(const scheduler::HttpOptions& options) {
    try {
        options.check();
    } catch (const scheduler::Error& error) {
        refuse_usage({error.what()});
    }
}

inline const std::string& host(const std::string& text) {
    if (!text.empty() && text.find('/') == std::string::npos) return text;
    refuse_usage(
        {"must be an address or a name, not '", text, "'; --listen takes unix:/PATH as well"});
}

// The name of a file, which must be given.
inline const std::string& named(const std::string& path) {
    if (path.empty()) refuse_usage({"must name a file"});
    return path;
}

// What names a database: a URI of PostgreSQL, or `postgres:` alone.
inline bool is_store(const std::string& text) {
    return text == "postgres:" || text.rfind("postgres://", 0) == 0 ||
           text.rfind("postgresql://", 0) == 0;
}

inline void check_prefixes(std::vector<std::string> prefixes) {
    scheduler::HttpOptions alone;
    alone.prefixes = std::move(prefixes);
    check(alone);
}

inline Store store(const std::string& text) {
    const std::size_t equals = is_store(text) ? text.npos : text.find('=');
    if (equals == text.npos && is_store(text)) return {"", text, ""};
    Store one{text.substr(0, equals), text.substr(std::min(equals, text.size() - 1) + 1), ""};
    if (one.prefix.empty() || !is_store(one.uri)) {
        refuse_usage(
            {"must be postgres://HOST/DATABASE, or postgres: alone where PGSERVICE or "
             "other variables of PostgreSQL say the rest; or /PREFIX= and that"});
    }
    check_prefixes({one.prefix});
    return one;
}

inline std::vector<std::string> split_at_blanks(const std::string& text) {
    std::istringstream words(text);
    return {std::istream_iterator<std::string>(words), std::istream_iterator<std::string>()};
}

// Where other nodes reach this one: by HTTP, perhaps behind a path.
inline const std::string& node_url(const std::string& text) {
    const std::size_t slashes = text.find("://");
    const std::string scheme = text.substr(0, std::min(slashes, text.size()));
    const bool is_plain = std::all_of(text.begin(), text.end(), [](unsigned char c) {
        return c > 0x20 && c < 0x7F && c != '@' && c != '?' && c != '#';
    });
    if (is_plain && (scheme == "http" || scheme == "https") && text.size() > slashes + 3) {
        return text;
    }
    refuse_usage({"must be http://HOST:PORT or https://HOST:PORT, not '", text, "'"});
}

// A name for a schema, or for a node, of these characters.
inline const std::string& name_of(const std::string& text, std::size_t longest,
                                  const char* characters, const char* rule) {
    if (!text.empty() && text.size() <= longest &&
        text.find_first_not_of(characters) == std::string::npos) {
        return text;
    }
    refuse_usage({"must be ", rule, ", not '", text, "'"});
}

inline const std::string& schema(const std::string& text) {
    return name_of(text, 63, "abcdefghijklmnopqrstuvwxyz0123456789_",
                   "1 to 63 small letters, digits and _");
}

inline const std::string& node(const std::string& text) {
    return name_of(text, 128,
                   "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~:/[]-",
                   "1 to 128 letters, digits and characters of ._~:/[]-");
}

// A duration that a value may have.
inline scheduler::milliseconds duration(const std::string& text, scheduler::milliseconds least,
                                        scheduler::milliseconds most) {
    const scheduler::milliseconds value = duration(text);
    if (value >= least && value <= most) return value;
    refuse_usage({"must be from ", std::to_string(least.count()), "ms to ",
                  std::to_string(most.count() / 1'000), "s, not '", text, "'"});
}

// What a switch is set to; nothing: it was given as a flag.
inline bool is_yes(const std::string& text) {
    const auto is_one_of = [&text](std::initializer_list<const char*> words) {
        return std::find(words.begin(), words.end(), text) != words.end();
    };
    if (is_one_of({"", "1", "yes", "true", "on"})) return true;
    if (is_one_of({"0", "no", "false", "off"})) return false;
    refuse_usage({"must be yes or no, not '", text, "'"});
}

inline constexpr std::uint64_t least_memory = std::uint64_t{12} << 20;

// A flag of the server.  The environment variable SCHEDULER_NAME says the same, and the
// command line wins.
struct Flag {
    const char* name;
    const char* value;  // what its value is called; null: it has none
    const char* help;
    void (*set)(Settings&, const std::string&);
};

inline const Flag flags[] = {
    {"host", "ADDRESS", "address to listen on (default 127.0.0.1)",
     [](Settings& s, const std::string& v) { s.host = host(v); }},
    {"port", "PORT", "port to listen on; 0 takes a free one (default 8080)",
     [](Settings& s, const std::string& v) { set_number(s.port.emplace(), v, 0, 65'535); }},
    {"listen", "ADDRESS",
     "where to listen: ADDRESS:PORT, *:PORT for all addresses, unix:/PATH, or systemd for its "
     "sockets; may be repeated, and stands beside --host and --port if one of these is given",
     [](Settings& s, const std::string& v) { s.listen.push_back(v); }},
    {"journal", "FILE", "where tasks are kept (default tasks.jsonl)",
     [](Settings& s, const std::string& v) { s.scheduler.journal = named(v); }},
    {"fsync", "POLICY",
     "always, answers, everysec or no: when a task counts as stored (default always)",
     [](Settings& s, const std::string& v) { s.scheduler.fsync = fsync_policy(v); }},
    {"store", "URI",
     "keep tasks in PostgreSQL, for several nodes: postgres://HOST/DATABASE, or postgres: where "
     "PGSERVICE and the like say the rest; may be repeated, as /PREFIX=URI, for several schedulers "
     "behind prefixes (default: in the file of --journal)",
     [](Settings& s, const std::string& v) {
         for (const std::string& one : v.empty() ? std::vector{v} : split_at_blanks(v)) {
             s.stores.push_back(store(one));
         }
     }},
    {"postgres-schema", "NAME",
     "schema of the store, behind which stands the prefix if there is one, as in "
     "task_scheduler_heating; nodes with the same one are one scheduler (default task_scheduler)",
     [](Settings& s, const std::string& v) { s.postgres_schema = schema(v); }},
    {"node", "NAME", "what this node is called, as no other is (default HOSTNAME:PORT)",
     [](Settings& s, const std::string& v) { s.node = node(v); }},
    {"advertise", "URL",
     "where other nodes reach this one (default: where it listens first, by the name of this "
     "machine if that is every address)",
     [](Settings& s, const std::string& v) { s.advertise = node_url(v); }},
    {"lease", "DURATION",
     "how long nodes wait for an owner that they do not hear of any more (default 10s)",
     [](Settings& s, const std::string& v) {
         s.lease = duration(v, std::chrono::seconds(1), std::chrono::minutes(10));
     }},
    {"max-clock-error", "DURATION",
     "a node whose clock differs by more from the database's does not own (default 500ms)",
     [](Settings& s, const std::string& v) {
         s.max_clock_error = duration(v, scheduler::milliseconds(1), std::chrono::hours(24));
     }},
    {"secret-file", "FILE",
     "file with the secret that every request must carry, or two, a line each",
     [](Settings& s, const std::string& v) { s.secret_file = v; }},
    {"read-secret-file", "FILE",
     "file with a secret that opens GET and HEAD only, or two, a line each",
     [](Settings& s, const std::string& v) { s.read_secret_file = v; }},
    {"tls-cert", "FILE",
     "speak TLS, with this certificate in PEM, and those that signed it behind it",
     [](Settings& s, const std::string& v) { s.http.tls_certificate = named(v); }},
    {"tls-key", "FILE", "the key of the certificate, in PEM",
     [](Settings& s, const std::string& v) { s.http.tls_key = named(v); }},
    {"tls-client-ca", "FILE",
     "let in only clients with a certificate that an authority in this file has signed",
     [](Settings& s, const std::string& v) { s.http.tls_client_ca = named(v); }},
    {"tls-owner-ca", "FILE",
     "authorities, in PEM, that have signed the certificate of whichever node owns a shared store, "
     "where nodes reach each other by https (default: the system's)",
     [](Settings& s, const std::string& v) { s.http.tls_owner_ca = named(v); }},
    {"journal-min-size", "BYTES",
     "below this size the journal is replaced by a shorter one only when its disk gets full "
     "(default 4194304)",
     [](Settings& s, const std::string& v) {
         set_bytes(s.scheduler.rewrite_min_bytes, v, 0, any_size);
     }},
    {"history", "N", "past events that are kept, each for --min-retention at least (default 10000)",
     [](Settings& s, const std::string& v) { set_number(s.scheduler.history, v, 0, any_size); }},
    {"min-retention", "DURATION", "for how long each past event is kept at least (default 60s)",
     [](Settings& s, const std::string& v) { s.scheduler.min_retention = duration(v); }},
    {"max-memory", "BYTES",
     "memory of all of it, such as 24M, from which every limit follows that is not given; then "
     "/status tells them (default: no limit of its own)",
     [](Settings& s, const std::string& v) {
         set_bytes(s.scheduler.max_memory, v, least_memory, any_size);
     }},
    {"max-body", "BYTES", "largest request body (default 1048576)",
     [](Settings& s, const std::string& v) { set_bytes(s.http.max_body, v, 1, 1U << 30); }},
    {"max-tasks", "N", "pending tasks at once (default 10000000)",
     [](Settings& s, const std::string& v) { set_number(s.scheduler.max_tasks, v, 1, any_size); }},
    {"max-bytes", "BYTES", "memory of tasks pending and retained, and of keys (default 4294967296)",
     [](Settings& s, const std::string& v) { set_bytes(s.scheduler.max_bytes, v, 1, any_size); }},
    {"max-streams", "N", "event streams at once (default 1024)",
     [](Settings& s, const std::string& v) { set_number(s.http.max_streams, v, 0, 1'000'000); }},
    {"max-connections", "N", "other connections at once (default 4096)",
     [](Settings& s, const std::string& v) {
         set_number(s.http.max_connections, v, 1, 1'000'000);
     }},
    {"max-lateness", "DURATION",
     "do not emit a task that is later than this, such as 1h (default: never)",
     [](Settings& s, const std::string& v) {
         s.scheduler.max_lateness = duration(v);
         if (s.scheduler.max_lateness < std::chrono::seconds(1)) {
             refuse_usage({"must be 1 second at least, not '", v, "'"});
         }
     }},
    {"wake-device", nullptr, "wake a suspended machine when a task is due (needs CAP_WAKE_ALARM)",
     [](Settings& s, const std::string& v) { s.scheduler.wake_device = is_yes(v); }},
    {"webhook", "URL", "POST each event's payload to this URL; may be repeated",
     [](Settings& s, const std::string& v) { s.webhooks.push_back(v); }},
    {"exec", "COMMAND",
     "run this for each event, its payload as standard input; split at blanks, no quoting, "
     "no shell; may be repeated",
     [](Settings& s, const std::string& v) { s.commands.push_back(v); }},
    {"sinks", "FILE", "JSON file with webhooks and commands, their names, secrets and retries",
     [](Settings& s, const std::string& v) { s.sinks_file = v; }},
    {"source", "URI", "source of CloudEvents that sinks send (default http://HOST:PORT)",
     [](Settings& s, const std::string& v) { s.source = v; }},
    {"cors-origin", "ORIGIN", "origin whose pages may call the server; may be repeated",
     [](Settings& s, const std::string& v) {
         scheduler::HttpOptions alone;
         alone.cors_origins = {v};
         check(alone);
         s.http.cors_origins.push_back(v);
     }},
    {"allowed-host", "HOST", "name by which the server may be called on loopback; may be repeated",
     [](Settings& s, const std::string& v) {
         scheduler::HttpOptions alone;
         alone.allowed_hosts = {v};
         check(alone);
         s.http.allowed_hosts.push_back(v);
     }},
    {"log-level", "LEVEL", "least that is logged: debug, info, warning or error (default info)",
     [](Settings& s, const std::string& v) { s.scheduler.log_level = log_level(v); }},
    {"log-format", "FORMAT", "text, logfmt or json (default text)",
     [](Settings& s, const std::string& v) { s.log_format = log_format(v); }},
    {"trust-clock", nullptr, "believe the clock although it is behind the journal's newest record",
     [](Settings& s, const std::string& v) { s.scheduler.trust_clock = is_yes(v); }},
    {"config", "FILE",
     "file of options, a line NAME = VALUE each (default ~/.config/task-scheduler/config, else "
     "/etc/task-scheduler.conf)",
     [](Settings&, const std::string&) {}},  // read before the others
};

// Variables that are no flag's: the server's, and those that are only for the verbs.
inline const char* const other_variables[] = {"SCHEDULER_SECRET",      "SCHEDULER_READ_SECRET",
                                              "SCHEDULER_URL",         "SCHEDULER_CA_FILE",
                                              "SCHEDULER_CLIENT_CERT", "SCHEDULER_CLIENT_KEY"};

inline void set_flag(Settings& settings, const Flag& flag, const std::string& value) {
    flag.set(settings, value);
    settings.given[flag.name] += value + '\n';
}

inline FlagForm form_of(const Flag& flag) {
    return {std::string("--") + flag.name, 0, flag.value ? flag.value : "", flag.help};
}

inline void print_help() {
    std::printf(
        "Usage: task-scheduler [OPTION]...\n"
        "       task-scheduler add|ls|show|rm|mv|events|sinks|status|nodes|health ...\n"
        "       task-scheduler pause|resume|backup|export|import ...\n"
        "                            talks to a server; see help add\n"
        "       task-scheduler verify|compact ...   reads a journal; see help verify\n"
        "       task-scheduler help|man|completion ...   explains it; see help completion\n"
        "Keeps JSON messages and emits each at its due time, over HTTP.\n\n"
        "  curl -d '{\"timestamp\":\"2026-08-21T04:29:00Z\",\"message\":{\"name\":\"Luke\"}}' \\\n"
        "       http://127.0.0.1:8080/schedule       schedules a message\n"
        "  curl -N http://127.0.0.1:8080/sse         shows messages as they are emitted\n\n");
    for (const Flag& flag : flags) std::fputs(option_line(form_of(flag)).c_str(), stdout);
    std::printf(
        "  %-24s %s\n  %-24s %s\n\n"
        "Each option may also be given in the environment, --max-body as SCHEDULER_MAX_BODY and\n"
        "so on, and in the file of --config, as max-body = 1000; secrets themselves only in the\n"
        "environment, as SCHEDULER_SECRET and SCHEDULER_READ_SECRET.\n",
        "-h, --help", "show this help", "--version", "show the version");
}

inline std::string variable_of(const Flag& flag) {
    std::string name = "SCHEDULER_";
    for (const char c : std::string_view(flag.name)) {
        name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    }
    return name;
}

inline void read_variables(Settings& settings) {
    for (const Flag& flag : flags) {
        const std::string name = variable_of(flag);
        const char* value = std::getenv(name.c_str());
        if (value && *value) naming(name, [&] { set_flag(settings, flag, value); });
    }
}

// A sentence for each variable that looks like one of ours and is none.
inline std::vector<std::string> unknown_variables() {
    std::vector<std::string> known(std::begin(other_variables), std::end(other_variables));
    for (const Flag& flag : flags) known.push_back(variable_of(flag));
    std::vector<std::string> sentences;
    for (char** variable = ::environ; *variable; ++variable) {
        const std::string name(*variable, std::strcspn(*variable, "="));
        if (name.rfind("SCHEDULER_", 0) != 0) continue;
        if (std::find(known.begin(), known.end(), name) != known.end()) continue;
        sentences.push_back(concat(
            {"the environment variable ", name, " means nothing here", suggestion(name, known)}));
    }
    return sentences;
}

inline std::string file_text(const std::string& path, std::size_t most) {
    try {
        return scheduler::read_file(path, most);
    } catch (const scheduler::Error& error) {
        refuse_usage({error.what()});
    }
}

// The secret of a variable, if it is set, and those of a file, if there is one.
inline std::vector<std::string> secrets_of(const std::string& variable,
                                           const std::optional<std::string>& value,
                                           const std::string& path) {
    std::vector<std::string> secrets;
    const auto add = [&secrets](const std::string& secret, const std::string& origin) {
        secrets.push_back(secret);
        scheduler::HttpOptions options;
        options.secrets = secrets;
        naming(origin, [&] { check(options); });
    };
    if (value && value->empty()) {  // a slip that would leave the server open
        refuse_usage({variable, " is empty; set it to the secret, or unset it"});
    }
    if (value) add(*value, variable);
    if (path.empty()) return secrets;
    const std::size_t before = secrets.size();
    std::istringstream lines(file_text(path, 65'536));
    for (std::string line; std::getline(lines, line);) {
        if (!line.empty() && line.back() == '\r') line.pop_back();
        if (!line.empty()) add(line, path);
    }
    if (secrets.size() == before) {
        refuse_usage({path, ": must hold one secret, or two, a line each"});
    }
    return secrets;
}

inline std::vector<std::string> secrets_of(const Settings& settings) {
    return secrets_of("SCHEDULER_SECRET", secret_variables().secret, settings.secret_file);
}

inline std::vector<std::string> read_secrets_of(const Settings& settings) {
    return secrets_of("SCHEDULER_READ_SECRET", secret_variables().read_secret,
                      settings.read_secret_file);
}

inline void read_secrets(Settings& settings) {
    settings.http.secrets = secrets_of(settings);
    settings.http.read_secrets = read_secrets_of(settings);
    check(settings.http);
}

// Names the option of a file of TLS that cannot be read; what is in it is read by the server.
inline void check_tls_files(const scheduler::HttpOptions& options) {
    const auto check = [](const char* flag, const std::string& path) {
        if (path.empty() || ::access(path.c_str(), R_OK) == 0) return;
        refuse_usage({flag, ": cannot read ", path, ": ", std::generic_category().message(errno)});
    };
    check("--tls-cert", options.tls_certificate);
    check("--tls-key", options.tls_key);
    check("--tls-client-ca", options.tls_client_ca);
    check("--tls-owner-ca", options.tls_owner_ca);
}

// What --sinks, --webhook and --exec say.
inline std::vector<scheduler::SinkOptions> read_sinks(const Settings& settings) {
    const auto& log = settings.scheduler.log;
    std::vector<scheduler::SinkOptions> sinks;
    const auto within = [](const std::string& place, const auto& make) {
        try {
            make();
        } catch (const scheduler::Error& error) {
            refuse_usage({place, ": ", error.what()});
        }
    };
    if (!settings.sinks_file.empty()) {
        within(settings.sinks_file, [&] {
            sinks = scheduler::parse_sinks(file_text(settings.sinks_file, 64U << 20), log,
                                           settings.source);
        });
    }
    for (const std::string& url : settings.webhooks) {
        within("--webhook", [&] {
            scheduler::WebhookOptions options;
            options.url = url;
            sinks.emplace_back();
            sinks.back().name = scheduler::default_sink_name("webhook", url);
            sinks.back().settings = url;
            sinks.back().sink = std::make_shared<scheduler::WebhookSink>(options);
        });
    }
    for (const std::string& command : settings.commands) {
        within("--exec", [&] {
            const std::string name = scheduler::default_sink_name("exec", command);
            scheduler::CommandOptions options;
            options.command = split_at_blanks(command);
            options.log = scheduler::command_log(log, name);
            sinks.emplace_back();
            sinks.back().name = name;
            sinks.back().settings = command;
            sinks.back().sink = std::make_shared<scheduler::CommandSink>(options);
            const std::string problem = scheduler::CommandSink::problem(options.command[0]);
            if (!problem.empty()) refuse_usage({"--exec: ", problem});
        });
    }
    std::set<std::string> names;
    for (const scheduler::SinkOptions& sink : sinks) {
        if (!names.insert(sink.name).second) {
            refuse_usage({"the same sink is given twice: ", sink.name});
        }
    }
    return sinks;
}

// Warns of each file with secrets in it that every user of the machine can read.
inline void warn_of_open_files(const Settings& settings) {
    for (const std::string& path : {settings.secret_file, settings.read_secret_file,
                                    settings.http.tls_key, settings.sinks_file}) {
        struct stat status {};
        if (path.empty() || ::stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode) ||
            (status.st_mode & S_IROTH) == 0) {
            continue;
        }
        settings.scheduler.log({scheduler::LogLevel::warning,
                                "file.open",
                                concat({"every user of this machine can read ", path,
                                        ", which holds what is secret; chmod o= takes that away"}),
                                {{"file", path}}});
    }
}

// A scheduler of this process, with what is its alone.
struct Served {
    // How it stands at the start, behind the addresses.
    std::string said() const {
        const std::string recovered = std::to_string(tasks->stats().recovered);
        return concat({", ", prefix, prefix.empty() ? "" : ": ", "journal ",
                       settings.scheduler.journal, ", ", recovered, " pending tasks recovered"});
    }

    std::string prefix;  // of its paths
    Settings settings;
    std::vector<scheduler::SinkOptions> configured;
    std::optional<scheduler::Scheduler> tasks;
    std::optional<scheduler::Sinks> sinks;
};

// What SIGHUP asks for: the files of secrets, of TLS and of sinks are read again while the server
// goes on, and what the file of options says of the log.
// Each file counts as a whole; of one with something wrong, that is told, and what was read
// before stays.
class Reload {
public:
    Reload(Settings& settings, std::list<Served>& served, Logger& logger,
           scheduler::HttpServer& server)
        : settings_(settings), served_(served), logger_(logger), server_(server) {}
    void run();

private:
    void say(scheduler::LogLevel level, const char* event, const std::string& sentence) const {
        settings_.scheduler.log({level, event, "SIGHUP: " + sentence, {}});
    }
    template <class Fn>
    void read(const std::string& path, Fn fn);
    void replace_secrets(const scheduler::HttpOptions& next);
    bool replace_all_secrets();
    void replace_sinks();
    void read_options();
    void tell_of_others(const Settings& next);

    Settings& settings_;
    std::list<Served>& served_;
    Logger& logger_;
    scheduler::HttpServer& server_;
    bool any_ = false;
};

inline void Reload::run() {
    any_ = false;
    read_options();
    if (!replace_all_secrets()) {
        read(settings_.secret_file, [this] {
            scheduler::HttpOptions next = settings_.http;
            next.secrets = secrets_of(settings_);
            replace_secrets(next);
        });
        read(settings_.read_secret_file, [this] {
            scheduler::HttpOptions next = settings_.http;
            next.read_secrets = read_secrets_of(settings_);
            replace_secrets(next);
        });
    }
    read(settings_.http.tls_certificate, [this] { server_.reload_tls(); });
    read(settings_.sinks_file, [this] { replace_sinks(); });
    warn_of_open_files(settings_);
    if (!any_)
        say(scheduler::LogLevel::info, "reload.nothing",
            "there is no file of secrets, TLS or sinks to read again; it goes on");
}

// What is said otherwise now, but for the log's options, counts from the next start on.
inline void Reload::tell_of_others(const Settings& next) {
    std::string names;
    for (const Flag& flag : flags) {
        const std::string name = flag.name;
        if (name.rfind("log-", 0) == 0) continue;
        const auto said = [&name](const Settings& settings) {
            const auto found = settings.given.find(name);
            return found == settings.given.end() ? std::string() : found->second;
        };
        if (said(next) != said(settings_)) names += (names.empty() ? "" : ", ") + name;
    }
    if (names.empty()) return;
    any_ = true;
    say(scheduler::LogLevel::warning, "reload.ignored",
        concat({"the file of options has another ", names, " now, which takes a restart"}));
}

// A change of the level is told at the lower one of both.
inline void Reload::read_options() {
    try {
        const Settings next = settings_.read_again();
        tell_of_others(next);
        scheduler::LogLevel& level = settings_.scheduler.log_level;
        const scheduler::LogLevel before = std::exchange(level, next.scheduler.log_level);
        if (level == before && next.log_format == settings_.log_format) return;
        any_ = true;
        settings_.log_format = next.log_format;
        logger_.set(std::min(before, level), next.log_format);
        say(std::max(std::min(before, level), scheduler::LogLevel::info), "reload.done",
            concat({"the log is written from the level ", name_of(level), " on"}));
        logger_.set(level, next.log_format);
        for (Served& one : served_) one.tasks->set_log_level(level);
    } catch (const std::exception& error) {
        any_ = true;
        say(scheduler::LogLevel::error, "reload.failed",
            std::string(error.what()) + "; the log stays as it was");
    }
}

template <class Fn>
void Reload::read(const std::string& path, Fn fn) {
    if (path.empty()) return;
    any_ = true;
    try {
        fn();
        say(scheduler::LogLevel::info, "reload.done", path + " has been read again");
    } catch (const std::exception& error) {
        say(scheduler::LogLevel::error, "reload.failed",
            concat({error.what(), "; what was read of ", path, " before stays"}));
    }
}

// Takes both files at once, as a secret may have gone from one to the other.  False: there are
// not two, or something is wrong in one, so that each is taken by itself.
inline bool Reload::replace_all_secrets() {
    if (settings_.secret_file.empty() || settings_.read_secret_file.empty()) return false;
    try {
        scheduler::HttpOptions next = settings_.http;
        next.secrets = secrets_of(settings_);
        next.read_secrets = read_secrets_of(settings_);
        replace_secrets(next);
    } catch (const std::exception&) {
        return false;
    }
    any_ = true;
    for (const std::string& path : {settings_.secret_file, settings_.read_secret_file}) {
        say(scheduler::LogLevel::info, "reload.done", path + " has been read again");
    }
    return true;
}

inline void Reload::replace_sinks() {
    for (Served& one : served_) one.configured = read_sinks(one.settings);
    for (Served& one : served_) one.sinks->replace(std::move(one.configured));
}

inline void Reload::replace_secrets(const scheduler::HttpOptions& next) {
    server_.replace_secrets(next.secrets, next.read_secrets);
    settings_.http = next;
}

}  // namespace cli
