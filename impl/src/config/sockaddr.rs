//! Addresses that are templates: `{{ GetPrivateIP }}`, `{{ GetInterfaceIP "eth0" }}`, or a pipeline such as
//! `{{ GetAllInterfaces | include "network" "10.0.0.0/8" | sort "-size" | attr "address" }}`.
//!
//! The functions are those of hashicorp/go-sockaddr that choose among this machine's addresses. What it has beyond
//! them (control structures, arithmetic on addresses) is refused by name.

use std::{
    cmp::Ordering,
    fs,
    net::{IpAddr, Ipv4Addr},
};

use regex_lite::Regex;

use crate::http::Network;

/// One address of one network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    /// The interface's name.
    pub name: String,
    /// The address.
    pub address: IpAddr,
    /// The length of its network's prefix in bits.
    pub prefix: u8,
    /// Whether the interface is up.
    pub up: bool,
    /// Whether packets leave by it that nothing else routes.
    pub default: bool,
}

impl Interface {
    /// Whether others can reach it: neither loopback nor of one link alone.
    fn is_forwardable(&self) -> bool {
        match self.address {
            IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local() && !ip.is_multicast(),
            IpAddr::V6(ip) => {
                !ip.is_loopback() && !ip.is_unicast_link_local() && !ip.is_multicast()
            }
        }
    }

    fn has_flag(&self, flag: &str) -> Result<bool, String> {
        Ok(match flag {
            "up" => self.up,
            "loopback" => self.address.is_loopback(),
            "forwardable" => self.is_forwardable(),
            "multicast" => self.address.is_multicast(),
            "unspecified" => self.address.is_unspecified(),
            "global unicast" => !self.address.is_loopback() && self.is_forwardable(),
            "link-local unicast" => match self.address {
                IpAddr::V4(ip) => ip.is_link_local(),
                IpAddr::V6(ip) => ip.is_unicast_link_local(),
            },
            other => return Err(format!("flag {other:?} is unknown")),
        })
    }

    fn attribute(&self, name: &str) -> Result<String, String> {
        Ok(match name {
            "name" => self.name.clone(),
            "address" => self.address.to_string(),
            "type" => if self.address.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned(),
            "size" => network_size(self).to_string(),
            "mask_bits" => self.prefix.to_string(),
            other => return Err(format!("attribute {other:?} is not supported")),
        })
    }
}

/// The flag of a route that is in use.
const UP: u32 = 0x1;
/// The flag of a route that refuses: the kernel has one to everywhere where there is no other.
const REJECT: u32 = 0x200;

/// How many addresses its network has.
fn network_size(interface: &Interface) -> u128 {
    let bits: u8 = if interface.address.is_ipv4() { 32 } else { 128 };
    1_u128.checked_shl(u32::from(bits.saturating_sub(interface.prefix))).unwrap_or(u128::MAX)
}

/// The addresses of this machine's interfaces.
pub(super) fn interfaces() -> Vec<Interface> {
    let routes = |file| fs::read_to_string(file).unwrap_or_default();
    let (v4, v6) = (routes("/proc/net/route"), routes("/proc/net/ipv6_route"));
    let defaults = default_interfaces(&v4, &v6);
    let found = if_addrs::get_if_addrs().unwrap_or_default();
    let interface = |found: if_addrs::Interface| {
        let prefix = match &found.addr {
            if_addrs::IfAddr::V4(v4) => v4.netmask.to_bits().count_ones(),
            if_addrs::IfAddr::V6(v6) => v6.netmask.to_bits().count_ones(),
        };
        Interface {
            address: found.ip(),
            prefix: u8::try_from(prefix).unwrap_or(0),
            up: found.is_oper_up() || found.is_loopback(),
            default: defaults.contains(&found.name.as_str()),
            name: found.name,
        }
    };
    found.into_iter().map(interface).collect()
}

/// The interfaces that have a default route, by the kernel's table of IPv4 routes. go-sockaddr knows no other table; where
/// that one has none, we look at the one of IPv6 routes, too.
fn default_interfaces<'a>(v4: &'a str, v6: &'a str) -> Vec<&'a str> {
    let column = |columns: &[&'a str], number: usize| columns.get(number).copied();
    let default_v4 = |line: &'a str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let (destination, mask) = (column(&columns, 1)?, column(&columns, 7)?);
        // 0.0.0.0/1 is half of everything.
        [destination, mask].iter().all(|part| *part == "00000000").then(|| column(&columns, 0))?
    };
    let default_v6 = |line: &'a str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let flags = u32::from_str_radix(column(&columns, 8)?, 16).ok()?;
        let to_all = column(&columns, 0)?.bytes().all(|digit| digit == b'0');
        let leads_somewhere = flags & (UP | REJECT) == UP;
        let default = to_all && column(&columns, 1)? == "00" && leads_somewhere;
        default.then(|| column(&columns, 9))?
    };
    let found: Vec<_> = v4.lines().filter_map(default_v4).collect();
    if found.is_empty() { v6.lines().filter_map(default_v6).collect() } else { found }
}

/// Replaces each template in `text` by what it comes to on this machine.
pub(super) fn evaluate(text: &str) -> Result<String, String> {
    evaluate_among(text, &interfaces())
}

fn evaluate_among(text: &str, interfaces: &[Interface]) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, template)) = rest.split_once("{{") {
        out.push_str(before);
        let Some((template, after)) = template.split_once("}}") else {
            return Err(format!("unable to parse address template {text:?}: unclosed action"));
        };
        let value = pipeline(template, interfaces)
            .map_err(|error| format!("unable to parse address template {text:?}: {error}"))?;
        out.push_str(&value);
        rest = after;
    }
    out.push_str(rest);
    Ok(out.trim().to_owned())
}

/// What flows through a pipeline.
enum Value {
    Interfaces(Vec<Interface>),
    Text(String),
}

fn pipeline(template: &str, interfaces: &[Interface]) -> Result<String, String> {
    let mut value = None;
    for stage in stages(template.trim_matches('-'))? {
        let Some((function, arguments)) = stage.split_first() else {
            return Err("missing value for command".to_owned());
        };
        value = Some(match value {
            None => source(function, arguments, interfaces)?,
            Some(Value::Interfaces(among)) => filter(function, arguments, among)?,
            Some(Value::Text(_)) => {
                return Err(format!("{function} can't be applied to a text"));
            }
        });
    }
    match value {
        Some(Value::Text(text)) => Ok(text),
        Some(Value::Interfaces(_)) => {
            Err("it comes to interfaces, not to addresses: end it with `attr \"address\"`".into())
        }
        None => Err("missing value for command".to_owned()),
    }
}

/// Splits a template into its stages and those into words; a quoted text is one word.
fn stages(template: &str) -> Result<Vec<Vec<String>>, String> {
    let mut stages = vec![Vec::new()];
    let mut letters = template.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '|' => stages.push(Vec::new()),
            '"' | '`' => {
                let word = quoted(&mut letters, letter)?;
                if let Some(stage) = stages.last_mut() {
                    stage.push(word);
                }
            }
            letter if letter.is_whitespace() => {}
            letter if letter.is_ascii_alphanumeric() || "-_./:".contains(letter) => {
                let mut word = String::from(letter);
                while let Some(next) =
                    letters.next_if(|next| !next.is_whitespace() && !"|\"`".contains(*next))
                {
                    word.push(next);
                }
                if let Some(stage) = stages.last_mut() {
                    stage.push(word);
                }
            }
            other => return Err(format!("unexpected {other:?}")),
        }
    }
    Ok(stages)
}

/// The text up to the closing `quote`; backslashes mean what they mean in Go, and between backquotes nothing.
fn quoted(letters: &mut impl Iterator<Item = char>, quote: char) -> Result<String, String> {
    let mut word = String::new();
    while let Some(letter) = letters.next() {
        word.push(match letter {
            letter if letter == quote => return Ok(word),
            '\\' if quote == '"' => match letters.next() {
                Some(next @ ('\\' | '"')) => next,
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some(other) => return Err(format!("unknown escape \\{other}")),
                None => break,
            },
            letter => letter,
        });
    }
    Err("unterminated quoted string".to_owned())
}

/// The functions that a pipeline starts with.
fn source(function: &str, arguments: &[String], interfaces: &[Interface]) -> Result<Value, String> {
    let public = |wanted: bool| {
        let mut found: Vec<_> = interfaces
            .iter()
            .filter(|one| one.up && one.is_forwardable() && is_rfc6890(one.address) != wanted)
            .cloned()
            .collect();
        found.sort_by(|a, b| compare(a, b, &["default", "type", "size"]));
        found
    };
    let named = |pattern: &str| -> Result<Vec<Interface>, String> {
        let pattern = Regex::new(pattern).map_err(|error| error.to_string())?;
        let mut found: Vec<_> =
            interfaces.iter().filter(|one| pattern.is_match(&one.name)).cloned().collect();
        found.sort_by(|a, b| compare(a, b, &["type", "size"]));
        Ok(found)
    };
    let first = |found: Vec<Interface>| {
        found.first().map(|one| one.address.to_string()).unwrap_or_default()
    };
    let all = |found: Vec<Interface>| {
        let texts: Vec<_> = found.iter().map(|one| one.address.to_string()).collect();
        texts.join(" ")
    };
    let pattern = || arguments.first().map(String::as_str).ok_or("it wants an interface's name");
    Ok(match function {
        "GetAllInterfaces" => Value::Interfaces(interfaces.to_vec()),
        "GetDefaultInterfaces" => {
            Value::Interfaces(interfaces.iter().filter(|one| one.default).cloned().collect())
        }
        "GetPrivateInterfaces" => Value::Interfaces(public(false)),
        "GetPublicInterfaces" => Value::Interfaces(public(true)),
        "GetPrivateIP" => Value::Text(first(public(false))),
        "GetPrivateIPs" => Value::Text(all(public(false))),
        "GetPublicIP" => Value::Text(first(public(true))),
        "GetPublicIPs" => Value::Text(all(public(true))),
        "GetInterfaceIP" => Value::Text(first(named(pattern()?)?)),
        "GetInterfaceIPs" => Value::Text(all(named(pattern()?)?)),
        other => return Err(format!("function {other:?} is not supported")),
    })
}

/// The functions that take interfaces.
fn filter(function: &str, arguments: &[String], among: Vec<Interface>) -> Result<Value, String> {
    let argument = |place: usize| {
        arguments.get(place).map(String::as_str).ok_or(format!("{function} wants more arguments"))
    };
    let number = |place: usize| {
        let text = argument(place)?;
        text.parse::<usize>().map_err(|_| format!("{function}: {text:?} is no count"))
    };
    let selected = match function {
        "include" => select(argument(0)?, argument(1)?, among, true)?,
        "exclude" => select(argument(0)?, argument(1)?, among, false)?,
        "sort" => {
            let keys: Vec<_> = argument(0)?.split(',').map(str::trim).collect();
            if let Some(odd) =
                keys.iter().find(|key| !SORT_KEYS.contains(&key.trim_matches(['-', '+'])))
            {
                return Err(format!("sort: {odd:?} is not supported"));
            }
            let mut among = among;
            among.sort_by(|a, b| compare(a, b, &keys));
            among
        }
        "limit" => among.into_iter().take(number(0)?).collect(),
        "offset" => among.into_iter().skip(number(0)?).collect(),
        "unique" => unique(argument(0)?, among)?,
        "attr" => {
            let name = argument(0)?;
            let first = among.first().map(|one| one.attribute(name)).transpose()?;
            return Ok(Value::Text(first.unwrap_or_default()));
        }
        "join" => {
            let name = argument(0)?;
            let texts: Result<Vec<_>, _> = among.iter().map(|one| one.attribute(name)).collect();
            return Ok(Value::Text(texts?.join(argument(1)?)));
        }
        other => return Err(format!("function {other:?} is not supported")),
    };
    Ok(Value::Interfaces(selected))
}

fn unique(attribute: &str, among: Vec<Interface>) -> Result<Vec<Interface>, String> {
    let mut seen = Vec::new();
    let mut kept = Vec::new();
    for one in among {
        let value = one.attribute(attribute)?;
        if !seen.contains(&value) {
            seen.push(value);
            kept.push(one);
        }
    }
    Ok(kept)
}

fn select(
    by: &str,
    argument: &str,
    among: Vec<Interface>,
    keep: bool,
) -> Result<Vec<Interface>, String> {
    let pattern = match by {
        "name" | "address" => Some(Regex::new(argument).map_err(|error| error.to_string())?),
        _ => None,
    };
    let mut selected = Vec::new();
    for one in among {
        let matches = match (by, &pattern) {
            ("name", Some(pattern)) => pattern.is_match(&one.name),
            ("address", Some(pattern)) => pattern.is_match(&one.address.to_string()),
            ("network", _) => {
                let mut inside = false;
                for network in argument.split('|') {
                    inside |= in_network(one.address, network)
                        .ok_or_else(|| format!("{network:?} is no network"))?;
                }
                inside
            }
            ("flag" | "flags", _) => {
                let mut all = true;
                for flag in argument.split('|') {
                    all &= one.has_flag(flag.trim())?;
                }
                all
            }
            ("type", _) => match argument.to_ascii_lowercase().as_str() {
                "ip" => true,
                "ipv4" => one.address.is_ipv4(),
                "ipv6" => one.address.is_ipv6(),
                other => return Err(format!("type {other:?} is unknown")),
            },
            ("rfc" | "RFC", _) => match argument {
                "6890" => is_rfc6890(one.address),
                "1918" => matches!(one.address, IpAddr::V4(ip) if ip.is_private()),
                other => return Err(format!("RFC {other} is not supported")),
            },
            ("size", _) => network_size(&one).to_string() == argument,
            (other, _) => return Err(format!("selector {other:?} is not supported")),
        };
        if matches == keep {
            selected.push(one);
        }
    }
    Ok(selected)
}

/// Whether an address lies in a network, as `10.0.0.0/8` or as a single address; none where that is neither.
fn in_network(address: IpAddr, network: &str) -> Option<bool> {
    let network = network.trim();
    match network.parse::<Network>() {
        Ok(network) => Some(network.contains(address)),
        Err(_) => network.parse::<IpAddr>().ok().map(|other| other == address),
    }
}

const SORT_KEYS: &[&str] = &["address", "default", "name", "size", "type"];

/// The first key that tells two interfaces apart decides; a minus before a key turns it round.
fn compare(a: &Interface, b: &Interface, keys: &[&str]) -> Ordering {
    for key in keys {
        let order = match key.trim_start_matches(['-', '+']) {
            "address" => a.address.cmp(&b.address),
            "default" => b.default.cmp(&a.default),
            "name" => a.name.cmp(&b.name),
            "size" => network_size(a).cmp(&network_size(b)),
            _ => a.address.is_ipv6().cmp(&b.address.is_ipv6()),
        };
        let order = if key.starts_with('-') { order.reverse() } else { order };
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// Whether an address belongs to the networks that RFC 6890 keeps from the public.
fn is_rfc6890(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => is_private(ip) || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unique_local(),
    }
}

/// What Consul takes for private: the networks that RFC 6890 keeps from the public, less loopback and link-local.
pub(super) fn is_private(address: Ipv4Addr) -> bool {
    address.is_private()
        || address.is_documentation()
        || matches!(
            address.octets(),
            [100, 64..=127, ..] | [192, 0, 0, _] | [198, 18..=19, ..] | [240..=254, ..]
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Vec<Interface> {
        let one = |name: &str, address: &str, prefix, default| Interface {
            name: name.into(),
            address: address.parse().unwrap(),
            prefix,
            up: true,
            default,
        };
        vec![
            one("lo", "127.0.0.1", 8, false),
            one("docker0", "172.17.0.1", 16, false),
            one("eth0", "10.0.4.7", 24, true),
            one("eth0", "fe80::1", 64, true),
            one("eth1", "8.8.4.4", 22, false),
            Interface { up: false, ..one("eth2", "10.9.9.9", 8, false) },
        ]
    }

    fn comes_to(template: &str) -> String {
        evaluate_among(template, &machine()).unwrap()
    }

    #[test]
    fn the_functions_choose_as_go_sockaddr_does() {
        for (template, address) in [
            ("{{ GetPrivateIP }}", "10.0.4.7"),
            ("{{GetPublicIP}}", "8.8.4.4"),
            ("{{ GetInterfaceIP \"docker0\" }}", "172.17.0.1"),
            ("{{ GetInterfaceIPs `^eth0$` }}", "10.0.4.7 fe80::1"),
            ("{{ GetInterfaceIP \"wlan0\" }}", ""),
            ("127.0.0.1 {{ GetPrivateIPs }}", "127.0.0.1 10.0.4.7 172.17.0.1"),
            (
                "{{ GetAllInterfaces | include \"network\" \"172.16.0.0/12\" | attr \"address\" }}",
                "172.17.0.1",
            ),
            (
                "{{ GetAllInterfaces | exclude \"flags\" \"loopback\" | include \"type\" \"ipv4\" \
                 | sort \"-address\" | limit 2 | join \"address\" \" \" }}",
                "172.17.0.1 10.9.9.9",
            ),
            ("{{ GetDefaultInterfaces | exclude \"type\" \"IPv6\" | attr \"name\" }}", "eth0"),
            (
                "{{ GetPrivateInterfaces | exclude \"name\" \"eth\" | attr \"address\" }}",
                "172.17.0.1",
            ),
            (
                "{{ GetAllInterfaces | include \"rfc\" \"6890\" | sort \"name,size\" | offset 3 | limit 1 | attr \"name\" }}",
                "eth2",
            ),
            ("{{ GetInterfaceIP \"^docker\\\\d+$\" }}", "172.17.0.1"),
            ("{{ GetInterfaceIP `^docker\\d+$` }}", "172.17.0.1"),
            ("10.1.2.3", "10.1.2.3"),
        ] {
            assert_eq!(comes_to(template), address, "{template}");
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (template, part) in [
            ("{{ range GetAllInterfaces }}", "\"range\""),
            ("{{ GetAllInterfaces }}", "attr \"address\""),
            ("{{ GetPrivateIP", "unclosed"),
            ("{{ GetAllInterfaces | math \"network\" \"+5\" }}", "\"math\""),
            (
                "{{ GetAllInterfaces | include \"network\" \"10/300\" | attr \"address\" }}",
                "network",
            ),
            ("{{ GetAllInterfaces | include \"name\" \"(\" | attr \"address\" }}", "group"),
            ("{{ }}", "missing value"),
            ("{{ GetPrivateIP | attr \"address\" }}", "text"),
            ("{{ GetInterfaceIP \"eth\\d\" }}", "unknown escape \\d"),
            ("{{ GetInterfaceIP \"eth0 }}", "unterminated"),
        ] {
            let error = evaluate_among(template, &machine()).unwrap_err();
            assert!(error.contains(part), "{template}: {error}");
            assert!(error.starts_with("unable to parse address template"), "{error}");
        }
    }

    #[test]
    fn this_machine_has_a_loopback_address() {
        let found = interfaces();
        assert!(found.iter().any(|one| one.address.is_loopback() && one.up), "{found:?}");
    }

    #[test]
    fn default_routes_are_those_to_everywhere() {
        let header = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";
        let v4 = |name: &str, destination: &str, mask: &str| {
            format!("{name}\t{destination}\t0101A8C0\t0003\t0\t0\t0\t{mask}\t0\t0\t0\n")
        };
        let v6 = |name: &str, destination: &str, prefix: &str, flags: &str| {
            let zeros = "0".repeat(32);
            format!(
                "{destination} {prefix} {zeros} 00 {zeros} 00000400 00000001 00000000 {flags} {name}\n"
            )
        };
        let half = v4("tun0", "00000000", "00000080");
        let link = v4("eth1", "0000FEA9", "0000FFFF");
        let default = v4("eth0", "00000000", "00000000");
        let all = "0".repeat(32);
        let six = [
            v6("eth2", "fe800000000000000000000000000000", "40", "00000001"),
            v6("eth3", &all, "00", "00000003"),
            v6("lo", &all, "00", "00200200"),
        ]
        .concat();
        let some = [header, &half, &link, &default].concat();
        assert_eq!(default_interfaces(&some, &six), ["eth0"]);
        assert_eq!(default_interfaces(&[header, &half, &link].concat(), &six), ["eth3"]);
        assert_eq!(default_interfaces(header, ""), [""; 0]);
    }
}
