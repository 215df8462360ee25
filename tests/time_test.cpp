// SPDX-License-Identifier: MIT
#include "support.hpp"

#include <ctime>
#include <random>

namespace time_test {

using namespace scheduler;
using support::at;

namespace {

std::string read_back(const char* text) {
    const auto time = parse_time(text);
    return time ? format_time(*time) : "refused";
}

}  // namespace

TEST_SUITE("time") {
    TEST_CASE("what RFC 3339 and ECMAScript define is accepted") {
        const std::pair<const char*, const char*> cases[] = {
            {"2020-08-21T04:29:00.951Z", "2020-08-21T04:29:00.951Z"},
            {"2020-08-21T04:29:00Z", "2020-08-21T04:29:00.000Z"},
            {"2020-08-21T04:29Z", "2020-08-21T04:29:00.000Z"},
            {"2020-08-21T04:29:00.951", "2020-08-21T04:29:00.951Z"},
            {"2020-08-21t04:29:00z", "2020-08-21T04:29:00.000Z"},
            {"2020-08-21 04:29:00+02:00", "2020-08-21T02:29:00.000Z"},
            {"2020-08-21T04:29:00+0230", "2020-08-21T01:59:00.000Z"},
            {"2020-08-21T04:29:00-07", "2020-08-21T11:29:00.000Z"},
            {"2020-08-21T04:29:00-00:00", "2020-08-21T04:29:00.000Z"},
            {"2020-08-21T00:00:00+23:59", "2020-08-20T00:01:00.000Z"},
            {"2020-08-21", "2020-08-21T00:00:00.000Z"},
            {"2020-08", "2020-08-01T00:00:00.000Z"},
            {"2020-08T04:29Z", "2020-08-01T04:29:00.000Z"},
            {"2020T04:29:05", "2020-01-01T04:29:05.000Z"},
            {"2020", "2020-01-01T00:00:00.000Z"},
            {"2020-02-29", "2020-02-29T00:00:00.000Z"},
            {"2020-08-21T24:00", "2020-08-22T00:00:00.000Z"},
            {"2020-08-21T24:00:00.000Z", "2020-08-22T00:00:00.000Z"},
            {"2020-08-21T04:29:00.1Z", "2020-08-21T04:29:00.100Z"},
            {"2020-08-21T04:29:00.999999999Z", "2020-08-21T04:29:00.999Z"},
            {"2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000Z"},
            {"2017-01-01T00:59:60+01:00", "2017-01-01T00:00:00.000Z"},
            {"+002020-08-21T04:29:00Z", "2020-08-21T04:29:00.000Z"},
            {"+012020-08-21T04:29:00Z", "+012020-08-21T04:29:00.000Z"},
            {"-000001-01-01T00:00:00Z", "-000001-01-01T00:00:00.000Z"},
            {"0000-01-01", "0000-01-01T00:00:00.000Z"},
        };
        for (const auto& one : cases) {
            const auto& text = one.first;
            const auto& expected = one.second;
            CAPTURE(text);
            CHECK(read_back(text) == expected);
        }
    }

    TEST_CASE("everything else is refused, never guessed") {
        for (const char* text : {"",
                                 "now",
                                 "tomorrow",
                                 "1598000000",
                                 "20200821T042900Z",
                                 "2020-8-21",
                                 "2020-13-01",
                                 "2020-00-01",
                                 "2020-01-00",
                                 "2020-04-31",
                                 "2019-02-29",
                                 "1900-02-29",
                                 "2020-08-21T",
                                 "2020-08-21T04",
                                 "2020-08-21T4:29",
                                 "2020-08-21T04:60",
                                 "2020-08-21T25:00",
                                 "2020-08-21T24:01",
                                 "2020-08-21T24:00:00.001",
                                 "2020-08-21T04:29:61Z",
                                 "2020-08-21T04:29:60Z",
                                 "2020-08-21T23:59:60Z",
                                 "2020-08-21T04:29:00.Z",
                                 "2020-08-21T04:29:00.1234567890Z",
                                 "2020-08-21T04:29:00,5Z",
                                 "2020-08-21T04:29:00ZZ",
                                 "2020-08-21T04:29:00 Z",
                                 "2020-08-21T04:29:00+24:00",
                                 "2020-08-21T04:29:00+02:60",
                                 "2020-08-21T04:29:00+2",
                                 "2020-08-21T04:29:00+02:",
                                 "2020-08-21T04:29:00+02:0",
                                 "2020-08-21T04:29:00+",
                                 " 2020-08-21",
                                 "2020-08-21 ",
                                 "2020-08-21Z",
                                 "2020-08-21T04:29:00Z+00:00",
                                 "2020-08-21T04:29+ 1:00",
                                 "2020-08-21T04:29:00+-2:00",
                                 "2020-08-21T04:29:00+02:000",
                                 "2020-08-21T04:29:00\xE2\x88\x92"
                                 "02:00",
                                 "2020-08-21T04:29:-1Z",
                                 "2020-08-21T24:00:01",
                                 "2020-08-21T24:00:60Z",
                                 "2020-08-21T04.5",
                                 "2020-08-21T04:29.5",
                                 "2020-08-21  04:29",
                                 "2020-08-21_04:29",
                                 "2020-",
                                 "2020-08-",
                                 "2020-1",
                                 "202",
                                 "-2020-01-01",
                                 "+0002020-01-01",
                                 "2020-06-30T23:59:60+01:00",
                                 "-000000-01-01",
                                 "+2020-01-01",
                                 "02020-01-01",
                                 "2020-W34-5",
                                 "2020-234",
                                 "2020/08/21",
                                 "21.08.2020",
                                 "Fri, 21 Aug 2020 04:29:00 GMT"}) {
            CAPTURE(text);
            CHECK(read_back(text) == "refused");
        }
        CHECK_FALSE(parse_time(std::string_view("2020-08-21\0", 11)));
    }

    TEST_CASE("a fraction of one to nine digits is cut to the millisecond") {
        const std::string digits = "987654321";
        for (std::size_t count = 1; count <= 9; ++count) {
            CAPTURE(count);
            const auto time = parse_time("2020-08-21T04:29:00." + digits.substr(0, count) + "Z");
            REQUIRE(time);
            const int ms = count == 1 ? 900 : count == 2 ? 980 : 987;
            CHECK(*time == at("2020-08-21T04:29:00Z") + milliseconds(ms));
        }
        CHECK(at("1969-12-31T23:59:59.9999Z") == TimePoint(milliseconds(-1)));
        CHECK(at("2020-08-21T24:00:00.000000000Z") == at("2020-08-22"));
        CHECK_FALSE(parse_time("2020-08-21T24:00:00.000000001Z"));
    }

    TEST_CASE("every offset is subtracted, in each of its forms") {
        const TimePoint local = at("2024-03-01T00:00:00Z");
        char text[40];
        for (int minutes = 0; minutes < 24 * 60; ++minutes) {
            for (const int sign : {1, -1}) {
                CAPTURE(minutes * sign);
                for (const char* form :
                     {"2024-03-01T00:00%c%02d:%02d", "2024-03-01T00:00%c%02d%02d"}) {
                    std::snprintf(text, sizeof text, form, sign > 0 ? '+' : '-', minutes / 60,
                                  minutes % 60);
                    REQUIRE(parse_time(text) == local - std::chrono::minutes(minutes * sign));
                }
            }
        }
    }

    TEST_CASE("a leap second ends a month of UTC and is the moment after it") {
        for (const char* text :
             {"2016-12-31T23:59:60Z", "2016-12-31T23:59:60.999Z", "2016-12-31T15:59:60-08:00",
              "2017-01-01T05:29:60+0530", "2016-12-31T18:59:60-05"}) {
            CAPTURE(text);
            CHECK(read_back(text) == "2017-01-01T00:00:00.000Z");
        }
        CHECK(read_back("2015-06-30T23:59:60Z") == "2015-07-01T00:00:00.000Z");
        CHECK(read_back("1969-12-31T23:59:60Z") == "1970-01-01T00:00:00.000Z");
        CHECK(read_back("1968-02-29T23:59:60Z") == "1968-03-01T00:00:00.000Z");
        CHECK(read_back("1968-02-28T23:59:60Z") == "refused");
    }

    TEST_CASE("months have the days that they have") {
        char text[16];
        for (const int year : {1900, 2000, 2023, 2024, 2100}) {
            for (int month = 0; month <= 13; ++month) {
                for (int day = 0; day <= 32; ++day) {
                    std::snprintf(text, sizeof text, "%04d-%02d-%02d", year, month, day);
                    tm parts{};
                    parts.tm_year = year - 1900;
                    parts.tm_mon = month - 1;
                    parts.tm_mday = day;
                    const time_t seconds = timegm(&parts);  // which carries what is too much
                    const bool real = parts.tm_mon == month - 1 && parts.tm_mday == day;
                    CAPTURE(text);
                    const bool is_narrow = sizeof(time_t) < 8 && (year < 1902 || year > 2037);
                    if (is_narrow) continue;
                    REQUIRE(parse_time(text).has_value() == real);
                    if (real) REQUIRE(at(text) == TimePoint(std::chrono::seconds(seconds)));
                }
            }
        }
    }

    TEST_CASE("days follow each other without a gap for four thousand years either way") {
        std::int64_t day = detail::days_from_date(-4'000, 1, 1);
        for (std::int64_t year = -4'000; year <= 4'000; ++year) {
            for (int month = 1; month <= 12; ++month) {
                const int last = detail::days_in_month(year, month);
                for (int of_month = 1; of_month <= last; ++of_month, ++day) {
                    const detail::Date date = detail::date_from_days(day);
                    const bool same = date.year == year && date.month == month &&
                                      date.day == of_month &&
                                      detail::days_from_date(year, month, of_month) == day;
                    if (!same) CAPTURE(day);
                    if (!same) FAIL_CHECK(year << '-' << month << '-' << of_month);
                }
            }
        }
        CHECK(day == detail::days_from_date(4'001, 1, 1));
        CHECK(detail::days_from_date(1970, 1, 1) == 0);
    }

    TEST_CASE("dates and days agree with the system's calendar and with each other") {
        for (std::int64_t day = -1'500'000; day < 1'500'000; day += 17) {
            const detail::Date date = detail::date_from_days(day);
            CAPTURE(day);
            REQUIRE(detail::days_from_date(date.year, date.month, date.day) == day);
            tm parts{};
            const auto seconds = static_cast<time_t>(day * 86'400);
            if (seconds != day * 86'400) continue;  // it has 32 bits
            REQUIRE(gmtime_r(&seconds, &parts));
            REQUIRE(parts.tm_year + 1900 == date.year);
            REQUIRE(parts.tm_mon + 1 == date.month);
            REQUIRE(parts.tm_mday == date.day);
        }
    }

    TEST_CASE("a time that was written reads as itself") {
        std::uint64_t state = 1;
        for (int i = 0; i < 20'000; ++i) {
            state = state * 6364136223846793005U + 1442695040888963407U;
            const auto ms = static_cast<std::int64_t>(state >> 10) - (std::int64_t{1} << 53);
            const TimePoint time{milliseconds(ms)};
            CAPTURE(ms);
            if (ms > 31'000'000'000'000'000 || ms < -31'000'000'000'000'000) continue;
            REQUIRE(parse_time(format_time(time)) == time);
        }
    }

    // The usual form is read by a way of its own; without its Z it is read by the other.
    TEST_CASE("the usual form is read as the others are") {
        const std::string form = "2024-02-29T23:59:59.999Z";
        std::mt19937 random(1);
        int times = 0;
        for (int i = 0; i < 200'000; ++i) {
            std::string text = form;
            for (std::size_t changes = random() % 4; changes > 0; --changes) {
                const std::size_t at = random() % (form.size() - 1);
                text[at] = i % 8 == 0 ? static_cast<char>(random())
                                      : static_cast<char>('0' + static_cast<int>(random() % 10));
            }
            CAPTURE(text);
            const auto time = parse_time(text);
            const std::string_view without_zone = std::string_view(text).substr(0, 23);
            const bool is_usual = text[4] == '-' && text[7] == '-' && text[10] == 'T' &&
                                  text[13] == ':' && text[16] == ':' && text[19] == '.' &&
                                  text.find_first_not_of("0123456789", 20) == 23;
            if (is_usual) REQUIRE(time == parse_time(without_zone));
            if (time) ++times;
        }
        CHECK(times > 10'000);
        CHECK(times < 190'000);
    }

    TEST_CASE("whatever is read can be written and read again, at both ends of time as well") {
        for (const char* text :
             {"-999999-01-01T00:00:00.000Z", "+999999-12-31T23:59:59.999Z",
              "-000001-12-31T23:59:59.999Z", "0000-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z",
              "+010000-01-01T00:00:00.000Z", "1969-12-31T23:59:59.999Z"}) {
            CAPTURE(text);
            CHECK(read_back(text) == text);
        }
        for (const char* text : {"-999999-01-01T00:00+00:01", "+999999-12-31T23:59-00:01",
                                 "+999999-12-31T24:00", "+999999-12-31T23:59:60Z"}) {
            CAPTURE(text);
            CHECK(read_back(text) == "refused");
        }
    }

    TEST_CASE("a task that is due as early as can be said does not keep the journal from opening") {
        const support::TempDir dir;
        Options options;
        options.journal = dir.journal();
        for (const char* due : {"-999999-01-01T00:00+23:59", "-999999-01-01T00:00Z"}) {
            CAPTURE(due);
            const std::string json = R"({"timestamp":")" + std::string(due) + R"(","message":[]})";
            Scheduler tasks(options);
            const TaskRequest request = TaskRequest::parse(json, tasks.now());
            if (request.errors.empty()) support::schedule(tasks, {request});
        }
        CHECK_NOTHROW(Scheduler{options});
    }

    TEST_CASE("any time at all can be written") {
        CHECK(format_time(TimePoint::max()) == "+292278994-08-17T07:12:55.807Z");
        CHECK(format_time(TimePoint::min()) == "-292275055-05-16T16:47:04.192Z");
        CHECK(format_time(TimePoint(milliseconds(-1))) == "1969-12-31T23:59:59.999Z");
    }

    TEST_CASE("a year after each day of ten years is what the system's calendar says") {
        const TimePoint end = at("2034-01-01");
        for (TimePoint now = at("2024-01-01T23:59:59.999Z"); now < end;
             now += std::chrono::hours(24)) {
            const time_t seconds = std::chrono::system_clock::to_time_t(now);
            tm parts{};
            REQUIRE(gmtime_r(&seconds, &parts));
            if (parts.tm_mon == 1 && parts.tm_mday == 29) parts.tm_mday = 28;
            ++parts.tm_year;
            const TimePoint expected(std::chrono::seconds(timegm(&parts)) + milliseconds(999));
            CAPTURE(format_time(now));
            REQUIRE(format_time(one_year_after(now)) == format_time(expected));
        }
    }

    TEST_CASE("a year ahead is the same day of next year, and 29 February becomes 28") {
        CHECK(one_year_after(at("2027-03-01T10:20:30.456Z")) == at("2028-03-01T10:20:30.456Z"));
        CHECK(one_year_after(at("2028-02-29T23:59:59.999Z")) == at("2029-02-28T23:59:59.999Z"));
        CHECK(one_year_after(at("2027-02-28")) == at("2028-02-28"));
        CHECK(one_year_after(at("1969-12-31T23:59:59Z")) == at("1970-12-31T23:59:59Z"));
    }

    TEST_CASE("a duration may be given in any unit, however many digits that takes") {
        CHECK(parse_duration("31622400000ms") == parse_duration("366d"));
        CHECK(parse_duration("1036800000ms") == parse_duration("12d"));
        CHECK(parse_duration("000000000000000000000090s") == milliseconds(90'000));
        CHECK(parse_duration("100000000000000000ms") ==
              milliseconds(std::int64_t{100'000'000'000'000'000}));
        for (const char* text :
             {"100000000000000001ms", "1ms100000000000000000ms", "1157407407d9h46m40s1ms",
              "9223372036854775807d", "18446744073709551616ms", "99999999999999999999999s"}) {
            CAPTURE(text);
            CHECK_FALSE(parse_duration(text));
        }
    }

    TEST_CASE("durations are numbers with units, the largest first") {
        CHECK(parse_duration("250ms") == milliseconds(250));
        CHECK(parse_duration("90s") == milliseconds(90'000));
        CHECK(parse_duration("5m") == milliseconds(300'000));
        CHECK(parse_duration("1h30m") == milliseconds(5'400'000));
        CHECK(parse_duration("7d") == milliseconds(604'800'000));
        CHECK(parse_duration("1d2h3m4s5ms") == milliseconds(93'784'005));
        for (const char* text : {"", "5", "s", "-5s", "5 s", "1.5h", "30m1h", "1s1s", "1ms1s", "1w",
                                 "1H", "5s ", "99999999999d", "1hm"}) {
            CAPTURE(text);
            CHECK_FALSE(parse_duration(text));
        }
    }

    TEST_CASE("seconds are numbers that are not negative") {
        using detail::read_seconds;
        CHECK(read_seconds("0") == milliseconds(0));
        CHECK(read_seconds("1.5") == milliseconds(1'500));
        CHECK(read_seconds("2e1") == milliseconds(20'000));
        for (const char* text : {"-1", "1e999", "1e11", "\"5\"", "true", "null"}) {
            CAPTURE(text);
            CHECK_FALSE(read_seconds(text));
        }
    }
}

}  // namespace time_test
