//! A network namespace for one worker, joined to this machine by a link that a test can take down.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What of the fleet is reachable inside, at the very addresses it has outside, as long as the link is up.
pub struct Network {
    pub name: String,
    link: String,
    wires: Vec<Child>,
}

impl Network {
    /// None where this user may make no namespaces, or no links between them.
    pub fn new(ports: &[u16]) -> Option<Self> {
        let id = std::process::id() % 60_000;
        let (name, link, inner) = (format!("nexus-{id}"), format!("nxo{id}"), format!("nxi{id}"));
        if !ip(&["netns", "add", &name]) {
            return None;
        }
        let mut network = Self { name: name.clone(), link: link.clone(), wires: Vec::new() };
        let [high, low] = u16::try_from(id & !3).unwrap().to_be_bytes();
        let (here, there) = (Ipv4Addr::new(10, 231, high, low | 1), Ipv4Addr::new(10, 231, high, low | 2));
        let (outside, inside) = (format!("{here}/30"), format!("{there}/30"));
        for args in [
            &["link", "add", &link, "type", "veth", "peer", "name", &inner, "netns", &name][..],
            &["addr", "add", &outside, "dev", &link],
            &["link", "set", &link, "up"],
            &["-n", &name, "addr", "add", &inside, "dev", &inner],
            &["-n", &name, "link", "set", &inner, "up"],
            &["-n", &name, "link", "set", "lo", "up"],
        ] {
            if !ip(args) {
                eprintln!("not allowed here: ip {}", args.join(" "));
                return None;
            }
        }
        network.forward(&[], here, Ipv4Addr::LOCALHOST, ports);
        network.forward(&["ip", "netns", "exec", &name], Ipv4Addr::LOCALHOST, here, ports);
        Some(network)
    }

    fn forward(&mut self, within: &[&str], listen: Ipv4Addr, connect: Ipv4Addr, ports: &[u16]) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/fleet/forward.py");
        let mut words: Vec<String> = within.iter().map(|word| (*word).to_owned()).collect();
        words.extend(["python3".to_owned(), script.to_str().unwrap().to_owned()]);
        words.extend([listen.to_string(), connect.to_string()]);
        words.extend(ports.iter().map(u16::to_string));
        let mut child =
            Command::new(&words[0]).args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.wires.push(child);
        assert_eq!(line, "ready\n", "{words:?}");
    }

    /// From now on nothing goes in or out, and nobody is told.
    pub fn cut(&self) {
        assert!(ip(&["link", "set", &self.link, "down"]));
    }

    pub fn mend(&self) {
        assert!(ip(&["link", "set", &self.link, "up"]));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for wire in &mut self.wires {
            let _ = wire.kill();
            let _ = wire.wait();
        }
        ip(&["link", "del", &self.link]);
        ip(&["netns", "del", &self.name]);
    }
}

fn ip(args: &[&str]) -> bool {
    Command::new("ip").args(args).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|it| it.success())
}
