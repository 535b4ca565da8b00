#include "json.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "edgecompile.h"

namespace edgecompile::json {
namespace {

constexpr size_t kFileLimit = 64u << 20;  // bytes
constexpr int kDepth = 64;  // tables in tables: more would be an attack on the stack

class Parser {
 public:
  Parser(std::string_view text, std::string_view where) : text_(text), where_(where) {}

  Value document() {
    Value value = any(0);
    space();
    if (at_ != text_.size()) fail("more after the end");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string& found) const {
    throw Error("BadInputError", std::string(where_),
                found + " at byte " + std::to_string(at_), "JSON");
  }

  void space() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string::npos)
      ++at_;
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  bool take(char wanted) {
    space();
    if (peek() != wanted) return false;
    ++at_;
    return true;
  }

  void need(char wanted) {
    if (!take(wanted)) fail(std::string("no '") + wanted + "'");
  }

  bool take_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Value any(int depth) {
    if (depth > kDepth) fail("nested too deeply");
    space();
    switch (peek()) {
      case '{': return table(depth);
      case '[': return list(depth);
      case '"': return Value(string());
      default: break;
    }
    if (take_word("true")) return Value(true);
    if (take_word("false")) return Value(false);
    if (take_word("null")) return Value();
    return number();
  }

  Value table(int depth) {
    Value::Table members;
    need('{');
    if (take('}')) return Value(std::move(members));
    do {
      space();
      std::string name = string();
      need(':');
      if (!members.emplace(std::move(name), any(depth + 1)).second) fail("a key given twice");
    } while (take(','));
    need('}');
    return Value(std::move(members));
  }

  Value list(int depth) {
    Value::List items;
    need('[');
    if (take(']')) return Value(std::move(items));
    do {
      items.push_back(any(depth + 1));
    } while (take(','));
    need(']');
    return Value(std::move(items));
  }

  Value number() {
    const size_t end = text_.find_first_not_of("+-.0123456789eE", at_);
    const std::string digits(text_.substr(at_, end == std::string::npos ? end : end - at_));
    char* stop = nullptr;
    const double value = std::strtod(digits.c_str(), &stop);
    if (digits.empty() || *stop || !std::isfinite(value)) fail("no value");
    at_ += digits.size();
    return Value(value);
  }

  std::string string() {
    if (peek() != '"') fail("no text in quotes");
    ++at_;
    std::string found;
    while (peek() != '"') {
      if (at_ >= text_.size() || static_cast<unsigned char>(peek()) < 0x20) fail("an open text");
      if (peek() == '\\')
        escape(found);
      else
        found += text_[at_++];
    }
    ++at_;
    return found;
  }

  void escape(std::string& out) {
    ++at_;
    const char kind = peek();
    ++at_;
    const size_t plain = std::string_view("\"\\/bfnrt").find(kind);
    if (kind == 'u')
      append_utf8(out, code_point());
    else if (kind && plain != std::string::npos)
      out += "\"\\/\b\f\n\r\t"[plain];
    else
      fail("an unknown escape");
  }

  uint32_t code_point() {
    const uint32_t high = hex4();
    if (high < 0xD800 || high > 0xDBFF) return high;
    const uint32_t low = take_word("\\u") ? hex4() : 0;
    if (low < 0xDC00 || low > 0xDFFF) fail("half a surrogate pair");
    return 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
  }

  uint32_t hex4() {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const size_t digit = std::string_view("0123456789abcdefABCDEF").find(peek());
      if (!peek() || digit == std::string::npos) fail("an escape without 4 hex digits");
      value = value * 16 + static_cast<uint32_t>(digit < 16 ? digit : digit - 6);
    }
    return value;
  }

  static void append_utf8(std::string& out, uint32_t c) {
    const int more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static constexpr uint32_t kLead[] = {0, 0xC0, 0xE0, 0xF0};
    out += static_cast<char>(kLead[more] | (c >> (6 * more)));
    for (int i = more - 1; i >= 0; --i) out += static_cast<char>(0x80 | ((c >> (6 * i)) & 0x3F));
  }

  std::string_view text_;
  std::string_view where_;
  size_t at_ = 0;
};

template <typename T, typename Data>
const T& as(const Data& data, std::string_view where, const char* kind) {
  if (const T* found = std::get_if<T>(&data)) return *found;
  throw Error("BadInputError", std::string(where), "another kind of value", kind);
}

}  // namespace

bool Value::boolean(std::string_view where) const { return as<bool>(data_, where, "a boolean"); }

double Value::number(std::string_view where) const { return as<double>(data_, where, "a number"); }

int64_t Value::integer(std::string_view where) const {
  const double value = number(where);
  if (value != std::floor(value) || std::abs(value) > 9007199254740992.0)
    throw Error("BadInputError", std::string(where), std::to_string(value), "a whole number");
  return static_cast<int64_t>(value);
}

const std::string& Value::text(std::string_view where) const {
  return as<std::string>(data_, where, "a text");
}

const Value::List& Value::list(std::string_view where) const {
  return as<List>(data_, where, "a list");
}

const Value::Table& Value::table(std::string_view where) const {
  return as<Table>(data_, where, "a table");
}

const Value& Value::operator[](std::string_view name) const {
  static const Value null;
  const Table* members = std::get_if<Table>(&data_);
  if (!members) return null;
  const auto found = members->find(name);
  return found == members->end() ? null : found->second;
}

std::string Value::text_or(std::string_view name, std::string_view fallback) const {
  const Value& found = (*this)[name];
  return found.is_null() ? std::string(fallback) : found.text(name);
}

int64_t Value::integer_or(std::string_view name, int64_t fallback) const {
  const Value& found = (*this)[name];
  return found.is_null() ? fallback : found.integer(name);
}

Value parse(std::string_view text, std::string_view where) {
  return Parser(text, where).document();
}

Value read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error("BadInputError", path, "it cannot be read", "a file of the bundle");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  if (text.size() > kFileLimit)
    throw Error("BadInputError", path, std::to_string(text.size()) + " bytes", "at most 64 MiB");
  return parse(text, path);
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) >= 0x20) {
      out += c;
      continue;
    }
    char code[8];
    std::snprintf(code, sizeof code, "\\u%04x", c);
    out += code;
  }
  return out + '"';
}

}  // namespace edgecompile::json
