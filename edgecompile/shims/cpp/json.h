// JSON, as far as manifests and wire headers need it: parsed as untrusted input, depth bounded.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace edgecompile::json {

class Value {
 public:
  using List = std::vector<Value>;
  using Table = std::map<std::string, Value, std::less<>>;

  Value() = default;
  explicit Value(bool v) : data_(v) {}
  explicit Value(double v) : data_(v) {}
  explicit Value(std::string v) : data_(std::move(v)) {}
  explicit Value(List v) : data_(std::move(v)) {}
  explicit Value(Table v) : data_(std::move(v)) {}

  bool is_null() const { return std::holds_alternative<std::monostate>(data_); }

  // Each throws a BadInputError that names `where` when the value is of another kind.
  bool boolean(std::string_view where) const;
  double number(std::string_view where) const;
  int64_t integer(std::string_view where) const;
  const std::string& text(std::string_view where) const;
  const List& list(std::string_view where) const;
  const Table& table(std::string_view where) const;

  // The member of that name; null where there is none, or where this is no table.
  const Value& operator[](std::string_view name) const;
  std::string text_or(std::string_view name, std::string_view fallback) const;
  int64_t integer_or(std::string_view name, int64_t fallback) const;

 private:
  std::variant<std::monostate, bool, double, std::string, List, Table> data_;
};

Value parse(std::string_view text, std::string_view where);
Value read(const std::string& path);  // of a file of at most 64 MiB
std::string quoted(std::string_view text);  // with the quotes

}  // namespace edgecompile::json
