// SPDX-License-Identifier: MIT
//
// Requests to a server, byte for byte, and what it answers.

#pragma once

#include "../scheduler.hpp"

#include <doctest/doctest.h>

namespace support::wire {

// A connection to a server, which says and hears exactly what it is told to.
class Wire {
public:
    explicit Wire(int port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(static_cast<std::uint16_t>(port));
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        REQUIRE(::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
        set_patience();
    }
    Wire(Wire&& other) noexcept
        : fd_(std::exchange(other.fd_, -1)), heard_(std::move(other.heard_)) {}
    Wire& operator=(Wire&&) = delete;
    ~Wire() {
        if (fd_ >= 0) ::close(fd_);
    }
    static Wire of(int fd) { return Wire(fd, {}); }

    Wire& say(std::string_view text) {
        while (!text.empty()) {
            const ssize_t n = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
            if (n <= 0) break;
            text.remove_prefix(static_cast<std::size_t>(n));
        }
        return *this;
    }
    // What comes until it holds `mark`; all of it to the end, if it never does.
    std::string hear(const std::string& mark) {
        std::size_t at;
        while ((at = heard_.find(mark)) == std::string::npos) {
            char buffer[65'536];
            const ssize_t n = ::recv(fd_, buffer, sizeof buffer, 0);
            if (n <= 0) return std::exchange(heard_, {});
            heard_.append(buffer, static_cast<std::size_t>(n));
        }
        std::string text = heard_.substr(0, at + mark.size());
        heard_.erase(0, text.size());
        return text;
    }
    // A message: its head, and the body by Content-Length; nothing: there is no whole one.
    std::string message() {
        std::string head = hear("\r\n\r\n");
        const std::size_t at = head.find("Content-Length: ");
        if (at == std::string::npos) return head;
        const auto size = static_cast<std::size_t>(std::atoi(head.c_str() + at + 16));
        while (heard_.size() < size) {
            char buffer[65'536];
            const ssize_t n = ::recv(fd_, buffer, sizeof buffer, 0);
            if (n <= 0) return "";
            heard_.append(buffer, static_cast<std::size_t>(n));
        }
        head += heard_.substr(0, size);
        heard_.erase(0, size);
        return head;
    }

private:
    Wire(int fd, std::string heard) : fd_(fd), heard_(std::move(heard)) { set_patience(); }
    void set_patience() {
        const timeval half_a_minute{30, 0};
        ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &half_a_minute, sizeof half_a_minute);
    }

    int fd_;
    std::string heard_;
};

inline int status_of(const std::string& answer) {
    return answer.size() > 12 ? std::atoi(answer.c_str() + 9) : 0;
}

inline std::string body_of(const std::string& answer) {
    const std::size_t at = answer.find("\r\n\r\n");
    return at == std::string::npos ? "" : answer.substr(at + 4);
}

inline std::string id_of(const std::string& answer) {
    return scheduler::detail::member_of(body_of(answer), "id").value_or("");
}

// The text of a request.
inline std::string request(const std::string& line, const std::string& body = "",
                           const std::string& fields = "") {
    return line + " HTTP/1.1\r\nHost: localhost\r\n" + fields +
           "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

// What a server answers to a request on a connection of its own; nothing: that just ends.
inline std::string ask(int port, const std::string& line, const std::string& body = "",
                       const std::string& fields = "") {
    return Wire(port).say(request(line, body, fields)).message();
}

inline constexpr const char* good = R"({"timestamp":"2026-03-01T13:00:00Z","message":"x"})";

}  // namespace support::wire
