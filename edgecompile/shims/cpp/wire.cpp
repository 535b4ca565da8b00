#include "wire.h"

#include <cstring>

namespace edgecompile::wire {
namespace {

constexpr size_t kHeaderLimit = 64u << 20;  // bytes
constexpr size_t kArrayLimit = size_t{8} << 30;

void write(std::FILE* stream, const void* data, size_t size) {
  if (size && std::fwrite(data, 1, size, stream) != size)
    throw Error("EdgecompileError", "wire", "the reader is gone", "an open pipe");
}

Tensor read_array(std::FILE* stream, const json::Value& entry) {
  Tensor array{entry["name"].text("array name"), entry["dtype"].text("array dtype"), {}, {}};
  for (const json::Value& size : entry["shape"].list("array shape"))
    array.shape.push_back(size.integer("array shape"));
  const size_t bytes = element_count(array.shape) * item_bytes(array.dtype);
  if (bytes > kArrayLimit)
    throw Error("BadInputError", "wire", std::to_string(bytes) + " bytes", "at most 8 GiB");
  array.bytes.resize(bytes);
  if (bytes && std::fread(array.bytes.data(), 1, bytes, stream) != bytes)
    throw Error("BadInputError", "wire", "the stream ended early", "whole arrays");
  return array;
}

std::string listed(const Tensor& array) {
  std::string sizes;
  for (const int64_t size : array.shape) sizes += (sizes.empty() ? "" : ",") + std::to_string(size);
  return "{\"name\":" + json::quoted(array.name) + ",\"dtype\":" + json::quoted(array.dtype) +
         ",\"shape\":[" + sizes + "]}";
}

void send_message(std::FILE* stream, bool ok, bool more, const std::string& fields,
                  const std::vector<Tensor>& arrays) {
  std::string line = std::string("{\"ok\":") + (ok ? "true" : "false") +
                     ",\"more\":" + (more ? "true" : "false") + (fields.empty() ? "" : ",") + fields;
  line += ",\"arrays\":[";
  for (size_t i = 0; i < arrays.size(); ++i) line += (i ? "," : "") + listed(arrays[i]);
  line += "]}\n";
  write(stream, line.data(), line.size());
  for (const Tensor& array : arrays) write(stream, array.bytes.data(), array.bytes.size());
  if (std::fflush(stream)) throw Error("EdgecompileError", "wire", "the reader is gone", "a pipe");
}

}  // namespace

std::optional<Message> receive(std::FILE* stream) {
  std::string line;
  for (int c; (c = std::fgetc(stream)) != '\n';) {
    if (c == EOF && line.empty()) return std::nullopt;
    if (c == EOF || line.size() == kHeaderLimit)
      throw Error("BadInputError", "wire", "a header without an end", "one line of JSON");
    line += static_cast<char>(c);
  }
  Message message{json::parse(line, "wire"), {}};
  const json::Value& arrays = message.header["arrays"];
  if (!arrays.is_null())
    for (const json::Value& entry : arrays.list("arrays"))
      message.arrays.push_back(read_array(stream, entry));
  return message;
}

void send(std::FILE* stream, bool more, const std::string& fields,
          const std::vector<Tensor>& arrays) {
  send_message(stream, true, more, fields, arrays);
}

void send_error(std::FILE* stream, const Error& error) {
  const std::pair<const char*, const std::string*> members[] = {
      {"class", &error.kind},        {"where", &error.where},     {"found", &error.found},
      {"expected", &error.expected}, {"way_out", &error.way_out}};
  std::string fields;
  for (const auto& [name, text] : members)
    fields += (fields.empty() ? "\"error\":{" : ",") + json::quoted(name) + ":" +
              json::quoted(*text);
  send_message(stream, false, false, fields + "}", {});
}

Tensor floats(std::string name, std::vector<int64_t> shape, const float* values) {
  Tensor array{std::move(name), "float32", std::move(shape), {}};
  array.bytes.resize(element_count(array.shape) * sizeof(float));
  if (!array.bytes.empty()) std::memcpy(array.bytes.data(), values, array.bytes.size());
  return array;
}

}  // namespace edgecompile::wire
