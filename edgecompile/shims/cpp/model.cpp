#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "edgecompile.h"

namespace edgecompile {
namespace {

constexpr int64_t kFormat = 1;

std::string message(const std::string& where, const std::string& found,
                    const std::string& expected, const std::string& way_out) {
  std::string text = where + ": " + found;
  if (!expected.empty()) text += "; expected " + expected;
  return text + "." + (way_out.empty() ? "" : " To go on: " + way_out);
}

json::Value read_manifest(const std::string& bundle) {
  const std::string path = bundle + "/manifest.json";
  json::Value manifest = json::read(path);
  const int64_t format = manifest["format"].integer(path + ": format");
  if (format < 1 || format > kFormat)
    throw Error("BadInputError", path, "format " + std::to_string(format), "1",
                "use a newer edgecompile");
  return manifest;
}

void check_ids(const Ids& ids) {
  if (ids.empty() || *std::min_element(ids.begin(), ids.end()) < 0)
    throw Error("UsageError", "token ids", std::to_string(ids.size()) + " of them",
                "at least one, none below 0");
}

int64_t largest(const float* values, size_t count) {
  return std::max_element(values, values + count) - values;
}

[[noreturn]] void unsupported(const char* what) {
  throw Error("UnsupportedError", engine_name(), std::string("no ") + what + " in this shim");
}

}  // namespace

Error::Error(std::string kind, std::string where, std::string found, std::string expected,
             std::string way_out)
    : std::runtime_error(message(where, found, expected, way_out)),
      kind(std::move(kind)), where(std::move(where)), found(std::move(found)),
      expected(std::move(expected)), way_out(std::move(way_out)) {}

int Error::exit_code() const {
  static const std::map<std::string, int> codes = {
      {"UsageError", 2},    {"UnsupportedError", 3}, {"MissingLibraryError", 4},
      {"BadInputError", 5}, {"LimitError", 6},       {"ResourceError", 7}};
  const auto found_code = codes.find(kind);
  return found_code == codes.end() ? 1 : found_code->second;
}

std::string path_in(const std::string& bundle, const std::string& name) {
  const bool out = name.empty() || name[0] == '/' || name.find('\\') != std::string::npos ||
                   ("/" + name + "/").find("/../") != std::string::npos;
  if (out) throw Error("BadInputError", "manifest", "path " + name, "one inside the bundle");
  return bundle + "/" + name;
}

size_t item_bytes(const std::string& dtype) {
  static const std::map<std::string, size_t> sizes = {
      {"bool", 1},   {"int8", 1},   {"uint8", 1},   {"int16", 2},   {"uint16", 2},  {"float16", 2},
      {"int32", 4},  {"uint32", 4}, {"float32", 4}, {"int64", 8},   {"uint64", 8},  {"float64", 8}};
  const auto found = sizes.find(dtype);
  if (found == sizes.end()) throw Error("BadInputError", "array", "dtype " + dtype, "numpy's names");
  return found->second;
}

size_t element_count(const std::vector<int64_t>& shape) {
  size_t count = 1;
  for (const int64_t size : shape)
    if (size < 0 || __builtin_mul_overflow(count, static_cast<size_t>(size), &count) ||
        count > size_t{1} << 40)
      throw Error("BadInputError", "array", "a size of " + std::to_string(size), "one that fits");
  return count;
}

float half_to_float(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 31, fraction = half & 1023;
  if (exponent == 0) {  // zero and subnormals: fraction * 2^-24
    const float value = std::ldexp(static_cast<float>(fraction), -24);
    return sign ? -value : value;
  }
  const uint32_t wide = exponent == 31 ? 255 : exponent + 112;  // bias 15 to bias 127
  const uint32_t bits = sign | (wide << 23) | (fraction << 13);
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

Floats Engine::encode(const Ids&) { unsupported("encoder"); }
void Engine::feed(const Ids&, bool, const LogitSink&) { unsupported("decoder"); }
void Engine::begin(size_t) {}
std::vector<Tensor> Engine::run(const std::vector<Tensor>&) { unsupported("raw inputs"); }

Model::Model(const std::string& bundle, const Options& options)
    : bundle_(bundle), manifest_(read_manifest(bundle)) {
  task_ = manifest_["model"]["task"].text("manifest: model.task");
  context_ = static_cast<size_t>(manifest_["generation"].integer_or("context_length", 0));
  const std::string& wanted = manifest_["engine"]["name"].text("manifest: engine.name");
  if (wanted != engine_name())
    throw Error("UsageError", bundle, "engine " + wanted, engine_name());
  engine_ = open_engine(bundle, manifest_, options);
}

Floats Model::embed(const Ids& ids, int normalize) {
  need("embedding");
  check_ids(ids);
  const json::Value& pooling = manifest_["pooling"];
  Floats vector = engine_->encode(ids);
  if (vector.size() != static_cast<size_t>(pooling["dimension"].integer("pooling.dimension")))
    throw Error("BadInputError", "engine file", std::to_string(vector.size()) + " values",
                "pooling.dimension of them");
  if (normalize < 0 ? pooling["normalize"].boolean("pooling.normalize") : normalize == 1) {
    double sum = 0;
    for (const float value : vector) sum += double(value) * value;
    const float length = static_cast<float>(std::max(std::sqrt(sum), 1e-12));
    for (float& value : vector) value /= length;
  }
  return vector;
}

Floats Model::classify(const Ids& ids) {
  need("classification");
  check_ids(ids);
  Floats scores = engine_->encode(ids);
  const size_t labels = manifest_["model"]["labels"].list("model.labels").size();
  if (scores.size() != labels)
    throw Error("BadInputError", "engine file", std::to_string(scores.size()) + " scores",
                std::to_string(labels));
  const std::string kind = manifest_["engine"]["options"].text_or("activation", "softmax");
  if (kind == "sigmoid") {
    for (float& score : scores) score = 0.5f + 0.5f * std::tanh(score / 2);
    return scores;
  }
  if (kind != "softmax") throw Error("UnsupportedError", "activation", kind, "softmax or sigmoid");
  const float top = *std::max_element(scores.begin(), scores.end());
  float sum = 0;
  for (float& score : scores) sum += score = std::exp(score - top);
  for (float& score : scores) score /= sum;
  return scores;
}

void Model::logits(const Ids& ids, const LogitSink& sink) {
  need("text-generation");
  check_ids(ids);
  for (size_t start = 0; start < ids.size(); start += context_) {  // longer ones: an empty past
    const size_t end = std::min(ids.size(), start + context_);
    engine_->begin(end - start);
    engine_->feed(Ids(ids.begin() + start, ids.begin() + end), false, sink);
  }
}

void Model::generate(const Ids& ids, size_t new_tokens, const TokenSink& each) {
  need("text-generation");
  check_ids(ids);
  if (ids.size() >= context_)
    throw Error("UsageError", "prompt", std::to_string(ids.size()) + " tokens",
                "fewer than " + std::to_string(context_));
  Ids fed = ids;
  bool more = true;
  const LogitSink choose = [&](const float* logits, size_t, size_t vocabulary) {
    const int64_t token = largest(logits, vocabulary);
    more = each(token, logits, vocabulary);
    fed.assign(1, token);
  };
  size_t left = std::min(new_tokens, context_ - ids.size());
  engine_->begin(ids.size() + left);
  for (; left && more; --left) {
    const Ids now = fed;
    engine_->feed(now, true, choose);
  }
}

void Model::need(const std::string& task) const {
  if (task_ != task) throw Error("UsageError", "this bundle", "task " + task_, task);
}

}  // namespace edgecompile
