// SPDX-License-Identifier: MIT
#include "support.hpp"

namespace journal_test {

using namespace scheduler;
using support::TempDir;

namespace {

struct Opened {
    std::vector<std::string> payloads;  // pending, by due time
    Stats stats;
    std::string log;
};

Options options_for(const TempDir& dir, std::string* log = nullptr) {
    Options options;
    options.journal = dir.journal();
    options.now = [] { return support::at("2026-03-01T12:00:00Z"); };
    if (log)
        options.log = [log](const scheduler::LogRecord& record) { *log += record.text + '\n'; };
    return options;
}

// Syncs nothing, which a thousand openings would wait for.
class HastyFiles : public FileOps {
public:
    int fdatasync(int) override { return 0; }
    int fsync(int) override { return 0; }
};

Opened open(const TempDir& dir) {
    Opened opened;
    Options options = options_for(dir, &opened.log);
    options.files = std::make_shared<HastyFiles>();
    Scheduler tasks(options);
    for (const Task& task : tasks.tasks().tasks) opened.payloads.push_back(task.payload.str());
    opened.stats = tasks.stats();
    return opened;
}

// A journal with tasks "0", "1", … each due a day after the one before.
std::string journal_of(int count) {
    const TempDir dir;
    {
        Scheduler tasks(options_for(dir));
        for (int i = 0; i < count; ++i) {
            tasks.schedule(std::chrono::hours(24 * (i + 1)), '"' + std::to_string(i) + '"');
        }
    }
    return dir.read("tasks.jsonl");
}

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    return lines;
}

// What cannot be opened is refused with this code, and nothing in the directory
// changes but the lock.
void check_refused(const TempDir& dir, Errc code, const std::string& reason) {
    const std::string before = dir.read("tasks.jsonl");
    try {
        Scheduler tasks(options_for(dir));
        FAIL("it was opened");
    } catch (const Error& error) {
        CHECK(error.code() == code);
        CHECK_MESSAGE(std::string(error.what()).find(reason) != std::string::npos, error.what());
    }
    CHECK(dir.read("tasks.jsonl") == before);
    CHECK(dir.names("tasks.jsonl.damaged").empty());
}

}  // namespace

TEST_SUITE("journal") {
    TEST_CASE("the checksum is zlib's") {
        CHECK(detail::crc32("") == 0U);
        CHECK(detail::crc32("123456789") == 0xCBF43926U);
        CHECK(detail::crc32("The quick brown fox jumps over the lazy dog") == 0x414FA339U);
    }

    TEST_CASE("every line is JSON that other tools read") {
        const std::vector<std::string> lines = lines_of(journal_of(2));
        REQUIRE(lines.size() == 3);
        for (const std::string& line : lines) {
            picojson::value value;
            CHECK(picojson::parse(value, line).empty());
            CHECK(value.get("crc").is<std::string>());
        }
    }

    TEST_CASE("a journal that ends anywhere keeps every whole record") {
        const std::string whole = journal_of(3);
        std::vector<std::size_t> ends;
        for (std::size_t i = 0; i < whole.size(); ++i) {
            if (whole[i] == '\n') ends.push_back(i);
        }
        for (std::size_t cut = 0; cut <= whole.size(); ++cut) {
            CAPTURE(cut);
            const TempDir dir;
            dir.write("tasks.jsonl", whole.substr(0, cut));
            std::size_t expected = 0;
            for (std::size_t line = 1; line < ends.size(); ++line) expected += cut >= ends[line];
            REQUIRE(open(dir).payloads.size() == expected);
            const Opened again = open(dir);
            REQUIRE(again.payloads.size() == expected);
            REQUIRE(again.stats.torn_bytes == 0);
        }
    }

    TEST_CASE("a byte that is flipped anywhere costs at most its own record") {
        const std::string whole = journal_of(3);
        for (std::size_t at = 0; at < whole.size(); ++at) {
            CAPTURE(at);
            const TempDir dir;
            std::string text = whole;
            text[at] = static_cast<char>(text[at] ^ (1 << at % 8));
            dir.write("tasks.jsonl", text);
            const Opened opened = open(dir);
            REQUIRE(opened.payloads.size() >= (whole[at] == '\n' ? 1 : 2));
            const Opened again = open(dir);
            REQUIRE(again.payloads == opened.payloads);
            REQUIRE(again.stats.damaged_lines == 0);
        }
    }

    TEST_CASE("a newline that is flipped costs neither of the records that it parted") {
        const std::string whole = journal_of(3);
        const std::size_t second = whole.find('\n', whole.find('\n') + 1);
        std::string text = whole;
        text[second] ^= 1;
        const TempDir dir;
        dir.write("tasks.jsonl", text);
        CHECK(open(dir).payloads.size() == 3);
        CHECK(open(dir).payloads.size() == 3);
    }

    TEST_CASE("a message that is nested as deeply as is accepted is read back") {
        const TempDir dir;
        Options options = options_for(dir);
        const std::string message = std::string(99, '[') + std::string(99, ']');
        const std::string body = R"({"delay":"1h","message":)" + message + '}';
        TaskId id;
        {
            Scheduler tasks(options);
            const TaskRequest request = TaskRequest::parse(body, tasks.now());
            REQUIRE(request.errors.empty());
            id = support::schedule(tasks, {request}).ids.front();
        }
        Scheduler tasks(options);
        REQUIRE(tasks.find(id));
        CHECK(tasks.find(id)->text().find(message) != std::string::npos);
    }

    TEST_CASE("a damaged newline costs no record, however the messages beside it look") {
        const std::string patch = R"({"op":"replace","path":"/a","value":1})";
        for (const int operations : {1, 8, 9, 5'000}) {  // of a JSON Patch (RFC 6902)
            CAPTURE(operations);
            std::string message = "[" + patch;
            for (int i = 1; i < operations; ++i) message += ',' + patch;
            message += ']';
            const TempDir dir;
            {
                Scheduler tasks(options_for(dir));
                for (int i = 0; i < 4; ++i) tasks.schedule(std::chrono::hours(i + 1), message);
            }
            const std::vector<std::string> lines = lines_of(dir.read("tasks.jsonl"));
            REQUIRE(lines.size() == 5);
            for (std::size_t damaged = 1; damaged < 16; ++damaged) {  // a bit for each newline
                CAPTURE(damaged);
                const char flipped = damaged % 2 == 0 ? '{' : '\v';
                std::string text = lines[0] + '\n';
                for (std::size_t i = 1; i < lines.size(); ++i) {
                    text += lines[i] + ((damaged >> (i - 1) & 1) != 0 ? flipped : '\n');
                }
                dir.write("tasks.jsonl", text);
                REQUIRE(open(dir).payloads.size() == 4);
                REQUIRE(open(dir).payloads.size() == 4);
            }
        }
    }

    TEST_CASE("what stands whole on both sides of a damaged record on its line is kept") {
        const std::vector<std::string> lines = lines_of(journal_of(5));
        std::string broken = lines[3];
        broken[broken.size() / 2] ^= 1;
        const TempDir dir;
        dir.write("tasks.jsonl", lines[0] + '\n' + lines[1] + ' ' + lines[2] + ' ' + broken + ' ' +
                                     lines[4] + ' ' + lines[5] + '\n');
        const Opened opened = open(dir);
        CHECK(opened.payloads.size() == 4);
        CHECK(opened.stats.damaged_lines == 1);
        CHECK(open(dir).payloads == opened.payloads);
    }

    TEST_CASE("a record that a damaged newline has glued to a torn one is kept") {
        const std::vector<std::string> lines = lines_of(journal_of(2));
        const TempDir dir;
        dir.write("tasks.jsonl", lines[0] + '\n' + lines[1] + '\v' + lines[2].substr(0, 50));
        CHECK(open(dir).payloads.size() == 1);
        CHECK(open(dir).payloads.size() == 1);
    }

    TEST_CASE("a damaged line that is made to look like many records is read in one go") {
        std::string nested;  // each of these begins what could be a record to the line's end
        for (int i = 0; i < 90; ++i) nested += R"({"op":"x","tasks":[{"payload":)";
        std::string line = R"({"op":"schedule","tasks":[)";
        while (line.size() < 4'000'000) line += nested;
        const std::vector<std::string> lines = lines_of(journal_of(1));
        const TempDir dir;
        dir.write("tasks.jsonl", lines[0] + '\n' + line + lines[1] + '\n');
        CHECK(open(dir).payloads.size() == 1);
    }

    TEST_CASE("a message that looks like a record is none, whatever is damaged around it") {
        std::string forged = R"({"op":"cancel","at":"2026-03-01T12:00:00.000Z","ids":[)";
        const std::vector<std::string> lines = lines_of(journal_of(1));
        forged += lines[1].substr(lines[1].find("\"id\":") + 5, 38) + ']';
        detail::seal_line(forged, 0);
        forged.pop_back();
        const TempDir dir;
        {
            Scheduler tasks(options_for(dir));
            tasks.schedule(std::chrono::hours(48), forged);
        }
        std::string line = lines_of(dir.read("tasks.jsonl")).at(1);
        REQUIRE(line.find(forged) != std::string::npos);
        for (const std::size_t at : {std::size_t{20}, line.find(forged) + forged.size() + 3}) {
            std::string damaged = line;
            damaged[at] ^= 1;
            dir.write("tasks.jsonl", lines[0] + '\n' + lines[1] + '\n' + damaged + '\n');
            CHECK(open(dir).payloads.size() == 1);
        }
    }

    TEST_CASE("nothing that is cut off a line's front is dropped without a word") {
        const std::vector<std::string> lines = lines_of(journal_of(2));
        const std::string torn = lines[1].substr(0, 40);
        const TempDir dir;
        dir.write("tasks.jsonl", lines[0] + '\n' + torn + lines[2] + '\n');
        const Opened opened = open(dir);
        CHECK(opened.payloads.size() == 1);
        CHECK(opened.stats.damaged_lines == 1);
        REQUIRE(dir.names("tasks.jsonl.damaged-").size() == 1);
        CHECK(dir.read(dir.names("tasks.jsonl.damaged-")[0]).substr(0, torn.size()) == torn);
    }

    TEST_CASE("a damaged line is moved to a file beside the journal, and that is said") {
        const TempDir dir;
        std::vector<std::string> lines = lines_of(journal_of(3));
        lines[2][20] ^= 1;
        dir.write("tasks.jsonl",
                  lines[0] + '\n' + lines[1] + '\n' + lines[2] + '\n' + lines[3] + '\n');
        const Opened opened = open(dir);
        CHECK(opened.payloads.size() == 2);
        CHECK(opened.stats.damaged_lines == 1);
        REQUIRE(dir.names("tasks.jsonl.damaged-").size() == 1);
        CHECK(dir.read(dir.names("tasks.jsonl.damaged-")[0]) == lines[2] + '\n');
        CHECK(opened.log.find("1 damaged line, moved to") != std::string::npos);
    }

    TEST_CASE("zeros, garbage, CR LF and empty lines cost nothing that is whole") {
        const std::string whole = journal_of(2);
        const std::vector<std::string> lines = lines_of(whole);
        const std::string crlf = lines[0] + "\r\n" + lines[1] + "\r\n" + lines[2] + "\r\n";
        const std::string zeros(5'000, '\0');
        for (const std::string& text :
             {whole + zeros, crlf, lines[0] + "\n\n\n" + lines[1] + "\n\n" + lines[2],
              lines[0] + "\ngarbage\n" + lines[1] + '\n' + lines[2] + "\nmore garbage\n",
              lines[0] + '\n' + zeros + lines[1] + '\n' + lines[2] + '\n',
              "garbage\n" + lines[1] + '\n' + lines[2] + '\n'}) {
            const TempDir dir;
            dir.write("tasks.jsonl", text);
            CHECK(open(dir).payloads.size() == 2);
            CHECK(open(dir).payloads.size() == 2);
        }
    }

    TEST_CASE("an empty file is a new journal") {
        const TempDir dir;
        dir.write("tasks.jsonl", "");
        CHECK(open(dir).payloads.empty());
    }

    TEST_CASE("somebody's other file is refused and left alone") {
        const TempDir dir;
        dir.write("tasks.jsonl", "root:x:0:0:root:/root:/bin/bash\n{\"a\":1}\n");
        check_refused(dir, Errc::journal_unreadable, "is not a journal");
    }

    TEST_CASE("another program's JSON is refused and left alone") {
        for (const char* text :
             {"{\n  \"name\": \"x\"\n}\n", "{}\n", "[\n{\n}\n]\n", "{\"op\":\"x\"}\n"}) {
            CAPTURE(text);
            const TempDir dir;
            dir.write("tasks.jsonl", text);
            check_refused(dir, Errc::journal_unreadable, "is not a journal");
        }
    }

    TEST_CASE("a journal of a newer version is refused and left alone") {
        const TempDir dir;
        std::string newer = R"({"journal":"task-scheduler","version":2,"seq":0)";
        detail::seal_line(newer, 0);
        dir.write("tasks.jsonl", newer);
        check_refused(dir, Errc::journal_unreadable, "newer version");
    }

    TEST_CASE("a record of an unknown kind is refused: it is not damage") {
        const TempDir dir;
        std::string text = journal_of(1);
        const std::size_t start = text.size();
        text += R"({"op":"teleport")";
        detail::seal_line(text, start);
        dir.write("tasks.jsonl", text);
        check_refused(dir, Errc::journal_unreadable, "teleport");
    }

    TEST_CASE("a directory in the journal's place is refused") {
        const TempDir dir;
        REQUIRE(::mkdir(dir.journal().c_str(), 0700) == 0);
        CHECK(support::errc_of([&] { Scheduler tasks(options_for(dir)); }) ==
              Errc::journal_unreadable);
    }

    TEST_CASE("a journal that is open is refused to a second opener") {
        const TempDir dir;
        Scheduler first(options_for(dir));
        CHECK(support::errc_of([&] { Scheduler second(options_for(dir)); }) == Errc::journal_busy);
    }

    TEST_CASE("who holds a journal is named to a second opener, where that can be known") {
        const TempDir dir;
        const auto files = std::make_shared<support::FailingFiles>();
        const auto refusal = [&dir]() -> std::string {
            try {
                Scheduler second(options_for(dir));
            } catch (const Error& error) {
                return error.what();
            }
            return "none";
        };
        char host[256] = "";
        REQUIRE(::gethostname(host, sizeof host - 1) == 0);
        const std::string use = "the journal " + dir.journal() + " is in use by ";
        dir.write("tasks.jsonl.lock",
                  "1 somebody who held it before, on a host with a longer name");
        {
            Scheduler first(options_for(dir));
            CHECK(refusal() == use + "process " + std::to_string(::getpid()) + " on " + host);
        }
        for (const char* text :
             {"", "x", "12", "12 ", " host", "12 \x1b[31m", "-1 a\n", "12 a b\n"}) {
            CAPTURE(text);
            Scheduler first(options_for(dir));
            dir.write("tasks.jsonl.lock", text);
            CHECK(refusal() == use + "another process");
        }
        Options options = options_for(dir);
        options.files = files;
        files->fail_call("pwrite", 0, ENOSPC);
        Scheduler first(options);  // which needs no note of its name
        CHECK(files->has_failed());
    }

    TEST_CASE("an error in making a new journal names the journal") {
        const TempDir dir;
        REQUIRE(::mkdir((dir.journal() + ".new").c_str(), 0700) == 0);
        Options options = options_for(dir);
        std::string said;
        try {
            const Scheduler tasks(options);
        } catch (const scheduler::Error& error) {
            CHECK(error.code() == Errc::journal_failed);
            said = error.what();
        }
        CHECK(said.find(dir.journal() + ": Is a directory") != std::string::npos);
        CHECK(said.find(".new") == std::string::npos);
    }

    TEST_CASE("a journal behind a symbolic link stays there") {
        const TempDir dir;
        dir.write("real.jsonl", journal_of(2));
        REQUIRE(::symlink(dir.path("real.jsonl").c_str(), dir.journal().c_str()) == 0);
        Options options = options_for(dir);
        options.rewrite_min_bytes = 0;
        { Scheduler tasks(options); }
        struct stat status {};
        REQUIRE(::lstat(dir.journal().c_str(), &status) == 0);
        CHECK(S_ISLNK(status.st_mode));
    }

    TEST_CASE("an event whose place in history is past does not come to life again") {
        // As a rewrite leaves it when an event is forgotten while it copies: the
        // newer event is in the copy, the older one only in the tail.
        std::string text = R"({"journal":"task-scheduler","version":1,"seq":0)";
        detail::seal_line(text, 0);
        const TimePoint noon = support::at("2026-03-01T11:00:00Z");
        for (const std::uint64_t number : {2U, 1U}) {
            const auto task = support::task_of(number, noon);
            detail::write(text, detail::ScheduleRecord{noon, {}, {task}});
            detail::write(text, detail::EmitRecord{noon, number, {task->id}});
        }
        const TempDir dir;
        dir.write("tasks.jsonl", text);
        Scheduler tasks(options_for(dir));
        CHECK(tasks.stats().recovered == 0);
        CHECK(support::event_ids(tasks) == std::vector<TaskId>{support::id_of(2)});
    }

    TEST_CASE("waiting requests are synced together") {
        const TempDir dir;
        auto files = std::make_shared<support::FailingFiles>();
        Options options = options_for(dir);
        options.files = files;
        Scheduler tasks(options);
        const std::size_t before = files->count("fdatasync");
        std::vector<std::thread> clients;
        for (int i = 0; i < 16; ++i) {
            clients.emplace_back([&tasks] {
                for (int n = 0; n < 50; ++n) tasks.schedule(std::chrono::hours(1), "\"x\"");
            });
        }
        for (std::thread& client : clients) client.join();
        CHECK(tasks.stats().pending == 800);
        CHECK(files->count("fdatasync") - before < 800);
    }

    TEST_CASE("the journal of version 1 loads for ever") {
        const TempDir dir;
        std::ifstream file(std::string(TESTS_DATA) + "/journal_v1.jsonl");
        REQUIRE(file);
        std::ostringstream text;
        text << file.rdbuf();
        dir.write("tasks.jsonl", text.str());
        Scheduler tasks(options_for(dir));
        const Stats stats = tasks.stats();
        CHECK(stats.pending == 2);
        CHECK(stats.retained == 1);
        CHECK(stats.damaged_lines == 0);
        const auto key = support::schedule(
            tasks, {TaskRequest::parse(R"({"timestamp":"2026-09-01T00:00:00Z","message":"keyed"})",
                                tasks.now())},
            "key-1");
        CHECK(tasks.find(key.ids.front()));
        CHECK(tasks.stats().pending == 2);
    }
}

}  // namespace journal_test
