// SPDX-License-Identifier: MIT
//
// A reader of HTTP messages finds the same in a text however it is cut, keeps to its bounds, and
// never takes what belongs to a body for a message.  The first byte says what is read, and seeds
// where it is cut; a few bytes of body are much here, so that bounds are met.
#include "../../scheduler.hpp"

using scheduler::detail::MessageReader;
using Step = MessageReader::Step;

namespace {

constexpr std::size_t max_body = 40;

void check(bool holds) {
    if (!holds) std::abort();
}

// What a reader finds, as text.
class Findings {
public:
    explicit Findings(MessageReader::Kind kind) : kind_(kind), reader_(kind, max_body) {}

    void take(std::string_view bytes) {
        if (is_over_) return;
        reader_.feed(bytes);
        tell(reader_.next());
    }
    void end() {
        if (!is_over_) tell(reader_.end());
    }
    const std::string& text() const { return text_; }

private:
    void tell(Step step) {
        while (step == Step::whole) {
            add_message();
            if (is_over_) return;
            step = reader_.next();
        }
        check(reader_.request().body.size() <= max_body);
        if (step == Step::incomplete) return;
        check(reader_.refusal().status >= 400 && reader_.refusal().error[0] != '\0');
        text_ += "refused " + std::to_string(reader_.refusal().status);
        is_over_ = true;
    }
    void add_message() {
        const auto& message = reader_.request();
        check(message.body.size() <= max_body);
        check(message.fields.size() <= MessageReader::max_fields ||
              kind_ == MessageReader::Kind::answers);
        text_.append(message.method).append(" ").append(message.target) += ' ';
        text_ += std::to_string(reader_.status()) + '\n';
        for (const auto& [name, value] : message.fields) {
            check(scheduler::detail::is_token(name));
            text_.append(name).append("=").append(value) += '\n';
        }
        text_ += std::to_string(message.body_status) + message.body_error + '\n';
        text_ += message.body + '\n';
        is_over_ = !reader_.can_go_on();
    }

    const MessageReader::Kind kind_;
    MessageReader reader_;
    std::string text_;
    bool is_over_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) return 0;
    const auto kind = data[0] & 1 ? MessageReader::Kind::answers : MessageReader::Kind::requests;
    const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
    Findings whole(kind);
    whole.take(text);
    whole.end();
    Findings cut(kind);
    unsigned random = data[0];
    for (std::string_view left = text; !left.empty();) {
        random = random * 1'103'515'245U + 12'345U;
        const std::string_view piece = left.substr(0, 1 + (random >> 16) % 16);
        cut.take(piece);
        left.remove_prefix(piece.size());
    }
    cut.end();
    check(whole.text() == cut.text());
    return 0;
}
