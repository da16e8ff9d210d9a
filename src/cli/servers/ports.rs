//! Ports: free ones, taken ones, and who holds them.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, TcpListener};

/// A port somebody else listens on.
#[derive(Debug)]
pub struct PortInUse {
    /// The port.
    pub port: u16,
    /// Who listens there, if we may know.
    pub holder: Option<Holder>,
    /// The flag that chooses another.
    pub flag: Option<&'static str>,
}

/// A process that listens on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

impl fmt::Display for PortInUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {} is in use", self.port)?;
        match &self.holder {
            Some(holder) => write!(f, " by {} (pid {})", holder.name, holder.pid),
            None => write!(f, " by another process"),
        }
    }
}

impl std::error::Error for PortInUse {}

impl PortInUse {
    /// A taken port, with its holder looked up.
    pub fn at(port: u16) -> PortInUse {
        PortInUse { port, holder: holder(port), flag: None }
    }

    /// Names the flag that chooses another port, for the help text.
    pub fn flag(mut self, flag: &'static str) -> PortInUse {
        self.flag = Some(flag);
        self
    }

    /// What to do about it.
    pub fn help(&self) -> String {
        let other =
            self.flag.map_or("choose another port".to_owned(), |flag| format!("choose another with {flag}"));
        match &self.holder {
            Some(holder) => format!("stop it (kill {}), or {other}", holder.pid),
            None => other,
        }
    }
}

/// Whether the loopback port can be listened on now.
pub fn check_free(port: u16) -> Result<(), PortInUse> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop).map_err(|_| PortInUse::at(port))
}

/// A port nobody listens on now. Whoever takes it must be ready to find it taken again.
pub fn free_port() -> io::Result<u16> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr().map(|addr| addr.port())
}

/// The first free port from `first` on; the usual one when it can be had.
pub fn free_from(first: u16) -> io::Result<u16> {
    (first..=first.saturating_add(100)).find(|port| check_free(*port).is_ok()).map_or_else(free_port, Ok)
}

/// Who listens on the port: the socket's inode in `/proc/net/tcp*`, then the process that has it open.
#[cfg(target_os = "linux")]
pub fn holder(port: u16) -> Option<Holder> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let table = std::fs::read_to_string(table).ok()?;
        table.lines().skip(1).find_map(|line| listening_inode(line, port))
    })?;
    let wanted = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else { continue };
        if files
            .flatten()
            .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str()))
        {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(Holder { pid, name: name.trim().to_owned() });
        }
    }
    None
}

/// Who listens on the port: not known on this platform.
#[cfg(not(target_os = "linux"))]
pub fn holder(_port: u16) -> Option<Holder> {
    None
}

/// The inode of one `/proc/net/tcp` line if it is a socket listening (state 0A) on the port.
#[cfg(target_os = "linux")]
fn listening_inode(line: &str, port: u16) -> Option<u64> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let local = fields.get(1)?.rsplit(':').next()?;
    let listens = *fields.get(3)? == "0A" && u16::from_str_radix(local, 16).ok()? == port;
    listens.then(|| fields.get(9)?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_holder_and_the_way_out() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let refused = check_free(port).unwrap_err().flag("--nats-port");
        if cfg!(target_os = "linux") {
            assert_eq!(refused.holder.as_ref().unwrap().pid, std::process::id());
        }
        assert!(refused.to_string().contains(&format!("port {port} is in use by")));
        assert!(refused.help().contains("--nats-port"));
        assert_ne!(free_from(port).unwrap(), port);
    }
}
