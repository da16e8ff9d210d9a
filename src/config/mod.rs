//! The configuration: `selvedge.toml`, the environment, flags and the NATS context, resolved into [`Settings`].
//!
//! Two layers. *As written* (`file`): keys, values and where they stand, checked against the table of options.
//! *As meant* ([`Settings`]): typed and complete. In between, `layers` decides which writing of an option counts:
//!
//! ```text
//! flag  >  environment  >  file  >  NATS context  >  default
//! ```
//!
//! Reads the environment and files, never writes any, never connects to anything. The command line calls it; the
//! loops get their values handed in. A mistake is reported with its place, all mistakes at once, and secrets are
//! masked in every message.

mod error;
mod file;
mod layers;
mod options;
mod quantity;
mod render;
mod url;
mod value;

#[cfg(test)]
mod tests;

pub use error::{ConfigError, Problem};
pub use layers::{ContextLayer, ContextLoader, FlagValue, Loaded, Origin, Sources, load};
pub use options::{Coordinator, Log, Nats, OptionDef, Redis, SECTIONS, SectionDef, Settings, all};
pub use quantity::{ByteSize, parse_duration, parse_size};
pub use render::{Row, markdown, rows, show_json, template};
pub use url::{NatsUrls, RedisUrl, Secret, ServerUrl, redact_url};
pub use value::{Kind, LogFilter, LogFormat, Provision, Setting, UnknownTenants};

/// The configuration file's name, looked for in the working directory and in the user's configuration directory.
pub const FILE_NAME: &str = "selvedge.toml";
/// The variable that names the configuration file.
pub const FILE_VARIABLE: &str = "SELVEDGE_CONFIG";
