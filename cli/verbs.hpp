// SPDX-License-Identifier: MIT
//
// The verbs of the command line, each a call to a server.

#pragma once

#include "config.hpp"
#include "status.hpp"

#include <cstring>
#include <deque>
#include <exception>

namespace cli {

// The first of the secrets that a verb has: of --secret-file, of the environment, or of the file
// of options; a read secret only where there is no other.
inline std::string secret_of(const Arguments& arguments, const std::vector<ConfigLine>& config) {
    const auto first = [](const std::vector<std::string>& secrets) {
        return secrets.empty() ? std::string() : secrets.front();
    };
    if (arguments.has("--secret-file")) {
        return first(secrets_of("", std::nullopt, arguments.get("--secret-file")));
    }
    Settings settings;
    set_from_config(settings, config);
    const auto file_or = [](const char* variable, const std::string& otherwise) {
        const char* const file = std::getenv(variable);
        return file && *file ? std::string(file) : otherwise;
    };
    const SecretVariables& variables = secret_variables();
    if (variables.secret) return first(secrets_of("SCHEDULER_SECRET", variables.secret, ""));
    settings.secret_file = file_or("SCHEDULER_SECRET_FILE", settings.secret_file);
    if (!settings.secret_file.empty()) return first(secrets_of(settings));
    if (!variables.read_secret) {
        settings.read_secret_file =
            file_or("SCHEDULER_READ_SECRET_FILE", settings.read_secret_file);
        return first(read_secrets_of(settings));
    }
    return first(secrets_of("SCHEDULER_READ_SECRET", variables.read_secret, ""));
}

inline scheduler::Client client_for(const Arguments& arguments, bool needs_secret = true) {
    const std::vector<ConfigLine> config = find_config(arguments);
    scheduler::ClientOptions options;
    const auto choose = [&](const char* name, const char* variable, std::string& value) {
        for (const ConfigLine& line : config) {
            if (line.name == name) value = line.value;
        }
        const char* const set = std::getenv(variable);
        value = arguments.get(std::string("--") + name, set && *set ? set : value);
    };
    choose("url", "SCHEDULER_URL", options.url);
    choose("ca-file", "SCHEDULER_CA_FILE", options.ca_file);
    choose("client-cert", "SCHEDULER_CLIENT_CERT", options.certificate);
    choose("client-key", "SCHEDULER_CLIENT_KEY", options.key);
    if (needs_secret) options.secret = secret_of(arguments, config);
    try {
        return scheduler::Client(options);
    } catch (const scheduler::Error& error) {
        refuse_usage({error.what()});
    }
}

inline void check_no_rest(const Arguments& arguments, const std::string& verb) {
    if (arguments.rest.empty()) return;
    refuse_usage({verb, " takes no argument '", arguments.rest[0], "'"});
}

inline scheduler::TaskId task_id(const std::string& text) {
    const auto id = scheduler::TaskId::parse(text);
    if (!id) refuse_usage({"'", text, "' is not the id of a task"});
    return *id;
}

// Whether a text can say which task is meant: by its id, or by its name.
inline void check_task(const std::string& text) {
    if (scheduler::TaskId::parse(text) || scheduler::is_task_name(text)) return;
    refuse_usage({"'", text, "' is neither the id nor the name of a task"});
}

// Calls fn with the id, or the name, that a text says.
template <class Fn>
auto with_task(const std::string& text, Fn fn) {
    check_task(text);
    const auto id = scheduler::TaskId::parse(text);
    return id ? fn(*id) : fn(std::string_view(text));
}

// --at TIMESTAMP or --in DURATION: one of them.
struct When {
    std::optional<scheduler::TimePoint> at;
    scheduler::milliseconds in{0};
};

inline When when_of(const Arguments& arguments) {
    if (arguments.has("--at") == arguments.has("--in")) {
        refuse_usage({"give --at TIMESTAMP or --in DURATION"});
    }
    When when;
    if (arguments.has("--in")) {
        when.in = naming("--in", [&] { return duration(arguments.get("--in")); });
        return when;
    }
    when.at = scheduler::parse_time(arguments.get("--at"));
    if (!when.at) refuse_usage({"--at: '", arguments.get("--at"), "' is not an ISO 8601 time"});
    return when;
}

inline std::string standard_input() {
    std::string text;
    char buffer[4'096];
    for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, stdin)) > 0;)
        text.append(buffer, n);
    return text;
}

// Text that begins like an object, an array or a string of JSON must be one; any other
// is sent as a string, and so is every text with --text.
inline std::string message_json(const std::string& text, bool plain) {
    const std::size_t first = text.find_first_not_of(" \t\r\n");
    const bool is_json =
        !plain && first != std::string::npos && std::strchr("{[\"", text[first]) != nullptr;
    std::string json = is_json ? text : scheduler::quote_json(text);
    const std::string problem = scheduler::json_problem(json);
    if (problem.empty()) return json;
    if (!is_json) refuse_usage({"MESSAGE cannot be sent: ", problem});
    refuse_usage({"MESSAGE begins like JSON, but is not valid: ", problem,
                  "; --text sends it as a plain string"});
}

// Where there is nothing to list, a person is told so; a program that reads the output
// finds none.
inline void report_none(const Arguments& arguments, const std::string& sentence) {
    if (!arguments.has("--json")) report(sentence);
}

// When add --name does what it says.
inline scheduler::PutIf put_condition(const Arguments& arguments) {
    const bool absent = arguments.has("--only-new");
    const bool present = arguments.has("--only-pending");
    if (absent && present) refuse_usage({"give --only-new or --only-pending, not both"});
    if ((absent || present) && !arguments.has("--name")) {
        refuse_usage({"--only-new and --only-pending need --name"});
    }
    return absent    ? scheduler::PutIf::absent
           : present ? scheduler::PutIf::present
                     : scheduler::PutIf::any;
}

// What add says of a task beside its time and message.
inline void check_task_flags(const Arguments& arguments) {
    const auto check = [&arguments](const char* flag, bool (*is_good)(const std::string&),
                                    const char* rule) {
        if (!arguments.has(flag) || is_good(arguments.get(flag))) return;
        refuse_usage({flag, ": must be ", rule, ", not '", arguments.get(flag), "'"});
    };
    check(
        "--name", [](const std::string& name) { return scheduler::is_task_name(name); },
        "1 to 128 letters, digits and characters of ._~- and no id");
    check(
        "--topic",
        [](const std::string& topic) {
            return scheduler::topics_problem({topic}).empty() && topic.back() != '*';
        },
        "1 to 128 letters, digits and characters of ._~/-");
    check(
        "--key",
        [](const std::string& key) {
            return !key.empty() && key.size() <= 255 &&
                   std::all_of(key.begin(), key.end(), [](char c) { return c >= ' ' && c <= '~'; });
        },
        "1 to 255 printable ASCII characters");
}

inline scheduler::milliseconds lateness(const std::string& text) {
    const scheduler::milliseconds most = duration(text);
    if (most >= std::chrono::seconds(1) && most <= std::chrono::hours(24 * 366)) return most;
    refuse_usage({"must be from 1 second to 366 days, not '", text, "'"});
}

inline int add(const Arguments& arguments) {
    if (arguments.rest.size() != 1) refuse_usage({"add takes one MESSAGE, in quotes"});
    if (arguments.has("--name") && arguments.has("--key")) {
        refuse_usage({"give --name or --key: a task is known by its name"});
    }
    check_task_flags(arguments);
    const scheduler::PutIf condition = put_condition(arguments);
    const When when = when_of(arguments);
    std::string text = arguments.rest[0] == "-" ? standard_input() : arguments.rest[0];
    if (arguments.rest[0] == "-" && !text.empty() && text.back() == '\n') text.pop_back();
    scheduler::NewTask task{when.at.value_or(scheduler::TimePoint()),
                            message_json(text, arguments.has("--text"))};
    task.topic = arguments.get("--topic");
    if (arguments.has("--max-lateness")) {
        task.max_lateness =
            naming("--max-lateness", [&] { return lateness(arguments.get("--max-lateness")); });
    }
    const scheduler::Client client = client_for(arguments);
    const std::string key = arguments.get("--key");
    const std::string name = arguments.get("--name");
    if (arguments.has("--name")) {
        print_line((when.at ? client.put(name, task, condition)
                            : client.put(name, when.in, task, condition))
                       .id.str());
    } else {
        print_line(
            (when.at ? client.schedule(task, key) : client.schedule(when.in, task, key)).str());
    }
    return 0;
}

inline std::string task_line(const scheduler::Task& task) {
    const std::string message(scheduler::message_of(task.text()));
    if (!on_terminal()) {
        return concat({task.id.str(), "\t", scheduler::format_time(task.due), "\t", message});
    }
    const bool is_missed = task.status == scheduler::Status::missed;
    return concat({task.id.str(), "  ", local_time(task.due), "  ",
                   (is_missed ? "missed" : until(task.due)), "  ", shortened(message)});
}

// The topics that --topic chooses, which may be repeated.
inline std::vector<std::string> chosen_topics(const Arguments& arguments) {
    std::vector<std::string> topics = arguments.all("--topic");
    const std::string problem = scheduler::topics_problem(topics);
    if (!problem.empty()) refuse_usage({"--topic: ", problem});
    return topics;
}

// Which tasks --due, --topic and --grep choose.
inline scheduler::TaskQuery chosen_tasks(const Arguments& arguments) {
    scheduler::TaskQuery query;
    if (arguments.has("--due")) {
        query.due.before = scheduler::wall_clock() +
                           naming("--due", [&] { return duration(arguments.get("--due")); });
    }
    query.filter.topics = chosen_topics(arguments);
    query.filter.text = arguments.get("--grep");
    if (arguments.has("--grep") && query.filter.text.empty()) {
        refuse_usage({"--grep: there is nothing to search for"});
    }
    return query;
}

// What was chosen, in a sentence.
inline std::string choice_of(const Arguments& arguments) {
    std::string choice = arguments.has("--due")      ? "due within " + arguments.get("--due")
                         : arguments.has("--missed") ? "missed"
                                                     : "pending";
    const std::vector<std::string> topics = arguments.all("--topic");
    for (const std::string& topic : topics) {
        choice += (&topic == &topics.front() ? " with the topic " : " or ") + topic;
    }
    if (arguments.has("--grep")) choice += concat({" and hold '", arguments.get("--grep"), "'"});
    return choice;
}

// How many tasks are to be listed: on a terminal no more than a screen or two shows, unless all
// are asked for.
inline std::size_t list_limit(const Arguments& arguments) {
    if (arguments.has("--limit") && arguments.has("--all")) {
        refuse_usage({"give --limit or --all, not both"});
    }
    if (arguments.has("--limit")) {
        return naming("--limit", [&] {
            return static_cast<std::size_t>(number(arguments.get("--limit"), 1, any_size));
        });
    }
    return on_terminal() && !arguments.has("--all") ? 100 : static_cast<std::size_t>(any_size);
}

inline int ls(const Arguments& arguments) {
    constexpr std::size_t page_size = 1'000;
    check_no_rest(arguments, "ls");
    scheduler::TaskQuery query = chosen_tasks(arguments);
    std::size_t left = list_limit(arguments);
    if (arguments.has("--missed")) {
        if (arguments.has("--due")) refuse_usage({"--missed and --due do not go together"});
        query.status = scheduler::Status::missed;
    }
    const scheduler::Client client = client_for(arguments);
    bool none = true;
    for (bool more = true; more && left > 0;) {
        query.limit = std::min(left, page_size);
        const scheduler::TaskPage page = client.tasks(query);
        for (const scheduler::Task& task : page.tasks) {
            print_line(arguments.has("--json") ? scheduler::to_json(task) : task_line(task));
        }
        flush_output();
        none = none && page.tasks.empty();
        left -= std::min(left, page.tasks.size());
        more = page.more;
        query.after = page.next;
        if (more && left == 0 && on_terminal() && !arguments.has("--limit")) {
            report("more tasks follow; --all lists them all");
        }
    }
    if (none) report_none(arguments, "no tasks are " + choice_of(arguments));
    return 0;
}

// Whether a person says yes.
inline bool confirmed(const std::string& question) {
    std::fprintf(stderr, "%s [y/N] ", visible(question).c_str());
    std::fflush(stderr);
    char answer[16];
    return std::fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

// Cancels all that are chosen, once somebody has seen how many they are.
inline int rm_chosen(const Arguments& arguments) {
    if (!arguments.rest.empty()) refuse_usage({"give IDs, or which tasks by flags"});
    scheduler::TaskQuery query = chosen_tasks(arguments);
    const bool asks = !arguments.has("--yes");
    if (asks && !::isatty(STDIN_FILENO)) {
        refuse_usage({"--yes is needed where nobody can be asked"});
    }
    const scheduler::Client client = client_for(arguments);
    if (asks) {
        query.limit = 1;
        const auto count = client.tasks(query).matching;
        const std::string many =
            count ? std::to_string(*count) + " tasks are " : "too many tasks to count may be ";
        if (count == std::size_t{0}) {
            report("no tasks are " + choice_of(arguments));
            return 0;
        }
        if (!confirmed(concat({many, choice_of(arguments), "; cancel them?"}))) {
            report("nothing was cancelled");
            return 1;
        }
    }
    print_line(std::to_string(client.cancel(query.due, query.filter)));
    return 0;
}

inline int rm(const Arguments& arguments) {
    for (const char* flag : {"--due", "--topic", "--grep"}) {
        if (arguments.has(flag)) return rm_chosen(arguments);
    }
    if (arguments.has("--yes")) refuse_usage({"--yes goes with --due, --topic or --grep"});
    if (arguments.rest.empty()) refuse_usage({"rm takes the ID or NAME of a task, or several"});
    for (const std::string& text : arguments.rest) check_task(text);
    const scheduler::Client client = client_for(arguments);
    int status = 0;
    for (const std::string& text : arguments.rest) {
        try {
            if (with_task(text, [&](auto task) { return client.cancel(task); })) continue;
            report(concat({"There is no task ", text, "."}));
        } catch (const scheduler::Error& error) {
            if (error.code() != scheduler::Errc::already_emitted) throw;
            report(error.what());
        }
        status = 1;
    }
    return status;
}

inline int mv(const Arguments& arguments) {
    if (arguments.rest.size() != 1) refuse_usage({"mv takes the ID or NAME of one task"});
    const When when = when_of(arguments);
    check_task(arguments.rest[0]);
    const scheduler::Client client = client_for(arguments);
    with_task(arguments.rest[0], [&](auto task) {
        return when.at ? client.move(task, *when.at) : client.move(task, when.in);
    });
    return 0;
}

inline std::string event_line(scheduler::TaskId id, std::string_view payload,
                              std::optional<scheduler::TimePoint> emitted_at) {
    const std::string message(scheduler::message_of(payload));
    if (!on_terminal()) return concat({id.str(), "\t", message});
    return concat({local_time(emitted_at.value_or(scheduler::wall_clock())), "  ", id.str(), "  ",
                   shortened(message)});
}

// Prints events as a stream tells of them.  A stream bears ids and payloads alone; what
// --json shows besides is asked for, a page of events at a time.
class Follower {
public:
    // `last` is the id of the event before the first that is to be printed, or `earliest`.
    Follower(const scheduler::Client& client, bool json, std::string last,
             std::vector<std::string> topics)
        : client_(client), json_(json), last_(std::move(last)), topics_(std::move(topics)) {}

    void take(scheduler::TaskId id, std::string_view payload);

private:
    bool print_page(scheduler::TaskId id);

    const scheduler::Client& client_;
    const bool json_;
    std::string last_;                     // the id of the last event that was printed
    const std::vector<std::string> topics_;  // which choose what is printed
    std::deque<scheduler::TaskId> ahead_;  // printed, but the stream is still to tell of them
};

inline void Follower::take(scheduler::TaskId id, std::string_view payload) {
    if (!json_) {
        print_line(event_line(id, payload, std::nullopt));
    } else if (!ahead_.empty() && ahead_.front() == id) {
        ahead_.pop_front();
    } else if (!print_page(id)) {  // the server cannot say more of it
        print_line(concat({"{\"id\":\"", id.str(), "\",\"payload\":", payload, "}"}));
        last_ = id.str();
    }
    flush_output();
}

// Prints the events after the last one.  False: the one with this id is not among them.
inline bool Follower::print_page(scheduler::TaskId id) {
    ahead_.clear();
    bool found = false;
    scheduler::HistoryQuery query;
    query.limit = 1'000;
    query.after = last_;
    query.filter.topics = topics_;
    try {
        for (const scheduler::Event& event : client_.events(query).events) {
            print_line(scheduler::to_json(event));
            last_ = event.id.str();
            if (found) ahead_.push_back(event.id);
            found = found || event.id == id;
        }
    } catch (const scheduler::Error&) {  // what can be printed is printed by the caller
    }
    return found;
}

// Runs until a signal comes, or until standard output takes no more.
inline int follow(const Arguments& arguments, const scheduler::Client& client,
                  const std::string& last) {
    const sigset_t stop = set_of({SIGINT, SIGTERM});
    pthread_sigmask(SIG_BLOCK, &stop, nullptr);
    const std::vector<std::string> topics = chosen_topics(arguments);
    Follower follower(client, arguments.has("--json"), last, topics);
    std::exception_ptr failure;
    {
        const auto subscription = client.subscribe(
            [&](scheduler::TaskId id, std::string_view payload) {
                if (failure) return;
                try {
                    follower.take(id, payload);
                } catch (const OutputError&) {
                    failure = std::current_exception();
                    ::kill(::getpid(), SIGTERM);
                }
            },
            last, [] { report("events are missing here"); },
            [](const std::string& problem) { report(problem + "; connecting again"); }, topics);
        int signal = 0;
        sigwait(&stop, &signal);
    }
    if (failure) std::rethrow_exception(failure);
    return 0;
}

// The id of the newest event, or `earliest` if there is none.
inline std::string newest_event(const scheduler::Client& client) {
    scheduler::HistoryQuery query;
    query.limit = 1;
    const scheduler::EventPage page = client.events(query);
    return page.events.empty() ? "earliest" : page.events.back().id.str();
}

inline int events(const Arguments& arguments) {
    check_no_rest(arguments, "events");
    const bool follows = arguments.has("--follow");
    const std::size_t count = naming("-n", [&] {
        return static_cast<std::size_t>(
            number(arguments.get("-n", follows ? "0" : "10"), 0, 1'000));
    });
    const std::vector<std::string> topics = chosen_topics(arguments);
    const scheduler::Client client = client_for(arguments);
    scheduler::HistoryQuery query;
    query.limit = std::max<std::size_t>(count, 1);
    query.filter.topics = topics;
    // Where to follow from: the last that was printed, or where it was looked for.
    std::string last = follows && !topics.empty() ? newest_event(client) : "earliest";
    for (const scheduler::Event& event : client.events(query).events) {
        last = event.id.str();
        if (count == 0) continue;
        print_line(arguments.has("--json") ? scheduler::to_json(event)
                                           : event_line(event.id, event.text(), event.emitted_at));
    }
    flush_output();
    if (follows) return follow(arguments, client, last);
    if (last == "earliest") {
        report_none(arguments,
                    topics.empty() ? "no events are kept" : "no events of that are kept");
    }
    return 0;
}

inline std::string sink_state(const scheduler::SinkStatus& sink) {
    static const char* const states[] = {"active", "paused", "disabled", "unlisted"};
    return states[static_cast<int>(sink.state)];
}

inline std::string sink_line(const scheduler::SinkStatus& sink) {
    const std::string separator = on_terminal() ? "  " : "\t";
    std::string line =
        concat({sink.name, separator, sink.kind, separator, sink_state(sink), separator,
                "delivered ", std::to_string(sink.delivered), separator, "lag ",
                std::to_string(sink.lag), separator, "dead ", std::to_string(sink.dead)});
    if (sink.next_attempt) line += concat({separator, "next attempt ", until(*sink.next_attempt)});
    if (!sink.last_error.empty())
        line += concat({separator, "last error: ", visible(sink.last_error)});
    return line;
}

inline std::string letter_line(const scheduler::DeadLetter& letter) {
    return concat({letter.event.id.str(), "\t", std::to_string(letter.attempts), " attempts\t",
                   visible(letter.error), "\t",
                   shortened(scheduler::message_of(letter.event.text()))});
}

inline void list_dead_letters(const Arguments& arguments, const scheduler::Client& client,
                              const std::string& sink) {
    std::optional<scheduler::TaskId> after;
    for (bool more = true; more;) {
        const scheduler::DeadPage page = client.dead_letters(sink, after, 1'000);
        for (const scheduler::DeadLetter& letter : page.letters) {
            print_line(arguments.has("--json") ? scheduler::to_json(letter) : letter_line(letter));
        }
        flush_output();
        more = page.more && !page.letters.empty();
        if (more) after = page.letters.back().event.id;
        if (!more && page.total == 0) report_none(arguments, sink + " has no dead letters");
    }
}

inline void list_sinks(const Arguments& arguments, const scheduler::Client& client) {
    const std::vector<scheduler::SinkStatus> all = client.sinks();
    for (const scheduler::SinkStatus& sink : all) {
        print_line(arguments.has("--json") ? scheduler::to_json(sink) : sink_line(sink));
    }
    if (all.empty()) report_none(arguments, "the server has no sinks");
}

inline void check_sinks_words(const std::vector<std::string>& rest) {
    static const std::vector<std::string> known{"dead", "redeliver", "pause", "resume", "forget"};
    if (rest.empty()) return;
    const std::string& what = rest[0];
    if (std::find(known.begin(), known.end(), what) == known.end()) {
        refuse_usage({"sinks takes nothing, or dead, redeliver, pause, resume or forget NAME",
                      suggestion(what, known)});
    }
    const std::size_t most = what == "redeliver" ? 3 : 2;
    if (rest.size() >= 2 && rest.size() <= most) return;
    refuse_usage({"sinks ", what, " takes the NAME of a sink",
                  (most == 3 ? ", and the ID of one of its dead letters" : "")});
}

inline int sinks(const Arguments& arguments) {
    const std::vector<std::string>& rest = arguments.rest;
    const std::string what = rest.empty() ? "" : rest[0];
    check_sinks_words(rest);
    std::optional<scheduler::TaskId> id;
    if (rest.size() == 3) id = task_id(rest[2]);
    const scheduler::Client client = client_for(arguments);
    try {
        if (rest.empty()) list_sinks(arguments, client);
        if (what == "dead") list_dead_letters(arguments, client, rest[1]);
        if (what == "pause") client.pause_sink(rest[1]);
        if (what == "resume") client.resume_sink(rest[1]);
        if (what == "forget") client.forget_sink(rest[1]);
        if (what == "redeliver") print_line(std::to_string(client.redeliver(rest[1], id)));
    } catch (const scheduler::Error& error) {
        if (error.code() != scheduler::Errc::invalid_argument) throw;
        refuse_usage({error.what()});  // it is no name of a sink
    }
    return 0;
}

inline int pause(const Arguments& arguments) {
    check_no_rest(arguments, "pause");
    client_for(arguments).pause(arguments.get("--reason"));
    return 0;
}

inline int resume(const Arguments& arguments) {
    check_no_rest(arguments, "resume");
    client_for(arguments).resume();
    return 0;
}

// No server is no more than a failure here: who looks after containers knows 0 and 1.
inline int health(const Arguments& arguments) {
    check_no_rest(arguments, "health");
    const scheduler::Client client = client_for(arguments, false);
    const bool asks_ready = arguments.has("--ready");
    try {
        asks_ready ? client.check_ready() : client.check_alive();
    } catch (const scheduler::Error& error) {
        report((asks_ready ? "not ready: " : "not alive: ") + std::string(error.what()));
        return 1;
    }
    print_line(asks_ready ? "the server is ready" : "the server is alive");
    return 0;
}

inline int status(const Arguments& arguments) {
    check_no_rest(arguments, "status");
    const std::string json = client_for(arguments).status();
    if (arguments.has("--json")) {
        print_line(json);
    } else {
        print_lines(StatusAnswer(json).lines());
    }
    return 0;
}

inline int nodes(const Arguments& arguments) {
    check_no_rest(arguments, "nodes");
    const auto all = StatusAnswer(client_for(arguments).status()).nodes();
    for (const auto& [line, json] : all) print_line(arguments.has("--json") ? json : line);
    if (all.empty()) report_none(arguments, "the server keeps its tasks alone: it has no --store");
    return 0;
}

inline int show(const Arguments& arguments) {
    if (arguments.rest.size() != 1) refuse_usage({"show takes the ID or NAME of one task"});
    check_task(arguments.rest[0]);
    const auto story = client_for(arguments).story(arguments.rest[0]);
    if (!story) {
        report(concat({"There is no task ", arguments.rest[0], "."}));
        return 1;
    }
    if (arguments.has("--json")) {
        print_line(scheduler::to_json(*story));
    } else {
        print_lines(story_lines(*story));
    }
    return 0;
}

}  // namespace cli
