#!/bin/sh
# Builds the fuzzers with ASan and UBSan, and runs each for SECONDS (30) from seeds that Python
# writes. What a fuzzer finds is kept as BUILD/<reader>-crash-…; BUILD/corpus is gone on with.
#
#   cpp/fuzz/run.sh [SECONDS [BUILD]]
set -eu
repository=$(cd "$(dirname "$0")/../.." && pwd)
seconds=${1:-30}
build=${2:-$repository/build/cpp-fuzz}
python=${PYTHON:-$repository/.venv/bin/python}

cmake -S "$repository/cpp" -B "$build" \
  -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DSEGVIT_BUILD_FUZZERS=ON -DSEGVIT_BUILD_TOOL=ON -DSEGVIT_BUILD_EXAMPLES=OFF \
  -DSEGVIT_BUILD_TESTS=OFF -DSEGVIT_OPENVINO=OFF \
  -DSEGVIT_SANITIZE=fuzzer-no-link,address,undefined >/dev/null
cmake --build "$build" --target fuzzers --parallel
(cd "$repository" && "$python" -m cpp.fuzz.make_seeds --out "$build/seeds")

for reader in manifest engines png jpeg npz; do
  echo "fuzzing $reader for $seconds s"
  mkdir -p "$build/corpus/$reader"
  "$build/fuzz/fuzz_$reader" -max_total_time="$seconds" -max_len=8192 -timeout=10 \
    -rss_limit_mb=2048 -artifact_prefix="$build/$reader-" -verbosity=0 -print_final_stats=1 \
    "$build/corpus/$reader" "$build/seeds/$reader" 2>"$build/$reader.log" || {
      cat "$build/$reader.log"
      echo "error: fuzz_$reader failed; its input is beside $build/$reader.log"
      exit 1
    }
  grep number_of_executed_units "$build/$reader.log"
done
