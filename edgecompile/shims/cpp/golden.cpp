#include <algorithm>
#include <cmath>
#include <map>

#include "edgecompile.h"

// As runtime/golden.py, but for the token ids: those come with the case.
namespace edgecompile {
namespace {

constexpr int64_t kFormat = 1;
constexpr size_t kLikeliest = 16;  // tokens whose log-probabilities are kept a step

double cosine_gap(const json::Value& expected, const Floats& found) {
  const auto& values = expected.list("golden: values");
  if (values.size() != found.size()) return NAN;
  double dot = 0, a = 0, b = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const double x = values[i].number("golden: values"), y = found[i];
    dot += x * y, a += x * x, b += y * y;
  }
  return 1 - dot / std::sqrt(a * b);
}

std::vector<double> log_softmax(const float* logits, size_t vocabulary) {
  const double top = *std::max_element(logits, logits + vocabulary);
  double sum = 0;
  for (size_t i = 0; i < vocabulary; ++i) sum += std::exp(logits[i] - top);
  std::vector<double> scores(logits, logits + vocabulary);
  for (double& score : scores) score -= top + std::log(sum);
  return scores;
}

// KL divergence in nats of the step's likeliest tokens, all others taken as one.
double divergence(const json::Value& step, const std::vector<double>& scores) {
  std::vector<double> sorted = scores;
  const size_t kept = std::min(kLikeliest, sorted.size());
  std::nth_element(sorted.begin(), sorted.begin() + (kept - 1), sorted.end(), std::greater<>());
  const double floor = sorted[kept - 1];  // what is not among the likeliest has at most that
  const auto& tokens = step["likeliest"].list("golden: likeliest");
  const auto& before = step["log_probabilities"].list("golden: log_probabilities");
  double sum = 0, all_p = 0, all_q = 0;
  for (size_t i = 0; i < std::min(tokens.size(), before.size()); ++i) {
    const auto token = static_cast<size_t>(tokens[i].integer("golden: likeliest"));
    if (token >= scores.size()) return NAN;
    const double log_p = before[i].number("golden: log_probabilities");
    const double log_q = std::max(scores[token], floor);
    sum += std::exp(log_p) * (log_p - log_q);
    all_p += std::exp(log_p), all_q += std::exp(log_q);
  }
  const double rest_p = std::max(1 - all_p, 1e-9), rest_q = std::max(1 - all_q, 1e-9);
  return sum + rest_p * std::log(rest_p / rest_q);
}

// Greedy token after greedy token; the path ends where it leaves the one that shipped.
void follow(Model& model, const Ids& ids, const json::Value& steps, GoldenResult& result) {
  const auto& expected = steps.list("golden: steps");
  size_t at = 0;
  const auto each = [&](int64_t token, const float* logits, size_t vocabulary) {
    const json::Value& step = expected[at];
    const double strayed = divergence(step, log_softmax(logits, vocabulary));
    if (!(strayed <= result.deviation)) result.deviation = strayed;  // which keeps NaN
    const int64_t shipped = step["token"].integer("golden: token");
    if (token != shipped && step["clear"].boolean("golden: clear"))
      result.fault = "greedy token " + std::to_string(at) + " is " + std::to_string(token) +
                     ", not " + std::to_string(shipped);
    ++at;
    return token == shipped && !std::isnan(result.deviation);
  };
  model.generate(ids, expected.size(), each);
}

}  // namespace

std::vector<GoldenResult> self_test(Model& model) {
  const json::Value& name = model.manifest()["golden"];
  if (name.is_null())
    throw Error("UnsupportedError", "self-test", "no golden inputs in this bundle", "a newer build");
  const std::string path = path_in(model.bundle(), name.text("manifest: golden"));
  const json::Value table = json::read(path);
  if (table["format"].integer(path) != kFormat)
    throw Error("BadInputError", path, "another format", std::to_string(kFormat));
  std::vector<GoldenResult> results;
  for (const json::Value& expected : table["cases"].list(path)) {
    GoldenResult result{expected["text"].text(path), 0, table["tolerance"].number(path), ""};
    Ids ids;
    for (const json::Value& id : expected["ids"].list(path)) ids.push_back(id.integer(path));
    if (model.task() == "text-generation")
      follow(model, ids, expected["steps"], result);
    else if (model.task() == "classification")
      result.deviation = cosine_gap(expected["values"], model.classify(ids));
    else
      result.deviation = cosine_gap(expected["values"], model.embed(ids));
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace edgecompile
