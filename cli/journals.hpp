// SPDX-License-Identifier: MIT
//
// The verbs for what is kept: a journal's file is verified or compacted, a server's is copied; and
// pending tasks go out and come in as lines of JSON.

#pragma once

#include "verbs.hpp"

#include <stdio.h>  // getline()

namespace cli {

// What a verb is given that takes one file.
inline const std::string& only_file(const Arguments& arguments, const std::string& verb) {
    if (arguments.rest.size() == 1 && is_store(arguments.rest[0])) {
        refuse_usage({verb,
                      " reads a file; what is in PostgreSQL is looked after there, and "
                      "copied by pg_dump"});
    }
    if (arguments.rest.size() == 1 && !arguments.rest[0].empty()) return arguments.rest[0];
    refuse_usage({verb, " takes one FILE"});
}

// "1 task", "2 tasks"
inline std::string counted(std::uint64_t count, const std::string& what) {
    return concat({std::to_string(count), " ", what, (count == 1 ? "" : "s")});
}

// ---- Verifying -------------------------------------------------------------

inline std::string damage_text(const scheduler::JournalDamage& damage) {
    if (damage.bytes == 0) return damage.problem;
    const std::string kept =
        damage.kept == 0 ? "" : concat({"; ", counted(damage.kept, "whole record"), " in it kept"});
    return concat({damage.problem, " (", counted(damage.bytes, "byte"), " from byte ",
                   std::to_string(damage.at), " on", kept, ")"});
}

inline std::string operations_text(const scheduler::JournalReport& report) {
    std::string text = std::to_string(report.records);
    for (const auto& [name, count] : report.operations) {
        text += concat({(&name == &report.operations.begin()->first ? ": " : ", "), name, " ",
                        std::to_string(count)});
    }
    return text;
}

inline std::string verdict_text(const scheduler::JournalReport& report) {
    if (!report.damage.empty()) {
        return concat(
            {"DAMAGED: ", counted(report.damage.size(), "line"),
             "; a server that opens it keeps all that is whole, and puts the rest aside"});
    }
    if (!report.is_sound()) return "DAMAGED: it has no whole record";
    if (report.torn_bytes > 0) {
        return concat({"sound, but ", counted(report.torn_bytes, "byte"),
                       " of a torn last record would be cut off"});
    }
    return report.bytes == 0 ? "sound: it is empty, as a new one is" : "sound";
}

inline std::string pending_text(const scheduler::JournalReport& report) {
    std::string text = std::to_string(report.pending);
    if (report.named > 0)
        text += concat({", ", std::to_string(report.named), " of them with a name"});
    if (!report.next_due) return text;
    const bool is_over = *report.next_due <= scheduler::wall_clock();
    return concat({text, "; the earliest due ", moment(*report.next_due), " (",
                   (is_over ? "overdue" : until(*report.next_due)), ")"});
}

inline std::string kept_sink_text(const scheduler::SinkStatus& sink) {
    const std::string cursor = sink.cursor ? ", cursor " + sink.cursor->str() : "";
    return concat({sink_state(sink), cursor, ", lag ", std::to_string(sink.lag), ", dead ",
                   std::to_string(sink.dead)});
}

inline void add_damage(Lines& lines, const scheduler::JournalReport& report) {
    constexpr std::size_t most = 20;
    if (report.torn_bytes > 0) {
        lines.emplace_back("torn tail", counted(report.torn_bytes, "byte") +
                                            " of no whole record, as a crash leaves them");
    }
    for (std::size_t i = 0; i < std::min(most, report.damage.size()); ++i) {
        const scheduler::JournalDamage& damage = report.damage[i];
        lines.emplace_back("line " + std::to_string(damage.line), damage_text(damage));
    }
    if (report.damage.size() > most) {
        const std::string more = std::to_string(report.damage.size() - most);
        lines.emplace_back("...", more + " more damaged lines; --json has them all");
    }
}

inline Lines report_lines(const scheduler::JournalReport& report) {
    Lines lines{{"journal", verdict_text(report)}};
    if (!report.used_by.empty()) lines.emplace_back("in use", "by " + report.used_by);
    lines.emplace_back("bytes", std::to_string(report.bytes));
    lines.emplace_back("records", operations_text(report));
    lines.emplace_back("pending", pending_text(report));
    lines.emplace_back("emitted", std::to_string(report.emitted) + " kept");
    lines.emplace_back("missed", std::to_string(report.missed) + " kept");
    lines.emplace_back("cancelled", std::to_string(report.cancelled));
    lines.emplace_back("keys", std::to_string(report.keys));
    if (report.newest) lines.emplace_back("newest", moment(*report.newest));
    if (report.paused) {
        const std::string& reason = report.paused->reason;
        lines.emplace_back("paused", concat({"since ", moment(report.paused->since),
                                             (reason.empty() ? "" : ": " + reason)}));
    }
    for (const scheduler::SinkStatus& sink : report.sinks) {
        lines.emplace_back("sink " + sink.name, kept_sink_text(sink));
    }
    add_damage(lines, report);
    return lines;
}

// What standard input holds, in a file that nobody else sees: a journal is not read in one go.
inline std::FILE* spooled_input() {
    const auto fail = [](const std::string& what) {
        throw std::runtime_error(concat({what, ": ", std::generic_category().message(errno)}));
    };
    std::FILE* const file = std::tmpfile();
    if (!file) fail("cannot make a temporary file for what is read");
    char buffer[4'096];
    for (std::size_t size; (size = std::fread(buffer, 1, sizeof buffer, stdin)) > 0;) {
        if (std::fwrite(buffer, 1, size, file) != size) break;
    }
    if (std::ferror(stdin)) fail("cannot read standard input");
    if (std::fflush(file) != 0 || std::ferror(file)) fail("cannot write to a temporary file");
    if (std::ftell(file) == 0) throw std::runtime_error("there is nothing on standard input");
    return file;
}

inline scheduler::JournalReport verify_input() {
    const std::string path = "/proc/self/fd/" + std::to_string(::fileno(spooled_input()));
    try {
        scheduler::JournalReport found = scheduler::verify_journal(path);
        found.path = "-";
        return found;
    } catch (const scheduler::Error& error) {
        std::string what = error.what();
        const std::size_t at = what.find(path);
        if (at != std::string::npos) what.replace(at, path.size(), "standard input");
        throw std::runtime_error(what);
    }
}

inline int verify(const Arguments& arguments) {
    const std::string& file = only_file(arguments, "verify");
    scheduler::JournalReport found;
    try {
        found = file == "-" ? verify_input() : scheduler::verify_journal(file);
    } catch (const std::exception& error) {
        report(error.what());
        return 2;
    }
    if (arguments.has("--json")) {
        print_line(scheduler::to_json(found));
    } else {
        print_lines(report_lines(found));
    }
    return found.is_sound() ? 0 : 1;
}

// ---- Compacting and copying ------------------------------------------------

inline int compact(const Arguments& arguments) {
    scheduler::Options options;
    options.journal = only_file(arguments, "compact");
    options.history = std::numeric_limits<std::size_t>::max();
    if (arguments.has("--history")) {
        naming("--history",
               [&] { set_number(options.history, arguments.get("--history"), 0, any_size); });
    }
    options.log = [](const scheduler::LogRecord& record) {
        if (record.level >= scheduler::LogLevel::warning) report(record.text);
    };
    const scheduler::CompactResult done = scheduler::compact_journal(options);
    print_line(concat({counted(done.before, "byte"), " before, ", std::to_string(done.after),
                       " after, with ", counted(done.pending, "pending task")}));
    return 0;
}

inline int backup(const Arguments& arguments) {
    check_no_rest(arguments, "backup");
    if (arguments.get("--to").empty()) refuse_usage({"backup needs --to FILE"});
    const bool prints = arguments.get("--to") == "-";
    if (prints && on_terminal()) {
        refuse_usage({"--to -: standard output is a terminal; name a file, or a pipe behind it"});
    }
    const scheduler::Client client = client_for(arguments);
    if (prints) {
        client.backup([](std::string_view piece) {
            if (std::fwrite(piece.data(), 1, piece.size(), stdout) != piece.size()) {
                throw OutputError(errno);
            }
        });
        return 0;
    }
    const std::uint64_t size = client.backup(arguments.get("--to"), arguments.has("--force"));
    print_line(concat({counted(size, "byte"), " in ", arguments.get("--to")}));
    return 0;
}

// ---- Out and in as lines of JSON -------------------------------------------

inline int export_tasks(const Arguments& arguments) {
    check_no_rest(arguments, "export");
    scheduler::TaskQuery query = chosen_tasks(arguments);
    query.limit = 1'000;
    const scheduler::Client client = client_for(arguments);
    for (bool more = true; more;) {
        const scheduler::TaskPage page = client.tasks(query);
        for (const scheduler::Task& task : page.tasks) {
            print_line(scheduler::ExportLine::write(task));
        }
        flush_output();
        more = page.more;
        query.after = page.next;
    }
    return 0;
}

// A file that is read line by line; - is standard input.
class LineReader {
public:
    explicit LineReader(const std::string& path)
        : file_(path == "-" ? stdin : std::fopen(path.c_str(), "re")) {
        if (!file_) fail(path);
        path_ = path;
    }
    ~LineReader() {
        std::free(line_);
        if (file_ != stdin) std::fclose(file_);
    }
    LineReader(const LineReader&) = delete;
    LineReader& operator=(const LineReader&) = delete;

    // The next line, without its end; nothing at the end of the file.
    std::optional<std::string> next() {
        const ssize_t size = ::getline(&line_, &room_, file_);
        if (size < 0 && std::ferror(file_)) fail(path_);
        if (size < 0) return std::nullopt;
        std::string line(line_, static_cast<std::size_t>(size));
        if (line.back() == '\n') line.pop_back();
        return line;
    }

private:
    [[noreturn]] static void fail(const std::string& path) {
        throw std::runtime_error(
            concat({"cannot read ", path, ": ", std::generic_category().message(errno)}));
    }

    std::FILE* file_;
    std::string path_;
    char* line_ = nullptr;
    std::size_t room_ = 0;
};

// Schedules what lines of JSON ask for.  Those without a name go in slices, each all or nothing,
// under a key that follows from where the slice begins and from what all its lines say: so a
// slice that has come before changes nothing.  Of a slice that is refused, each line goes alone.
class Importer {
public:
    Importer(const scheduler::Client& client, const Arguments& arguments)
        : client_(client),
          prefix_(arguments.get("--idempotency-prefix", "import")),
          skips_past_(arguments.has("--skip-past")),
          keeps_going_(arguments.has("--keep-going")) {}

    void run(LineReader& lines);
    bool has_refused() const { return refused_ > 0; }
    std::string summary() const;

private:
    // Why no more is read.
    struct Stopped {};

    void take(const std::string& line);
    void take_task(const std::string& line);
    void put(const scheduler::ExportLine& task);
    void send_slice();
    void send(const std::vector<std::string>& requests, std::uint64_t first, std::uint64_t hash);
    void refuse(std::uint64_t line, const std::string& why);
    static std::uint64_t hash_of(std::string_view line, std::uint64_t before);
    std::string done() const;

    static constexpr std::size_t most_lines = 500;
    static constexpr std::size_t most_bytes = 65'536;
    static constexpr std::uint64_t fnv_start = 14'695'981'039'346'656'037U;  // FNV-1a

    const scheduler::Client& client_;
    const std::string prefix_;
    const bool skips_past_;
    const bool keeps_going_;
    std::uint64_t line_ = 0;      // the number of the one that was read last
    std::uint64_t done_ = 0;      // everything up to this line was dealt with
    std::uint64_t imported_ = 0;  // that were not there before
    std::uint64_t replaced_ = 0;  // pending ones, by their names
    std::uint64_t repeated_ = 0;  // in slices that came before
    std::uint64_t past_ = 0;
    std::uint64_t refused_ = 0;
    std::uint64_t differing_ = 0;  // in slices that came before, with other lines skipped

    // Of the slice at hand:
    std::uint64_t first_ = 0;  // its first line
    std::uint64_t last_ = 0;   // its last line so far
    std::size_t lines_ = 0;
    std::size_t bytes_ = 0;
    std::uint64_t hash_ = 0;
    std::vector<std::string> requests_;
    std::vector<std::uint64_t> numbers_;  // the line of each
};

inline void Importer::run(LineReader& lines) {
    try {
        while (const auto line = lines.next()) take(*line);
        send_slice();
    } catch (const Stopped&) {
        report(done_ == 0 ? "stopped: nothing was imported"
                          : concat({"stopped: ", done(), ", and none behind them"}));
    } catch (...) {
        // What was sent without an answer may have been imported too.
        if (done_ > 0) report(done() + "; run it again for the rest: nothing is imported twice");
        throw;
    }
}

inline std::string Importer::done() const {
    return concat({"lines 1 to ", std::to_string(done_), " were imported"});
}

inline std::string Importer::summary() const {
    std::string text = counted(imported_, "task") + " imported";
    const auto add = [&text](std::uint64_t count, const char* what) {
        if (count > 0) text += concat({"; ", std::to_string(count), " ", what});
    };
    add(replaced_, "replaced, by their names");
    add(repeated_, "imported before, and left as they are");
    add(differing_, "left out, as their lines were imported before while others were skipped");
    add(past_, "skipped, being past");
    add(refused_, "refused");
    return text;
}

inline void Importer::refuse(std::uint64_t line, const std::string& why) {
    report(concat({"line ", std::to_string(line), ": ", why}));
    ++refused_;
    if (!keeps_going_) throw Stopped();
}

inline void Importer::take(const std::string& line) {
    ++line_;
    if (line.find_first_not_of(" \t\r") == std::string::npos) return;
    try {
        take_task(line);
    } catch (const scheduler::Error& error) {
        if (error.code() != scheduler::Errc::invalid_argument) throw;
        refuse(line_, error.what());
    }
}

inline std::uint64_t Importer::hash_of(std::string_view line, std::uint64_t before) {
    constexpr std::uint64_t fnv_prime = 1'099'511'628'211U;
    for (const char c : line) before = (before ^ static_cast<unsigned char>(c)) * fnv_prime;
    return (before ^ '\n') * fnv_prime;
}

inline void Importer::take_task(const std::string& line) {
    if (lines_ == most_lines || (lines_ > 0 && bytes_ + line.size() > most_bytes)) send_slice();
    if (lines_++ == 0) {
        first_ = line_;
        hash_ = fnv_start;
    }
    last_ = line_;
    bytes_ += line.size();
    hash_ = hash_of(line, hash_);
    const scheduler::ExportLine task = scheduler::ExportLine::read(line);
    const scheduler::TimePoint now = scheduler::wall_clock();
    const auto request = scheduler::TaskRequest::parse(task.request, now);
    if (!request.errors.empty()) {
        std::string why;
        for (const std::string& error : request.errors) why += (why.empty() ? "" : " ") + error;
        throw scheduler::Error(scheduler::Errc::invalid_argument, why);
    }
    if (skips_past_ && request.due < now) {
        ++past_;
    } else if (task.name.empty()) {
        requests_.push_back(task.request);
        numbers_.push_back(line_);
    } else {
        put(task);
    }
}

// Behind all that comes before it, since what is due at once is emitted in order of arrival.
inline void Importer::put(const scheduler::ExportLine& task) {
    last_ = line_ - 1;
    send_slice();
    ++(client_.put_request(task.name, task.request).created ? imported_ : replaced_);
    done_ = line_;
}

inline void Importer::send(const std::vector<std::string>& requests, std::uint64_t first,
                           std::uint64_t hash) {
    char key[64];
    std::snprintf(key, sizeof key, "-%llu-%016llx", static_cast<unsigned long long>(first),
                  static_cast<unsigned long long>(hash));
    try {
        (client_.submit(requests, prefix_ + key).created ? imported_ : repeated_) +=
            requests.size();
    } catch (const scheduler::Error& error) {
        if (error.code() != scheduler::Errc::key_reused) throw;
        differing_ += requests.size();
    }
}

inline void Importer::send_slice() {
    const std::vector<std::string> requests = std::exchange(requests_, {});
    const std::vector<std::uint64_t> numbers = std::exchange(numbers_, {});
    lines_ = bytes_ = 0;
    if (requests.empty()) return;
    bool is_refused = false;
    try {
        send(requests, first_, hash_);
    } catch (const scheduler::Error& error) {
        if (error.code() != scheduler::Errc::invalid_argument) throw;
        is_refused = true;
    }
    for (std::size_t i = 0; is_refused && i < requests.size(); ++i) {
        try {
            send({requests[i]}, numbers[i], hash_of(requests[i], fnv_start));
        } catch (const scheduler::Error& error) {
            if (error.code() != scheduler::Errc::invalid_argument) throw;
            refuse(numbers[i], error.what());
        }
        done_ = numbers[i];
    }
    done_ = last_;
}

inline int import_tasks(const Arguments& arguments) {
    LineReader lines(only_file(arguments, "import"));
    const scheduler::Client client = client_for(arguments);
    Importer importer(client, arguments);
    importer.run(lines);
    print_line(importer.summary());
    return importer.has_refused() ? 1 : 0;
}

}  // namespace cli
