// SPDX-License-Identifier: MIT
//
// Each record says the same after it was written and read, and is written as it ever was.
#include "support.hpp"

#include <random>

namespace records_test {

using namespace scheduler;
using namespace scheduler::detail;
using support::at;
using support::id_of;

namespace {

std::mt19937_64& random_bits() {
    static std::mt19937_64 bits(12);
    return bits;
}

template <class Number>
Number below(Number end) {
    return static_cast<Number>(random_bits()() % static_cast<std::uint64_t>(end));
}

bool coin() {
    return below(2) == 0;
}

// A place in the history, which has up to 18 digits.
std::uint64_t any_seq() {
    return random_bits()() % 1'000'000'000'000'000'000U >> below(60);
}

std::uint32_t any_attempts() {
    return static_cast<std::uint32_t>(random_bits()() >> (32 + below(32)));
}

// Any moment of the years -980000 to 980000, most of them of ours.
TimePoint any_time() {
    constexpr std::uint64_t far = 30'900'000'000'000'000;
    if (below(4) != 0) return TimePoint(milliseconds(below(4'102'444'800'000)));
    return TimePoint(
        milliseconds(static_cast<std::int64_t>(below(2 * far)) - static_cast<std::int64_t>(far)));
}

TaskId any_id() {
    return {random_bits()() | 1U, random_bits()()};
}

// UTF-8, with all that a string of JSON must escape.
std::string any_text(std::size_t most = 12) {
    static const std::vector<std::string> pieces{"a",
                                                 "Z",
                                                 "\"",
                                                 "\\",
                                                 "/",
                                                 "\n",
                                                 "\t",
                                                 "\x01",
                                                 "\x1f",
                                                 "{",
                                                 "}",
                                                 "\",\"crc\":\"",
                                                 "é",
                                                 "\xE2\x80\xA8",
                                                 "\xF0\x9F\x98\x80",
                                                 "\x7f"};
    std::string text;
    for (std::size_t i = below(most + 1); i > 0; --i) text += pieces[below(pieces.size())];
    return text;
}

std::string any_sink() {
    static constexpr std::string_view letters = "abcXYZ019-_.";
    std::string name;
    for (std::size_t i = 1 + below(64U); i > 0; --i) name += letters[below(letters.size())];
    return name;
}

// A payload keeps what no parser would: the text of numbers, double keys, escapes.
std::string any_payload() {
    static const std::vector<std::string> values{"1.10",
                                                 "9007199254740993",
                                                 "-0",
                                                 "1e999",
                                                 "null",
                                                 "[[],{}]",
                                                 R"("\u0041\/")",
                                                 R"({"a":1,"a":2})",
                                                 R"({"op":"emit","ids":[],"crc":"00000000"})"};
    std::string payload = "{\"message\":" + values[below(values.size())];
    while (coin()) payload += "," + quote_json(any_text()) + ":" + values[below(values.size())];
    return payload + "}";
}

std::string any_label(std::string_view others) {
    const std::string letters = "abcXYZ019" + std::string(others);
    std::string label;
    for (std::size_t i = 1 + below(128U); i > 0; --i) label += letters[below(letters.size())];
    return label;
}

// Half of all tasks have details, some or all of them.
TaskRef any_task() {
    const std::string name = "n" + any_label("._~-").substr(1);
    const std::string topic = any_label("._~/-");
    const std::string parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const std::string state =
        R"(rojo=00f067aa0ba902b7,congo="t\61",a@b/*=)" + std::string(256, '~');
    Details details;
    if (coin()) {
        if (coin()) details.name = name;
        if (coin()) details.topic = topic;
        if (coin()) details.max_lateness = milliseconds(1 + below(31'622'400'000));
        if (coin()) details.traceparent = parent;
        if (coin()) details.tracestate = state;
    }
    return TaskRef::make(any_id(), any_time(), any_payload(), details);
}

template <class Make>
auto maybe(Make make) {
    using T = decltype(make());
    return coin() ? std::optional<T>(make()) : std::nullopt;
}

// Up to eight, and now and then none.
template <class Make>
auto some_of(Make make, std::size_t least = 0) {
    std::vector<decltype(make())> values;
    for (std::size_t i = least + below(9U); i > 0; --i) values.push_back(make());
    return values;
}

Answer any_answer() {
    Answer answer;
    answer.digest = any_text();
    answer.timestamp = any_text();
    return answer;
}

void make(HeadRecord& r) {
    r = {1, any_seq(), coin() ? any_id() : TaskId()};
}

void make(ScheduleRecord& r) {
    r.at = maybe(any_time);
    r.tasks = some_of(any_task, 1);
    if (coin()) return;
    Answer answer = any_answer();
    // What a record says by its tasks.
    answer.first_use = r.at.value_or(r.tasks.front()->id.time());
    for (const TaskRef& task : r.tasks) answer.ids.add(task->id);
    r.answer = make_answer("k" + any_text(), answer);
}

void make(EmitRecord& r) {
    r = {any_time(), any_seq(), some_of(any_id)};
}

void make(CancelRecord& r) {
    r = {any_time(), maybe(any_seq), some_of(any_id)};
}

void make(PartRecord& r) {
    r = {any_time(), any_seq(), some_of(any_id)};
}

void make(MissRecord& r) {
    r = {any_time(), some_of(any_id)};
}

void make(ForgetRecord& r) {
    r = {any_time(), any_seq(), any_seq()};
}

void make(AnswerRecord& r) {
    Answer answer = any_answer();
    answer.first_use = any_time();
    for (std::size_t runs = below(5U); runs > 0; --runs) answer.ids.add(any_id(), 1 + below(9U));
    r.answer = make_answer("k" + any_text(), answer);
}

void make(ClockRecord& r) {
    r = {any_time()};
}

void make(PauseRecord& r) {
    r = {any_time(), maybe([] { return any_text(); })};
}

void make(ResumeRecord& r) {
    r = {any_time()};
}

void make(SinkRecord& r) {
    r = {any_sink(),
         any_time(),
         maybe(any_seq),
         maybe([] { return static_cast<SinkState>(below(3)); }),
         maybe(any_attempts),
         maybe(any_time),
         maybe([] { return any_text(); }),
         maybe([] { return some_of([] { return std::string(below(2) ? "a/b" : "c*"); }); })};
}

void make(DeliverRecord& r) {
    r = {any_sink(), any_time(), maybe(any_seq), some_of(any_seq), maybe(any_seq)};
}

void make(DeadRecord& r) {
    Letter letter;
    letter.event = any_task();
    letter.event->seq = any_seq();
    letter.event->ended_at = any_time();
    letter.event->stage = Stage::emitted;
    letter.at = any_time();
    letter.attempts = any_attempts();
    letter.error = any_text();
    letter.again = coin();
    const std::uint64_t seq = letter.event->seq;
    r.sink = any_sink();
    r.seq = maybe(any_seq);
    r.letter = make_letter(seq, std::move(letter));
}

void make(RedeliverRecord& r) {
    r = {any_sink(), any_time(), some_of(any_seq)};
}

void make(DropRecord& r) {
    r = {any_sink(), any_time()};
}

void make(OverflowRecord& r) {
    r = {any_sink(), any_time(), any_seq()};
}

void check_same(const TaskRef& a, const TaskRef& b) {
    CHECK(a->id == b->id);
    CHECK(a->due == b->due);
    CHECK(a->text() == b->text());
    CHECK(a->bytes() == b->bytes());
    CHECK(a->details().name == b->details().name);
    CHECK(a->details().topic == b->details().topic);
    CHECK(a->details().max_lateness == b->details().max_lateness);
    CHECK(a->details().traceparent == b->details().traceparent);
    CHECK(a->details().tracestate == b->details().tracestate);
    CHECK(a->seq == b->seq);
    CHECK(a->ended_at == b->ended_at);
    CHECK(a->stage == b->stage);
}

void check_same(const Answers::node_type& a, const Answers::node_type& b) {
    REQUIRE(a.empty() == b.empty());
    if (a.empty()) return;
    CHECK(a.key() == b.key());
    CHECK(a.mapped().digest == b.mapped().digest);
    CHECK(a.mapped().timestamp == b.mapped().timestamp);
    CHECK(a.mapped().first_use == b.mapped().first_use);
    CHECK(a.mapped().ids.size() == b.mapped().ids.size());
    CHECK(a.mapped().ids.all() == b.mapped().ids.all());
}

void check_same(const HeadRecord& a, const HeadRecord& b) {
    CHECK(std::tie(a.version, a.seq, a.last_id) == std::tie(b.version, b.seq, b.last_id));
}

void check_same(const ScheduleRecord& a, const ScheduleRecord& b) {
    CHECK(a.at == b.at);
    check_same(a.answer, b.answer);
    REQUIRE(a.tasks.size() == b.tasks.size());
    for (std::size_t i = 0; i < a.tasks.size(); ++i) check_same(a.tasks[i], b.tasks[i]);
}

void check_same(const EmitRecord& a, const EmitRecord& b) {
    CHECK(std::tie(a.at, a.seq, a.ids) == std::tie(b.at, b.seq, b.ids));
}

void check_same(const CancelRecord& a, const CancelRecord& b) {
    CHECK(std::tie(a.at, a.bulk, a.ids) == std::tie(b.at, b.bulk, b.ids));
}

void check_same(const PartRecord& a, const PartRecord& b) {
    CHECK(std::tie(a.at, a.bulk, a.ids) == std::tie(b.at, b.bulk, b.ids));
}

void check_same(const MissRecord& a, const MissRecord& b) {
    CHECK(std::tie(a.at, a.ids) == std::tie(b.at, b.ids));
}

void check_same(const ForgetRecord& a, const ForgetRecord& b) {
    CHECK(std::tie(a.at, a.begin, a.end) == std::tie(b.at, b.begin, b.end));
}

void check_same(const AnswerRecord& a, const AnswerRecord& b) {
    check_same(a.answer, b.answer);
}

void check_same(const ClockRecord& a, const ClockRecord& b) {
    CHECK(a.at == b.at);
}

void check_same(const PauseRecord& a, const PauseRecord& b) {
    CHECK(std::tie(a.at, a.reason) == std::tie(b.at, b.reason));
}

void check_same(const ResumeRecord& a, const ResumeRecord& b) {
    CHECK(a.at == b.at);
}

void check_same(const SinkRecord& a, const SinkRecord& b) {
    CHECK(std::tie(a.sink, a.at, a.seq, a.state, a.attempts, a.next, a.error, a.topics) ==
          std::tie(b.sink, b.at, b.seq, b.state, b.attempts, b.next, b.error, b.topics));
}

void check_same(const DeliverRecord& a, const DeliverRecord& b) {
    CHECK(std::tie(a.sink, a.at, a.seq, a.dead, a.from) ==
          std::tie(b.sink, b.at, b.seq, b.dead, b.from));
}

void check_same(const DeadRecord& a, const DeadRecord& b) {
    CHECK(std::tie(a.sink, a.seq) == std::tie(b.sink, b.seq));
    CHECK(a.letter.key() == b.letter.key());
    const Letter& one = a.letter.mapped();
    const Letter& other = b.letter.mapped();
    CHECK(std::tie(one.at, one.attempts, one.error, one.again) ==
          std::tie(other.at, other.attempts, other.error, other.again));
    check_same(one.event, other.event);
}

void check_same(const RedeliverRecord& a, const RedeliverRecord& b) {
    CHECK(std::tie(a.sink, a.at, a.dead) == std::tie(b.sink, b.at, b.dead));
}

void check_same(const DropRecord& a, const DropRecord& b) {
    CHECK(std::tie(a.sink, a.at) == std::tie(b.sink, b.at));
}

void check_same(const OverflowRecord& a, const OverflowRecord& b) {
    CHECK(std::tie(a.sink, a.at, a.seq) == std::tie(b.sink, b.at, b.seq));
}

// A record as its line, without the newline.
template <class R>
std::string line_of(const R& record) {
    std::string line;
    write(line, record);
    REQUIRE(line.back() == '\n');
    line.pop_back();
    return line;
}

// A line of these members, as a record has them, sealed.
std::string sealed(std::string members) {
    seal_line(members.insert(0, "{"), 0);
    members.pop_back();
    return members;
}

// "name":value, in the order of a line; the seal is not among them.
std::vector<std::string> members_of(const std::string& line) {
    JsonReader reader(line, JsonReader::outer_depth);
    std::vector<std::string> members;
    std::string_view name;
    std::string_view value;
    REQUIRE(reader.enter_object());
    while (reader.next_member(name) && reader.value(value)) {
        members.push_back('"' + std::string(name) + "\":" + std::string(value));
    }
    REQUIRE(reader.finish());
    members.pop_back();
    return members;
}

std::string joined(const std::vector<std::string>& members) {
    std::string text;
    for (const std::string& member : members) text += (text.empty() ? "" : ",") + member;
    return text;
}

// What reading a record of these members says against it.
std::string refusal(const std::string& members) {
    try {
        read_record(sealed(members));
    } catch (const Error& error) {
        CHECK(error.code() == Errc::journal_unreadable);
        return error.what();
    }
    return "";
}

template <class R>
void check_written_as(const R& record, const std::string& members) {
    CHECK(line_of(record) == sealed(members));
    const Record read = read_record(sealed(members));
    REQUIRE(read.is<R>());
    check_same(*read.get_if<R>(), record);
}

const TimePoint noon = at("2026-03-01T12:00:00Z");

}  // namespace

TEST_SUITE("records") {
    TEST_CASE_TEMPLATE("what was written is read back as it was", R, HeadRecord, ScheduleRecord,
                       EmitRecord, CancelRecord, PartRecord, MissRecord, ForgetRecord, AnswerRecord,
                       ClockRecord, PauseRecord, ResumeRecord, SinkRecord, DeliverRecord,
                       DeadRecord, RedeliverRecord, DropRecord, OverflowRecord) {
        for (int round = 0; round < 300; ++round) {
            R record;
            make(record);
            const std::string line = line_of(record);
            CAPTURE(line);
            CHECK(is_intact(line));
            CHECK(line.find('\n') == std::string::npos);
            CHECK(json_problem(line) == "");
            const Record read = read_record(line);
            REQUIRE(read.is<R>());
            check_same(*read.get_if<R>(), record);
            CHECK(line_of(read) == line);
        }
    }

    TEST_CASE_TEMPLATE("only the operation has its place: other members come in any order", R,
                       HeadRecord, ScheduleRecord, EmitRecord, CancelRecord, PartRecord,
                       AnswerRecord, SinkRecord, DeliverRecord, DeadRecord, OverflowRecord) {
        for (int round = 0; round < 100; ++round) {
            R record;
            make(record);
            std::vector<std::string> members = members_of(line_of(record));
            std::shuffle(members.begin() + 1, members.end(), random_bits());
            CAPTURE(joined(members));
            const Record read = read_record(sealed(joined(members)));
            REQUIRE(read.is<R>());
            check_same(*read.get_if<R>(), record);
        }
    }

    TEST_CASE_TEMPLATE("members of a later version are passed over, wherever they stand", R,
                       HeadRecord, ScheduleRecord, EmitRecord, CancelRecord, PartRecord, MissRecord,
                       ForgetRecord, AnswerRecord, ClockRecord, PauseRecord, ResumeRecord,
                       SinkRecord, DeliverRecord, DeadRecord, RedeliverRecord, DropRecord,
                       OverflowRecord) {
        const std::vector<std::string> unknown{R"("x":1)", R"("":null)", R"("Seq":"\"}")",
                                               R"("i\u0064s":["not an id"])",
                                               R"("id":{"op":"emit","seq":[7,{"at":1}],"ids":[]})"};
        for (int round = 0; round < 50; ++round) {
            R record;
            make(record);
            std::vector<std::string> members;
            for (const std::string& member : members_of(line_of(record))) {
                members.push_back(member);
                if (coin()) members.push_back(unknown[below(unknown.size())]);
            }
            CAPTURE(joined(members));
            check_same(*read_record(sealed(joined(members))).get_if<R>(), record);
        }
    }

    TEST_CASE("members of a task that a later version has are passed over") {
        const Record read = read_record(
            sealed(R"("op":"schedule","tasks":[{"payload":{"message":1},"colour":"a","id":")" +
                   id_of(7).str() + R"(","retries":[3],"due":"2026-03-01T12:00:00Z"}])"));
        const auto& tasks = read.get_if<ScheduleRecord>()->tasks;
        REQUIRE(tasks.size() == 1);
        check_same(tasks.front(), support::task_of(7, noon, R"({"message":1})"));
    }

    TEST_CASE("the details of a task stand behind its payload, and a task without is as ever") {
        Details details;
        details.name = "boiler";
        details.topic = "house/heat";
        details.max_lateness = milliseconds(90'000);
        details.tracestate = "a=1";
        std::string line;
        write(line, ScheduleRecord{{}, {}, {TaskRef::make(id_of(7), noon, "{}", details)}});
        const std::string text =
            R"(","due":"2026-03-01T12:00:00.000Z","payload":{},"name":"boiler",)"
            R"("topic":"house/heat","max_lateness":90000,"tracestate":"a=1"}])";
        CHECK(line.find(id_of(7).str() + text) != std::string::npos);
        for (const char* wrong : {R"("name":"..")", R"("topic":"a b")", R"("traceparent":"00")"}) {
            CAPTURE(wrong);
            CHECK_THROWS_AS(read_record(sealed(R"("op":"schedule","tasks":[{"payload":{},"id":")" +
                                               id_of(7).str() + "\"," + wrong + "}]")),
                            Error);
        }
    }

    TEST_CASE("every record is written as it ever was, byte for byte") {
        const std::string id = '"' + id_of(7).str() + '"';
        const std::string now = R"("at":"2026-03-01T12:00:00.000Z")";
        const auto task = support::task_of(7, noon, R"({"message":1.10})");
        const std::string task_text =
            "{\"id\":" + id + R"(,"due":"2026-03-01T12:00:00.000Z","payload":{"message":1.10}})";
        check_written_as(HeadRecord{1, 9, id_of(7)},
                         R"("journal":"task-scheduler","version":1,"seq":9,"last_id":)" + id);
        check_written_as(ScheduleRecord{{}, {}, {task}},
                         R"("op":"schedule","tasks":[)" + task_text + "]");
        check_written_as(
            ScheduleRecord{noon, {}, {task, task}},
            R"("op":"schedule",)" + now + R"(,"tasks":[)" + task_text + "," + task_text + "]");
        check_written_as(EmitRecord{noon, 9, {id_of(7), id_of(7)}},
                         R"("op":"emit","seq":9,)" + now + ",\"ids\":[" + id + "," + id + "]");
        check_written_as(EmitRecord{noon, 9, {}}, R"("op":"emit","seq":9,)" + now + ",\"ids\":[]");
        check_written_as(CancelRecord{noon, {}, {id_of(7)}},
                         R"("op":"cancel",)" + now + ",\"ids\":[" + id + "]");
        check_written_as(CancelRecord{noon, 3, {id_of(7)}},
                         R"("op":"cancel","bulk":3,)" + now + ",\"ids\":[" + id + "]");
        check_written_as(PartRecord{noon, 3, {id_of(7)}},
                         R"("op":"part","bulk":3,)" + now + ",\"ids\":[" + id + "]");
        check_written_as(MissRecord{noon, {id_of(7)}},
                         R"("op":"miss",)" + now + ",\"ids\":[" + id + "]");
        check_written_as(ForgetRecord{noon, 0, 9},
                         R"("op":"forget",)" + now + R"(,"seq":0,"end":9)");
        check_written_as(ClockRecord{noon}, R"("op":"clock",)" + now);
        check_written_as(PauseRecord{noon, {}}, R"("op":"pause",)" + now);
        check_written_as(PauseRecord{noon, "why"}, R"("op":"pause",)" + now + R"(,"reason":"why")");
        check_written_as(ResumeRecord{noon}, R"("op":"resume",)" + now);
    }

    TEST_CASE("a key is written as it ever was, with a schedule and by itself") {
        const std::string id = '"' + id_of(7).str() + '"';
        const std::string now = R"("at":"2026-03-01T12:00:00.000Z")";
        const std::string key = R"("key":"a\"b","digest":"d","timestamp":"t")";
        Answer answer{"d", "t", {}, noon};
        answer.ids.add(id_of(7));
        check_written_as(
            ScheduleRecord{noon, make_answer("a\"b", answer), {support::task_of(7, noon)}},
            R"("op":"schedule",)" + now + "," + key + R"(,"tasks":[{"id":)" + id +
                R"(,"due":"2026-03-01T12:00:00.000Z","payload":{}}])");
        answer.ids.add(id_of(7).plus(1));
        answer.ids.add(id_of(9));
        check_written_as(AnswerRecord{make_answer("a\"b", answer)},
                         R"("op":"answer",)" + now + "," + key + ",\"ids\":[" + id + ",\"" +
                             id_of(9).str() + R"("],"counts":[2,1])");
    }

    TEST_CASE("what becomes of a sink is written as it ever was") {
        const std::string now = R"("at":"2026-03-01T12:00:00.000Z")";
        const std::string sink = R"("sink":"a.b",)" + now;
        check_written_as(SinkRecord{"a.b", noon, {}, {}, {}, {}, {}}, R"("op":"sink",)" + sink);
        check_written_as(SinkRecord{"a.b", noon, 9, SinkState::disabled, 2, noon, "e"},
                         R"("op":"sink",)" + sink + R"(,"seq":9,"state":"disabled","attempts":2)" +
                             R"(,"next":"2026-03-01T12:00:00.000Z","error":"e")");
        check_written_as(SinkRecord{"a.b", noon, {}, {}, {}, {}, {}, std::vector<std::string>()},
                         R"("op":"sink",)" + sink + R"(,"topics":[])");
        const std::vector<std::string> topics{"a/b", "c*"};
        check_written_as(SinkRecord{"a.b", noon, {}, {}, {}, {}, {}, topics},
                         R"("op":"sink",)" + sink + R"(,"topics":["a/b","c*"])");
        check_written_as(DeliverRecord{"a.b", noon, 9, {}},
                         R"("op":"deliver",)" + sink + ",\"seq\":9");
        check_written_as(DeliverRecord{"a.b", noon, 9, {}, 6},
                         R"("op":"deliver",)" + sink + ",\"seq\":9,\"from\":6");
        check_written_as(DeliverRecord{"a.b", noon, {}, {4, 5}},
                         R"("op":"deliver",)" + sink + ",\"dead\":[4,5]");
        check_written_as(RedeliverRecord{"a.b", noon, {4}},
                         R"("op":"redeliver",)" + sink + ",\"dead\":[4]");
        check_written_as(DropRecord{"a.b", noon}, R"("op":"drop",)" + sink);
        check_written_as(OverflowRecord{"a.b", noon, 9},
                         R"("op":"overflow",)" + sink + ",\"seq\":9");
        for (const bool again : {false, true}) {
            Letter letter{support::task_of(7, noon), noon, 2, "e", again, false};
            letter.event->seq = 8;
            letter.event->ended_at = noon;
            letter.event->stage = Stage::emitted;
            check_written_as(
                DeadRecord{"a.b", again ? std::nullopt : std::optional<std::uint64_t>(9),
                           make_letter(8, letter)},
                R"("op":"dead",)" + sink + (again ? "" : ",\"seq\":9") +
                    R"(,"attempts":2,"error":"e","event":8)" + (again ? ",\"again\":true" : "") +
                    R"(,"emitted_at":"2026-03-01T12:00:00.000Z","task":{"id":")" + id_of(7).str() +
                    R"(","due":"2026-03-01T12:00:00.000Z","payload":{}})");
        }
    }

    TEST_CASE("a task in its usual form says what any other way of reading it finds") {
        const TaskRef task = support::task_of(7, noon, R"({"message":["\u00e9",{}],"n":-1.5})");
        ScheduleRecord record;
        record.tasks.push_back(task);
        const std::string line = line_of(record);
        const auto usual_task = [](const std::string& text) {
            const auto parts = read_usual_task(text);
            return parts ? TaskRef::make(parts->id, parts->due, parts->payload) : TaskRef();
        };
        REQUIRE(usual_task(line));
        check_same(usual_task(line), task);
        const auto compare = [&usual_task](const std::string& other) {
            const TaskRef usual = usual_task(other);
            if (!usual) return;
            CAPTURE(other);
            const Record read = RecordReader(other).read();
            const auto& schedule = *read.get_if<ScheduleRecord>();
            REQUIRE(schedule.tasks.size() == 1);
            check_same(usual, schedule.tasks.front());
            CHECK((!schedule.at && !schedule.answer));
        };
        for (std::size_t i = 0; i < line.size(); ++i) {
            compare(line.substr(0, i));
            compare(line.substr(0, i) + line.substr(i + 1));
            for (const char c : std::string(" \t\"\\,:{}[]0a9fFgZ\x01\x80")) {
                compare(line.substr(0, i) + c + line.substr(i));
                compare(line.substr(0, i) + c + line.substr(i + 1));
            }
        }
    }

    TEST_CASE("a payload may be as deep in its usual form as in any other") {
        const auto depth_of = [](std::size_t levels, const char* blank) {
            return R"("op":"schedule",)" + std::string(blank) + R"("tasks":[{"id":")" +
                   id_of(7).str() + R"(","due":"2026-03-01T12:00:00.000Z","payload":)" +
                   std::string(levels, '[') + std::string(levels, ']') + "}]";
        };
        for (const char* blank : {"", " "}) {
            CHECK(refusal(depth_of(JsonReader::outer_depth - 3, blank)) == "");
            CHECK(refusal(depth_of(JsonReader::outer_depth - 2, blank)) != "");
        }
    }

    TEST_CASE("the journal of version 1 is read and written again byte for byte") {
        std::ifstream file(std::string(TESTS_DATA) + "/journal_v1.jsonl");
        std::size_t lines = 0;
        for (std::string line; std::getline(file, line); ++lines) {
            CAPTURE(line);
            CHECK(is_intact(line));
            CHECK(line_of(read_record(line)) == line);
        }
        CHECK(lines > 0);
    }

    TEST_CASE("answers without counts have one id each, of which those in a row are one run") {
        const Record read = read_record(sealed(
            R"("op":"answer","at":"2026-03-01T12:00:00Z","key":"k","ids":[")" + id_of(7).str() +
            "\",\"" + id_of(7).plus(1).str() + "\",\"" + id_of(9).str() + "\"]"));
        const IdRuns& ids = read.get_if<AnswerRecord>()->answer.mapped().ids;
        CHECK(ids.all() == std::vector<TaskId>{id_of(7), id_of(7).plus(1), id_of(9)});
        CHECK(ids.runs() == 2);
    }

    TEST_CASE("an operation that is unknown is refused by its name") {
        CHECK(refusal(R"("op":"rename","at":"2026-03-01T12:00:00Z")").find("'rename'") !=
              std::string::npos);
        CHECK(refusal(R"("op":"Emit","seq":0)") != "");
        CHECK(refusal(R"("op":"","seq":0)") != "");
        CHECK(refusal(R"("op":"task-scheduler","version":1)") != "");
        CHECK(refusal(R"("journal":"emit","seq":0,"ids":[])") != "");
        CHECK(refusal(R"("seq":0,"op":"emit")") != "");
    }

    TEST_CASE("a version that is too new is refused") {
        CHECK(refusal(R"("journal":"task-scheduler","version":1)") == "");
        for (const char* version : {"0", "2", "99"}) {
            CAPTURE(version);
            const std::string why =
                refusal(R"("journal":"task-scheduler","version":)" + std::string(version));
            CHECK(why.find("newer version") != std::string::npos);
        }
    }

    TEST_CASE("a member that is not what it should be is refused, and nothing is guessed") {
        const std::string id = '"' + id_of(7).str() + '"';
        for (const std::string& members : {
                 std::string(R"("op":"emit","seq":"0")"),
                 std::string(R"("op":"emit","seq":-1)"),
                 std::string(R"("op":"emit","seq":1e3)"),
                 std::string(R"("op":"emit","seq":1234567890123456789)"),
                 std::string(R"("op":"emit","at":1772366400)"),
                 std::string(R"("op":"emit","at":"noon")"),
                 std::string(R"("op":"emit","ids":"a")"),
                 std::string(R"("op":"emit","ids":["a"])"),
                 std::string(R"("op":"emit","ids":[)") + id + ",1]",
                 std::string(R"("op":"sink","sink":"","at":"2026-03-01T12:00:00Z")"),
                 std::string(R"("op":"sink","sink":"a b")"),
                 std::string(R"("op":"sink","sink":"a","state":"unlisted")"),
                 std::string(R"("op":"sink","sink":"a","attempts":4294967296)"),
                 std::string(R"("op":"sink","sink":"a","error":7)"),
                 std::string(R"("op":"schedule","tasks":{})"),
                 std::string(R"("op":"schedule","tasks":[7])"),
             }) {
            CAPTURE(members);
            CHECK(refusal(members) != "");
        }
    }

    TEST_CASE("a record that lacks what it is about is refused") {
        const std::string id = '"' + id_of(7).str() + '"';
        for (const std::string& members : {
                 std::string(R"("op":"schedule")"),
                 std::string(R"("op":"schedule","tasks":[])"),
                 R"("op":"schedule","tasks":[{"id":)" + id + R"(,"due":"2026-03-01T12:00:00Z"}])",
                 std::string(R"("op":"schedule","tasks":[{"payload":{}}])"),
                 R"("op":"schedule","digest":"d","tasks":[{"id":)" + id + R"(,"payload":{}}])",
                 std::string(R"("op":"dead","sink":"a","seq":1)"),
                 R"("op":"answer","ids":[)" + id + "]",
                 R"("op":"answer","key":"k","ids":[)" + id + R"(],"counts":[1,2])",
                 R"("op":"answer","key":"k","ids":[)" + id + "," + id + R"(],"counts":[1])",
             }) {
            CAPTURE(members);
            CHECK(refusal(members) != "");
        }
    }

    TEST_CASE("the names of a task's own members are not those of its record") {
        // A payload that looks like a record, in a record of the same members.
        const auto task = support::task_of(
            7, noon, R"({"op":"cancel","at":"x","key":1,"ids":[],"tasks":7,"crc":"00000000"})");
        const Record read = read_record(line_of(ScheduleRecord{{}, {}, {task}}));
        const auto& record = *read.get_if<ScheduleRecord>();
        CHECK(!record.at);
        CHECK(!record.answer);
        check_same(record.tasks.at(0), task);
    }
}

}  // namespace records_test
