//! The `selvedge` binary: parse, build, run, drain.

use std::process::ExitCode;
use std::time::Duration;

/// A task is some dozen small allocations in every process it passes through.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
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
