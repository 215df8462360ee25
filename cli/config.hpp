// SPDX-License-Identifier: MIT
//
// The file of options, for the server and for the verbs: a line for each, `name = value`.

#pragma once

#include "flags.hpp"

#include <sys/stat.h>

#include <cstring>

namespace cli {

// A line of a file of options.
struct ConfigLine {
    std::string name;
    std::string value;
    std::string place;  // the file and the number of the line
};

inline std::string trimmed(const std::string& text) {
    constexpr const char* blanks = " \t\r";
    const std::size_t begin = text.find_first_not_of(blanks);
    if (begin == std::string::npos) return "";
    return text.substr(begin, text.find_last_not_of(blanks) - begin + 1);
}

// What a file may name: every option of the server but the one for the file itself, and what the
// verbs read.
inline std::vector<std::string> config_names() {
    std::vector<std::string> names{"url", "ca-file", "client-cert", "client-key"};
    for (const Flag& flag : flags) {
        if (flag.name != std::string_view("config")) names.emplace_back(flag.name);
    }
    return names;
}

inline ConfigLine read_config_line(const std::string& text, const std::string& place) {
    const std::size_t equals = text.find('=');
    const bool control = std::any_of(text.begin(), text.end(), [](unsigned char c) {
        return (c < 0x20 && c != '\t') || c == 0x7F;
    });
    if (control) refuse_usage({place, ": there is a control character in it"});
    if (equals == std::string::npos) refuse_usage({place, ": must be NAME = VALUE"});
    ConfigLine line{trimmed(text.substr(0, equals)), trimmed(text.substr(equals + 1)), place};
    if (line.name == "secret" || line.name == "read-secret") {
        refuse_usage({place, ": a secret is not written here; name a file that holds it with ",
                      line.name, "-file"});
    }
    const std::vector<std::string> names = config_names();
    if (std::find(names.begin(), names.end(), line.name) == names.end()) {
        refuse_usage({place, ": there is no option ", line.name, suggestion(line.name, names)});
    }
    if (line.value.empty()) refuse_usage({place, ": ", line.name, " needs a value"});
    return line;
}

inline std::vector<ConfigLine> read_config(const std::string& path) {
    std::vector<ConfigLine> lines;
    constexpr const char* byte_order_mark = "\xEF\xBB\xBF";  // some editors begin a file with it
    std::string whole = file_text(path, 1U << 20);
    if (whole.rfind(byte_order_mark, 0) == 0) whole.erase(0, std::strlen(byte_order_mark));
    std::istringstream text(whole);
    std::size_t number = 0;
    for (std::string line; std::getline(text, line);) {
        ++number;
        line = trimmed(line);
        if (line.empty() || line[0] == '#') continue;
        lines.push_back(read_config_line(line, concat({path, ":", std::to_string(number)})));
    }
    return lines;
}

// Where a file of options is looked for that nobody has named: the first that is there counts.
inline std::vector<std::string> config_places() {
    std::vector<std::string> places;
    const char* const folder = std::getenv("XDG_CONFIG_HOME");
    const char* const home = std::getenv("HOME");
    if (folder && *folder == '/') {
        places.push_back(std::string(folder) + "/task-scheduler/config");
    } else if (home && *home) {
        places.push_back(std::string(home) + "/.config/task-scheduler/config");
    }
    places.emplace_back("/etc/task-scheduler.conf");
    return places;
}

// The file that --config or SCHEDULER_CONFIG names, or one of the usual places.
inline std::vector<ConfigLine> find_config(const Arguments& arguments) {
    const char* const variable = std::getenv("SCHEDULER_CONFIG");
    if (arguments.has("--config")) return read_config(arguments.get("--config"));
    if (variable && *variable) return read_config(variable);
    for (const std::string& place : config_places()) {
        struct stat status {};
        if (::stat(place.c_str(), &status) == 0) return read_config(place);
    }
    return {};
}

inline void set_from_config(Settings& settings, const std::vector<ConfigLine>& lines) {
    for (const ConfigLine& line : lines) {
        for (const Flag& flag : flags) {
            if (flag.name != line.name) continue;
            naming(concat({line.place, ": ", line.name}),
                   [&] { set_flag(settings, flag, line.value); });
        }
    }
}

// Reads the server's options: of the file, of the environment, which stands above that, and of
// the command line, which stands above both.  True: the program has nothing more to do.
inline bool read_flags(int argc, char** argv, Settings& settings) {
    std::vector<FlagForm> forms{{"--help", 'h', "", "", true}, {"--version", 0, "", "", true}};
    std::map<std::string, const Flag*> by_name;
    for (const Flag& flag : flags) {
        forms.push_back(form_of(flag));
        by_name[forms.back().name] = &flag;
    }
    const Arguments arguments = ArgumentReader(forms, {argv + 1, argv + argc}).read();
    if (arguments.has("--help")) print_help();
    if (arguments.has("--version")) std::printf("task-scheduler %s\n", SCHEDULER_VERSION);
    if (arguments.has("--help") || arguments.has("--version")) {
        flush_output();
        return true;
    }
    if (!arguments.rest.empty()) {
        refuse_usage({"unexpected argument '", arguments.rest[0], "'"});
    }
    const auto read = [arguments, by_name](Settings& to) {
        set_from_config(to, find_config(arguments));
        const char* const store = std::getenv("SCHEDULER_STORE");
        if (store && *store) to.stores.clear();  // whoever says one says all of them
        read_variables(to);
        if (arguments.has("--store")) to.stores.clear();
        for (const auto& [name, value] : arguments.flags) {
            naming(name,
                   [&, &text = value, flag = by_name.at(name)] { set_flag(to, *flag, text); });
        }
    };
    read(settings);
    settings.read_again = [read] {
        Settings again;
        read(again);
        return again;
    };
    return false;
}

}  // namespace cli
