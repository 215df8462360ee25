// SPDX-License-Identifier: MIT
//
// The reader and a plain recursive checker agree on every text.  What is accepted
// is accepted again without white space and unchanged, also when it is read step
// by step; and no request does more than be refused.
#define SCHEDULER_NO_HTTP
#include "../../scheduler.hpp"

using scheduler::detail::JsonReader;

namespace {

// RFC 8259 and RFC 3629 once more, as their grammars are written.
class Checker {
public:
    explicit Checker(std::string_view text) : rest_(text) {}
    bool accepts() {
        space();
        if (!value(0)) return false;
        space();
        return rest_.empty();
    }

private:
    bool take(std::string_view word) {
        if (rest_.substr(0, word.size()) != word) return false;
        rest_.remove_prefix(word.size());
        return true;
    }
    // Takes one byte of this range.
    bool byte(unsigned least, unsigned most) {
        if (rest_.empty()) return false;
        const unsigned c = static_cast<unsigned char>(rest_.front());
        if (c < least || c > most) return false;
        rest_.remove_prefix(1);
        return true;
    }
    void space() {
        while (take(" ") || take("\t") || take("\n") || take("\r")) continue;
    }
    bool value(std::size_t depth) {
        if (take("null") || take("true") || take("false")) return true;
        if (take("\"")) return string();
        if (take("{")) return depth < JsonReader::max_depth && items(depth, "}", true);
        if (take("[")) return depth < JsonReader::max_depth && items(depth, "]", false);
        return number();
    }
    bool items(std::size_t depth, std::string_view closing, bool named) {
        space();
        if (take(closing)) return true;
        do {
            space();
            if (named) {
                if (!take("\"") || !string()) return false;
                space();
                if (!take(":")) return false;
                space();
            }
            if (!value(depth + 1)) return false;
            space();
        } while (take(","));
        return take(closing);
    }
    bool digits() {
        if (!byte('0', '9')) return false;
        while (byte('0', '9')) continue;
        return true;
    }
    bool number() {
        take("-");
        if (!take("0") && !digits()) return false;
        if (take(".") && !digits()) return false;
        if (!take("e") && !take("E")) return true;
        if (!take("+")) take("-");
        return digits();
    }
    bool string() {
        while (!take("\"")) {
            if (take("\\") ? !escape() : !character()) return false;
        }
        return true;
    }
    bool escape() {
        if (rest_.empty()) return false;
        const char c = rest_.front();
        rest_.remove_prefix(1);
        if (c != 'u') return std::string_view("\"\\/bfnrt").find(c) != std::string_view::npos;
        for (int i = 0; i < 4; ++i) {
            if (!byte('0', '9') && !byte('a', 'f') && !byte('A', 'F')) return false;
        }
        return true;
    }
    bool tail(int count) {
        for (; count > 0; --count) {
            if (!byte(0x80, 0xBF)) return false;
        }
        return true;
    }
    // The table of RFC 3629, section 4.
    bool character() {
        if (byte(0x20, 0x7F)) return true;
        if (byte(0xC2, 0xDF)) return tail(1);
        if (byte(0xE0, 0xE0)) return byte(0xA0, 0xBF) && tail(1);
        if (byte(0xE1, 0xEC) || byte(0xEE, 0xEF)) return tail(2);
        if (byte(0xED, 0xED)) return byte(0x80, 0x9F) && tail(1);
        if (byte(0xF0, 0xF0)) return byte(0x90, 0xBF) && tail(2);
        if (byte(0xF1, 0xF3)) return tail(3);
        return byte(0xF4, 0xF4) && byte(0x80, 0x8F) && tail(2);
    }

    std::string_view rest_;
};

// Whether the text is accepted when containers are entered instead of passed over.
// The arrays and objects that are open are told by a row of brackets.
bool accepts_in_steps(std::string_view text) {
    JsonReader reader(text);
    std::string_view name;
    std::string_view slice;
    std::string open;
    do {
        if (reader.enter_object()) {
            open += '{';
        } else if (reader.enter_array()) {
            open += '[';
        } else {
            reader.value(slice);
        }
        while (!open.empty() && !reader.failed()) {
            if (open.back() == '{' ? reader.next_member(name) : reader.next_element()) break;
            open.pop_back();
        }
    } while (!open.empty() && !reader.failed());
    return reader.finish();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    JsonReader reader(text);
    std::string_view slice;
    std::string minified;
    const bool accepted = reader.value(slice, &minified) && reader.finish();
    if (accepted != Checker(text).accepts()) std::abort();
    if (accepted != accepts_in_steps(text)) std::abort();
    if (accepted) {
        JsonReader again(minified);
        std::string same;
        if (!again.value(slice, &same) || !again.finish() || same != minified) std::abort();
        if (minified.front() == '"') scheduler::detail::read_string(minified);
        std::string quoted;
        scheduler::detail::append_quoted(quoted, minified);
        if (scheduler::detail::read_string(quoted) != minified) std::abort();
    } else if (reader.problem().empty()) {
        std::abort();
    }
    const auto now = *scheduler::parse_time("2026-03-01");
    const auto request = scheduler::TaskRequest::parse(text, now);
    if (request.errors.empty()) {
        JsonReader payload(request.payload);
        if (!payload.value(slice) || !payload.finish()) std::abort();
        if (scheduler::detail::changed_payload(request.payload, "", "") != request.payload)
            std::abort();
    }
    scheduler::TaskRequest::parse_change(text, now);
    return 0;
}
