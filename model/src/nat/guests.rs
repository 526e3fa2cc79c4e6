//! Who is on such a network: each guest that root has started, with its address and name.

use crate::mac::Mac;
use crate::nat::Nat;
use crate::nat::forward::Forward;
use crate::nat::guest::{Guest, address_of, label};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// The addresses that cards had at any time.
pub type Addresses = Vec<(Mac, Ipv4Addr)>;

/// All of them since the bridge was made: who comes back is who it was.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Guests(Vec<Known>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    /// The index of its TAP.
    tap: u32,
    guest: Guest,
}

impl Guests {
    /// Lets a guest in, and notes its address in `kept`; `None`, and nothing is changed, where no address is left. Its ports are
    /// its own from here on: whoever had one before is gone.
    pub fn admit(
        &mut self,
        nat: &Nat,
        kept: &mut Addresses,
        mac: Mac,
        vm: &str,
        tap: u32,
        forwards: &[Forward],
    ) -> Option<Guest> {
        let before = self.0.iter().position(|known| known.guest.mac == mac).map(|at| self.0.remove(at).guest);
        let (address, name) = match before {
            Some(Guest { address, name, .. }) => (address, name),
            None => (self.address(nat, kept, mac)?, label(vm).map(|name| self.free_name(&name))),
        };
        for Known { guest, .. } in &mut self.0 {
            guest.forwards.retain(|own| !forwards.iter().any(|forward| forward.collides(own)));
        }
        let guest = Guest { mac, name, address, forwards: forwards.to_vec() };
        self.0.push(Known { tap, guest: guest.clone() });
        Some(guest)
    }

    fn address(&self, nat: &Nat, kept: &mut Addresses, mac: Mac) -> Option<Ipv4Addr> {
        let here: Vec<Ipv4Addr> = self.0.iter().map(|known| known.guest.address).collect();
        let others = kept.iter().filter(|(other, _)| *other != mac).map(|(_, address)| *address);
        let taken: Vec<Ipv4Addr> = others.chain(here.iter().copied()).collect();
        let (first, last) = nat.range();
        let known = kept.iter().find(|(other, _)| *other == mac).map(|(_, address)| *address);
        let known = known.filter(|address| (first..=last).contains(address) && !here.contains(address));
        // Before none is left, those get theirs who are not here.
        let address = known.or_else(|| address_of(nat, mac, &taken)).or_else(|| address_of(nat, mac, &here))?;
        kept.retain(|(other, its)| *other != mac && *its != address);
        kept.push((mac, address));
        Some(address)
    }

    /// Two VMs may have names of which DNS makes the same.
    fn free_name(&self, name: &str) -> String {
        let is_free = |name: &String| self.0.iter().all(|known| known.guest.name.as_ref() != Some(name));
        // A label has 63 characters at the most.
        let numbered = |number: usize| format!("{}-{number}", &name[..name.len().min(58)]);
        let all = std::iter::once(name.to_owned()).chain((2..).map(numbered));
        all.take(self.0.len() + 2).find(is_free).unwrap_or_else(|| name.to_owned())
    }

    /// Takes back the ports of those whose TAP is gone. Whether there were any.
    pub fn close(&mut self, is_there: impl Fn(u32) -> bool) -> bool {
        let mut is_changed = false;
        for Known { guest, .. } in self.0.iter_mut().filter(|known| !is_there(known.tap)) {
            is_changed |= !guest.forwards.is_empty();
            guest.forwards.clear();
        }
        is_changed
    }

    /// Forgets those whose TAP is gone: their addresses are free then for others. Who comes back may have another.
    pub fn forget(&mut self, is_there: impl Fn(u32) -> bool) -> Vec<Mac> {
        let (there, gone): (Vec<_>, Vec<_>) = self.0.drain(..).partition(|known| is_there(known.tap));
        self.0 = there;
        gone.into_iter().map(|known| known.guest.mac).collect()
    }

    /// All.
    pub fn all(&self) -> Vec<Guest> {
        self.0.iter().map(|known| known.guest.clone()).collect()
    }

    /// Those behind these TAPs.
    pub fn behind(&self, is_there: impl Fn(u32) -> bool) -> Vec<Guest> {
        self.0.iter().filter(|known| is_there(known.tap)).map(|known| known.guest.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::tests::nat;

    fn mac(number: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, number])
    }

    #[test]
    fn a_guest_that_comes_back_has_its_address_and_its_name() {
        let (mut guests, mut kept) = (Guests::default(), Addresses::new());
        let alice = guests.admit(&nat(), &mut kept, mac(1), "Alice", 7, &[]).unwrap();
        let bob = guests.admit(&nat(), &mut kept, mac(2), "alice", 8, &[]).unwrap();
        assert_eq!((alice.name.as_deref(), bob.name.as_deref()), (Some("alice"), Some("alice-2")));
        assert_eq!(guests.admit(&nat(), &mut kept, mac(1), "Alice", 9, &[]).unwrap(), alice);
        assert_eq!((guests.behind(|tap| tap == 7), guests.behind(|tap| tap == 9)), (vec![], vec![alice.clone()]));
        // After the bridge was made anew, and in another order.
        let mut later = Guests::default();
        assert_eq!(later.admit(&nat(), &mut kept, mac(2), "bob", 3, &[]).unwrap().address, bob.address);
        assert_eq!(later.admit(&nat(), &mut kept, mac(1), "Alice", 4, &[]).unwrap().address, alice.address);
        assert_eq!(kept.len(), 2);
    }

    #[test]
    fn a_port_is_its_last_guests() {
        let (mut guests, mut kept) = (Guests::default(), Addresses::new());
        let port = ["tcp:2222:22".parse().unwrap()];
        guests.admit(&nat(), &mut kept, mac(1), "alice", 7, &port).unwrap();
        guests.admit(&nat(), &mut kept, mac(2), "bob", 8, &port).unwrap();
        let with_ports = |guests: &Guests| -> Vec<Mac> {
            guests.all().into_iter().filter(|guest| !guest.forwards.is_empty()).map(|guest| guest.mac).collect()
        };
        assert_eq!(with_ports(&guests), [mac(2)]);
        assert!(!guests.close(|tap| tap == 8) && guests.close(|tap| tap == 7) && !guests.close(|_| false));
        assert!(with_ports(&guests).is_empty());
    }

    #[test]
    fn a_full_network_gives_again_what_is_not_in_use_and_then_nothing() {
        let small = Nat { subnet: "10.77.5.0/29".parse().unwrap(), ..nat() };
        let (first, last) = small.range();
        let count = u8::try_from(u32::from(last) - u32::from(first) + 1).unwrap();
        let mut kept = Addresses::new();
        for round in 0..3 {
            let mut guests = Guests::default();
            for number in 0..count {
                guests.admit(&small, &mut kept, mac(round * count + number), "x", number.into(), &[]).unwrap();
            }
            let before = (guests.clone(), kept.clone());
            assert_eq!(guests.admit(&small, &mut kept, mac(200), "x", 99, &[]), None);
            assert_eq!((&guests, &kept), (&before.0, &before.1));
            // One that is there has its own.
            guests.admit(&small, &mut kept, mac(round * count), "x", 99, &[]).unwrap();
        }
        assert_eq!(kept.len(), usize::from(count));
        // Those that have gone make room.
        let mut guests = Guests::default();
        for number in 0..count {
            guests.admit(&small, &mut kept, mac(number), "x", number.into(), &[]).unwrap();
        }
        assert_eq!(guests.forget(|tap| tap != 1), [mac(1)]);
        guests.admit(&small, &mut kept, mac(200), "x", 99, &[]).unwrap();
    }

    #[test]
    fn names_that_dns_would_cut_stay_different() {
        let (mut guests, mut kept) = (Guests::default(), Addresses::new());
        let long = "a".repeat(100);
        let names: Vec<String> = (0..3)
            .map(|number| guests.admit(&nat(), &mut kept, mac(number), &long, 1, &[]).unwrap().name.unwrap())
            .collect();
        assert!(names.iter().all(|name| name.len() <= 63) && names[0] != names[1] && names[1] != names[2]);
    }
}
