// SPDX-License-Identifier: MIT
//
// task-scheduler: the one binary.  It reads flags and the environment, handles
// signals, and instantiates what scheduler.hpp holds.

#include "scheduler.hpp"

#include <getopt.h>
#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <set>
#include <sstream>

namespace {

struct Settings {
    std::string host = "127.0.0.1";
    int port = 8080;
    std::string secret_file;
    std::string sinks_file;
    std::vector<std::string> webhooks;
    std::vector<std::string> commands;
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

// Sets a number, to the largest of its type if that is less.
template <class Int>
void set_number(Int& value, const std::string& text, std::uint64_t least, std::uint64_t most) {
    constexpr std::uint64_t largest = std::numeric_limits<Int>::max();
    value = static_cast<Int>(std::min(number(text, least, most), largest));
}

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
     [](Settings& s, const std::string& v) { set_number(s.port, v, 0, 65'535); }},
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
     [](Settings& s, const std::string& v) { set_number(s.scheduler.history, v, 0, any_size); }},
    {"max-body", "BYTES", "largest request body (default 1048576)",
     [](Settings& s, const std::string& v) { set_number(s.http.max_body, v, 1, 1U << 30); }},
    {"max-tasks", "N", "pending tasks at once (default 10000000)",
     [](Settings& s, const std::string& v) { set_number(s.scheduler.max_tasks, v, 1, any_size); }},
    {"max-bytes", "BYTES", "payload bytes pending and retained together (default 4294967296)",
     [](Settings& s, const std::string& v) { set_number(s.scheduler.max_bytes, v, 1, any_size); }},
    {"max-streams", "N", "event streams at once (default 1024)",
     [](Settings& s, const std::string& v) { set_number(s.http.max_streams, v, 0, 1'000'000); }},
    {"max-connections", "N", "other connections at once (default 4096)",
     [](Settings& s, const std::string& v) {
         set_number(s.http.max_connections, v, 1, 1'000'000);
     }},
    {"max-lateness", "DURATION",
     "give up a task that is later than this, such as 1h (default: never)",
     [](Settings& s, const std::string& v) {
         s.scheduler.max_lateness = scheduler::parse_duration(v);
         if (!s.scheduler.max_lateness) throw UsageError("must be a duration such as 90s or 1h30m");
     }},
    {"webhook", "URL", "POST each event's payload to this URL; may be repeated",
     [](Settings& s, const std::string& v) { s.webhooks.push_back(v); }},
    {"exec", "COMMAND",
     "run this for each event, its payload as standard input; split at blanks, no quoting, "
     "no shell; may be repeated",
     [](Settings& s, const std::string& v) { s.commands.push_back(v); }},
    {"sinks", "FILE", "JSON file with webhooks and commands, their names, secrets and retries",
     [](Settings& s, const std::string& v) { s.sinks_file = v; }},
    {"cors-origin", "ORIGIN", "origin whose pages may call the server; may be repeated",
     [](Settings& s, const std::string& v) { s.http.cors_origins.push_back(v); }},
    {"allowed-host", "HOST", "name by which the server may be called on loopback; may be repeated",
     [](Settings& s, const std::string& v) { s.http.allowed_hosts.push_back(v); }},
};

void print_help() {
    std::printf(
        "Usage: task-scheduler [OPTION]...\n"
        "       task-scheduler add|ls|rm|mv|events|sinks ...   talks to a server; see add --help\n"
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
    if (secret && !*secret) {  // a slip that would leave the server open
        throw UsageError("SCHEDULER_SECRET is empty; set it to the secret, or unset it");
    }
    if (secret) add_secret(settings, secret, "SCHEDULER_SECRET");
    // What this process starts must not inherit it.
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

std::string file_text(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::ostringstream text;
    if (!(text << file.rdbuf())) throw UsageError("cannot read " + path);
    return text.str();
}

std::vector<std::string> split_at_blanks(const std::string& text) {
    std::istringstream words(text);
    return {std::istream_iterator<std::string>(words), std::istream_iterator<std::string>()};
}

// What --sinks, --webhook and --exec say.
std::vector<scheduler::SinkOptions> read_sinks(const Settings& settings) {
    const auto& log = settings.scheduler.log;
    std::vector<scheduler::SinkOptions> sinks;
    const auto within = [](const std::string& place, const auto& make) {
        try {
            make();
        } catch (const scheduler::Error& error) {
            throw UsageError(place + ": " + error.what());
        }
    };
    if (!settings.sinks_file.empty()) {
        within(settings.sinks_file,
               [&] { sinks = scheduler::parse_sinks(file_text(settings.sinks_file), log); });
    }
    for (const std::string& url : settings.webhooks) {
        within("--webhook", [&] {
            scheduler::WebhookOptions options;
            options.url = url;
            sinks.emplace_back();
            sinks.back().name = scheduler::detail::derived_name("webhook", url);
            sinks.back().sink = std::make_shared<scheduler::WebhookSink>(options);
        });
    }
    for (const std::string& command : settings.commands) {
        within("--exec", [&] {
            const std::string name = scheduler::detail::derived_name("exec", command);
            scheduler::CommandOptions options;
            options.command = split_at_blanks(command);
            options.log = [log, name](const std::string& line) {
                log("sink " + name + ": " + line);
            };
            sinks.emplace_back();
            sinks.back().name = name;
            sinks.back().sink = std::make_shared<scheduler::CommandSink>(options);
        });
    }
    std::set<std::string> names;
    for (const scheduler::SinkOptions& sink : sinks) {
        if (!names.insert(sink.name).second) {
            throw UsageError("the same sink is given twice: " + sink.name);
        }
    }
    return sinks;
}

sigset_t stop_signals() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    return set;
}

// ---- The command line's verbs ----------------------------------------------

// What a verb's arguments say: flags, and the rest in order.
struct Arguments {
    std::map<std::string, std::string> flags;
    std::vector<std::string> rest;

    bool has(const std::string& name) const { return flags.count(name) > 0; }
    std::string get(const std::string& name, const std::string& otherwise = "") const {
        const auto found = flags.find(name);
        return found == flags.end() ? otherwise : found->second;
    }
};

// `with_value` and `alone` are the verb's flags.
Arguments read_arguments(int argc, char** argv, std::vector<std::string> with_value,
                         const std::vector<std::string>& alone) {
    Arguments arguments;
    with_value.insert(with_value.end(), {"--url", "--secret-file"});
    const auto is_in = [](const std::vector<std::string>& names, const std::string& name) {
        return std::find(names.begin(), names.end(), name) != names.end();
    };
    bool only_rest = false;
    for (int i = 2; i < argc; ++i) {
        const std::string text = argv[i];
        const std::size_t equals = text.find('=');
        const std::string name = text.substr(0, equals);
        if (only_rest || text == "-" || text.empty() || text[0] != '-') {
            arguments.rest.push_back(text);
        } else if (text == "--") {
            only_rest = true;
        } else if (is_in(alone, text)) {
            arguments.flags[text] = "";
        } else if (!is_in(with_value, name)) {
            throw UsageError("unknown option " + text);
        } else if (equals != std::string::npos) {
            arguments.flags[name] = text.substr(equals + 1);
        } else if (i + 1 == argc) {
            throw UsageError(text + " needs a value");
        } else {
            arguments.flags[name] = argv[++i];
        }
    }
    return arguments;
}

scheduler::Client client_for(const Arguments& arguments) {
    Settings settings;
    const char* file = std::getenv("SCHEDULER_SECRET_FILE");
    settings.secret_file = arguments.get("--secret-file", file ? file : "");
    read_secrets(settings);
    scheduler::ClientOptions options;
    const char* url = std::getenv("SCHEDULER_URL");
    options.url = arguments.get("--url", url && *url ? url : options.url);
    if (!settings.http.secrets.empty()) options.secret = settings.http.secrets.front();
    return scheduler::Client(options);
}

scheduler::TaskId task_id(const std::string& text) {
    const auto id = scheduler::TaskId::parse(text);
    if (!id) throw UsageError("'" + text + "' is not the id of a task");
    return *id;
}

// --at TIMESTAMP or --in DURATION: one of them.
struct When {
    std::optional<scheduler::TimePoint> at;
    scheduler::milliseconds in{0};
};

When when_of(const Arguments& arguments) {
    if (arguments.has("--at") == arguments.has("--in")) {
        throw UsageError("give --at TIMESTAMP or --in DURATION");
    }
    When when;
    if (arguments.has("--at")) {
        when.at = scheduler::parse_time(arguments.get("--at"));
        if (!when.at)
            throw UsageError("--at: '" + arguments.get("--at") + "' is not an ISO 8601 time");
    } else {
        const auto in = scheduler::parse_duration(arguments.get("--in"));
        if (!in) throw UsageError("--in: must be a duration such as 90s or 1h30m");
        when.in = *in;
    }
    return when;
}

std::string standard_input() {
    std::string text;
    char buffer[65'536];
    for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, stdin)) > 0;)
        text.append(buffer, n);
    return text;
}

// A message that is an object, an array or a string of JSON is taken as that, any
// other text as a string.
std::string message_json(const std::string& text) {
    scheduler::detail::JsonReader reader(text);
    std::string_view value;
    const char first = reader.peek();
    if ((first == '{' || first == '[' || first == '"') && reader.value(value) && reader.finish()) {
        return text;
    }
    std::string quoted;
    scheduler::detail::append_quoted(quoted, text);
    return quoted;
}

std::string message_of(std::string_view payload) {
    std::string message;
    scheduler::detail::for_each_member(payload, [&](std::string_view key, std::string_view value) {
        if (scheduler::detail::is_named(key, "message")) message = value;
    });
    return message;
}

bool on_terminal() {
    return ::isatty(STDOUT_FILENO) != 0;
}

std::string local_time(scheduler::TimePoint time) {
    const time_t seconds = static_cast<time_t>(time.time_since_epoch().count() / 1'000);
    tm parts{};
    ::localtime_r(&seconds, &parts);
    char text[64];
    std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts);
    return text;
}

// "in 2 h 5 min"
std::string until(scheduler::TimePoint time) {
    const auto seconds = (time - scheduler::wall_clock()).count() / 1'000;
    if (seconds < 1) return "now";
    if (seconds < 60) return "in " + std::to_string(seconds) + " s";
    if (seconds < 3'600) {
        return "in " + std::to_string(seconds / 60) + " min " + std::to_string(seconds % 60) + " s";
    }
    if (seconds < 86'400) {
        return "in " + std::to_string(seconds / 3'600) + " h " + std::to_string(seconds / 60 % 60) +
               " min";
    }
    return "in " + std::to_string(seconds / 86'400) + " d " + std::to_string(seconds / 3'600 % 24) +
           " h";
}

// For a terminal: no control characters, and no more than fits.
std::string shortened(const std::string& text) {
    return text.size() > 60 ? text.substr(0, 57) + "..." : text;
}

void print_line(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
}

int add(const Arguments& arguments) {
    if (arguments.rest.size() != 1) throw UsageError("add takes one MESSAGE");
    const When when = when_of(arguments);
    std::string text = arguments.rest[0] == "-" ? standard_input() : arguments.rest[0];
    if (arguments.rest[0] == "-" && !text.empty() && text.back() == '\n') text.pop_back();
    const std::string message = message_json(text);
    const scheduler::Client client = client_for(arguments);
    const std::string key = arguments.get("--key");
    print_line(
        (when.at ? client.schedule(*when.at, message, key) : client.schedule(when.in, message, key))
            .str());
    return 0;
}

int ls(const Arguments& arguments) {
    if (!arguments.rest.empty()) throw UsageError("ls takes no argument " + arguments.rest[0]);
    scheduler::TaskQuery query;
    query.limit = 1'000;
    if (arguments.has("--due")) {
        const auto ahead = scheduler::parse_duration(arguments.get("--due"));
        if (!ahead) throw UsageError("--due: must be a duration such as 90s or 1h30m");
        query.due.before = scheduler::wall_clock() + *ahead;
    }
    const scheduler::Client client = client_for(arguments);
    for (bool more = true; more;) {
        const scheduler::TaskPage page = client.tasks(query);
        for (const scheduler::Task& task : page.tasks) {
            std::string json;
            if (arguments.has("--json")) {
                scheduler::detail::append_task(json, task);
                print_line(json);
            } else if (on_terminal()) {
                print_line(task.id.str() + "  " + local_time(task.due) + "  " + until(task.due) +
                           "  " + shortened(message_of(task.text())));
            } else {
                print_line(task.id.str() + '\t' + scheduler::format_time(task.due) + '\t' +
                           message_of(task.text()));
            }
        }
        more = page.more;
        if (more) query.after = scheduler::TaskCursor{page.tasks.back().due, page.tasks.back().id};
    }
    return 0;
}

int rm(const Arguments& arguments) {
    if (arguments.rest.empty()) throw UsageError("rm takes the ID of a task, or several");
    std::vector<scheduler::TaskId> ids;
    for (const std::string& text : arguments.rest) ids.push_back(task_id(text));
    const scheduler::Client client = client_for(arguments);
    int status = 0;
    for (const scheduler::TaskId id : ids) {
        try {
            if (client.cancel(id)) continue;
            std::fprintf(stderr, "task-scheduler: there is no task %s\n", id.str().c_str());
        } catch (const scheduler::Error& error) {
            if (error.code() != scheduler::Errc::already_emitted) throw;
            std::fprintf(stderr, "task-scheduler: %s\n", error.what());
        }
        status = 1;
    }
    return status;
}

int mv(const Arguments& arguments) {
    if (arguments.rest.size() != 1) throw UsageError("mv takes the ID of one task");
    const When when = when_of(arguments);
    const scheduler::TaskId id = task_id(arguments.rest[0]);
    const scheduler::Client client = client_for(arguments);
    if (when.at) {
        client.move(id, *when.at);
    } else {
        client.move(id, when.in);
    }
    return 0;
}

void print_event(const Arguments& arguments, scheduler::TaskId id, std::string_view payload,
                 std::optional<scheduler::TimePoint> emitted_at) {
    if (arguments.has("--json")) {
        print_line("{\"id\":\"" + id.str() + "\",\"payload\":" + std::string(payload) + '}');
    } else if (on_terminal()) {
        print_line(local_time(emitted_at.value_or(scheduler::wall_clock())) + "  " + id.str() +
                   "  " + shortened(message_of(payload)));
    } else {
        print_line(id.str() + '\t' + message_of(payload));
    }
}

int events(const Arguments& arguments) {
    if (!arguments.rest.empty()) throw UsageError("events takes no argument " + arguments.rest[0]);
    const scheduler::Client client = client_for(arguments);
    scheduler::EventQuery query;
    try {
        set_number(query.limit, arguments.get("-n", arguments.has("-f") ? "0" : "10"), 0, 1'000);
    } catch (const UsageError& error) {
        throw UsageError(std::string("-n: ") + error.what());
    }
    std::string last;
    if (query.limit > 0) {
        for (const scheduler::Event& event : client.events(query).events) {
            print_event(arguments, event.id, event.text(), event.emitted_at);
            last = event.id.str();
        }
    }
    if (!arguments.has("-f")) return 0;
    const sigset_t stop = stop_signals();
    pthread_sigmask(SIG_BLOCK, &stop, nullptr);
    const auto subscription = client.subscribe(
        [&](scheduler::TaskId id, std::string_view payload) {
            print_event(arguments, id, payload, std::nullopt);
            if (std::ferror(stdout)) ::kill(::getpid(), SIGTERM);  // nobody reads any more
        },
        last, [] { std::fprintf(stderr, "task-scheduler: events are missing here\n"); },
        [](const std::string& problem) {
            std::fprintf(stderr, "task-scheduler: %s; connecting again\n", problem.c_str());
        });
    int signal = 0;
    sigwait(&stop, &signal);
    return 0;
}

std::string sink_line(const scheduler::SinkStatus& sink) {
    static const char* const states[] = {"active", "paused", "disabled"};
    const std::string separator = on_terminal() ? "  " : "\t";
    std::string line = sink.name + separator + sink.kind + separator +
                       states[static_cast<int>(sink.state)] + separator + "delivered " +
                       std::to_string(sink.delivered) + separator + "lag " +
                       std::to_string(sink.lag) + separator + "dead " + std::to_string(sink.dead);
    if (sink.next_attempt) line += separator + "next attempt " + until(*sink.next_attempt);
    if (!sink.last_error.empty()) line += separator + "last error: " + sink.last_error;
    return line;
}

void list_dead_letters(const Arguments& arguments, const scheduler::Client& client,
                       const std::string& sink) {
    std::optional<scheduler::TaskId> after;
    for (bool more = true; more;) {
        const scheduler::DeadPage page = client.dead_letters(sink, after, 1'000);
        for (const scheduler::DeadLetter& letter : page.letters) {
            std::string json;
            if (arguments.has("--json")) {
                scheduler::detail::append_letter(json, letter);
                print_line(json);
            } else {
                print_line(letter.event.id.str() + '\t' + std::to_string(letter.attempts) +
                           " attempts\t" + letter.error + '\t' +
                           shortened(message_of(letter.event.text())));
            }
        }
        more = page.more;
        if (more) after = page.letters.back().event.id;
    }
}

int sinks(const Arguments& arguments) {
    const std::vector<std::string>& rest = arguments.rest;
    const std::string what = rest.empty() ? "" : rest[0];
    const bool one = what == "dead" || what == "pause" || what == "resume";
    const bool good = rest.empty() || (one && rest.size() == 2) ||
                      (what == "redeliver" && (rest.size() == 2 || rest.size() == 3));
    if (!good) throw UsageError("sinks takes nothing, or dead, redeliver, pause or resume NAME");
    std::optional<scheduler::TaskId> id;
    if (rest.size() == 3) id = task_id(rest[2]);
    const scheduler::Client client = client_for(arguments);
    if (rest.empty()) {
        for (const scheduler::SinkStatus& sink : client.sinks()) {
            std::string json;
            scheduler::detail::append_sink(json, sink);
            print_line(arguments.has("--json") ? json : sink_line(sink));
        }
    }
    if (what == "dead") list_dead_letters(arguments, client, rest[1]);
    if (what == "pause") client.pause(rest[1]);
    if (what == "resume") client.resume(rest[1]);
    if (what == "redeliver") print_line(std::to_string(client.redeliver(rest[1], id)));
    return 0;
}

struct Verb {
    const char* name;
    std::vector<std::string> with_value;
    std::vector<std::string> alone;
    int (*run)(const Arguments&);
    const char* help;
};

const char* const common_help =
    "  --url URL                the server (default http://127.0.0.1:8080, or SCHEDULER_URL)\n"
    "  --secret-file FILE       file with the secret (or SCHEDULER_SECRET_FILE, or the secret\n"
    "                           itself in SCHEDULER_SECRET)\n\n"
    "Exit status: 0 done, 1 refused, 2 used wrongly, 3 no server.\n";

const Verb verbs[] = {
    {"add",
     {"--at", "--in", "--key"},
     {},
     add,
     "Usage: task-scheduler add --at TIMESTAMP|--in DURATION [--key KEY] MESSAGE\n"
     "Schedules a message and prints the task's id.\n\n"
     "MESSAGE is an object, an array or a string of JSON; other text is sent as a string.\n"
     "- reads it from standard input.\n\n"
     "  --at TIMESTAMP           when, in ISO 8601, such as 2026-08-21T04:29:00Z\n"
     "  --in DURATION            how far ahead, such as 90s or 1h30m\n"
     "  --key KEY                requests with the same key schedule one task\n"},
    {"ls",
     {"--due"},
     {"--json"},
     ls,
     "Usage: task-scheduler ls [--due DURATION] [--json]\n"
     "Lists pending tasks, the earliest first: id, due time and message.\n\n"
     "  --due DURATION           only what is due within it, such as 1h\n"
     "  --json                   one JSON object a line\n"},
    {"rm",
     {},
     {},
     rm,
     "Usage: task-scheduler rm ID...\n"
     "Cancels tasks.\n\n"},
    {"mv",
     {"--at", "--in"},
     {},
     mv,
     "Usage: task-scheduler mv ID --at TIMESTAMP|--in DURATION\n"
     "Moves a pending task to another time.\n\n"
     "  --at TIMESTAMP           when, in ISO 8601, such as 2026-08-21T04:29:00Z\n"
     "  --in DURATION            how far ahead, such as 90s or 1h30m\n"},
    {"events",
     {"-n"},
     {"-f", "--json"},
     events,
     "Usage: task-scheduler events [-n COUNT] [-f] [--json]\n"
     "Shows emitted events: id and message.\n\n"
     "  -n COUNT                 the newest COUNT, up to 1000 (default 10; with -f, 0)\n"
     "  -f                       follow: go on with events as they are emitted; reconnects\n"
     "                           and resumes by itself\n"
     "  --json                   one JSON object a line\n"},
    {"sinks",
     {},
     {"--json"},
     sinks,
     "Usage: task-scheduler sinks [--json]\n"
     "       task-scheduler sinks dead NAME [--json]\n"
     "       task-scheduler sinks redeliver NAME [ID]\n"
     "       task-scheduler sinks pause|resume NAME\n"
     "Shows the webhooks and commands that events are delivered to, a line each; the events that\n"
     "one did not take (dead letters); delivers them again, all or one, and prints how many they\n"
     "are; holds a sink back, or goes on with it.\n\n"
     "  --json                   one JSON object a line\n"},
};

// Runs a verb, if the first argument is one; returns its exit status.
std::optional<int> run_verb(int argc, char** argv) {
    if (argc < 2 || argv[1][0] == '-') return std::nullopt;
    for (const Verb& verb : verbs) {
        if (std::string(argv[1]) != verb.name) continue;
        std::vector<std::string> alone = verb.alone;
        alone.emplace_back("--help");
        const Arguments arguments = read_arguments(argc, argv, verb.with_value, alone);
        if (arguments.has("--help")) {
            std::printf("%s%s", verb.help, common_help);
            return 0;
        }
        std::signal(SIGPIPE, SIG_IGN);
        try {
            return verb.run(arguments);
        } catch (const scheduler::Error& error) {
            std::fprintf(stderr, "task-scheduler: %s\n", error.what());
            return error.code() == scheduler::Errc::unreachable ? 3 : 1;
        }
    }
    throw UsageError(std::string("unknown command ") + argv[1]);
}

// ---- The server ------------------------------------------------------------

void run(const Settings& settings) {
    const sigset_t stop = stop_signals();
    pthread_sigmask(SIG_BLOCK, &stop, nullptr);  // inherited by every thread
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);

    std::vector<scheduler::SinkOptions> configured = read_sinks(settings);
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
    Settings settings;
    settings.scheduler.journal = "tasks.jsonl";
    settings.scheduler.log = [](const std::string& line) {
        std::fprintf(stderr, "task-scheduler: %s\n", line.c_str());
    };
    try {
        if (const auto status = run_verb(argc, argv)) return *status;
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
