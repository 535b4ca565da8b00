// edgecompile-runner BUNDLE [--threads N] [--library FILE]: one bundle, served on standard input
// and output as wire.py describes, but for what needs a tokenizer. Verifies no hashes.
// With --self-test: asks the golden inputs, a line each; exit code 6 where an answer strays.
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <new>

#include "edgecompile.h"
#include "wire.h"

namespace edgecompile {
namespace {

using Clock = std::chrono::steady_clock;
using wire::Message;

constexpr char kUsage[] = "BUNDLE [--threads N] [--library FILE] [--self-test]";
constexpr int kLimitBroken = 6;  // exit code

struct Arguments {
  std::string bundle;
  bool self_test = false;
  Options options;
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Arguments parse_arguments(int count, char** words) {
  Arguments found;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if (word == "--threads" && i + 1 < count)
      found.options.threads = std::atoi(words[++i]);
    else if (word == "--library" && i + 1 < count)
      found.options.library = words[++i];
    else if (word == "--self-test")
      found.self_test = true;
    else if (word.rfind("--", 0) == 0 || !found.bundle.empty())
      throw Error("UsageError", "argument", word, kUsage);
    else
      found.bundle = word;
  }
  if (found.bundle.empty() || found.options.threads < 1)
    throw Error("UsageError", "arguments", "no bundle, or threads below 1", kUsage);
  return found;
}

Ids ids_of(const json::Value& list) {
  Ids ids;
  for (const json::Value& id : list.list("ids")) ids.push_back(id.integer("ids"));
  return ids;
}

Ids ids_of(const Message& message) {
  if (message.arrays.size() != 1 || message.arrays[0].dtype != "int64")
    throw Error("BadInputError", "request", "no array ids", "int64 [tokens]");
  const std::vector<uint8_t>& bytes = message.arrays[0].bytes;
  Ids ids(bytes.size() / sizeof(int64_t));
  if (!ids.empty()) std::memcpy(ids.data(), bytes.data(), bytes.size());
  return ids;
}

// Resident memory at its highest, in MiB, as the kernel tells it; "null" where it does not.
std::string peak_memory_mib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("VmHWM:", 0) == 0)
      return std::to_string(std::strtod(line.c_str() + 6, nullptr) / 1024);
  return "null";
}

std::string number(double value) {  // JSON as Python reads it
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", value);
  return std::isnan(value) ? "NaN" : std::isinf(value) ? "Infinity" : text;
}

std::string described(const GoldenResult& one) {
  return "{\"text\":" + json::quoted(one.text) + ",\"deviation\":" + number(one.deviation) +
         ",\"tolerance\":" + number(one.tolerance) + ",\"fault\":" + json::quoted(one.fault) +
         ",\"passed\":" + (one.passed() ? "true}" : "false}");
}

// One line an input; the number of those that failed.
int tell_self_test(const Arguments& arguments) {
  Model model(arguments.bundle, arguments.options);
  int failed = 0;
  for (const GoldenResult& one : self_test(model)) {
    failed += !one.passed();
    std::printf("%s %s\n", one.passed() ? "pass" : "FAIL", described(one).c_str());
  }
  return failed;
}

class Runner {
 public:
  Runner(const Arguments& arguments, std::FILE* replies)
      : threads_(arguments.options.threads), replies_(replies),
        model_(arguments.bundle, arguments.options), load_seconds_(seconds_since(start_)) {}

  void serve(std::FILE* requests) {
    hello();
    while (auto message = wire::receive(requests)) {
      std::string op;
      try {
        op = message->header["op"].text("op");
        answer(op, *message);
      } catch (const Error& error) {
        wire::send_error(replies_, error);
      } catch (const std::bad_alloc&) {
        wire::send_error(replies_, Error("ResourceError", "request " + op, "out of memory"));
      }
      if (op == "close") return;
    }
  }

 private:
  void answer(const std::string& op, const Message& message) {
    static const std::map<std::string, void (Runner::*)(const Message&)> operations = {
        {"embed", &Runner::embed},       {"classify", &Runner::classify},
        {"logits", &Runner::logits},     {"generate", &Runner::generate},
        {"run", &Runner::run},           {"peak_memory", &Runner::peak_memory},
        {"self_test", &Runner::self_test}, {"close", &Runner::close}};
    if (op == "hello") return hello();
    const auto found = operations.find(op);
    if (found == operations.end()) {
      std::string known = "hello";
      for (const auto& [name, _] : operations) known += ", " + name;
      throw Error("UsageError", "op", op, known);
    }
    (this->*found->second)(message);
  }

  void hello() {
    const std::string engine = json::quoted(engine_name());
    wire::send(replies_, false,
               "\"task\":" + json::quoted(model_.task()) + ",\"engine\":" + engine +
                   ",\"versions\":{" + engine + ":" + json::quoted(model_.engine().version()) +
                   "},\"threads\":" + std::to_string(threads_) +
                   ",\"load_seconds\":" + std::to_string(load_seconds_) +
                   ",\"pid\":" + std::to_string(getpid()));
  }

  void embed(const Message& message) {
    const json::Value& normalize = message.header["normalize"];
    rows(message, "embeddings", [&](const Ids& ids) {
      return model_.embed(ids, normalize.is_null() ? -1 : normalize.boolean("normalize"));
    });
  }

  void classify(const Message& message) {
    rows(message, "probabilities", [&](const Ids& ids) { return model_.classify(ids); });
  }

  // One row a token list, float32 [lists, width].
  void rows(const Message& message, const char* name,
            const std::function<Floats(const Ids&)>& compute) {
    Floats all;
    const auto& lists = message.header["ids"].list("ids");
    for (const json::Value& list : lists) {
      const Floats row = compute(ids_of(list));
      all.insert(all.end(), row.begin(), row.end());
    }
    const int64_t count = static_cast<int64_t>(lists.size());
    const int64_t width = count ? static_cast<int64_t>(all.size()) / count : 0;
    wire::send(replies_, false, "", {wire::floats(name, {count, width}, all.data())});
  }

  void logits(const Message& message) {
    const Ids ids = ids_of(message);
    size_t left = ids.size();
    model_.logits(ids, [&](const float* values, size_t count, size_t vocabulary) {
      left -= count;
      const std::vector<int64_t> shape = {static_cast<int64_t>(count),
                                          static_cast<int64_t>(vocabulary)};
      wire::send(replies_, left > 0, "", {wire::floats("logits", shape, values)});
    });
  }

  void generate(const Message& message) {
    const auto wanted = message.header["new_tokens"].integer("new_tokens");
    if (wanted < 0) throw Error("UsageError", "new_tokens", std::to_string(wanted), "0 or more");
    std::string tokens;
    size_t count = 0;
    double first = 0;
    const auto start = Clock::now();
    const auto each = [&](int64_t token, const float*, size_t) {
      if (!count++) first = seconds_since(start);
      tokens += (tokens.empty() ? "" : ",") + std::to_string(token);
      return true;
    };
    model_.generate(ids_of(message), static_cast<size_t>(wanted), each);
    const double rest = seconds_since(start) - first;
    wire::send(replies_, false,
               "\"tokens\":[" + tokens + "],\"first_token_ms\":" + std::to_string(first * 1000) +
                   ",\"tokens_per_second\":" +
                   (count > 1 ? std::to_string((count - 1) / rest) : "null"));
  }

  void run(const Message& message) {
    wire::send(replies_, false, "", model_.engine().run(message.arrays));
  }

  void self_test(const Message&) {
    std::string results;
    for (const GoldenResult& one : edgecompile::self_test(model_))
      results += (results.empty() ? "" : ",") + described(one);
    wire::send(replies_, false, "\"results\":[" + results + "]");
  }

  void peak_memory(const Message&) {
    wire::send(replies_, false, "\"mib\":" + peak_memory_mib());
  }

  void close(const Message&) { wire::send(replies_, false, ""); }

  const Clock::time_point start_ = Clock::now();
  int threads_;
  std::FILE* replies_;
  Model model_;
  double load_seconds_;
};

int serve(const Arguments& arguments) {
  // Standard output is for replies alone: what an engine prints goes to standard error.
  std::FILE* replies = fdopen(dup(STDOUT_FILENO), "wb");
  dup2(STDERR_FILENO, STDOUT_FILENO);
  try {
    Runner(arguments, replies).serve(stdin);
    return 0;
  } catch (const Error& error) {
    wire::send_error(replies, error);
    return error.exit_code();
  }
}

}  // namespace
}  // namespace edgecompile

int main(int count, char** words) {
  try {
    const edgecompile::Arguments arguments = edgecompile::parse_arguments(count, words);
    if (!arguments.self_test) return edgecompile::serve(arguments);
    return edgecompile::tell_self_test(arguments) ? edgecompile::kLimitBroken : 0;
  } catch (const edgecompile::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return error.exit_code();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
