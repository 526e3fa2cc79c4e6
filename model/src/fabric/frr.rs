//! What FRR says of a network between hosts, by `vtysh -c "show ... json"`. An answer that is not understood is no answer.

use crate::mac::Mac;
use serde_json::Value;
use std::net::IpAddr;

/// The hosts that are spoken with, each with the state of the session, of `show bgp l2vpn evpn summary json`.
pub fn sessions(text: &str) -> Option<Vec<(String, String)>> {
    let said: Value = serde_json::from_str(text).ok()?;
    let Some(peers) = said.get("peers") else {
        // Where there is none, it says so in an object without them.
        return said.is_object().then(Vec::new);
    };
    let state = |peer: &Value| Some(peer.get("state")?.as_str()?.to_owned());
    peers.as_object()?.iter().map(|(name, peer)| Some((name.clone(), state(peer)?))).collect()
}

/// What zebra knows of a VNI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vni {
    /// The address at which it tells the others that this host is, where it says so.
    pub local: Option<IpAddr>,
    /// The other hosts that have it.
    pub hosts: Vec<IpAddr>,
    /// How many addresses are known, those of this host among them.
    pub macs: u64,
}

/// The answer to `show evpn vni NUMBER json`; the inner `None` where zebra does not know it.
pub fn vni(text: &str) -> Option<Option<Vni>> {
    let said: Value = match text.trim() {
        "" => return Some(None),
        text => serde_json::from_str(text).ok()?,
    };
    let Some(macs) = said.get("numMacs") else { return said.is_object().then_some(None) };
    // FRR 10 has objects in a list of their own, FRR 8 the addresses in place of the number of them; none is the number 0 in both.
    let hosts = match (said.get("remoteVteps"), said.get("numRemoteVteps")) {
        (Some(list), _) | (None, Some(list @ Value::Array(_))) => list.as_array()?.as_slice(),
        (None, Some(number)) if number.as_u64() != Some(0) => return None,
        _ => &[],
    };
    let address = |host: &Value| host.get("ip").unwrap_or(host).as_str()?.parse().ok();
    let hosts = hosts.iter().map(address).collect::<Option<Vec<IpAddr>>>()?;
    let local = said.get("vtepIp").and_then(Value::as_str).and_then(|local| local.parse().ok());
    Some(Some(Vni { local, hosts, macs: macs.as_u64()? }))
}

/// The addresses that move to and fro, of `show evpn mac vni NUMBER duplicate json`.
pub fn duplicates(text: &str) -> Option<Vec<Mac>> {
    let said: Value = match text.trim() {
        "" => return Some(Vec::new()),
        text => serde_json::from_str(text).ok()?,
    };
    let Some(macs) = said.get("macs").and_then(Value::as_object) else { return said.is_object().then(Vec::new) };
    macs.keys().map(|mac| mac.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_no_answer() {
        for text in ["% Unknown command", "[1]", "{\"peers\":[1]}", "{\"peers\":{\"h\":{}}}"] {
            assert_eq!(sessions(text), None, "{text}");
        }
        assert_eq!(vni("VNI 7 does not exist"), None);
        assert_eq!(vni("{\"numMacs\":\"x\"}"), None);
        assert_eq!(duplicates("%"), None);
    }

    #[test]
    fn what_frr_says_is_read() {
        let said = r#"{"as":65000,"peers":{"10.0.0.2":{"state":"Established"},"10.0.0.3":{"state":"Connect"}}}"#;
        let state = |host: &str, state: &str| (host.to_owned(), state.to_owned());
        assert_eq!(sessions(said), Some(vec![state("10.0.0.2", "Established"), state("10.0.0.3", "Connect")]));
        assert_eq!(sessions("{}"), Some(Vec::new()));
        let known = vni(r#"{"vni":100,"numMacs":2,"numRemoteVteps":["10.0.0.3","10.0.0.1"]}"#).unwrap().unwrap();
        assert_eq!((known.hosts.len(), known.macs, known.local), (2, 2, None));
        let of_ipv6 = vni(r#"{"vni":86,"vtepIp":"0.0.0.0","numMacs":0}"#).unwrap().unwrap();
        assert_eq!(of_ipv6.local, Some("0.0.0.0".parse().unwrap()));
        assert_eq!(vni(r#"{"vni":100,"numMacs":0,"numRemoteVteps":0}"#).unwrap().unwrap().hosts, [] as [IpAddr; 0]);
        let of_ten = r#"{"numMacs":0,"numRemoteVteps":1,"remoteVteps":[{"ip":"10.97.0.2","flood":"HER"}]}"#;
        assert_eq!(vni(of_ten).unwrap().unwrap().hosts, ["10.97.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(vni(r#"{"vni":100,"numMacs":0,"numRemoteVteps":1}"#), None);
        assert_eq!((vni("{}"), vni("")), (Some(None), Some(None)));
        let mac = "22:00:00:00:00:99";
        let said = format!(r#"{{"vni":100,"numMacs":1,"macs":{{"{mac}":{{"isDuplicate":true}}}}}}"#);
        assert_eq!(duplicates(&said), Some(vec![mac.parse().unwrap()]));
        assert_eq!(duplicates("{}"), Some(Vec::new()));
    }
}
