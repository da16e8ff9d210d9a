//! The layers together: who outranks whom, how mistakes are told, and that the table is right.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

fn no_context(_: Option<&str>) -> Result<Option<ContextLayer>, String> {
    Ok(None)
}

fn with_env(vars: &[(&str, &str)]) -> Sources {
    let env = vars.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
    Sources { env, ..Sources::default() }
}

fn with_file(dir: &tempfile::TempDir, text: &str) -> Sources {
    let path = dir.path().join("selvedge.toml");
    std::fs::write(&path, text).unwrap();
    Sources { file: Some(path), ..Sources::default() }
}

fn context(_: Option<&str>) -> Result<Option<ContextLayer>, String> {
    let values = vec![("nats.urls", "nats://ctx".to_owned()), ("nats.creds", "/ctx.creds".to_owned())];
    Ok(Some(ContextLayer { name: "prod".to_owned(), values }))
}

fn origin(loaded: &Loaded, key: &str) -> String {
    rows(loaded).into_iter().find(|row| row.key == key).unwrap().origin
}

#[test]
fn without_any_source_every_option_has_its_documented_default() {
    let settings = load(&Sources::default(), &no_context).unwrap().settings;
    assert_eq!(settings.redis.stream_maxlen, 10_000);
    assert_eq!(settings.redis.stream_ttl_seconds, 3_600);
    assert_eq!((settings.redis.tms_max_index_scan, settings.redis.tms_list_scan_buffer), (200, 50));
    assert_eq!(settings.coordinator.owner_ttl, Duration::from_secs(2));
    assert_eq!(settings.coordinator.max_payload_bytes, ByteSize(256 << 10));
    assert_eq!(settings.coordinator.default_plan.as_str(), "free");
    assert_eq!(settings.nats.urls.0[0].expose(), "nats://127.0.0.1:4222");
}

#[test]
fn a_flag_outranks_a_variable_outranks_the_file_outranks_the_context_outranks_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let mut sources = Sources::default();
    let url = |sources: &Sources| {
        let loaded = load(sources, &context).unwrap();
        (loaded.settings.nats.urls.0[0].expose().to_owned(), origin(&loaded, "nats.urls"))
    };
    assert_eq!(url(&sources), ("nats://ctx".into(), "NATS context prod".into()));
    sources.file = with_file(&dir, "[nats]\nurls = [\"nats://file\"]\n").file;
    let (value, from) = url(&sources);
    assert!(value == "nats://file" && from.ends_with("selvedge.toml:2"), "{value} {from}");
    sources.env.insert("NATS_URL".into(), "nats://env".into());
    assert_eq!(url(&sources), ("nats://env".into(), "env NATS_URL".into()));
    sources.flag("nats.urls", "--server", Some("nats://flag"));
    assert_eq!(url(&sources), ("nats://flag".into(), "flag --server".into()));
    let bare = load(&Sources::default(), &no_context).unwrap();
    assert_eq!(origin(&bare, "nats.urls"), "default");
}

#[test]
fn a_way_to_log_in_shuts_out_the_ways_below_it() {
    let loaded = load(&with_env(&[("NATS_USER", "amy")]), &context).unwrap();
    assert_eq!(loaded.settings.nats.creds, None);
    let mut sources = with_env(&[("NATS_PASSWORD", "hunter2")]);
    sources.flag("nats.user", "--user", Some("amy"));
    let nats = load(&sources, &context).unwrap().settings.nats;
    assert_eq!((nats.user.as_deref(), nats.password.unwrap().expose()), (Some("amy"), "hunter2"));
    let nats = load(&with_env(&[("NATS_URL", "nats://a:b@host")]), &context).unwrap().settings.nats;
    assert_eq!(nats.creds, None);
    assert_eq!(
        load(&Sources::default(), &context).unwrap().settings.nats.creds,
        Some(PathBuf::from("/ctx.creds"))
    );
}

#[test]
fn the_named_context_is_the_one_asked_for() {
    let asked = std::cell::RefCell::new(None);
    let loader = |name: Option<&str>| {
        *asked.borrow_mut() = name.map(str::to_owned);
        Err("no such context: nowhere".to_owned())
    };
    let error = load(&with_env(&[("NATS_CONTEXT", "nowhere")]), &loader).unwrap_err();
    assert_eq!(asked.borrow().as_deref(), Some("nowhere"));
    assert_eq!((error.problems[0].code(), error.problems[0].place()), ("CONFIG_CONTEXT", "env NATS_CONTEXT"));
}

#[test]
fn a_bad_variable_is_named_with_its_value() {
    let error = load(&with_env(&[("REDIS_STREAM_MAXLEN", "lots")]), &no_context).unwrap_err();
    let problem = &error.problems[0];
    assert_eq!(problem.to_string(), "REDIS_STREAM_MAXLEN=\"lots\": expected a whole number, zero or more");
    assert_eq!(problem.place(), "env REDIS_STREAM_MAXLEN");
    assert!(problem.advice().unwrap().contains("redis.stream_maxlen"));
}

#[test]
fn a_value_out_of_range_is_refused_where_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let error =
        load(&with_file(&dir, "[coordinator]\nreplicas = 9\nowner_ttl = \"2\"\n"), &no_context).unwrap_err();
    let messages: Vec<_> = error.problems.iter().map(|p| p.to_string()).collect();
    assert_eq!(messages[0], "`coordinator.replicas`: must be at most 5");
    assert!(
        messages[1].starts_with("`coordinator.owner_ttl`: expected a duration with its unit"),
        "{messages:?}"
    );
    assert!(error.problems[1].place().ends_with("selvedge.toml:3:13"), "{}", error.problems[1].place());
}

#[test]
fn every_mistake_is_told_at_once_across_the_layers() {
    let dir = tempfile::tempdir().unwrap();
    let mut sources = with_file(&dir, "[redis]\nurll = \"x\"\n[log]\nformat = \"xml\"\n");
    sources.env = with_env(&[("NATS_TIMEOUT", "5")]).env;
    sources.flag("redis.url", "--redis-url", Some("http://x"));
    let error = load(&sources, &no_context).unwrap_err();
    assert_eq!(error.problems.len(), 4, "{error}");
}

#[test]
fn an_empty_variable_counts_as_not_set() {
    let loaded = load(&with_env(&[("REDIS_URL", ""), ("NATS_USER", "")]), &no_context).unwrap();
    assert_eq!(origin(&loaded, "redis.url"), "default");
}

#[test]
fn a_variable_that_sets_nothing_is_mentioned() {
    let loaded = load(&with_env(&[("SELVEDGE_COORDINATOR_REPLICA", "3")]), &no_context).unwrap();
    assert_eq!(
        loaded.warnings,
        ["SELVEDGE_COORDINATOR_REPLICA sets nothing; did you mean SELVEDGE_COORDINATOR_REPLICAS?"]
    );
    let quiet =
        with_env(&[("SELVEDGE_NATS_SERVER", "/x"), ("SELVEDGE_TENANT", "a"), ("SELVEDGE_CONFIG", "")]);
    assert!(load(&quiet, &no_context).unwrap().warnings.is_empty());
}

#[test]
fn half_a_pair_is_refused() {
    for (name, value) in [("NATS_CERT", "/c.pem"), ("NATS_JWT", "eyJ0")] {
        let error = load(&with_env(&[(name, value)]), &no_context).unwrap_err();
        assert_eq!(error.problems[0].code(), "CONFIG_CONFLICT", "{name}");
    }
}

#[test]
fn no_secret_is_shown_by_debug_show_or_an_error() {
    let vars = [
        ("NATS_URL", "nats://amy:canary1@h"),
        ("NATS_PASSWORD", "canary2"),
        ("NATS_TOKEN", "canary3"),
        ("NATS_SEED", "canary4"),
        ("NATS_JWT", "canary5"),
        ("REDIS_URL", "redis://:canary6@h"),
    ];
    let loaded = load(&with_env(&vars), &no_context).unwrap();
    let shown = format!("{:?}{:?}{}", loaded.settings, rows(&loaded), show_json(&loaded));
    assert!(!shown.contains("canary"), "{shown}");
    let error =
        load(&with_env(&[("REDIS_URL", "http://:canary7@h"), ("NATS_URL", "x://a:canary8@h")]), &no_context);
    let error = error.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
}

#[test]
fn the_template_is_valid_with_every_line_commented_in_and_says_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let as_is = load(&with_file(&dir, &template()), &no_context).unwrap();
    assert!(rows(&as_is).iter().all(|row| row.origin == "default"));
    // Comments have a space after the #, options have none.
    let commented_in: String = template()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let (_, written, problems) = file::read("template", &commented_in);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(written.len(), all().count());
    for one in written {
        let default = if one.option.default.is_empty() { one.option.example } else { one.option.default };
        assert_eq!(one.text, default, "{}", one.option.key());
    }
}

#[test]
fn every_example_and_every_default_is_accepted() {
    for option in all() {
        for text in [option.example, option.default].into_iter().filter(|text| !text.is_empty()) {
            let mut sources = Sources::default();
            sources.flags.push(FlagValue {
                key: Box::leak(option.key().into_boxed_str()),
                flag: "--x",
                text: text.into(),
            });
            match load(&sources, &no_context) {
                Ok(_) => {}
                // A few options only make sense in pairs.
                Err(error) => {
                    assert_eq!(error.problems[0].code(), "CONFIG_CONFLICT", "{}: {error}", option.key())
                }
            }
        }
    }
}

#[test]
fn every_option_has_its_own_variable_and_a_sentence() {
    let mut seen = std::collections::HashSet::new();
    for option in all() {
        assert!(seen.insert(option.env()), "{} is used twice", option.env());
        assert!(option.summary().ends_with('.'), "{}", option.key());
        assert!(!option.example.is_empty(), "{}", option.key());
    }
}

#[test]
fn the_page_on_configuration_is_the_table() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    if std::env::var_os("SELVEDGE_UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, markdown()).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(page == markdown(), "docs/configuration.md is out of date: run `just docs-config`");
}

#[test]
fn a_file_asked_for_must_be_there_and_one_found_must_be_toml() {
    let missing = Sources { file: Some("/nowhere/selvedge.toml".into()), ..Sources::default() };
    let error = load(&missing, &no_context).unwrap_err();
    assert_eq!(error.problems[0].code(), "CONFIG_UNREADABLE");
    let dir = tempfile::tempdir().unwrap();
    let error = load(&with_file(&dir, "[redis]\nurl = redis\n"), &no_context).unwrap_err();
    assert_eq!(error.problems[0].code(), "CONFIG_SYNTAX");
    assert!(error.problems[0].place().contains("selvedge.toml:2:"), "{}", error.problems[0].place());
}
