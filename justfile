# Everyday recipes. `just` alone lists them.

set positional-arguments := true

[private]
default:
    @just --list --unsorted

# Three real agents digest a directory (default: this repository)
demo *args:
    cargo run --release -- demo "$@"

# NATS, Redis and a coordinator on this machine, until Ctrl-C
dev *args:
    cargo run -- dev "$@"

# The tests; arguments go to cargo test
test *args:
    cargo test "$@"

# The seeded simulation; more seeds with SELVEDGE_SIM_SEEDS=5000
sim *args:
    cargo test --test sim "$@"

# Measure the fabric against its floor: just bench throughput; all, memory, ... see `selvedge bench --help`
bench *args:
    cargo run --release -- bench "$@"

# Time the core's hot functions by themselves; arguments go to Criterion: just bench-core fair
bench-core *args:
    cargo bench --bench core -- "$@"

# What the compiler can complain about
lint:
    cargo fmt --check
    cargo clippy --all-targets --all-features -- -D warnings
    cargo clippy --no-default-features --features client -- -D warnings
    cargo clippy --no-default-features --features agent -- -D warnings

# Format the code
fmt:
    cargo fmt

# Everything a change must pass
ci:
    .ci/run

# The API documentation
docs *args:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features "$@"

# Write docs/configuration.md and docs/cli.md anew from the table of options and the commands' help
docs-config:
    SELVEDGE_UPDATE_DOCS=1 cargo test --lib -- config:: cli::reference

# Record the walkthroughs in docs/architecture.md anew
docs-walkthroughs:
    SELVEDGE_UPDATE_DOCS=1 cargo test --test docs recorded

# Draw the plots of docs/fairness.md anew, from the queue that dispatches
plots:
    SELVEDGE_UPDATE_DOCS=1 cargo test --test docs plots

# Write nats/ anew from the definition in code
nats-export:
    UPDATE_NATS=1 cargo test --lib nats

# Fuzz each target for this many seconds; needs cargo-fuzz and a nightly toolchain
fuzz seconds="60":
    SELVEDGE_FUZZ_CORPUS=fuzz/corpus cargo test --test hostile same_seeds
    for target in envelope names journal config snapshot; do \
        cargo +nightly fuzz run $target -- -max_total_time={{ seconds }} -max_len=16384 -malloc_limit_mb=64 || exit 1; \
    done
