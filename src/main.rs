//! The `selvedge` binary: parse, build, run, drain.

use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("selvedge: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(selvedge::cli::run(std::env::args_os()));
    // Commands drain themselves, with their own deadline; what is left now may be stuck in a blocking call.
    runtime.shutdown_timeout(Duration::from_millis(500));
    code
}
