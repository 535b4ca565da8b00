// A sealed bundle opened from C++: what edgecompile.runtime is for Python, one class for all engines.
//
//   edgecompile::Model model("all-minilm-l6-v2-cpu", {});
//   std::vector<float> vector = model.embed({101, 7592, 102});
//
// Link model.cpp, golden.cpp, json.cpp and one engine_*.cpp. Token ids come from the app's own tokenizer
// (tokenizer/tokenizer.json), special tokens included. Files' hashes are the caller's to check
// before a bundle is opened: an engine may crash on a damaged file. Errors are edgecompile::Error.
// An object is for one thread at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "json.h"

namespace edgecompile {

// `kind` is a class of edgecompile.runtime.errors, by name: UsageError, BadInputError, ...
class Error : public std::runtime_error {
 public:
  Error(std::string kind, std::string where, std::string found, std::string expected = "",
        std::string way_out = "");

  int exit_code() const;  // docs: 1 our bug, 2 usage, 3 unsupported, 4 library, 5 bad input, ...

  const std::string kind, where, found, expected, way_out;
};

using Ids = std::vector<int64_t>;
using Floats = std::vector<float>;

// A named array as it travels: numpy's dtype name, row-major little-endian bytes.
struct Tensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;
};

// A bundle's file by the name in its manifest; names that lead out of the bundle are refused.
std::string path_in(const std::string& bundle, const std::string& name);
size_t item_bytes(const std::string& dtype);  // a BadInputError for an unknown one
size_t element_count(const std::vector<int64_t>& shape);
float half_to_float(uint16_t half);  // IEEE binary16

// Takes logits float32 [rows, vocabulary]; they are valid during the call.
using LogitSink = std::function<void(const float* logits, size_t rows, size_t vocabulary)>;

// Takes the likeliest token and the logits it was taken from; false ends the text.
using TokenSink = std::function<bool(int64_t token, const float* logits, size_t vocabulary)>;

constexpr size_t kLogitRows = 128;  // rows that a sink gets at once at most

struct Options {
  int threads = 1;
  std::string library;  // the engine's shared library, where it is opened by name; "": its usual one
};

// What engine_*.cpp implements; what an engine cannot do is an UnsupportedError.
class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::string version() const = 0;

  // The file's first output for one text: a pooled vector or class scores.
  virtual Floats encode(const Ids& ids);
  // Forget the text under way; the next one, continuation included, has at most `length` tokens.
  virtual void begin(size_t length);
  // Append tokens to the text under way; logits after each, or one row, after the last.
  virtual void feed(const Ids& ids, bool last_only, const LogitSink& sink);
  // The file's outputs for its inputs, in its own order.
  virtual std::vector<Tensor> run(const std::vector<Tensor>& inputs);
};

// Both are defined by the one engine_*.cpp that is linked; the name is that of manifests.
const char* engine_name();
std::unique_ptr<Engine> open_engine(const std::string& bundle, const json::Value& manifest,
                                    const Options& options);

class Model {
 public:
  Model(const std::string& bundle, const Options& options);

  const std::string& bundle() const { return bundle_; }
  const json::Value& manifest() const { return manifest_; }
  const std::string& task() const { return task_; }
  Engine& engine() { return *engine_; }

  // The text's vector [dimension]; as the bundle says, or with `normalize` 0 or 1.
  Floats embed(const Ids& ids, int normalize = -1);
  // One probability a label, in the manifest's order.
  Floats classify(const Ids& ids);
  // Logits after each of `ids`, of a new text.
  void logits(const Ids& ids, const LogitSink& sink);
  // Greedy continuation; stop tokens do not end it.
  void generate(const Ids& ids, size_t new_tokens, const TokenSink& each);

 private:
  void need(const std::string& task) const;

  std::string bundle_;
  json::Value manifest_;
  std::string task_;
  size_t context_ = 0;  // tokens; 0 for what does not generate
  std::unique_ptr<Engine> engine_;
};

// One golden input: `deviation` is 1 - cosine or a KL divergence in nats.
struct GoldenResult {
  std::string text;
  double deviation, tolerance;
  std::string fault;  // what else differs

  bool passed() const { return fault.empty() && deviation <= tolerance; }
};

// Whether this engine on this processor gives the answers that were shipped (golden.json).
std::vector<GoldenResult> self_test(Model& model);

}  // namespace edgecompile
