// SPDX-License-Identifier: MIT
//
// The table of the verbs, and what is made of it and of the table of flags: the help, the manual
// page, what shells complete, and the call itself.

#pragma once

#include "journals.hpp"

namespace cli {

struct Verb {
    const char* name;
    const char* words;  // what may follow it; null: the name of a verb; FILE: that of a file
    const char* usage;  // each way to call it on a line
    const char* about;
    std::vector<FlagForm> flags;
    int (*run)(const Arguments&);
    bool is_local = false;  // it talks to no server
    const char* exit_status = nullptr;  // where it is not the usual one
};

// What every verb takes that talks to a server.
inline const FlagForm common_flags[] = {
    {"--url", 0, "URL",
     "the server, with the prefix of the scheduler if it has one, or unix:/PATH, or "
     "unix:/PATH:/PREFIX (default http://127.0.0.1:8080, or SCHEDULER_URL)"},
    {"--secret-file", 0, "FILE",
     "file with the secret (or SCHEDULER_SECRET_FILE, or the secret itself in SCHEDULER_SECRET)"},
    {"--ca-file", 0, "FILE",
     "for https: file of authorities that the server's certificate is checked against (or "
     "SCHEDULER_CA_FILE; default: the system's)"},
    {"--client-cert", 0, "FILE",
     "for https: the client's certificate, where the server asks for one (or "
     "SCHEDULER_CLIENT_CERT)"},
    {"--client-key", 0, "FILE", "for https: its key (or SCHEDULER_CLIENT_KEY)"},
    {"--config", 0, "FILE", "file of options, such as url = http://127.0.0.1:8080"},
};

inline const FlagForm help_flag{"--help", 'h', "", "show this help", true};

int completion(const Arguments& arguments);
int man(const Arguments& arguments);
int help(const Arguments& arguments);

inline const Verb verbs[] = {
    {"add",
     "",
     "add --at TIMESTAMP|--in DURATION [--name NAME|--key KEY] [--topic TOPIC] MESSAGE",
     "Schedules a message and prints the task's id.\n\nMESSAGE is an object, an array or a string "
     "of JSON; text that does not begin with {, [ or \" is sent as a string. - reads it from "
     "standard input.",
     {{"--at", 0, "TIMESTAMP", "when, in ISO 8601, such as 2026-08-21T04:29:00Z"},
      {"--in", 0, "DURATION", "how far ahead: seconds, or such as 90s or 1h30m"},
      {"--name", 0, "NAME", "replaces the pending task of this name, if there is one"},
      {"--only-new", 0, "", "with --name: only if no task of this name is pending"},
      {"--only-pending", 0, "", "with --name: only if there is one to replace"},
      {"--key", 0, "KEY", "requests with the same key schedule one task"},
      {"--topic", 0, "TOPIC", "what it is about, by which readers may choose"},
      {"--max-lateness", 0, "DURATION", "later than this it is missed, and not emitted"},
      {"--text", 0, "", "MESSAGE is a plain string, whatever it begins with"}},
     add},
    {"ls",
     "",
     "ls [--due DURATION|--missed] [--topic TOPIC]... [--grep TEXT] [--limit COUNT|--all] [--json]",
     "Lists pending tasks, the earliest first: id, due time and message.",
     {{"--due", 0, "DURATION", "only what is due within it, such as 1h"},
      {"--missed", 0, "", "those that were too late to be emitted, the newest last"},
      {"--topic", 0, "TOPIC",
       "only what has this topic, or one that begins so where it ends with a *; may be repeated"},
      {"--grep", 0, "TEXT", "only what holds this in its payload, its name or its id"},
      {"--limit", 0, "COUNT", "no more than so many (on a terminal 100, else all)"},
      {"--all", 0, "", "all of them, also on a terminal"},
      {"--json", 0, "", "one JSON object a line"}},
     ls},
    {"rm",
     "",
     "rm ID|NAME...\nrm [--due DURATION] [--topic TOPIC]... [--grep TEXT] [-y|--yes]",
     "Cancels tasks: those that are named, or all that are chosen, which asks first and then "
     "prints how many they were.",
     {{"--due", 0, "DURATION", "only what is due within it, such as 1h"},
      {"--topic", 0, "TOPIC",
       "only what has this topic, or one that begins so where it ends with a *; may be repeated"},
      {"--grep", 0, "TEXT", "only what holds this in its payload, its name or its id"},
      {"--yes", 'y', "", "do not ask"}},
     rm},
    {"mv",
     "",
     "mv ID|NAME --at TIMESTAMP|--in DURATION",
     "Moves a pending task to another time.",
     {{"--at", 0, "TIMESTAMP", "when, in ISO 8601, such as 2026-08-21T04:29:00Z"},
      {"--in", 0, "DURATION", "how far ahead: seconds, or such as 90s or 1h30m"}},
     mv},
    {"show",
     "",
     "show ID|NAME [--json]",
     "Tells what became of a task: when it was stored, due and emitted, how late that was, and "
     "whether each sink has its event.",
     {{"--json", 0, "", "one JSON object"}},
     show},
    {"status",
     "",
     "status [--json]",
     "Tells how the server stands: whether it is ready or paused, what is pending and overdue, how "
     "late events were, the journal, the clock and the sinks.",
     {{"--json", 0, "", "the server's answer itself, one JSON object"}},
     status},
    {"nodes",
     "",
     "nodes [--json]",
     "Lists the nodes that keep their tasks in the same store: which of them is the owner, where "
     "each answers, how many stored groups it has applied and how many it lacks, and when it was "
     "last heard of.",
     {{"--json", 0, "", "one JSON object a line"}},
     nodes},
    {"health",
     "",
     "health [--ready]",
     "Tells whether the server is alive, for the health check of a container. A server that still "
     "opens its journal is alive, and not ready.",
     {{"--ready", 0, "", "whether it also accepts and emits tasks"}},
     health,
     false,
     "0 it is, 1 it is not or there is no server, 2 used wrongly."},
    {"pause",
     "",
     "pause [--reason TEXT]",
     "Holds back all emissions, until resumed, also after a restart. Tasks are taken, changed and "
     "cancelled meanwhile.",
     {{"--reason", 0, "TEXT", "shown by status until resumed; up to 500 bytes"}},
     pause},
    {"resume",
     "",
     "resume",
     "Ends a pause: what fell due meanwhile is emitted, or missed, by its lateness.",
     {},
     resume},
    {"events",
     "",
     "events [-n COUNT] [-f|--follow] [--topic TOPIC]... [--json]",
     "Shows emitted events: id and message.",
     {{"-n", 'n', "COUNT", "the newest COUNT, up to 1000 (default 10; with -f, 0)"},
      {"--follow", 'f', "",
       "go on with events as they are emitted; reconnects and resumes by itself"},
      {"--topic", 0, "TOPIC",
       "only events with this topic, or with one that begins so where it ends with a *; may be "
       "repeated"},
      {"--json", 0, "", "one JSON object a line"}},
     events},
    {"sinks",
     "dead redeliver pause resume forget",
     "sinks [--json]\nsinks dead NAME [--json]\nsinks redeliver NAME [ID]\nsinks "
     "pause|resume|forget NAME",
     "Shows the webhooks and commands that events are delivered to, a line each; the events that "
     "one did not take (dead letters); delivers them again, all or one, and prints how many they "
     "are; holds a sink back, or goes on with it; forgets one that is unlisted, which is a sink "
     "that the server was started without, and that is kept until it is configured again.",
     {{"--json", 0, "", "one JSON object a line"}},
     sinks},
    {"export",
     "",
     "export [--due DURATION] [--topic TOPIC]... [--grep TEXT]",
     "Prints pending tasks as lines of JSON, the earliest first, each the request that would "
     "schedule it; where the task has a name, it is the member name.",
     {{"--due", 0, "DURATION", "only what is due within it, such as 1h"},
      {"--topic", 0, "TOPIC",
       "only what has this topic, or one that begins so where it ends with a *; may be repeated"},
      {"--grep", 0, "TEXT", "only what holds this in its payload, its name or its id"}},
     export_tasks},
    {"import",
     "FILE",
     "import [--skip-past] [--keep-going] [--idempotency-prefix TEXT] FILE",
     "Schedules what lines of JSON ask for, as export prints them, and prints how many of them are "
     "new. A line with a name makes the task of this name, or replaces it. Importing the same "
     "lines again changes nothing for a day, and while their tasks are pending. - reads standard "
     "input.",
     {{"--skip-past", 0, "", "leave out what is past, which would be emitted at once"},
      {"--keep-going", 0, "", "go on behind a line that is refused"},
      {"--idempotency-prefix", 0, "TEXT",
       "what the keys of the requests begin with (default import); with another, the same lines "
       "are scheduled again"}},
     import_tasks},
    {"backup",
     "",
     "backup --to FILE [--force]",
     "Copies the server's journal, as it stands at this moment, to a file that a server can be "
     "started with. The file is there when it is whole.",
     {{"--to", 0, "FILE",
       "where to; - is standard output, and then only exit status 0 says that "
       "it is whole"},
      {"--force", 0, "", "overwrite the file, if it is there"}},
     backup},
    {"verify",
     "FILE",
     "verify FILE [--json]",
     "Tells what is in a journal, and whether it is damaged, where and how. Changes nothing; a "
     "server may have it open. Whole lines that are missing at its end cannot be seen. - reads "
     "standard input.",
     {{"--json", 0, "", "one JSON object"}},
     verify,
     true,
     "0 sound, 1 damaged, 2 it cannot be read, or used wrongly."},
    {"compact",
     "FILE",
     "compact FILE [--history N]",
     "Replaces a journal by one that holds only what is live, while no server has it open, and "
     "prints the sizes.",
     {{"--history", 0, "N", "keep so many past events, and those that sinks want (default all)"}},
     compact,
     true,
     "0 done, 1 it failed and the journal is as it was, 2 used wrongly."},
    {"completion",
     "bash zsh fish",
     "completion bash|zsh|fish",
     "Prints what has a shell complete commands and options, to be put where the shell looks for "
     "it.",
     {},
     completion,
     true},
    {"man", "", "man", "Prints the manual page.", {}, man, true},
    {"help",
     nullptr,
     "help [COMMAND]",
     "Explains a command, or lists all there is.",
     {},
     help,
     true},
};

// The flags of a verb, those of all verbs included.
inline std::vector<FlagForm> flags_of(const Verb& verb) {
    std::vector<FlagForm> all = verb.flags;
    if (!verb.is_local) all.insert(all.end(), std::begin(common_flags), std::end(common_flags));
    all.push_back(help_flag);
    return all;
}

// The flags of the server.
inline std::vector<FlagForm> server_flags() {
    std::vector<FlagForm> all;
    for (const Flag& flag : flags) all.push_back(form_of(flag));
    all.push_back(help_flag);
    all.push_back({"--version", 0, "", "show the version", true});
    return all;
}

inline std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    return lines;
}

// What a verb does, as short as a list needs it.
inline std::string brief(const Verb& verb) {
    const std::string about = verb.about;
    return about.substr(0, about.find_first_of(".:;"));
}

inline std::string exit_statuses(const char* of_a_verb = nullptr) {
    const char* const usual = "0 done, 1 refused or failed, 2 used wrongly, 3 no server.";
    return std::string("Exit status: ") + (of_a_verb ? of_a_verb : usual);
}

inline std::string help_of(const Verb& verb) {
    std::string text;
    for (const std::string& line : lines_of(verb.usage)) {
        const std::string start =
            text.empty() ? "Usage: task-scheduler " : "       task-scheduler ";
        text += concat({start, wrapped(line, start.size()), "\n"});
    }
    for (const std::string& line : lines_of(verb.about)) text += wrapped(line, 0) + '\n';
    text += '\n';
    for (const FlagForm& flag : flags_of(verb)) text += option_line(flag);
    if (verb.is_local && !verb.exit_status) return text;
    return concat({text, "\n", exit_statuses(verb.exit_status), "\n"});
}

inline const Verb& verb_named(const std::string& name) {
    std::vector<std::string> names;
    for (const Verb& verb : verbs) {
        if (verb.name == name) return verb;
        names.emplace_back(verb.name);
    }
    refuse_usage({"unknown command '", name, "'", suggestion(name, names)});
}

inline int help(const Arguments& arguments) {
    const std::vector<std::string>& rest = arguments.rest;
    if (rest.size() > 1) refuse_usage({"help takes the name of one command"});
    if (rest.empty()) {
        print_help();
    } else {
        std::fputs(help_of(verb_named(rest[0])).c_str(), stdout);
    }
    return 0;
}

// ---- What shells complete ----------------------------------------------------

inline bool takes_file(const Verb& verb) {
    return verb.words && std::strcmp(verb.words, "FILE") == 0;
}

// The words that may follow a verb, flags not among them.
inline std::vector<std::string> words_of(const Verb& verb) {
    if (takes_file(verb)) return {};
    if (verb.words) return split_at_blanks(verb.words);
    std::vector<std::string> names;
    for (const Verb& one : verbs) names.emplace_back(one.name);
    return names;
}

inline std::string joined(const std::vector<std::string>& words) {
    std::string text;
    for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
    return text;
}

// The flags as they are typed, in both forms.
inline std::string typed(const std::vector<FlagForm>& all) {
    std::vector<std::string> words;
    for (const FlagForm& flag : all) {
        if (flag.name.size() > 2) words.push_back(flag.name);
        if (flag.letter != 0) words.push_back(std::string("-") + flag.letter);
    }
    return joined(words);
}

// In quotes for a shell, in which a quote is written as `quote`.
inline std::string shell_quoted(const std::string& text, const std::string& quote) {
    std::string quoted = "'";
    for (const char c : text) quoted += c == '\'' ? quote : std::string(1, c);
    return quoted + '\'';
}

// After a flag that takes a value, and where nothing fits, bash completes names of files.
inline std::string bash_completion() {
    std::set<std::string> with_value;
    std::string cases;
    const auto note = [&with_value](const std::vector<FlagForm>& all) {
        for (const FlagForm& flag : all) {
            if (flag.value.empty()) continue;
            with_value.insert(flag.name);
            if (flag.letter != 0) with_value.insert(std::string("-") + flag.letter);
        }
    };
    std::vector<std::string> names;
    for (const Verb& verb : verbs) {
        const std::vector<FlagForm> all = flags_of(verb);
        note(all);
        names.emplace_back(verb.name);
        cases += concat({"        ", verb.name, ") words='", typed(all)});
        const std::string words = joined(words_of(verb));
        cases += (words.empty() ? "" : ' ' + words) + "' ;;\n";
    }
    note(server_flags());
    std::string patterns;
    for (const std::string& flag : with_value) patterns += (patterns.empty() ? "" : "|") + flag;
    return concat(
        {"# bash completion for task-scheduler\n"
         "_task_scheduler() {\n"
         "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} "
         "words\n"
         "    COMPREPLY=()\n"
         "    case $previous in\n"
         "        ",
         patterns,
         ") return ;;\n"
         "    esac\n"
         "    case ${COMP_WORDS[1]} in\n",
         cases,
         "        *)\n"
         "            words='",
         typed(server_flags()),
         "'\n"
         "            [ \"$COMP_CWORD\" -gt 1 ] || words=\"$words ",
         joined(names),
         "\" ;;\n"
         "    esac\n"
         "    COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
         "}\n"
         "complete -o default -F _task_scheduler task-scheduler\n"});
}

// What zsh's _arguments reads.
inline std::string zsh_specs(const std::vector<FlagForm>& all, const std::string& words,
                             bool takes_file = false) {
    std::string specs;
    const auto add = [&specs](const std::string& spec) {
        specs += " \\\n                " + shell_quoted(spec, "'\\''");
    };
    for (const FlagForm& flag : all) {
        std::string rest = "[";
        for (const char c : flag.help)
            rest += std::strchr("[]\\:", c) ? std::string{'\\', c} : std::string(1, c);
        rest += ']';
        if (!flag.value.empty())
            rest += concat({":", flag.value, ":", (flag.value == "FILE" ? "_files" : "")});
        if (flag.name.size() > 2)
            add(concat({"*", flag.name, (flag.value.empty() ? "" : "="), rest}));
        if (flag.letter != 0) add(std::string("*-") + flag.letter + rest);
    }
    if (!words.empty()) add(concat({"*:word:(", words, ")"}));
    if (takes_file) add("*:file:_files");
    return specs;
}

inline std::string zsh_completion() {
    std::string names;
    std::string cases;
    for (const Verb& verb : verbs) {
        const std::string about = brief(verb);
        names +=
            concat({"        ", shell_quoted(std::string(verb.name) + ':' + about, "'\\''"), "\n"});
        cases +=
            concat({"        ", verb.name, ")\n            _arguments",
                    zsh_specs(flags_of(verb), joined(words_of(verb)), takes_file(verb)), " ;;\n"});
    }
    return concat(
        {"#compdef task-scheduler\n"
         "_task_scheduler() {\n"
         "    local -a verbs\n"
         "    verbs=(\n",
         names,
         "    )\n"
         "    if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then\n"
         "        _describe command verbs\n"
         "        return\n"
         "    fi\n"
         "    local verb=$words[2]\n"
         "    if [[ $verb != -* ]]; then\n"
         "        shift words\n"
         "        (( CURRENT-- ))\n"
         "    fi\n"
         "    case $verb in\n",
         cases, "        *)\n            _arguments", zsh_specs(server_flags(), ""),
         " ;;\n"
         "    esac\n"
         "}\n"
         "if [[ $funcstack[1] == _task_scheduler ]]; then\n"
         "    _task_scheduler \"$@\"\n"
         "else\n"
         "    compdef _task_scheduler task-scheduler\n"
         "fi\n"});
}

inline std::string fish_completion() {
    std::string text = "complete -c task-scheduler -f\n";
    std::vector<std::string> names;
    for (const Verb& verb : verbs) names.emplace_back(verb.name);
    const auto add = [&text](const std::string& when, const std::string& what,
                             const std::string& help) {
        text += concat({"complete -c task-scheduler -n ", shell_quoted(when, "\\'"), what, " -d ",
                        shell_quoted(help, "\\'"), "\n"});
    };
    const auto add_flags = [&add](const std::string& when, const std::vector<FlagForm>& all) {
        for (const FlagForm& flag : all) {
            std::string what;
            if (flag.name.size() > 2) what += " -l " + flag.name.substr(2);
            if (flag.letter != 0) what += std::string(" -s ") + flag.letter;
            if (!flag.value.empty()) what += flag.value == "FILE" ? " -r -F" : " -x";
            add(when, what, flag.help);
        }
    };
    for (const Verb& verb : verbs) {
        const std::string seen = std::string("__fish_seen_subcommand_from ") + verb.name;
        add("__fish_use_subcommand", std::string(" -a ") + verb.name, brief(verb));
        add_flags(seen, flags_of(verb));
        for (const std::string& word : words_of(verb)) add(seen, " -a " + word, verb.name);
        if (takes_file(verb)) add(seen, " -F", verb.name);
    }
    add_flags("not __fish_seen_subcommand_from " + joined(names), server_flags());
    return text;
}

inline int completion(const Arguments& arguments) {
    const std::string shell = arguments.rest.size() == 1 ? arguments.rest[0] : "";
    const std::string text = shell == "bash"   ? bash_completion()
                             : shell == "zsh"  ? zsh_completion()
                             : shell == "fish" ? fish_completion()
                                               : "";
    if (text.empty()) refuse_usage({"completion takes the name of a shell: bash, zsh or fish"});
    std::fputs(text.c_str(), stdout);
    return 0;
}

// ---- The manual page -----------------------------------------------------------

// Text for troff, in which some characters mean something.
inline std::string troff(const std::string& text) {
    std::string escaped;
    for (const char c : text) {
        const bool starts_line = escaped.empty() || escaped.back() == '\n';
        if (starts_line && (c == '.' || c == '\'')) escaped += "\\&";
        if (c == '\\')
            escaped += "\\e";
        else if (c == '-')
            escaped += "\\-";
        else
            escaped += c;
    }
    return escaped;
}

inline std::string troff_flags(const std::vector<FlagForm>& all) {
    std::string text;
    for (const FlagForm& flag : all) {
        text += concat({".TP\n\\fB", troff(names_of(flag)), "\\fR"});
        if (!flag.value.empty()) text += concat({" \\fI", troff(flag.value), "\\fR"});
        text += concat({"\n", troff(flag.help), "\n"});
    }
    return text;
}

inline int man(const Arguments& arguments) {
    check_no_rest(arguments, "man");
    std::string text = ".TH TASK\\-SCHEDULER 1 \"\" \"task\\-scheduler " SCHEDULER_VERSION
                       "\"\n"
                       ".SH NAME\ntask\\-scheduler \\- keeps JSON messages and emits each at its "
                       "due time, over HTTP\n"
                       ".SH SYNOPSIS\n.B task\\-scheduler\n[\\fIOPTION\\fR]...\n";
    for (const Verb& verb : verbs) {
        for (const std::string& line : lines_of(verb.usage)) {
            text += concat({".br\n.B task\\-scheduler\n", troff(line), "\n"});
        }
    }
    text += concat(
        {".SH DESCRIPTION\nWithout a command it is the server. The commands talk to a server that "
         "runs, but for those that look at a journal.\n.SH OPTIONS OF THE SERVER\n",
         troff_flags(server_flags()), ".SH COMMANDS\n"});
    for (const Verb& verb : verbs) {
        text += concat({".SS ", troff(verb.name), "\n"});
        for (const std::string& line : lines_of(verb.about)) {
            text += line.empty() ? ".PP\n" : troff(line) + '\n';
        }
        if (verb.exit_status)
            text += concat({".PP\n", troff(exit_statuses(verb.exit_status)), "\n"});
        text += troff_flags(verb.flags);
    }
    text += ".SH OPTIONS OF THE COMMANDS\n" + troff_flags(flags_of({"", "", "", "", {}, nullptr}));
    text +=
        ".SH ENVIRONMENT\nEach option of the server may be given in the environment, "
        "\\fB\\-\\-max\\-body\\fR as \\fBSCHEDULER_MAX_BODY\\fR and so on.\n";
    for (const char* const variable : other_variables) {
        text += concat({".TP\n.B ", troff(variable), "\n"});
        text += std::strstr(variable, "URL") ? "where the commands find the server\n"
                : std::strstr(variable, "CA")
                    ? "authorities that they check its certificate against\n"
                : std::strstr(variable, "READ") ? "a secret that opens GET and HEAD only\n"
                                                : "the secret itself\n";
    }
    text += concat(
        {".SH FILES\n.TP\n.I ~/.config/task\\-scheduler/config\n.TQ\n.I "
         "/etc/task\\-scheduler.conf\n"
         "options, a line NAME = VALUE each, for the server and for the commands\n"
         ".SH SIGNALS\nSIGTERM and SIGINT end the server cleanly. SIGHUP has it read the files of "
         "secrets, TLS and sinks again.\n.SH EXIT STATUS\n",
         troff(exit_statuses()), "\n"});
    std::fputs(text.c_str(), stdout);
    return 0;
}

// ---- The call ------------------------------------------------------------------

inline int run_verb(const Verb& verb, int argc, char** argv) {
    const std::vector<FlagForm> forms = flags_of(verb);
    const Arguments arguments = ArgumentReader(forms, {argv + 2, argv + argc}).read();
    std::signal(SIGPIPE, SIG_IGN);
    int status = 0;
    if (arguments.has("--help")) {
        std::fputs(help_of(verb).c_str(), stdout);
    } else {
        status = verb.run(arguments);
    }
    flush_output();
    return status;
}

// Runs a verb, if the first argument may be one; returns the exit status.
inline std::optional<int> run_verb(int argc, char** argv) {
    if (argc < 2 || argv[1][0] == '-') return std::nullopt;
    const std::string name = argv[1];
    const Verb& verb = verb_named(name);
    const std::string help_on = name == "help" ? "help" : "help " + name;
    return guarded("task-scheduler " + help_on, [&] { return run_verb(verb, argc, argv); });
}

}  // namespace cli
