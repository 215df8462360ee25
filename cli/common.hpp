// SPDX-License-Identifier: MIT
//
// What the flags of the server and the verbs of the command line share: how they are
// typed, and how a failure is told.

#pragma once

#include "../scheduler.hpp"

#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <optional>
#include <string>

namespace cli {

// Why the command line or the environment cannot be used: exit status 2.
struct UsageError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A text of these parts.
inline std::string concat(std::initializer_list<std::string_view> parts) {
    std::string text;
    for (const std::string_view part : parts) text += part;
    return text;
}

[[noreturn]] inline void refuse_usage(std::initializer_list<std::string_view> parts) {
    throw UsageError(concat(parts));
}

inline std::uint64_t number(const std::string& text, std::uint64_t least, std::uint64_t most) {
    const bool digits = !text.empty() && text.size() <= 18 &&
                        text.find_first_not_of("0123456789") == std::string::npos;
    const std::uint64_t value = digits ? std::stoull(text) : 0;
    if (!digits || value < least || value > most) {
        refuse_usage({"must be a whole number from ", std::to_string(least), " to ",
                      std::to_string(most), ", not '", text, "'"});
    }
    return value;
}

inline constexpr std::uint64_t any_size = 1'000'000'000'000;

// Sets a number, to the largest of its type if that is less.
template <class Int>
void set_number(Int& value, const std::string& text, std::uint64_t least, std::uint64_t most) {
    constexpr std::uint64_t largest = std::numeric_limits<Int>::max();
    value = static_cast<Int>(std::min(number(text, least, most), largest));
}

// The same of a limit, which is given then.
template <class Int, Int usual>
void set_number(scheduler::Limit<Int, usual>& limit, const std::string& text, std::uint64_t least,
                std::uint64_t most) {
    Int value{};
    set_number(value, text, least, most);
    limit = value;
}

// A number of bytes, such as 65536, 512K, 24M or 1G.
template <class Number>
void set_bytes(Number& value, const std::string& text, std::uint64_t least, std::uint64_t most) {
    std::string digits = text;
    unsigned shift = 0;
    if (const std::size_t unit = std::string("KMG").find(text.empty() ? ' ' : text.back());
        unit != std::string::npos) {
        shift = 10 * (static_cast<unsigned>(unit) + 1);
        digits.pop_back();
    }
    try {
        const std::uint64_t scaled = number(digits, 0, any_size >> shift) << shift;
        set_number(value, std::to_string(scaled), least, most);
    } catch (const UsageError&) {
        refuse_usage({"must be a number of bytes from ", std::to_string(least), " to ",
                      std::to_string(most), ", such as 65536, 512K, 24M or 1G, not '", text, "'"});
    }
}

// A duration such as 1h30m, or a whole number of seconds.
inline scheduler::milliseconds duration(const std::string& text) {
    const bool digits = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
    const auto value = scheduler::parse_duration(digits ? text + 's' : text);
    if (!value) {
        refuse_usage({"must be seconds, or a duration such as 90s or 1h30m, not '", text, "'"});
    }
    return *value;
}

// Returns what fn() returns.  A UsageError that it throws gets the name of the flag or
// variable that was being read.
template <class Fn>
auto naming(const std::string& name, Fn fn) {
    try {
        return fn();
    } catch (const UsageError& error) {
        refuse_usage({name, ": ", error.what()});
    }
}

// The least number of letters that have to be changed, added, dropped or swapped with the
// next one to turn one word into the other.
inline std::size_t distance(const std::string& a, const std::string& b) {
    std::vector<std::vector<std::size_t>> rows(a.size() + 1,
                                               std::vector<std::size_t>(b.size() + 1));
    for (std::size_t i = 0; i <= a.size(); ++i) {
        for (std::size_t j = 0; j <= b.size(); ++j) {
            if (i == 0 || j == 0) {
                rows[i][j] = i + j;
                continue;
            }
            const std::size_t changed = rows[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
            rows[i][j] = std::min({changed, rows[i - 1][j] + 1, rows[i][j - 1] + 1});
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                rows[i][j] = std::min(rows[i][j], rows[i - 2][j - 2] + 1);
            }
        }
    }
    return rows[a.size()][b.size()];
}

// "; did you mean NAME?", where one of the names is near enough; else nothing.
inline std::string suggestion(const std::string& word, const std::vector<std::string>& names) {
    constexpr std::size_t longest = 64;  // no name is nearly as long as this
    const std::string* nearest = nullptr;
    std::size_t least = 0;
    for (const std::string& name : names) {
        if (word.size() > longest) break;
        const std::size_t changes = distance(word, name);
        if (changes > std::max<std::size_t>(1, name.size() / 3)) continue;
        if (!nearest || changes < least) {
            nearest = &name;
            least = changes;
        }
    }
    return nearest ? concat({"; did you mean ", *nearest, "?"}) : "";
}

// A flag as it is typed: --name, and -l where it has a letter.
struct FlagForm {
    std::string name;  // with its dashes
    char letter = 0;
    std::string value;  // what its value is called; empty: it takes none
    std::string help;
    bool ends = false;  // words after it are not read, as with --help
};

// What was typed: flags by their names, in order, and the rest in order.
struct Arguments {
    std::vector<std::pair<std::string, std::string>> flags;
    std::vector<std::string> rest;

    bool has(const std::string& name) const { return find(name) != nullptr; }
    // The last value of a flag.
    std::string get(const std::string& name, const std::string& otherwise = "") const {
        const std::string* value = find(name);
        return value ? *value : otherwise;
    }
    // All values of a flag that may be repeated.
    std::vector<std::string> all(const std::string& name) const {
        std::vector<std::string> values;
        for (const auto& flag : flags) {
            if (flag.first == name) values.push_back(flag.second);
        }
        return values;
    }

private:
    const std::string* find(const std::string& name) const {
        const std::string* value = nullptr;
        for (const auto& flag : flags) {
            if (flag.first == name) value = &flag.second;
        }
        return value;
    }
};

// Reads what was typed: `--name VALUE`, `--name=VALUE`, `-l VALUE`, `-lVALUE`, letters
// without a value together (`-ab`), and `--`, behind which nothing is a flag.
class ArgumentReader {
public:
    ArgumentReader(const std::vector<FlagForm>& forms, std::vector<std::string> words)
        : forms_(forms), words_(std::move(words)) {}

    Arguments read();

private:
    void read_name(const std::string& word);
    void read_letters(const std::string& word);
    std::string next_word(const std::string& flag);
    void add(const FlagForm& form, const std::string& value);
    template <class Is>
    const FlagForm& form_that(Is is, const std::string& word, const std::string& name) const;

    const std::vector<FlagForm>& forms_;
    const std::vector<std::string> words_;
    std::size_t next_ = 0;  // of the words
    bool ended_ = false;    // by a flag behind which nothing is looked at
    Arguments read_;
};

inline Arguments ArgumentReader::read() {
    bool only_rest = false;
    while (!ended_ && next_ < words_.size()) {
        const std::string word = words_[next_++];
        if (only_rest || word.size() < 2 || word[0] != '-') {
            read_.rest.push_back(word);
        } else if (word == "--") {
            only_rest = true;
        } else if (word[1] == '-') {
            read_name(word);
        } else {
            read_letters(word);
        }
    }
    return std::move(read_);
}

inline void ArgumentReader::read_name(const std::string& word) {
    const std::size_t equals = word.find('=');
    const std::string name = word.substr(0, equals);
    const FlagForm& form = form_that([&](const auto& one) { return one.name == name; }, word, name);
    if (equals == std::string::npos) {
        add(form, form.value.empty() ? "" : next_word(name));
    } else if (!form.value.empty()) {
        add(form, word.substr(equals + 1));
    } else {
        refuse_usage({name, " takes no value, but is given as ", word});
    }
}

inline void ArgumentReader::read_letters(const std::string& word) {
    for (std::size_t i = 1; i < word.size() && !ended_; ++i) {
        const char letter = word[i];
        const FlagForm& form =
            form_that([&](const auto& one) { return one.letter == letter; }, word, '-' + word);
        if (form.value.empty()) {
            add(form, "");
            continue;
        }
        const std::string rest = word.substr(i + 1);
        add(form, rest.empty() ? next_word(form.name) : rest.substr(rest[0] == '=' ? 1 : 0));
        break;
    }
}

inline std::string ArgumentReader::next_word(const std::string& flag) {
    if (next_ == words_.size()) refuse_usage({flag, " needs a value"});
    return words_[next_++];
}

inline void ArgumentReader::add(const FlagForm& form, const std::string& value) {
    read_.flags.emplace_back(form.name, value);
    ended_ = form.ends;
}

// The form that is the right one; `name` is looked for among the names if there is none.
template <class Is>
const FlagForm& ArgumentReader::form_that(Is is, const std::string& word,
                                          const std::string& name) const {
    const auto found = std::find_if(forms_.begin(), forms_.end(), is);
    if (found != forms_.end()) return *found;
    std::vector<std::string> names;
    for (const FlagForm& form : forms_) names.push_back(form.name);
    refuse_usage({"unknown option ", word, suggestion(name, names)});
}

// Takes a variable out of the environment, also out of the block of memory that the process
// was started with: its children can read that in /proc.  None: it is not set.
inline std::optional<std::string> take_variable(const std::string& name) {
    const char* const value = std::getenv(name.c_str());
    if (!value) return std::nullopt;
    const std::string taken = value;
    for (char** variable = ::environ; *variable; ++variable) {
        const std::string_view text = *variable;
        if (text.substr(0, name.size()) != name || text.substr(name.size(), 1) != "=") continue;
        std::fill(*variable + name.size() + 1, *variable + text.size(), '\0');
    }
    ::unsetenv(name.c_str());
    return taken;
}

// What was in the variables that are secret.
struct SecretVariables {
    std::optional<std::string> secret = take_variable("SCHEDULER_SECRET");
    std::optional<std::string> read_secret = take_variable("SCHEDULER_READ_SECRET");
};

// As they were when this was called first, which main() does before all else.
inline const SecretVariables& secret_variables() {
    static const SecretVariables variables;
    return variables;
}

inline sigset_t set_of(std::initializer_list<int> signals) {
    sigset_t set;
    sigemptyset(&set);
    for (const int signal : signals) sigaddset(&set, signal);
    return set;
}

}  // namespace cli
