// The framed messages of edgecompile/runtime/wire.py: a line of JSON, then the bytes of its arrays.
#pragma once

#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "edgecompile.h"

namespace edgecompile::wire {

struct Message {
  json::Value header;
  std::vector<Tensor> arrays;
};

// Nothing at the end of the stream.
std::optional<Message> receive(std::FILE* stream);

// `fields`: members of the header as JSON text, without braces ("" for none).
void send(std::FILE* stream, bool more, const std::string& fields,
          const std::vector<Tensor>& arrays = {});
void send_error(std::FILE* stream, const Error& error);

Tensor floats(std::string name, std::vector<int64_t> shape, const float* values);

}  // namespace edgecompile::wire
