#!/bin/sh
# Builds the targets on a stable toolchain and runs each for a number of executions (default 100,000).
set -eu
cd "$(dirname "$0")"
runs=${1:-100000}
host=$(rustc -vV | sed -n 's/^host: //p')
flags="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
flags="$flags -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
flags="$flags -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Zsanitizer=address"
# The flags need a target of their own, so that build scripts and macros are built without them.
RUSTC_BOOTSTRAP=1 RUSTFLAGS="$flags" cargo build --release --target "$host" --bins
for target in decode_update decode_open frames session_events policy; do
    mkdir -p "seeds/$target" "corpus/$target" "artifacts/$target"
    "${CARGO_TARGET_DIR:-target}/$host/release/$target" -runs="$runs" -max_len=4200 -timeout=5 \
        -print_final_stats=1 -artifact_prefix="artifacts/$target/" "corpus/$target" "seeds/$target"
done
