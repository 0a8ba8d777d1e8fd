// leiden_runs GRAPH SEEDS: the communities that Leiden (ten iterations) and Louvain find in a
// graph file, for the seeds 0 ... SEEDS - 1, as JSON on stdout. run.py compares them with others'.

#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <iostream>
#include <nlohmann/json.hpp>
#include <vector>

#include "icd/graph_file.h"
#include "solvers/leiden.h"

namespace {

template <typename Solve>
nlohmann::json sample(Solve solve) {
  const std::clock_t begin = std::clock();
  const std::vector<icd::Index> community = solve();
  const double seconds = static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC;
  return {{"community", community}, {"cpu_seconds", seconds}};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: leiden_runs GRAPH SEEDS\n";
    return 2;
  }
  const icd::Graph graph = icd::read_graph(argv[1]);
  nlohmann::json runs = {{"leiden", nlohmann::json::array()}, {"louvain", nlohmann::json::array()}};
  for (int seed = 0; seed < std::atoi(argv[2]); ++seed) {
    const auto s = static_cast<std::uint64_t>(seed);
    runs["leiden"].push_back(sample([&] { return icd::leiden(graph, 1, s, 10); }));
    runs["louvain"].push_back(sample([&] { return icd::louvain(graph, 1, s); }));
  }
  std::cout << runs.dump() << '\n';
}
