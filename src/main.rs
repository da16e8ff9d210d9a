//! The `selvedge` binary: parse, build, run, drain.

use std::process::ExitCode;
use std::time::Duration;

/// A task is some dozen small allocations in every process it passes through.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// After how many milliseconds freed pages go back to the system: `mi_option_purge_delay`, for which the crate has no name.
/// At the default of a second a coordinator at full speed holds half as much again as it needs.
const PURGE_DELAY: (libmimalloc_sys::mi_option_t, i64) = (15, 0);
const _: () = assert!(
    libmimalloc_sys::mi_option_use_numa_nodes == PURGE_DELAY.0 + 1,
    "the options of mimalloc are numbered in another way"
);

fn main() -> ExitCode {
    // SAFETY: nothing else runs yet.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY.0, PURGE_DELAY.1) };
    // What a main thread has: unoptimised builds keep whole commands on the stack.
    let stack = 8 << 20;
    let runtime = tokio::runtime::Builder::new_multi_thread().thread_stack_size(stack).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("selvedge: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    // On a worker: the loops a command runs are woken by others of the runtime, which is cheaper there than from
    // without.
    let args: Vec<_> = std::env::args_os().collect();
    let command = runtime.spawn(selvedge::cli::run(args));
    let code = runtime.block_on(command).unwrap_or_else(|broken| {
        eprintln!("selvedge: {broken}");
        ExitCode::FAILURE
    });
    // Commands drain themselves, with their own deadline; what is left now may be stuck in a blocking call.
    runtime.shutdown_timeout(Duration::from_millis(500));
    code
}
