//! One text for a disk that is elsewhere, however it is written: as QEMU's old names, as a URI, or as options.
//!
//! What is not understood is left as it is. Who opens a disk, and how, is not which one it is: users, keys and the like are
//! left out. The forms are those of QEMU's block/nbd.c, ssh.c, iscsi.c, nfs.c, gluster.c and curl.c.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

/// The text that all spellings of a disk have in common.
pub fn canonical(text: &str) -> String {
    read(text).unwrap_or_else(|| text.to_owned())
}

fn read(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once(':')?;
    let scheme = scheme.to_ascii_lowercase();
    match rest.strip_prefix("//") {
        Some(rest) => of_uri(&scheme, rest),
        // In names of disks a colon comes first, in options a key.
        None if scheme == "nbd" && rest.split('=').next().is_some_and(|key| key.contains(':')) => of_nbd_name(rest),
        None => of_options(&scheme, rest),
    }
}

/// A server and what it has: `PROTOCOL://HOST[:PORT]PATH`, without the port that is the protocol's own.
fn at_host(protocol: &str, host: &str, port: Option<&str>, path: &str) -> String {
    let own = match protocol {
        "nbd" => "10809",
        "ssh" => "22",
        "iscsi" | "iser" => "3260",
        "nfs" => "2049",
        "gluster" => "24007",
        "http" => "80",
        "https" => "443",
        "ftp" => "21",
        "ftps" => "990",
        _ => "",
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_lowercase();
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let port = port.filter(|port| !port.is_empty() && *port != own).map(|port| format!(":{port}")).unwrap_or_default();
    format!("{protocol}://{host}{port}/{}", path.trim_start_matches('/'))
}

/// The same behind a socket of this host.
fn at_socket(protocol: &str, socket: &str, path: &str) -> String {
    format!("{protocol}+unix:///{}?socket={socket}", path.trim_start_matches('/'))
}

/// `unix:PATH[:exportname=NAME]` or `HOST:PORT[:exportname=NAME]`.
fn of_nbd_name(name: &str) -> Option<String> {
    let (server, export) = name.split_once(":exportname=").unwrap_or((name, ""));
    if let Some(socket) = server.strip_prefix("unix:") {
        return Some(at_socket("nbd", socket, export));
    }
    let (host, port) = server.rsplit_once(':')?;
    Some(at_host("nbd", host, Some(port), export))
}

fn of_uri(scheme: &str, rest: &str) -> Option<String> {
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let server = authority.rsplit_once('@').map_or(authority, |(_, server)| server);
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (server, None),
    };
    // Of these a question is a part of the name.
    if ["http", "https", "ftp", "ftps"].contains(&scheme) {
        return Some(at_host(scheme, host, port, path));
    }
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let path = decoded(path);
    let socket = query.split('&').find_map(|pair| pair.strip_prefix("socket=")).map(decoded);
    match (scheme, socket) {
        ("nbd+unix", Some(socket)) => Some(at_socket("nbd", &socket, &path)),
        ("gluster+unix", Some(socket)) => Some(at_socket("gluster", &socket, &path)),
        ("nbd" | "nbd+tcp", _) => Some(at_host("nbd", host, port, &path)),
        ("gluster" | "gluster+tcp", _) => Some(at_host("gluster", host, port, &path)),
        ("ssh" | "nfs" | "iscsi" | "iser", _) => Some(at_host(scheme, host, port, &path)),
        _ => None,
    }
}

/// `KEY=VALUE,...`, in the order of the keys, with dots between those of several levels.
fn of_options(driver: &str, text: &str) -> Option<String> {
    let options: BTreeMap<&str, &str> = text.split(',').map(|pair| pair.split_once('=')).collect::<Option<_>>()?;
    let get = |keys: &[&str]| keys.iter().find_map(|key| options.get(key).copied());
    let host = get(&["server.host", "host", "server.0.host"]);
    let port = get(&["server.port", "port", "server.0.port"]);
    match driver {
        "nbd" => {
            let export = get(&["export"]).unwrap_or_default();
            match get(&["server.path", "path"]) {
                Some(socket) => Some(at_socket("nbd", socket, export)),
                None => Some(at_host("nbd", host?, port, export)),
            }
        }
        "ssh" | "nfs" => Some(at_host(driver, host?, port, get(&["path"])?)),
        "iscsi" => {
            let scheme = if get(&["transport"]) == Some("iser") { "iser" } else { "iscsi" };
            let portal = get(&["portal"])?;
            let lun = get(&["lun"]).unwrap_or("0");
            of_uri(scheme, &format!("{portal}/{}/{lun}", get(&["target"])?))
        }
        "gluster" => {
            let path = format!("{}/{}", get(&["volume"])?, get(&["path"])?.trim_start_matches('/'));
            match get(&["server.0.path"]) {
                Some(socket) => Some(at_socket("gluster", socket, &path)),
                None => Some(at_host("gluster", host?, port, &path)),
            }
        }
        "http" | "https" | "ftp" | "ftps" => read(get(&["url"])?),
        _ => None,
    }
}

/// Without `%2F` and its like.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        match code.filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::argv::image::{Place, of_name};
    use proptest::prelude::*;

    fn of(name: &str) -> String {
        match of_name(name.as_bytes()) {
            Some(Place::Elsewhere(text)) => canonical(&String::from_utf8(text).unwrap()),
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn a_disk_is_one_in_every_spelling() {
        for (text, spellings) in [
            (
                "nbd+unix:///x?socket=/run/p",
                &[
                    "nbd:unix:/run/p:exportname=x",
                    "nbd+unix:///x?socket=/run/p",
                    "nbd+unix:///x?socket=%2Frun%2Fp",
                    r#"json:{"driver":"nbd","server":{"type":"unix","path":"/run/p"},"export":"x"}"#,
                    r#"json:{"driver":"raw","file":{"driver":"nbd","path":"/run/p","export":"x","tls-creds":"t"}}"#,
                    r#"json:{"file.driver":"nbd","file.path":"/run/p","file.export":"x"}"#,
                ][..],
            ),
            (
                "nbd+unix:///?socket=/run/p",
                &["nbd:unix:/run/p", "nbd+unix://?socket=/run/p", "nbd+unix:///?socket=/run/p"],
            ),
            (
                "nbd://host/x",
                &[
                    "nbd://host/x",
                    "nbd://HOST:10809/x",
                    "nbd+tcp://host/x",
                    "nbd:host:10809:exportname=x",
                    r#"json:{"driver":"nbd","server":{"type":"inet","host":"host","port":"10809"},"export":"x"}"#,
                    r#"json:{"driver":"nbd","host":"host","export":"x"}"#,
                ],
            ),
            ("nbd://host:1/", &["nbd:host:1", "nbd://host:1", "nbd://host:1/"]),
            (
                "nbd://[::1]/x",
                &[
                    "nbd:[::1]:10809:exportname=x",
                    "nbd://[::1]/x",
                    r#"json:{"driver":"nbd","host":"::1","export":"x"}"#,
                ],
            ),
            (
                "ssh://host/x/y",
                &[
                    "ssh://host/x/y",
                    "ssh://alice@host:22/x/y?host_key_check=no",
                    r#"json:{"driver":"ssh","server":{"host":"host","port":"22"},"path":"/x/y","user":"alice"}"#,
                    r#"json:{"driver":"ssh","host":"host","path":"/x/y"}"#,
                ],
            ),
            (
                "iscsi://host/iqn.2001-04.com.example/0",
                &[
                    "iscsi://host/iqn.2001-04.com.example/0",
                    "iscsi://user%secret@host:3260/iqn.2001-04.com.example/0",
                    r#"json:{"driver":"iscsi","transport":"tcp","portal":"host:3260","target":"iqn.2001-04.com.example"}"#,
                    r#"json:{"driver":"iscsi","transport":"tcp","portal":"host","target":"iqn.2001-04.com.example","lun":0}"#,
                ],
            ),
            (
                "https://host/x?y=1",
                &[
                    "https://host/x?y=1",
                    "https://HOST:443/x?y=1",
                    r#"json:{"driver":"https","url":"https://host/x?y=1"}"#,
                ],
            ),
            (
                "http://host/x",
                &["http://user@host:80/x", r#"json:{"driver":"http","url":"http://host/x","timeout":5}"#],
            ),
            (
                "nfs://host/x/d",
                &[
                    "nfs://host/x/d?uid=0",
                    r#"json:{"driver":"nfs","server":{"type":"inet","host":"host"},"path":"/x/d"}"#,
                ],
            ),
            (
                "gluster://host/v/d",
                &[
                    "gluster://host/v/d",
                    "gluster+tcp://host:24007/v/d",
                    r#"json:{"driver":"gluster","volume":"v","path":"d","server":[{"type":"inet","host":"host","port":"24007"}]}"#,
                ],
            ),
            ("gluster+unix:///v/d?socket=/s", &["gluster+unix:///v/d?socket=/s"]),
            ("rbd:p/i", &["rbd:p/i", r#"json:{"driver":"rbd","pool":"p","image":"i"}"#]),
        ] {
            for spelling in spellings {
                assert_eq!(of(spelling), text, "{spelling}");
            }
            assert_eq!(canonical(text), text);
        }
        // Different disks, and what is not understood.
        assert_ne!(of("nbd://host/x"), of("nbd://host/y"));
        assert_ne!(of("nbd://host:1/x"), of("nbd://host/x"));
        for odd in ["sheepdog:host:7000:x", "nvme://0000:00:04.0/1", "io_uring:/dev/x", "nbd:server.type=inet"] {
            assert_eq!(canonical(odd), odd);
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_fail(text in "(nbd|ssh|https|iscsi|nfs|gluster\\+unix)?:(//)?[a-zé0-9:/=,@%?\\[\\].]{0,24}") {
            canonical(&text);
        }
    }
}
