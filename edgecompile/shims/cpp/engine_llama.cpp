// llama.cpp through its C API. Processor backends that were built as plug-ins (GGML_BACKEND_DL) are
// looked for beside the library, and the best that this processor can run is taken.
#include <dlfcn.h>

#include <algorithm>
#include <mutex>

#include <ggml-backend.h>
#include <llama.h>

#include "edgecompile.h"

namespace edgecompile {
namespace {

constexpr size_t kFirstContext = 512;  // tokens; longer ones double it, up to the model's context
constexpr size_t kBatch = 512;         // tokens a call

struct FreeModel {
  void operator()(llama_model* model) const { llama_model_free(model); }
};
struct FreeContext {
  void operator()(llama_context* context) const { llama_free(context); }
};

void load_backends() {
  static std::once_flag once;
  std::call_once(once, [] {
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    Dl_info found{};
    std::string folder;
    if (dladdr(reinterpret_cast<void*>(&ggml_backend_load_all_from_path), &found) &&
        found.dli_fname)
      folder = found.dli_fname;
    folder = folder.substr(0, folder.rfind('/'));
    ggml_backend_load_all_from_path(folder.c_str());
    llama_backend_init();
  });
}

// A batch of one sequence over memory of its own.
class Batch {
 public:
  Batch(const int64_t* ids, size_t count, size_t first, bool last_only)
      : batch_(llama_batch_init(static_cast<int32_t>(count), 0, 1)) {
    for (size_t i = 0; i < count; ++i) {
      batch_.token[i] = static_cast<llama_token>(ids[i]);
      batch_.pos[i] = static_cast<llama_pos>(first + i);
      batch_.n_seq_id[i] = 1;
      batch_.seq_id[i][0] = 0;
      batch_.logits[i] = !last_only || i + 1 == count;
    }
    batch_.n_tokens = static_cast<int32_t>(count);
  }
  ~Batch() { llama_batch_free(batch_); }
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  const llama_batch& get() const { return batch_; }

 private:
  llama_batch batch_;
};

class LlamaEngine : public Engine {
 public:
  LlamaEngine(const std::string& file, const json::Value& manifest, const Options& options)
      : threads_(options.threads),
        encoder_(manifest["model"]["task"].text("model.task") == "embedding"),
        small_cache_(manifest["engine"]["options"].integer_or("kv_cache_bits", 16) == 8) {
    load_backends();
    model_.reset(llama_model_load_from_file(file.c_str(), llama_model_default_params()));
    if (!model_)
      throw Error("BadInputError", file, "llama.cpp could not open it", "a GGUF file it supports");
    const auto trained = static_cast<int64_t>(llama_model_n_ctx_train(model_.get()));
    const int64_t named = manifest["engine"]["options"].integer_or("n_ctx", 0);
    limit_ = static_cast<size_t>(named > 0 ? std::min(named, trained) : trained);
    vocabulary_ = llama_vocab_n_tokens(llama_model_get_vocab(model_.get()));
  }

  std::string version() const override { return std::string("ggml ") + ggml_version(); }

  Floats encode(const Ids& ids) override {
    open(ids.size(), ids.size());
    decode(ids.data(), ids.size(), false);
    const float* vector = llama_get_embeddings_seq(context_.get(), 0);
    if (!vector)
      throw Error("EdgecompileError", "llama.cpp", "no pooled vector", "a file with a pooling type");
    return Floats(vector, vector + llama_model_n_embd(model_.get()));
  }

  void begin(size_t length) override { open(length, 0); }

  void feed(const Ids& ids, bool last_only, const LogitSink& sink) override {
    if (ids.empty() || length_ + ids.size() > capacity_)
      throw Error("UsageError", "tokens", std::to_string(length_ + ids.size()),
                  "1 to " + std::to_string(capacity_) + " with those before");
    const size_t chunk = last_only ? kBatch : kLogitRows;
    for (size_t start = 0; start < ids.size(); start += chunk) {
      const size_t count = std::min(chunk, ids.size() - start);
      decode(ids.data() + start, count, last_only);
      if (last_only && start + count < ids.size()) continue;
      const size_t rows = last_only ? 1 : count;
      const auto first = static_cast<int32_t>(last_only ? count - 1 : 0);
      const float* logits = llama_get_logits_ith(context_.get(), first);
      sink(logits, rows, static_cast<size_t>(vocabulary_));
    }
  }

 private:
  // An empty past with room for so many tokens; `whole`: tokens that one batch must take (encoders).
  void open(size_t length, size_t whole) {
    if (length > limit_)
      throw Error("UsageError", "tokens", std::to_string(length), "at most " +
                  std::to_string(limit_));
    length_ = 0;
    if (context_ && length <= capacity_) {
      if (const llama_memory_t memory = llama_get_memory(context_.get()))
        llama_memory_clear(memory, whole > 0);
      return;
    }
    size_t capacity = kFirstContext;
    while (capacity < length) capacity *= 2;
    capacity_ = std::min(capacity, limit_);
    llama_context_params parameters = llama_context_default_params();
    parameters.n_ctx = static_cast<uint32_t>(capacity_);
    // An encoder sees its batch at once.
    parameters.n_batch = parameters.n_ubatch =
        static_cast<uint32_t>(encoder_ ? capacity_ : std::min(kBatch, capacity_));
    parameters.n_threads = parameters.n_threads_batch = threads_;
    parameters.no_perf = true;
    parameters.embeddings = encoder_;
    if (small_cache_) {
      parameters.type_k = parameters.type_v = GGML_TYPE_Q8_0;
      parameters.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;  // no other kernel reads such
    }
    context_.reset(llama_init_from_model(model_.get(), parameters));
    if (!context_)
      throw Error("ResourceError", "llama.cpp", "no context of " + std::to_string(capacity_),
                  "memory for it");
  }

  void decode(const int64_t* ids, size_t count, bool last_only) {
    const Batch batch(ids, count, length_, last_only);
    const int code = llama_decode(context_.get(), batch.get());
    if (code)
      throw Error("EdgecompileError", "llama.cpp",
                  "code " + std::to_string(code) + " for " + std::to_string(count) + " tokens", "0");
    length_ += count;
  }

  int threads_;
  bool encoder_, small_cache_;
  std::unique_ptr<llama_model, FreeModel> model_;
  std::unique_ptr<llama_context, FreeContext> context_;
  size_t limit_ = 0, capacity_ = 0, length_ = 0;
  int32_t vocabulary_ = 0;
};

}  // namespace

const char* engine_name() { return "llama_cpp"; }

std::unique_ptr<Engine> open_engine(const std::string& bundle, const json::Value& manifest,
                                    const Options& options) {
  const std::string file = path_in(bundle, manifest["engine"]["file"].text("engine.file"));
  return std::make_unique<LlamaEngine>(file, manifest, options);
}

}  // namespace edgecompile
