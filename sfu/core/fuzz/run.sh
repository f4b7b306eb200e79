#!/usr/bin/env bash
# Build every fuzz target and run each for N seconds (default 60): run.sh [seconds] [target...]
#
# The stable compiler knows the coverage passes that libFuzzer needs; only the sanitizers would want a nightly one, and
# the parsers under test are safe Rust. Corpora grow in corpus/, crashes are written to artifacts/.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-60}
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    mapfile -t targets < <(cd targets && for file in *.rs; do echo "${file%.rs}"; done)
fi
host=$(rustc -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    coverage+=" -Cllvm-args=-sanitizer-coverage-$option"
done
# With --target the flags leave build scripts alone.
RUSTFLAGS="$coverage -Ccodegen-units=1 --cfg fuzzing" \
    cargo build --release --target "$host" "${targets[@]/#/--bin=}"
for target in "${targets[@]}"; do
    mkdir -p "corpus/$target" "artifacts/$target"
    echo "== $target: $seconds s"
    # What the tests read is a good beginning.
    seeds=()
    [ ! -d "../proto/tests/fixtures/$target" ] || seeds=("../proto/tests/fixtures/$target")
    "target/$host/release/$target" "corpus/$target" "${seeds[@]}" -max_total_time="$seconds" -max_len=8192 -timeout=5 \
        -rss_limit_mb=512 -artifact_prefix="artifacts/$target/" -print_final_stats=1 -verbosity=0
done
