//! The binary as a user meets it, as far as no server is needed.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The binary in an empty directory, with nothing of our own environment that could set an option.
fn selvedge(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args(args).current_dir(dir).env_clear().env("HOME", dir).stdin(Stdio::null());
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    selvedge(dir, args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[test]
fn a_mistake_in_the_file_is_shown_with_file_line_and_caret() {
    let dir = tempfile::tempdir().unwrap();
    let text =
        "[nats]\npassword = \"hunter2\"\n\n[redis]\nurll = \"redis://localhost\"\nstream_maxlen = \"many\"\n";
    std::fs::write(dir.path().join("selvedge.toml"), text).unwrap();
    let output = run(dir.path(), &["config", "check"]);
    let shown = stderr(&output);
    assert_eq!(code(&output), 78, "{shown}");
    for part in [
        "CONFIG_UNKNOWN_KEY",
        "unknown key in [redis]: `urll`",
        "selvedge.toml:5:1",
        "did you mean `url`?",
        "CONFIG_BAD_VALUE",
        "selvedge.toml:6:17",
        "stream_maxlen = \"many\"",
    ] {
        assert!(shown.contains(part), "{part} is missing in\n{shown}");
    }
    assert!(!shown.contains("hunter2") && !shown.contains('\u{1b}'), "{shown}");
    assert_eq!(stdout(&output), "");
}

#[test]
fn the_same_mistakes_as_json_are_one_object_a_line_on_stderr() {
    let dir = tempfile::tempdir().unwrap();
    let output = selvedge(dir.path(), &["config", "check", "--json"])
        .env("REDIS_TMS_MAX_INDEX_SCAN", "-1")
        .output()
        .unwrap();
    assert_eq!(code(&output), 78);
    let line: serde_json::Value = serde_json::from_str(stderr(&output).trim()).unwrap();
    assert_eq!(line["error"]["code"], "CONFIG_BAD_VALUE");
    assert_eq!(line["error"]["where"], "env REDIS_TMS_MAX_INDEX_SCAN");
    assert!(line["error"]["what"].as_str().unwrap().contains("REDIS_TMS_MAX_INDEX_SCAN=\"-1\""));
    assert!(line["error"]["do"].is_string());
}

#[test]
fn the_printed_template_is_a_configuration_that_checks_out() {
    let dir = tempfile::tempdir().unwrap();
    let template = stdout(&run(dir.path(), &["config", "template"]));
    std::fs::write(dir.path().join("mine.toml"), &template).unwrap();
    let output = run(dir.path(), &["config", "check", "mine.toml"]);
    assert_eq!((code(&output), stdout(&output).as_str()), (0, "mine.toml: fine\n"), "{}", stderr(&output));
}

#[test]
fn a_broken_configuration_does_not_keep_anybody_from_the_template() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("selvedge.toml"), "][").unwrap();
    assert_eq!(code(&run(dir.path(), &["config", "template"])), 0);
    assert_eq!(code(&run(dir.path(), &["config", "show"])), 78);
}

#[test]
fn show_says_where_each_value_comes_from_and_masks_secrets() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("selvedge.toml"), "[coordinator]\nreplicas = 3\n").unwrap();
    let args = ["config", "show", "--origin", "--redis-url", "redis://:hunter2@cache:6379"];
    let output =
        selvedge(dir.path(), &args).env("NATS_PASSWORD", "hunter3").env("NATS_USER", "amy").output().unwrap();
    let shown = stdout(&output);
    let line = |key: &str| {
        shown.lines().find(|line| line.trim_start().starts_with(key)).unwrap_or_default().to_owned()
    };
    assert!(line("coordinator.replicas").ends_with("selvedge.toml:2"), "{shown}");
    assert!(line("nats.user").ends_with("env NATS_USER"), "{shown}");
    assert!(line("redis.url").ends_with("flag --redis-url"), "{shown}");
    assert!(line("redis.stream_maxlen").ends_with("default"), "{shown}");
    assert!(!shown.contains("hunter"), "{shown}");

    let json =
        selvedge(dir.path(), &["config", "show", "--json"]).env("NATS_PASSWORD", "hunter3").output().unwrap();
    let value: serde_json::Value = serde_json::from_str(&stdout(&json)).unwrap();
    assert_eq!(value["coordinator"]["replicas"]["value"], 3);
    assert_eq!(value["nats"]["password"]["value"], "********");
    assert_eq!(value["nats"]["user"]["value"], serde_json::Value::Null);
}

#[test]
fn a_flag_with_a_bad_value_names_itself() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(dir.path(), &["--redis-url", "http://x", "config", "check"]);
    assert_eq!(code(&output), 78);
    assert!(stderr(&output).contains("--redis-url \"http://x\""), "{}", stderr(&output));
}

#[test]
fn wrong_usage_exits_2_and_help_names_the_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(code(&run(dir.path(), &["no-such-verb"])), 2);
    assert_eq!(code(&run(dir.path(), &[])), 2);
    let help = run(dir.path(), &["--help"]);
    assert_eq!(code(&help), 0);
    for part in ["Exit codes:", "69", "75", "78", "--log-format", "config"] {
        assert!(stdout(&help).contains(part), "{part}");
    }
    let version = run(dir.path(), &["--version"]);
    assert_eq!(stdout(&version), format!("selvedge {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_reader_that_goes_away_is_not_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output =
        selvedge(dir.path(), &["config", "template"]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
}

#[test]
fn completions_know_the_commands() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = run(dir.path(), &["completions", shell]);
        assert_eq!(code(&output), 0);
        assert!(stdout(&output).contains("completions"), "{shell}");
    }
}

#[test]
fn a_log_filter_that_makes_no_sense_is_a_configuration_error() {
    let dir = tempfile::tempdir().unwrap();
    let output =
        selvedge(dir.path(), &["config", "check"]).env("RUST_LOG", "selvedge=loudest").output().unwrap();
    assert_eq!(code(&output), 78, "{}", stderr(&output));
    assert!(stderr(&output).contains("RUST_LOG"), "{}", stderr(&output));
}

#[test]
fn the_selected_nats_context_counts_unless_it_is_told_not_to() {
    let dir = tempfile::tempdir().unwrap();
    let nats = dir.path().join(".config/nats");
    std::fs::create_dir_all(nats.join("context")).unwrap();
    std::fs::write(nats.join("context.txt"), "prod").unwrap();
    std::fs::write(
        nats.join("context/prod.json"),
        r#"{"url":"nats://prod:4222","user":"amy","password":"hunter2"}"#,
    )
    .unwrap();
    let line = |args: &[&str], key: &str| {
        let args = [&["config", "show", "--origin"], args].concat();
        let shown = stdout(&run(dir.path(), &args));
        assert!(!shown.contains("hunter2"));
        shown.lines().find(|line| line.trim_start().starts_with(key)).unwrap_or_default().to_owned()
    };
    assert!(line(&[], "nats.urls").ends_with("NATS context prod"));
    assert!(line(&[], "nats.password ").contains("********"));
    assert!(line(&["--no-context"], "nats.urls").ends_with("default"));
    assert!(line(&["-s", "other:4222"], "nats.urls").ends_with("flag --server"));
    assert!(
        line(&["--creds", "/x"], "nats.user").ends_with("default"),
        "a login of the context must not be mixed in"
    );
    let missing = run(dir.path(), &["--context", "nowhere", "config", "check"]);
    assert_eq!(code(&missing), 78);
    assert!(stderr(&missing).contains("CONFIG_CONTEXT"), "{}", stderr(&missing));
}
