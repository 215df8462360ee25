// SPDX-License-Identifier: MIT
#include "support.hpp"

#include <random>

using namespace scheduler;
using namespace scheduler::detail;

namespace {

TimePoint ms(std::int64_t count) {
    return TimePoint(milliseconds(count));
}

std::vector<Record*> all(const DueQueue& queue) {
    std::vector<Record*> records;
    queue.walk([&](Record* record) {
        records.push_back(record);
        return true;
    });
    return records;
}

struct Earlier {
    bool operator()(const Record* a, const Record* b) const {
        return DueKey{a->due, a->id} < DueKey{b->due, b->id};
    }
};

}  // namespace

TEST_SUITE("queue") {
    TEST_CASE("two queues are walked in one order, from any place and for as long as is wished") {
        std::mt19937 random(7);
        for (const std::uint64_t count : {0U, 1U, 5U, 1'000U}) {
            CAPTURE(count);
            std::vector<detail::RecordRef> records;
            std::array<detail::DueQueue, 2> queues;
            std::vector<std::pair<TimePoint, TaskId>> order;
            for (std::uint64_t i = 0; i < count; ++i) {
                const TimePoint due(milliseconds(random() % 300));
                records.push_back(support::record_of(i, due));
                queues[random() % 3 == 0].insert(records.back().get());
                order.emplace_back(due, records.back()->id);
            }
            std::sort(order.begin(), order.end());
            for (std::size_t from = 0; from <= order.size(); from += 1 + order.size() / 20) {
                const bool end = from == order.size();
                const detail::DueKey key{end ? TimePoint::max() : order[from].first,
                                         end ? TaskId() : order[from].second};
                std::vector<std::pair<TimePoint, TaskId>> walked;
                detail::DueQueue::walk_both(queues[0], queues[1], key, [&](detail::Record* record) {
                    walked.emplace_back(record->due, record->id);
                    return walked.size() < 400;
                });
                const std::size_t wanted = std::min<std::size_t>(order.size() - from, 400);
                REQUIRE(walked.size() == wanted);
                REQUIRE(std::equal(walked.begin(), walked.end(),
                                   order.begin() + static_cast<std::ptrdiff_t>(from)));
            }
        }
    }

    TEST_CASE("tasks come earliest first, and ties in order of arrival") {
        DueQueue queue;
        std::vector<RecordRef> records;
        for (const std::int64_t due : {5, 3, 5, 1, 3}) {
            records.push_back(support::record_of(records.size(), ms(due)));
            queue.insert(records.back().get());
        }
        std::vector<std::uint64_t> order;
        while (!queue.empty()) {
            order.push_back(queue.front()->id.high());
            queue.erase(queue.front());
        }
        CHECK(order == std::vector<std::uint64_t>{3, 1, 4, 0, 2});
    }

    TEST_CASE("the queue agrees with a sorted set whatever is done to it") {
        for (const unsigned seed : {1U, 2U, 3U, 4U}) {
            CAPTURE(seed);
            std::mt19937 random(seed);
            DueQueue queue;
            std::set<Record*, Earlier> model;
            std::vector<RecordRef> records;
            const unsigned spread = seed % 2 ? 50 : 1'000'000;  // many ties, or few
            for (int step = 0; step < 20'000; ++step) {
                const bool grow = random() % 100 < (step / 4'000 % 2 ? 35 : 65);
                if (grow || model.empty()) {
                    const std::int64_t due = seed == 3 ? step : random() % spread;
                    records.push_back(support::record_of(random(), ms(due)));
                    if (!model.insert(records.back().get()).second) continue;
                    if (seed == 4) queue.reserve(1);
                    queue.insert(records.back().get());
                } else {
                    auto at = random() % 3
                                  ? model.lower_bound(records[random() % records.size()].get())
                                  : model.begin();
                    if (at == model.end()) at = model.begin();
                    queue.erase(*at);
                    model.erase(at);
                }
                REQUIRE(queue.size() == model.size());
                if (!model.empty()) REQUIRE(queue.front() == *model.begin());
                if (step % 500 == 0) {
                    REQUIRE(all(queue) == std::vector<Record*>(model.begin(), model.end()));
                }
            }
        }
    }

    TEST_CASE("a walk begins at the first task that is not before its key") {
        DueQueue queue;
        std::vector<RecordRef> records;
        for (std::uint64_t i = 0; i < 1'000; ++i) {
            records.push_back(support::record_of(i, ms(static_cast<std::int64_t>(i / 3) * 10)));
            queue.insert(records.back().get());
        }
        for (std::uint64_t i = 0; i < 1'000; ++i) {
            Record* first = nullptr;
            queue.walk_from({records[i]->due, records[i]->id}, [&](Record* record) {
                first = record;
                return false;
            });
            REQUIRE(first == records[i].get());
        }
        bool any = false;
        queue.walk_from({ms(1'000'000), TaskId()}, [&](Record*) { return any = true; });
        CHECK_FALSE(any);
    }

    TEST_CASE("a walk can begin anywhere, whatever was done to the queue before") {
        for (const unsigned seed : {11U, 12U}) {
            CAPTURE(seed);
            std::mt19937 random(seed);
            DueQueue queue;
            std::set<Record*, Earlier> model;
            std::vector<RecordRef> records;
            for (int step = 0; step < 5'000; ++step) {
                records.push_back(support::record_of(random(), ms(random() % 2'000)));
                if (!model.insert(records.back().get()).second) continue;
                queue.insert(records.back().get());
                if (random() % 2) {
                    queue.erase(*model.begin());
                    model.erase(model.begin());
                }
            }
            for (int look = 0; look < 2'000; ++look) {
                const RecordRef from = support::record_of(random(), ms(random() % 2'100));
                std::vector<Record*> found;
                queue.walk_from({from->due, from->id}, [&](Record* record) {
                    found.push_back(record);
                    return found.size() < 200;
                });
                std::vector<Record*> expected;
                for (auto at = model.lower_bound(from.get());
                     at != model.end() && expected.size() < 200; ++at) {
                    expected.push_back(*at);
                }
                REQUIRE(found == expected);
            }
        }
    }

    TEST_CASE("tasks come out in order, in whichever order they came in") {
        const std::int64_t count = 2'000;
        const std::pair<const char*, std::function<std::int64_t(std::int64_t)>> orders[] = {
            {"ascending", [](std::int64_t i) { return i; }},
            {"descending", [](std::int64_t i) { return -i; }},
            {"equal", [](std::int64_t) { return 7; }},
            {"from both ends", [](std::int64_t i) { return i % 2 ? i : -i; }},
            {"in waves", [](std::int64_t i) { return i % 50; }},
        };
        for (const auto& order : orders) {
            const auto& name = order.first;
            CAPTURE(name);
            DueQueue queue;
            std::vector<RecordRef> records;
            for (std::int64_t i = 0; i < count; ++i) {
                records.push_back(support::record_of(records.size(), ms(order.second(i))));
                queue.insert(records.back().get());
            }
            CHECK(queue.size() == records.size());
            std::sort(records.begin(), records.end(), [](const RecordRef& a, const RecordRef& b) {
                return Earlier()(a.get(), b.get());
            });
            for (const RecordRef& record : records) {
                REQUIRE(queue.front() == record.get());
                queue.erase(queue.front());
            }
            CHECK(queue.empty());
        }
    }

    TEST_CASE("a queue that is filled at once is as one that was filled task by task") {
        for (const std::size_t count : {0U, 1U, 2U, 97U, 9'999U, 30'001U}) {
            CAPTURE(count);
            std::mt19937_64 random(count);
            TaskIndex index;
            std::vector<Record*> records;
            IdSource ids;
            for (std::size_t i = 0; i < count; ++i) {
                const TaskId id = ids.next(TimePoint(milliseconds(1)));
                const TimePoint due(milliseconds(random() % 500));  // many share a moment
                RecordRef record = RecordRef::make(id, due, "{}");
                records.push_back(record.get());
                index.insert(std::move(record));
            }
            std::shuffle(records.begin(), records.end(), random);
            DueQueue whole;
            std::vector<DueQueue::Entry> entries;
            for (Record* record : records) {
                entries.push_back({record->due, record});
                entries.push_back({record->due, nullptr});
            }
            whole.fill(entries);
            DueQueue single;
            for (Record* record : records) {
                single.reserve(1);
                single.insert(record);
            }
            std::vector<Record*> expected;
            single.walk([&expected](Record* record) {
                expected.push_back(record);
                return true;
            });
            std::vector<Record*> found;
            whole.walk([&found](Record* record) {
                found.push_back(record);
                return true;
            });
            CHECK(whole.size() == count);
            CHECK(found == expected);
            for (Record* record : records) whole.erase(record);
            CHECK(whole.empty());
        }
    }

    TEST_CASE("a queue that was emptied from its end can be filled again") {
        DueQueue queue;
        std::vector<RecordRef> records;
        for (int round = 0; round < 3; ++round) {
            records.clear();
            for (std::uint64_t i = 0; i < 300; ++i) {
                records.push_back(support::record_of(i, ms(0)));
                queue.insert(records.back().get());
            }
            for (auto at = records.rbegin(); at != records.rend(); ++at) queue.erase(at->get());
            REQUIRE(queue.empty());
            REQUIRE(all(queue).empty());
        }
    }

    TEST_CASE("the index finds what it holds, also among ids that collide") {
        std::mt19937_64 random(7);
        TaskIndex index;
        std::map<std::uint64_t, Record*> model;
        for (int step = 0; step < 50'000; ++step) {
            const std::uint64_t number = random() % 3'000 << 32;  // the same low bits
            const TaskId id = support::id_of(number);
            if (Record* found = index.find(id)) {
                REQUIRE(model.at(number) == found);
                if (random() % 2) {
                    RecordRef other = support::record_of(number, ms(1));
                    model[number] = other.get();
                    index.replace(std::move(other));
                } else {
                    index.erase(id);
                    model.erase(number);
                }
            } else {
                REQUIRE(model.count(number) == 0);
                RecordRef record = support::record_of(number, ms(0));
                model[number] = record.get();
                index.insert(std::move(record));
            }
            REQUIRE(index.size() == model.size());
        }
        for (const auto& [number, record] : model) {
            REQUIRE(index.find(support::id_of(number)) == record);
        }
    }

    TEST_CASE("the index closes its gaps, also where a row of colliding ids goes around its end") {
        // Every row of ids falls on one slot of 64; one of the 64 rows begins at the last.
        std::mt19937_64 random(9);
        for (std::uint64_t row = 0; row < 256; ++row) {
            CAPTURE(row);
            TaskIndex index;
            std::vector<TaskId> ids;
            for (std::uint64_t i = 0; i < 40; ++i) ids.emplace_back(i << 16, (i << 16) ^ row);
            for (const TaskId id : ids) index.insert(RecordRef::make(id, ms(0), "{}"));
            std::shuffle(ids.begin(), ids.end(), random);
            while (!ids.empty()) {
                index.erase(ids.back());
                REQUIRE(index.find(ids.back()) == nullptr);
                ids.pop_back();
                for (const TaskId id : ids) REQUIRE(index.find(id) != nullptr);
                REQUIRE(index.size() == ids.size());
            }
        }
    }

    TEST_CASE("the index owns its tasks, and gives each up once") {
        const RecordRef erased = support::record_of(1, ms(0));
        const RecordRef replaced = support::record_of(2, ms(0));
        const RecordRef kept = support::record_of(3, ms(0));
        {
            TaskIndex index;
            for (const RecordRef& record : {erased, replaced, kept}) index.insert(record);
            index.erase(erased->id);
            index.replace(support::record_of(2, ms(1)));
            CHECK(erased->references == 1);
            CHECK(replaced->references == 1);
            CHECK(kept->references == 2);
        }
        CHECK(kept->references == 1);
    }

    TEST_CASE("an empty index holds nothing, and room made ahead changes nothing") {
        TaskIndex index;
        CHECK(index.find(support::id_of(1)) == nullptr);
        index.reserve(1'000);
        CHECK(index.find(support::id_of(1)) == nullptr);
        index.insert(support::record_of(1, ms(0)));
        index.reserve(100'000);
        CHECK(index.find(support::id_of(1)) != nullptr);
        CHECK(index.size() == 1);
    }

    TEST_CASE("ids rise strictly though the clock stands still or steps back") {
        IdSource ids;
        TaskId last;
        for (int i = 0; i < 20'000; ++i) {
            const TaskId id = ids.next(ms(1'000'000 - i / 5'000 * 100));
            REQUIRE(last < id);
            last = id;
        }
        CHECK(last < ids.next(ms(2'000'000)));
        IdSource restarted;
        restarted.pass(last);
        CHECK(last < restarted.next(ms(5)));
    }

    TEST_CASE("a counter that overflows goes on in the next millisecond") {
        IdSource ids;
        ids.pass(TaskId(std::uint64_t{1'000} << 16 | 0x7FFF, std::uint64_t{1} << 63));
        const TaskId next = ids.next(ms(1'000));
        CHECK(next.time() == ms(1'001));
        CHECK((next.high() & 0xFFFFU) == 0x7000U);
        CHECK(next < ids.next(ms(1'001)));
    }

    TEST_CASE("an id of the same millisecond is passed as well") {
        IdSource ids;
        const TaskId first = ids.next(ms(5));
        const TaskId other(first.high() + 3, first.low());
        ids.pass(other);
        CHECK(other < ids.next(ms(5)));
        CHECK(other < ids.next(ms(0)));
    }

    TEST_CASE("ids made before 1970 are ids, and an older id does not turn them back") {
        IdSource ids;
        const TaskId first = ids.next(ms(-5));
        CHECK(first != TaskId());
        CHECK(first.time() == ms(0));
        const TaskId second = ids.next(ms(9'000));
        ids.pass(first);
        CHECK(second < ids.next(ms(0)));
        CHECK_FALSE(ids.last() < TaskId(second.high(), std::uint64_t{1} << 63));
    }

    TEST_CASE("every id has version and variant in their places, and no two are alike") {
        IdSource ids;
        std::set<TaskId> seen;
        for (int i = 0; i < 10'000; ++i) {
            const TaskId id = ids.next(ms(i / 3));
            REQUIRE((id.high() >> 12 & 0xFU) == 7);
            REQUIRE((id.low() >> 62) == 2);
            REQUIRE(seen.insert(id).second);
        }
    }

    TEST_CASE("two sources at one moment make different ids") {
        IdSource one;
        IdSource other;
        CHECK(one.next(ms(1)).low() != other.next(ms(1)).low());
    }

    TEST_CASE("an id is a UUID of version 7 that tells when it was made") {
        IdSource ids;
        const TaskId id = ids.next(support::at("2026-03-01T12:00:00.123Z"));
        const std::string text = id.str();
        CHECK(text.size() == 36);
        CHECK(text[14] == '7');
        CHECK((text[19] == '8' || text[19] == '9' || text[19] == 'a' || text[19] == 'b'));
        CHECK(id.time() == support::at("2026-03-01T12:00:00.123Z"));
        CHECK(TaskId::parse(text) == id);
        for (const char* bad :
             {"", "01a20cdd-e917-7205-81e5-d8b16083704", "01a20cdde917-7205-81e5-d8b1608370467",
              "01a20cdd-e917-7205-81e5-d8b16083704g"}) {
            CHECK_FALSE(TaskId::parse(bad));
        }
    }

    TEST_CASE("an id reads as itself, in either case of letters, and sorts as its text does") {
        std::mt19937_64 random(3);
        TaskId last;
        for (int i = 0; i < 2'000; ++i) {
            const TaskId id(random(), random());
            std::string text = id.str();
            REQUIRE(TaskId::parse(text) == id);
            REQUIRE((last < id) == (last.str() < text));
            for (char& c : text) {
                if (c >= 'a' && c <= 'f') c = static_cast<char>(c - 'a' + 'A');
            }
            REQUIRE(TaskId::parse(text) == id);
            last = id;
        }
        CHECK(TaskId().str() == "00000000-0000-0000-0000-000000000000");
    }

    TEST_CASE("a text with a wrong character anywhere is no id") {
        const std::string good = "01a20cdd-e917-7205-81e5-d8b160837046";
        REQUIRE(TaskId::parse(good));
        for (std::size_t i = 0; i < good.size(); ++i) {
            for (const char c : {'g', ' ', '\0', good[i] == '-' ? '0' : '-'}) {
                std::string bad = good;
                bad[i] = c;
                CAPTURE(bad);
                CHECK_FALSE(TaskId::parse(bad));
            }
        }
        for (const std::string& bad : {good + "0", ' ' + good, good + '\n', '{' + good + '}'}) {
            CAPTURE(bad);
            CHECK_FALSE(TaskId::parse(bad));
        }
    }

    TEST_CASE("the seeded hash is SipHash-2-4") {
        std::string text;
        for (char c = 0; c < 15; ++c) text += c;
        CHECK(detail::keyed_hash(0x0706050403020100U, 0x0F0E0D0C0B0A0908U, text) ==
              0xA129CA6149BE45E5U);
        CHECK(detail::keyed_hash(0x0706050403020100U, 0x0F0E0D0C0B0A0908U, "") ==
              0x726FDB47DD0E0E31U);
        CHECK(detail::SeededHash()("x") != detail::SeededHash()("x"));
    }
}
