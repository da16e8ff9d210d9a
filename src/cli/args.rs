//! The command line: flags every command has, and the list of commands.
//!
//! A verb's own arguments stand in the verb's file, with its `run`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::failure::EXIT_CODES;
use super::nats_args::NatsArgs;
use super::{
    agent, agents, bench, bridge, call, cancel, completions, config, coordinator, dead, demo, dev, doctor,
    get, index, list, nats, pause, plan, publish, schedule, submit, tell, tenant, tenants, trigger, watch,
    why,
};
use crate::config::{Loaded, Log, LogFilter, Origin, Sources, all as options};

/// A NATS-native, event-driven fabric for fleets of AI agents.
#[derive(Debug, Parser)]
#[command(name = "selvedge", version, about, arg_required_else_help = true, propagate_version = true)]
#[command(after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    /// Flags that go with every command.
    #[command(flatten)]
    pub globals: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that go with every command, before or after its name.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// Print JSON: results on stdout, errors on stderr
    #[arg(long, global = true)]
    pub json: bool,

    /// Shape of the log lines on stderr [default: pretty on a terminal, else json]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<LogFormatArg>,

    /// Configuration file [default: ./selvedge.toml, then ~/.config/selvedge/selvedge.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// URL of Redis or Valkey, rediss:// for TLS [env: REDIS_URL]
    #[arg(long, global = true, value_name = "URL")]
    pub redis_url: Option<String>,

    /// How to reach NATS.
    #[command(flatten)]
    pub nats: NatsArgs,
}

/// The values of `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormatArg {
    /// For people
    Pretty,
    /// One object a line
    Json,
}

impl GlobalArgs {
    /// Adds what was given to the sources of the configuration.
    pub fn put(&self, sources: &mut Sources) {
        let format = self.log_format.map(|format| match format {
            LogFormatArg::Pretty => "pretty",
            LogFormatArg::Json => "json",
        });
        sources.flag("log.format", "--log-format", format);
        sources.flag("redis.url", "--redis-url", self.redis_url.clone());
        self.nats.put(sources);
    }
}

/// The commands, in the order a newcomer meets them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch real agents read a directory and write a digest of it
    Demo(demo::args::DemoArgs),
    /// Run NATS, Redis and a coordinator for development
    Dev(dev::DevArgs),
    /// Run a coordinator: admits, dispatches and settles tasks
    Coordinator(coordinator::CoordinatorArgs),
    /// Submit a task
    Submit(submit::SubmitArgs),
    /// Call an agent and print its answer as it comes
    Call(call::CallArgs),
    /// Show a task
    Get(get::GetArgs),
    /// List tasks, newest first
    List(list::ListArgs),
    /// Follow a task's events to its end
    Watch(watch::WatchArgs),
    /// Tell what holds a task back
    Why(why::WhyArgs),
    /// Cancel a task and everything it spawned
    Cancel(cancel::CancelArgs),
    /// Send a message to a task
    Tell(tell::TellArgs),
    /// Send a signal to a task: an approval, say
    Signal(tell::SignalArgs),
    /// List, show or retry tasks that failed for good
    Dead(dead::DeadArgs),
    /// Set up tenants: their plan and their own limits
    Tenant(tenant::TenantArgs),
    /// Show what tenants have and may have: queued and why, running, shares, rates
    Tenants(tenants::TenantsArgs),
    /// Set up plans: named sets of limits
    Plan(plan::PlanArgs),
    /// Set up schedules: tasks submitted at certain times
    Schedule(schedule::ScheduleArgs),
    /// Set up triggers: messages that become tasks
    Trigger(trigger::TriggerArgs),
    /// Publish a message about a topic, for triggers
    Publish(publish::PublishArgs),
    /// Show which agents are there, what they say about themselves and what they run
    Agents(agents::AgentsArgs),
    /// Limit agents, for all tenants together
    Agent(agent::AgentArgs),
    /// Stop a tenant, an agent, a tree or everything
    Pause(pause::PauseArgs),
    /// Let what was paused go on
    Resume(pause::ResumeArgs),
    /// Speak the Synadia Agent Protocol: show agents to its clients, or prompt its agents
    Bridge(bridge::BridgeArgs),
    /// Export the streams and buckets, or compare them with the server
    Nats(nats::NatsCommandArgs),
    /// Check whether a deployment is fit
    Doctor(doctor::DoctorArgs),
    /// Compare the index in Redis with the journal, or have it written anew
    Index(index::IndexArgs),
    /// Check, show or begin a configuration
    Config(config::ConfigArgs),
    /// Measure the fabric against a bare loop, on servers of its own
    Bench(bench::args::BenchArgs),
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
    /// One agent of the demo
    #[command(hide = true)]
    DemoAgent(demo::args::DemoAgentArgs),
    /// The agent that is measured
    #[command(hide = true)]
    BenchAgent(bench::args::BenchAgentArgs),
    /// What requests are compared with
    #[command(hide = true)]
    BenchReference(bench::args::BenchReferenceArgs),
}

impl Command {
    /// Adds the flags that set options to the sources of the configuration.
    pub fn put(&self, sources: &mut Sources) {
        if let Command::Coordinator(args) = self {
            args.put(sources);
        }
    }

    /// What it logs: a process that serves tells what it does, the others only what is wrong, unless told otherwise.
    pub fn log(&self, loaded: &Loaded) -> Log {
        let mut log = loaded.settings.log.clone();
        let serves = matches!(self, Command::Coordinator(_) | Command::DemoAgent(_) | Command::BenchAgent(_));
        let chosen = options()
            .find(|option| option.section == Log::NAME && option.name == "filter")
            .is_some_and(|option| loaded.given(option).1 != Origin::Default);
        if !serves && !chosen {
            // These tell themselves what becomes of their processes, in a picture that log lines would tear.
            let tells = matches!(self, Command::Demo(_) | Command::Bench(_));
            let level = if tells { "error" } else { "warn" };
            log.filter = LogFilter(level.to_owned());
        }
        log
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::{
        agent, agents, bench, cancel, coordinator, dead, demo, dev, doctor, get, index, list, nats, pause,
        plan, publish, schedule, submit, tell, tenant, tenants, trigger, watch, why,
    };

    /// Every verb's arguments, whether or not the verb is wired up.
    #[derive(Debug, Parser)]
    struct Verbs {
        #[command(flatten)]
        globals: GlobalArgs,
        #[command(subcommand)]
        verb: Verb,
    }

    #[derive(Debug, Subcommand)]
    enum Verb {
        Demo(demo::args::DemoArgs),
        Dev(dev::DevArgs),
        Coordinator(coordinator::CoordinatorArgs),
        Submit(submit::SubmitArgs),
        Get(get::GetArgs),
        List(list::ListArgs),
        Watch(watch::WatchArgs),
        Cancel(cancel::CancelArgs),
        Tell(tell::TellArgs),
        Signal(tell::SignalArgs),
        Dead(dead::DeadArgs),
        Why(why::WhyArgs),
        Tenants(tenants::TenantsArgs),
        Tenant(tenant::TenantArgs),
        Plan(plan::PlanArgs),
        Schedule(schedule::ScheduleArgs),
        Trigger(trigger::TriggerArgs),
        Publish(publish::PublishArgs),
        Agents(agents::AgentsArgs),
        Agent(agent::AgentArgs),
        Pause(pause::PauseArgs),
        Resume(pause::ResumeArgs),
        Nats(nats::NatsCommandArgs),
        Doctor(doctor::DoctorArgs),
        Index(index::IndexArgs),
        Bench(bench::args::BenchArgs),
    }

    fn parse(line: &str) -> Result<Verb, clap::Error> {
        Verbs::try_parse_from(line.split(' ')).map(|parsed| parsed.verb)
    }

    #[test]
    fn no_two_arguments_of_a_verb_collide() {
        Cli::command().debug_assert();
        Verbs::command().debug_assert();
    }

    #[test]
    fn the_examples_of_the_help_parse() {
        fn examples(command: &clap::Command, found: &mut Vec<String>) {
            let help = command.get_after_help().map(|help| help.to_string()).unwrap_or_default();
            let lines = help.lines().filter_map(|line| line.strip_prefix("  selvedge "));
            found.extend(lines.map(|line| line.split("   ").next().unwrap_or(line).trim().to_owned()));
            command.get_subcommands().for_each(|command| examples(command, found));
        }
        let mut found = Vec::new();
        examples(&Verbs::command(), &mut found);
        assert!(found.len() > 25, "{found:?}");
        for line in found {
            // What follows belongs to the shell; one word stands for any that is quoted.
            let line = line.split(" | ").next().unwrap_or(&line).split(" > ").next().unwrap_or(&line);
            let between = line.split('\'').enumerate();
            let line: String = between.map(|(n, part)| if n % 2 == 0 { part } else { "x" }).collect();
            if let Err(error) = parse(&format!("selvedge {line}")) {
                panic!("{line}\n{error}");
            }
        }
    }

    #[test]
    fn a_name_outside_the_grammar_is_refused_before_anything_is_sent() {
        for line in
            ["submit Reader {}", "submit a.b", "list -t a>b", "get x*", "plan get Free", "tenant rm a/b"]
        {
            let error = parse(&format!("selvedge {line}")).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
        let long = format!("selvedge get {}", "a".repeat(10_000));
        assert!(parse(&long).is_err());
    }

    #[test]
    fn a_cursor_may_begin_with_a_hyphen() {
        for line in ["list -n 1 --cursor -HwW", "dead ls --cursor -HwW"] {
            assert!(parse(&format!("selvedge {line}")).is_ok(), "{line}");
        }
    }

    #[test]
    fn a_number_or_duration_out_of_range_is_refused() {
        for line in [
            "list -n 0",
            "list -n 101",
            "submit a --max-wait 5",
            "submit a --priority urgent",
            "list --state done",
        ] {
            assert!(parse(&format!("selvedge {line}")).is_err(), "{line}");
        }
    }
}
