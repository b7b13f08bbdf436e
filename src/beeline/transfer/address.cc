#include "beeline/transfer/address.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

#include "beeline/os/random.h"

namespace beeline::transfer {
namespace {

constexpr std::string_view kScheme = "beeline://";
constexpr std::size_t kMaxText = 4096;
constexpr std::string_view kDigits = "0123456789abcdef";

std::string encode(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0 || std::string_view("-._~/:[]").find(c) != std::string_view::npos) {
      out += c;
    } else {
      out += '%';
      out += kDigits[byte >> 4];
      out += kDigits[byte & 15];
    }
  }
  return out;
}

int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool decode(std::string_view text, std::string& out) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (i + 2 >= text.size() || digit(text[i + 1]) < 0 || digit(text[i + 2]) < 0) return false;
    out += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
    i += 2;
  }
  return true;
}

// Calls visit(part) for each part between separators; false as soon as one is refused.
template <typename Visit>
bool for_each_part(std::string_view text, char separator, Visit&& visit) {
  while (!text.empty()) {
    const auto end = text.find(separator);
    if (!visit(text.substr(0, end))) return false;
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  }
  return true;
}

bool is_hexadecimal(std::string_view text, std::size_t digits) {
  return text.size() == digits && std::ranges::all_of(text, [](char c) { return digit(c) >= 0; });
}

}  // namespace

std::string Address::text() const {
  std::string out = std::string(kScheme) + encode(name) + "?id=" + id;
  if (!boot_id.empty()) out += "&boot=" + boot_id;
  if (!unix_path.empty()) out += "&unix=" + encode(unix_path);
  for (std::size_t i = 0; i < tcp.size(); ++i) {
    out += i > 0 ? "," : certificate.empty() ? "&tcp=" : "&tls=";
    out += encode(tcp[i].text());
  }
  if (!certificate.empty()) out += "&certificate=" + certificate;
  return out;
}

Result<Address> Address::parse(const std::string& text) {
  const auto bad = [&](const std::string& why) {
    return Status(Code::kInvalidArgument,
                  "\"" + text.substr(0, 200) + "\" is no agent's address (" + why +
                      "): give what `agent.address` of the other process says, beeline://NAME?id=...");
  };
  if (text.size() > kMaxText) return bad("longer than 4096 bytes");
  if (!text.starts_with(kScheme)) return bad("it does not begin with beeline://");
  const auto query = text.find('?');
  if (query == std::string::npos) return bad("it has no id");
  Address address;
  const std::string_view view(text);
  bool speaks_plain = false;
  bool speaks_tls = false;
  if (!decode(view.substr(kScheme.size(), query - kScheme.size()), address.name)) return bad("its name is garbled");
  const bool read = for_each_part(view.substr(query + 1), '&', [&](std::string_view field) {
    std::string value;
    const auto equals = field.find('=');
    if (equals == std::string_view::npos || !decode(field.substr(equals + 1), value)) return false;
    const auto key = field.substr(0, equals);
    if (key == "id") address.id = value;
    if (key == "boot") address.boot_id = value;
    if (key == "unix") address.unix_path = value;
    if (key == "certificate") address.certificate = value;
    if (key != "tcp" && key != "tls") return true;
    (key == "tcp" ? speaks_plain : speaks_tls) = true;
    return for_each_part(value, ',', [&](std::string_view part) {
      auto parsed = os::TcpAddress::parse(std::string(part));
      if (parsed) address.tcp.push_back(std::move(*parsed));
      return parsed.is_ok();
    });
  });
  if (!read) return bad("a field is garbled");
  if (!is_hexadecimal(address.id, 32)) return bad("its id is not 32 hexadecimal digits");
  if (!address.boot_id.empty() && !is_hexadecimal(address.boot_id, 32))
    return bad("its boot id is not 32 hexadecimal digits");
  // Nothing is guessed of an address that was garbled or cut on its way: it must not end up as one without TLS.
  if (speaks_plain && speaks_tls) return bad("it speaks TLS and speaks none");
  if (speaks_tls != !address.certificate.empty() || (speaks_tls && address.tcp.empty())) {
    return bad("tls= and certificate= go together");
  }
  if (speaks_tls && !is_hexadecimal(address.certificate, 64))
    return bad("its certificate is not 64 hexadecimal digits");
  std::ranges::transform(address.certificate, address.certificate.begin(),
                         [](unsigned char c) { return std::tolower(c); });
  return address;
}

std::string make_agent_id() {
  std::array<std::byte, 16> bytes{};
  os::fill_with_random(bytes);
  std::string id;
  for (const std::byte byte : bytes) {
    id += kDigits[std::to_integer<unsigned>(byte >> 4)];
    id += kDigits[std::to_integer<unsigned>(byte & std::byte{15})];
  }
  return id;
}

}  // namespace beeline::transfer
