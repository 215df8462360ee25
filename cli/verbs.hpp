// SPDX-License-Identifier: MIT
//
// The verbs of the command line, each a call to a server.

#pragma once

#include "flags.hpp"

#include <ctime>
#include <map>

namespace cli {

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
inline Arguments read_arguments(int argc, char** argv, std::vector<std::string> with_value,
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

inline scheduler::Client client_for(const Arguments& arguments) {
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

inline scheduler::TaskId task_id(const std::string& text) {
    const auto id = scheduler::TaskId::parse(text);
    if (!id) throw UsageError("'" + text + "' is not the id of a task");
    return *id;
}

// --at TIMESTAMP or --in DURATION: one of them.
struct When {
    std::optional<scheduler::TimePoint> at;
    scheduler::milliseconds in{0};
};

inline When when_of(const Arguments& arguments) {
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

inline std::string standard_input() {
    std::string text;
    char buffer[65'536];
    for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, stdin)) > 0;)
        text.append(buffer, n);
    return text;
}

// A message that is an object, an array or a string of JSON is taken as that, any
// other text as a string.
inline std::string message_json(const std::string& text) {
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

inline std::string message_of(std::string_view payload) {
    std::string message;
    scheduler::detail::for_each_member(payload, [&](std::string_view key, std::string_view value) {
        if (scheduler::detail::is_named(key, "message")) message = value;
    });
    return message;
}

inline bool on_terminal() {
    return ::isatty(STDOUT_FILENO) != 0;
}

inline std::string local_time(scheduler::TimePoint time) {
    const time_t seconds = static_cast<time_t>(time.time_since_epoch().count() / 1'000);
    tm parts{};
    ::localtime_r(&seconds, &parts);
    char text[64];
    std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts);
    return text;
}

// "in 2 h 5 min"
inline std::string until(scheduler::TimePoint time) {
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
inline std::string shortened(const std::string& text) {
    return text.size() > 60 ? text.substr(0, 57) + "..." : text;
}

inline void print_line(const std::string& line) {
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
}

inline int add(const Arguments& arguments) {
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

inline int ls(const Arguments& arguments) {
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

inline int rm(const Arguments& arguments) {
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

inline int mv(const Arguments& arguments) {
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

inline void print_event(const Arguments& arguments, scheduler::TaskId id, std::string_view payload,
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

inline int events(const Arguments& arguments) {
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

inline std::string sink_line(const scheduler::SinkStatus& sink) {
    static const char* const states[] = {"active", "paused", "disabled", "unlisted"};
    const std::string separator = on_terminal() ? "  " : "\t";
    std::string line = sink.name + separator + sink.kind + separator +
                       states[static_cast<int>(sink.state)] + separator + "delivered " +
                       std::to_string(sink.delivered) + separator + "lag " +
                       std::to_string(sink.lag) + separator + "dead " + std::to_string(sink.dead);
    if (sink.next_attempt) line += separator + "next attempt " + until(*sink.next_attempt);
    if (!sink.last_error.empty()) line += separator + "last error: " + sink.last_error;
    return line;
}

inline void list_dead_letters(const Arguments& arguments, const scheduler::Client& client,
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

inline int sinks(const Arguments& arguments) {
    const std::vector<std::string>& rest = arguments.rest;
    const std::string what = rest.empty() ? "" : rest[0];
    const bool one = what == "dead" || what == "pause" || what == "resume" || what == "forget";
    const bool good = rest.empty() || (one && rest.size() == 2) ||
                      (what == "redeliver" && (rest.size() == 2 || rest.size() == 3));
    if (!good)
        throw UsageError("sinks takes nothing, or dead, redeliver, pause, resume or forget NAME");
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
    if (what == "forget") client.forget_sink(rest[1]);
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

inline const char* const common_help =
    "  --url URL                the server (default http://127.0.0.1:8080, or SCHEDULER_URL)\n"
    "  --secret-file FILE       file with the secret (or SCHEDULER_SECRET_FILE, or the secret\n"
    "                           itself in SCHEDULER_SECRET)\n\n"
    "Exit status: 0 done, 1 refused, 2 used wrongly, 3 no server.\n";

inline const Verb verbs[] = {
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
     "       task-scheduler sinks pause|resume|forget NAME\n"
     "Shows the webhooks and commands that events are delivered to, a line each; the events that\n"
     "one did not take (dead letters); delivers them again, all or one, and prints how many they\n"
     "are; holds a sink back, or goes on with it; forgets one that is unlisted, which is a sink\n"
     "that the server was started without, and that is kept until it is configured again.\n\n"
     "  --json                   one JSON object a line\n"},
};

// Runs a verb, if the first argument is one; returns its exit status.
inline std::optional<int> run_verb(int argc, char** argv) {
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

}  // namespace cli
