//! The parts of `uplink=nat`, each carried out as its caller will: a guest is a network namespace behind a bridge.
//!
//!     guest: eth0 ---- v0 :br0: SUBNET.1 :host: eth0 10.77.0.2 ====== 10.77.0.1 :lan

use crate::support::namespaces::within;
use crate::support::processes::is_alive;
use crate::support::{Lab, have, wait_for};
use kvm_bridge::netlink::Netlink;
use kvm_bridge::network::uplink::nat::server::{self, Server};
use kvm_bridge::network::uplink::nat::{forwarding, gateway, programs, rules};
use model::ifname::IfName;
use model::mac::Mac;
use model::nat::firewall::Blocked;
use model::nat::guest::{Guest, address_of, label};
use model::nat::subnet::{Ipv4Net, Ula, choose, is_free};
use model::nat::{Nat, dnsmasq};
use nix::sys::socket::{setsockopt, sockopt};
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
/// The bridge's own.
const BRIDGE: Mac = Mac([2, 0, 0, 0, 0, 5]);
const PATIENCE: Duration = Duration::from_secs(2);

/// A bridge with a network of its own, and one guest on it.
struct House<'a> {
    lab: &'a Lab,
    bridge: IfName,
    index: u32,
    nat: Nat,
    alice: Guest,
    folder: PathBuf,
    server: Option<Server>,
}

impl<'a> House<'a> {
    fn new(lab: &'a Lab, ipv6: bool, forwards: &[&str]) -> Option<Self> {
        if !have("dnsmasq") || !have("nft") {
            return None;
        }
        programs::check().expect("programs");
        lab.settle();
        lab.baseline();
        let mut netlink = Netlink::open().expect("a socket");
        let taken = gateway::taken(&mut netlink, None).expect("networks");
        let subnet = choose(&taken, None, [1, 2, 3, 4]).expect("a free subnet");
        let bridge = IfName::new("br0").expect("a name");
        let nat = Nat::new(&bridge, subnet, ipv6.then(|| Ula::new([1, 2, 3, 4, 5, 0, 7]))).expect("a network");
        let address = address_of(&nat, MAC, &[]).expect("an address");
        let forwards = forwards.iter().map(|text| text.parse().expect("a port")).collect();
        let alice = Guest { mac: MAC, name: label("alice"), address, forwards };
        lab.ip(&format!("link add br0 address {BRIDGE} type bridge"));
        lab.ip("link set br0 up");
        let index = lab.a_link("br0")["ifindex"].as_u64().expect("an index") as u32;
        rules::apply(&bridge, (index, BRIDGE), &nat, std::slice::from_ref(&alice)).expect("rules");
        gateway::give(&mut netlink, &bridge, index, &nat).expect("addresses");
        gateway::open_loopback(&bridge, std::slice::from_ref(&alice)).expect("a setting");
        forwarding::lend(&bridge, index, ipv6, false).expect("forwarding");
        let folder = lab.run_dir().join("br0.nat");
        let server = Server::start(&nat, &bridge, &folder).expect("dnsmasq");
        server::know(&alice, &nat.domain, &folder).expect("a guest");
        lab.ip("netns add guest");
        lab.ip("link add v0 type veth peer name eth0 netns guest");
        lab.ip("link set v0 master br0 up");
        lab.ip(&format!("-n guest link set eth0 address {MAC} up"));
        lab.ip("-n guest link set lo up");
        Some(Self { lab, bridge, index, nat, alice, folder, server: Some(server) })
    }

    fn default(lab: &'a Lab, forwards: &[&str]) -> Option<Self> {
        Self::new(lab, false, forwards)
    }

    /// The guest asks for its address, and takes what it gets.
    fn boots(&self) -> Ipv4Addr {
        let (address, router) = wait_for("a lease", 10, || within("guest", ask_for_address).join().expect("a guest"));
        self.lab.ip(&format!("-n guest addr add {address}/24 dev eth0"));
        self.lab.ip(&format!("-n guest route add default via {router}"));
        assert_eq!(router, self.nat.gateway());
        address
    }

    fn starts_server(&mut self) {
        self.server = Some(Server::start(&self.nat, &self.bridge, &self.folder).expect("dnsmasq"));
    }

    /// All is taken back, and the host is as it was.
    #[track_caller]
    fn ends(mut self, blocked: &[Blocked]) {
        drop(self.server.take());
        for _ in 0..2 {
            forwarding::take_back(self.index).expect("forwarding as before");
            rules::block_again(blocked, &self.bridge).expect("others' rules as before");
            rules::remove(&self.bridge).expect("no rules");
            server::tidy(&self.folder).expect("no files");
        }
        let _ = fs::remove_dir(self.lab.run_dir());
        self.lab.ip("link del br0");
        self.lab.ip("link del v0");
        self.lab.becomes_as_before();
        let tables = run("nft", "list tables");
        assert!(!tables.contains("kvmb"), "{tables}");
    }
}

#[track_caller]
fn run(program: &str, words: &str) -> String {
    let output = Command::new(program).args(words.split_whitespace()).output().expect("run it");
    assert!(output.status.success(), "{program} {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn setting(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/net/{name}")).expect("a setting").trim().to_owned()
}

#[track_caller]
fn set(name: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{name}"), value).expect("a setting");
}

// What a guest does.

/// DISCOVER and REQUEST (RFC 2131), as a client does that has no address; what it gets, and the router.
fn ask_for_address() -> Option<(Ipv4Addr, Ipv4Addr)> {
    let socket = UdpSocket::bind("0.0.0.0:68").expect("a socket");
    setsockopt(&socket, sockopt::BindToDevice, &"eth0".into()).expect("bind it");
    socket.set_broadcast(true).expect("broadcast");
    socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let ask = |options: &[u8]| {
        let mut message = vec![0; 240];
        message[..4].copy_from_slice(&[1, 1, 6, 0]);
        message[4..8].copy_from_slice(&7_u32.to_be_bytes());
        // To be answered by broadcast.
        message[10] = 0x80;
        message[28..34].copy_from_slice(&MAC.0);
        message[236..].copy_from_slice(&[99, 130, 83, 99]);
        message.extend(options);
        message.push(255);
        socket.send_to(&message, "255.255.255.255:67").ok()?;
        let mut answer = [0; 2048];
        let length = socket.recv(&mut answer).ok()?;
        model::packet::dhcp::Message::parse(&answer[..length])
    };
    let offer = ask(&[53, 1, 1])?;
    let (address, server) = (offer.address?.octets(), offer.server?.octets());
    let ack = ask(&[&[53, 1, 3, 50, 4], &address[..], &[54, 4], &server[..]].concat())?;
    Some((ack.address?, ack.router?))
}

/// The addresses that a name server of the guest's has for a name: type A or AAAA.
fn resolve(server: IpAddr, name: &str, kind: u16) -> Option<IpAddr> {
    let name = name.to_owned();
    let ask = move || {
        let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            question.push(label.len() as u8);
            question.extend(label.bytes());
        }
        question.extend([0, (kind >> 8) as u8, kind as u8, 0, 1]);
        socket.send_to(&question, (server, 53)).ok()?;
        let mut answer = [0; 1500];
        let length = socket.recv(&mut answer).ok()?;
        // The address of the first answer stands behind the question, a pointer, type, class, time and length.
        let data = answer[..length].get(question.len() + 12..)?;
        match (answer[7], kind) {
            (0, _) => None,
            (_, 1) => Some(IpAddr::from(<[u8; 4]>::try_from(data.get(..4)?).ok()?)),
            _ => Some(IpAddr::from(<[u8; 16]>::try_from(data.get(..16)?).ok()?)),
        }
    };
    within("guest", ask).join().expect("a guest")
}

/// A server in a namespace that tells each client whose address it sees; it ends with its namespace's test.
fn serve(namespace: &'static str, at: &str) {
    let at = at.to_owned();
    let listener = within(namespace, move || TcpListener::bind(&at)).join().expect("a thread").expect("a server");
    listening(listener);
}

fn listening(listener: TcpListener) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let from = stream.peer_addr().expect("an address").ip().to_string();
            let _ = stream.write_all(from.as_bytes());
        }
    });
}

/// Whose address the server sees, from a namespace; `None` if it is not reached.
fn seen_from(namespace: &str, to: &str) -> Option<String> {
    let to: SocketAddr = to.parse().expect("an address");
    within(namespace, move || seen(to)).join().expect("a thread")
}

fn seen(to: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text).filter(|text| !text.is_empty())
}

// The stories.

#[test]
fn a_guest_has_an_address_a_name_a_way_out_and_no_way_in_but_what_is_forwarded() {
    let Some(lab) = Lab::with_address() else { return };
    let Some(house) = House::default(&lab, &["tcp:2222:22", "tcp:0.0.0.0:8080:80"]) else { return };
    let reserved: Vec<_> = house.alice.forwards.iter().map(|port| gateway::reserve(port).expect("a port")).collect();
    assert_eq!(house.boots(), house.alice.address);
    let (gateway, alice) = (house.nat.gateway(), house.alice.address);
    for name in ["alice.br0.internal", "alice"] {
        assert_eq!(resolve(gateway.into(), name, 1), Some(alice.into()), "{name}");
    }
    assert_eq!(resolve(gateway.into(), "bob.br0.internal", 1), None);
    let leases = fs::metadata(house.folder.join("leases")).expect("its folder");
    assert!(std::os::unix::fs::MetadataExt::uid(&leases) != 0, "dnsmasq's own");
    let status =
        fs::read_to_string(format!("/proc/{}/status", house.server.as_ref().expect("it").pid())).expect("it runs");
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).expect("a field").trim().to_owned();
    assert!(!field("Uid:").split_whitespace().any(|id| id == "0"), "{status}");
    assert_eq!((field("CapEff:"), field("CapBnd:") != field("CapPrm:")), ("0000000000003400".to_owned(), true));
    assert_eq!(field("NoNewPrivs:"), "1");

    // Out.
    serve("lan", "10.77.0.1:80");
    assert_eq!(seen_from("guest", "10.77.0.1:80").as_deref(), Some("10.77.0.2"));
    run("ip", "netns exec guest ping -c 1 -W 5 10.77.0.1");
    assert!(rules::masqueraded(&house.bridge).expect("a count") > Some(0));

    // In.
    lab.lan.run(&format!("ip route add {} via 10.77.0.2", house.nat.subnet));
    for port in [22, 80, 81] {
        serve("guest", &format!("0.0.0.0:{port}"));
    }
    assert_eq!(seen_from("lan", &format!("{alice}:81")), None, "past the host's address");
    assert_eq!(seen_from("lan", "10.77.0.2:8080").as_deref(), Some("10.77.0.1"), "the guest sees whose it is");
    assert_eq!(seen_from("lan", "10.77.0.2:2222"), None, "that is the host's own");
    let own = |to: &str| seen(to.parse().expect("an address"));
    assert_eq!(own("127.0.0.1:2222"), Some(gateway.to_string()));
    assert_eq!(own("127.0.0.1:8080"), Some(gateway.to_string()));
    assert!(own("10.77.0.2:8080").is_some() && own(&format!("{alice}:81")).is_some());
    // From a neighbour, by the host's address; where bridged packets go through the host's rules, and where not. In the former
    // case the bridge itself sends it on, which it never does to the port that it came from.
    lab.ip("netns add bob");
    lab.ip("link add v1 type veth peer name eth0 netns bob");
    lab.ip("link set v1 master br0 up");
    lab.ip("-n bob link set eth0 up");
    lab.ip(&format!("-n bob addr add {}/24 dev eth0", house.nat.subnet.nth(251)));
    lab.ip(&format!("-n bob route add default via {gateway}"));
    for called in ["1", "0"] {
        let is_there = fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", called).is_ok();
        assert!(seen_from("bob", "10.77.0.2:8080").is_some(), "{called}");
        if !is_there || called == "0" {
            assert!(seen_from("guest", "10.77.0.2:8080").is_some());
        }
    }
    // By way of the host nobody gets to a neighbour, who may be one that is kept apart; past the host they do.
    serve("guest", "0.0.0.0:90");
    let to_alice = format!("{alice}:90");
    for called in ["1", "0"] {
        let _ = fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", called);
        assert!(seen_from("bob", &to_alice).is_some(), "{called}");
        run("ip", &format!("-n bob route add {alice} via {gateway}"));
        assert_eq!(seen_from("bob", &to_alice), None, "{called}");
        run("ip", &format!("-n bob route del {alice}"));
    }
    lab.ip("link del v1");

    // route_localnet opens nothing of the host's.
    listening(TcpListener::bind("127.0.0.1:999").expect("a server"));
    run("ip", &format!("-n guest route add 127.0.0.0/8 via {gateway} table 7"));
    run("ip", "-n guest rule add to 127.0.0.0/8 table 7 pref 0");
    set_in_guest("ipv4/conf/eth0/route_localnet", "1");
    run("ip", "-n guest rule del pref 0 table local");
    run("ip", "-n guest rule add pref 9 table local");
    assert_eq!(seen_from("guest", "127.0.0.1:999"), None);
    assert!(drops("loopback") > 0, "it was asked");
    drop(reserved);
    house.ends(&[]);
}

fn set_in_guest(name: &str, value: &str) {
    let (name, value) = (name.to_owned(), value.to_owned());
    within("guest", move || set(&name, &value)).join().expect("a guest");
}

/// How many packets the drops of a chain of ours have counted.
fn drops(chain: &str) -> u64 {
    let text = run("nft", &format!("list chain inet kvmb_br0 {chain}"));
    let counts =
        text.lines().filter(|line| line.contains("drop")).filter_map(|line| line.split_once("counter packets "));
    counts.filter_map(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok()).sum()
}

#[test]
fn ipv6_is_the_same_and_the_hosts_own_stays() {
    let Some(lab) = Lab::with_address() else { return };
    if !have("dnsmasq") || !have("nft") {
        return;
    }
    lab.ip("addr add fd77::2/64 dev eth0");
    // A router announces itself to the host, which is no router.
    let _router = router(&lab);
    let default_route = || run("ip", "-6 route show default");
    wait_for("a default route", 10, || default_route().contains("proto ra").then_some(()));
    let house = House::new(&lab, true, &["tcp:[::]:8080:80", "tcp:127.0.0.1:8080:80"]).expect("a network");
    assert!(default_route().contains("proto ra"), "turning on forwarding has it forgotten by the kernel");
    let switches = |name: &str| ["forwarding", "accept_ra"].map(|of| setting(&format!("ipv6/conf/{name}/{of}")));
    assert_eq!(switches("eth0"), ["0", "1"]);
    assert_eq!(
        (setting("ipv6/conf/default/forwarding"), setting("ipv6/conf/all/forwarding")),
        ("0".into(), "1".into())
    );
    let wanted = house.alice.address6(house.nat.ula.expect("a prefix"));
    wait_for("the guest's own address", 10, || {
        run("ip", "-n guest -6 addr show dev eth0 scope global").contains(&wanted.to_string()).then_some(())
    });
    house.boots();
    serve("lan", "[fd77::1]:80");
    // Its address is in use when it has asked whether it is another's.
    let seen_by_lan = wait_for("the way out", 10, || seen_from("guest", "[fd77::1]:80"));
    assert!(seen_by_lan.starts_with("fd77::"), "an address of the host's: {seen_by_lan}");
    serve("guest", "[::]:80");
    let client = seen_from("lan", "[fd77::2]:8080").expect("the way in");
    assert!(client.starts_with("fd77::") && client != "fd77::2", "the guest sees whose it is: {client}");
    lab.lan.run(&format!("ip route add {} via fd77::2", house.nat.ula.expect("a prefix")));
    assert_eq!(seen_from("lan", &format!("[{wanted}]:80")), None);
    let gateway = house.nat.gateway6().expect("an address");
    wait_for("its name", 10, || resolve(gateway.into(), "alice.br0.internal", 28).filter(|found| *found == wanted));
    house.ends(&[]);
    assert!(default_route().contains("proto ra"));
    assert_eq!(setting("ipv6/conf/all/forwarding"), "0");
}

/// A program that ends with its test, also with one that fails.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A router on the LAN.
fn router(lab: &Lab) -> Other {
    let words = "dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --user=root --interface=lan0 --bind-interfaces \
                 --enable-ra --dhcp-range=fd77::,ra-only,64 --pid-file= --dhcp-leasefile=/run/router --log-facility=-";
    Other(lab.lan.command(words).stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("a router"))
}

/// What others have, before any guest; each with what removes it.
const FIREWALLS: [(&str, &[&str]); 5] = [
    (
        "Docker",
        &[
            "iptables-nft -P FORWARD DROP",
            "iptables-nft -N DOCKER-USER",
            "iptables-nft -A DOCKER-USER -j RETURN",
            "iptables-nft -A FORWARD -j DOCKER-USER",
            "iptables-nft -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "iptables-nft -A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
        ],
    ),
    (
        "ufw",
        &[
            "iptables-nft -P INPUT DROP",
            "iptables-nft -P FORWARD DROP",
            "iptables-nft -N ufw-before-input",
            "iptables-nft -N ufw-before-forward",
            "iptables-nft -N ufw-reject-forward",
            "iptables-nft -A INPUT -j ufw-before-input",
            "iptables-nft -A ufw-before-input -i lo -j ACCEPT",
            "iptables-nft -A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "iptables-nft -A FORWARD -j ufw-before-forward",
            "iptables-nft -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "iptables-nft -A FORWARD -j ufw-reject-forward",
        ],
    ),
    // ufw with DEFAULT_FORWARD_POLICY=REJECT.
    (
        "ufw",
        &[
            "iptables-nft -N ufw-reject-forward",
            "iptables-nft -A FORWARD -i lo -j ACCEPT",
            "iptables-nft -A FORWARD -j ufw-reject-forward",
            "iptables-nft -A ufw-reject-forward -j REJECT",
        ],
    ),
    // The chains of firewalld 1.3 and its zone public, in a table of another name: there is no firewall-cmd here.
    (
        "mine",
        &[
            "nft add table inet mine",
            "nft add chain inet mine filter_INPUT { type filter hook input priority 10 ; policy accept ; }",
            "nft add chain inet mine filter_FORWARD { type filter hook forward priority 10 ; policy accept ; }",
            "nft add chain inet mine filter_FORWARD_ZONES",
            "nft add chain inet mine filter_FWD_public",
            "nft add rule inet mine filter_INPUT ct state { established, related } accept",
            "nft add rule inet mine filter_INPUT iifname lo accept",
            "nft add rule inet mine filter_INPUT ct state invalid drop",
            "nft add rule inet mine filter_INPUT reject with icmpx type admin-prohibited",
            "nft add rule inet mine filter_FORWARD ct state { established, related } accept",
            "nft add rule inet mine filter_FORWARD ct status dnat accept",
            "nft add rule inet mine filter_FORWARD iifname lo accept",
            "nft add rule inet mine filter_FORWARD ct state invalid drop",
            "nft add rule inet mine filter_FORWARD jump filter_FORWARD_ZONES",
            "nft add rule inet mine filter_FORWARD_ZONES goto filter_FWD_public",
            "nft add rule inet mine filter_FWD_public meta l4proto 254 accept",
            "nft add rule inet mine filter_FWD_public reject with icmpx type admin-prohibited",
        ],
    ),
    (
        "mine",
        &[
            "nft add table ip mine",
            "nft add chain ip mine forward { type filter hook forward priority 0 ; policy drop ; }",
            "nft add rule ip mine forward iifname wg0 accept",
        ],
    ),
];

/// A guest behind this firewall of others: cut off at first, then let pass; and the firewall is as before in the end.
fn passes(number: usize) {
    if !have("iptables-nft") {
        return;
    }
    let (who, commands) = FIREWALLS[number];
    let Some(lab) = Lab::with_address() else { return };
    for command in commands {
        let (program, words) = command.split_once(' ').expect("words");
        run(program, words);
    }
    let before = run("nft", "-s list ruleset");
    let Some(house) = House::default(&lab, &["tcp:0.0.0.0:8080:80"]) else { return };
    serve("lan", "10.77.0.1:80");
    let found = rules::blocked(&house.bridge).expect("rules");
    assert!(!found.is_empty() && found.iter().all(|one| one.by.contains(who)), "{found:?}");
    let closes_host = commands.iter().any(|command| command.contains("INPUT"));
    assert_eq!(found.len(), if closes_host { 2 } else { 1 }, "{found:?}");
    if closes_host {
        assert_eq!(within("guest", ask_for_address).join().expect("a guest"), None);
    } else {
        house.boots();
        assert_eq!(seen_from("guest", "10.77.0.1:80"), None);
    }
    for one in &found {
        rules::unblock(one, &house.bridge).expect("a way");
    }
    if closes_host {
        house.boots();
    }
    assert_eq!(seen_from("guest", "10.77.0.1:80").as_deref(), Some("10.77.0.2"));
    assert!(resolve(house.nat.gateway().into(), "alice", 1).is_some());
    serve("guest", "0.0.0.0:80");
    assert_eq!(seen_from("lan", "10.77.0.2:8080").as_deref(), Some("10.77.0.1"));
    assert_eq!(rules::blocked(&house.bridge).expect("rules"), [], "once is enough");
    if commands[0].starts_with("iptables") {
        assert!(run("iptables-nft", "-S").contains("kvm-bridge br0"), "its tools can read it");
    }
    house.ends(&found);
    assert_eq!(run("nft", "-s list ruleset"), before);
}

#[test]
fn docker_lets_it_pass() {
    passes(0);
}

#[test]
fn ufw_lets_it_pass() {
    passes(1);
}

#[test]
fn ufw_that_rejects_lets_it_pass() {
    passes(2);
}

#[test]
fn a_firewall_of_zones_lets_it_pass() {
    passes(3);
}

#[test]
fn any_policy_lets_it_pass() {
    passes(4);
}

#[test]
fn a_table_that_a_process_owns_is_said_and_not_changed() {
    let Some(lab) = Lab::with_address() else { return };
    let Some(house) = House::default(&lab, &[]) else { return };
    let mut owner = Command::new("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("nft");
    let commands = "add table inet own { flags owner; }\n\
                    add chain inet own f { type filter hook forward priority 0; policy drop; }\n";
    owner.stdin.as_mut().expect("a pipe").write_all(commands.as_bytes()).expect("it reads");
    let found = wait_for("the chain", 5, || rules::blocked(&house.bridge).ok().filter(|found| !found.is_empty()));
    let error = rules::unblock(&found[0], &house.bridge).expect_err("nobody else may").to_string();
    assert!(error.contains("the chain inet own f") && error.contains("only its owner"), "{error}");
    drop(owner.stdin.take());
    owner.wait().expect("its end");
    house.ends(&found);
}

#[test]
fn names_come_from_the_hosts_resolver_beside_any_other_server() {
    let Some(lab) = Lab::with_address() else { return };
    let serve_names = |address: &str, name: &str, upstream: &str| {
        let at = format!("--listen-address={address}");
        let known = format!("--address=/{name}/192.0.2.7");
        let words = "--keep-in-foreground --conf-file=/dev/null --no-hosts --no-resolv --user=root --bind-interfaces --pid-file=";
        let mut command = Command::new("dnsmasq");
        command.args(words.split_whitespace()).args([&at, &known]).args(upstream.split_whitespace());
        Other(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("a server"))
    };
    if !have("dnsmasq") {
        return;
    }
    // As systemd-resolved and NetworkManager have them.
    let others = [serve_names("127.0.0.53", "one.example", ""), serve_names("127.0.0.1", "two.example", "")];
    fs::remove_file("/etc/resolv.conf").ok();
    fs::write("/etc/resolv.conf", "nameserver 127.0.0.53\n").expect("a resolver");
    lab.tolerates_what_runs();
    let Some(mut house) = House::default(&lab, &[]) else { return };
    house.boots();
    let gateway = house.nat.gateway();
    let known = |name: &str| resolve(gateway.into(), name, 1).is_some();
    wait_for("the stub's answer", 10, || known("one.example").then_some(()));
    assert!(!known("two.example"));
    assert!(house.server.as_mut().expect("it").end().is_none());
    // The host goes to another network.
    fs::write("/etc/resolv.new", "nameserver 127.0.0.1\n").expect("a resolver");
    fs::rename("/etc/resolv.new", "/etc/resolv.conf").expect("a resolver");
    wait_for("the other's answer", 10, || known("two.example").then_some(()));
    assert!(known("alice"));
    drop(others);
    house.ends(&[]);
}

#[test]
fn a_dnsmasq_that_is_killed_is_seen_and_none_outlives_who_started_it() {
    let Some(lab) = Lab::with_address() else { return };
    let Some(mut house) = House::default(&lab, &[]) else { return };
    let address = house.boots();
    let server = house.server.as_mut().expect("it");
    assert!(server.end().is_none());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(server.pid() as i32), nix::sys::signal::SIGKILL)
        .expect("kill it");
    let error = wait_for("its end", 5, || server.end()).to_string();
    assert!(error.contains("dnsmasq has ended: it was killed"), "{error}");
    house.starts_server();
    wait_for("its name", 10, || resolve(house.nat.gateway().into(), "alice", 1).filter(|found| *found == address));
    drop(house.server.take());

    // Its starter ends without a word.
    let (nat, bridge, folder) = (house.nat.clone(), house.bridge.clone(), house.folder.clone());
    let starter = move || {
        let server = Server::start(&nat, &bridge, &folder).expect("dnsmasq");
        let pid = server.pid() as i32;
        std::mem::forget(server);
        pid
    };
    let host = fs::File::open("/proc/thread-self/ns/net").expect("the namespace");
    let pid = std::thread::spawn(move || {
        nix::sched::setns(host, nix::sched::CloneFlags::CLONE_NEWNET).expect("enter it");
        starter()
    })
    .join()
    .expect("a thread");
    wait_for("its end", 5, || (!is_alive(pid)).then_some(()));

    // What it can't have it says.
    house.nat.subnet = Ipv4Net::of(house.nat.subnet.address(), 32);
    house.starts_server();
    let server = house.server.as_mut().expect("it");
    let error = wait_for("its end", 5, || server.end()).to_string();
    assert!(error.contains("dnsmasq has ended: bad"), "{error}");
    house.ends(&[]);
}

#[test]
fn a_guest_follows_the_hosts_default_route() {
    let Some(lab) = Lab::with_address() else { return };
    lab.ip("link add eth1 type veth peer name lan1 netns lan");
    lab.ip("link set eth1 up");
    lab.ip("addr add 10.78.0.2/24 dev eth1");
    for words in ["ip link set lan1 up", "ip addr add 10.78.0.1/24 dev lan1", "ip addr add 10.99.0.1/32 dev lo"] {
        lab.lan.run(words);
    }
    let Some(house) = House::default(&lab, &[]) else { return };
    house.boots();
    serve("lan", "10.99.0.1:80");
    assert_eq!(seen_from("guest", "10.99.0.1:80").as_deref(), Some("10.77.0.2"));
    // A download, and a conversation by UDP.
    let endless = lab.lan.thread(|| TcpListener::bind("10.99.0.1:81")).join().expect("a thread").expect("a server");
    std::thread::spawn(move || {
        let (mut stream, _) = endless.accept().expect("a guest");
        while stream.write_all(&[7; 1000]).is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let echo = lab.lan.thread(|| UdpSocket::bind("10.99.0.1:82")).join().expect("a thread").expect("a server");
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = echo.recv_from(&mut buffer) {
            let _ = echo.send_to(from.ip().to_string().as_bytes(), from);
        }
    });
    let (mut stream, talk) = within("guest", || {
        let talk = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        talk.connect("10.99.0.1:82").expect("connect");
        (TcpStream::connect("10.99.0.1:81").expect("connect"), talk)
    })
    .join()
    .expect("a guest");
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a limit");
    talk.set_read_timeout(Some(Duration::from_millis(100))).expect("a limit");
    let says = || {
        let mut buffer = [0; 64];
        talk.send(b"?").ok()?;
        talk.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let mut buffer = [0; 1000];
    stream.read_exact(&mut buffer).expect("it comes");
    assert_eq!(says().as_deref(), Some("10.77.0.2"));

    lab.ip("route replace default via 10.78.0.1");
    // What is new goes by the new way, and so does what has no connection.
    assert_eq!(seen_from("guest", "10.99.0.1:80").as_deref(), Some("10.78.0.2"));
    wait_for("the new way", 10, || says().filter(|from| from == "10.78.0.2"));
    // What was open breaks, and at once when the guest says something: the server does not know the new address.
    let broken = wait_for("its end", 20, || match stream.write(&[1]).and_then(|_| stream.read(&mut buffer)) {
        Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => None,
        Err(error) => Some(error.kind()),
        Ok(_) => None,
    });
    assert_eq!(broken, std::io::ErrorKind::ConnectionReset);
    lab.ip("route replace default via 10.77.0.1");
    assert_eq!(seen_from("guest", "10.99.0.1:80").as_deref(), Some("10.77.0.2"));
    house.ends(&[]);
}

#[test]
fn the_host_forwards_for_its_guests_alone_until_somebody_else_wants_it() {
    let Some(lab) = Lab::with_address() else { return };
    lab.ip("netns add other");
    lab.ip("link add eth1 type veth peer name o0 netns other");
    lab.ip("link set eth1 up");
    lab.ip("addr add 10.78.0.2/24 dev eth1");
    lab.ip("-n other link set o0 up");
    lab.ip("-n other addr add 10.78.0.1/24 dev o0");
    lab.ip("-n other route add default via 10.78.0.2");
    lab.lan.run("ip route add 10.78.0.0/24 via 10.77.0.2");
    serve("other", "10.78.0.1:80");
    let Some(house) = House::default(&lab, &[]) else { return };
    house.boots();
    let all = || (setting("ipv4/ip_forward"), setting("ipv4/conf/default/forwarding"));
    let of = |name: &str| setting(&format!("ipv4/conf/{name}/forwarding"));
    assert_eq!((all(), of("eth0"), of("eth1")), (("0".into(), "0".into()), "1".into(), "1".into()));
    assert_eq!(seen_from("guest", "10.78.0.1:80").as_deref(), Some("10.78.0.2"));
    assert_eq!(seen_from("lan", "10.78.0.1:80"), None, "the host is no router");

    // An interface comes, and a second bridge.
    lab.ip("link add wan type ifb");
    lab.ip("link add br1 type bridge");
    let br1 = IfName::new("br1").expect("a name");
    let index = |name: &str| lab.a_link(name)["ifindex"].as_u64().expect("an index") as u32;
    forwarding::lend(&br1, index("br1"), false, false).expect("forwarding");
    assert_eq!((of("wan"), of("br1")), ("1".into(), "1".into()));
    forwarding::take_back(index("br1")).expect("forwarding");
    lab.ip("link del br1");
    assert_eq!(seen_from("guest", "10.78.0.1:80").as_deref(), Some("10.78.0.2"));
    lab.ip("link del wan");

    // Names change, also to what means more to nft; and another interface has the name of one that was.
    let lend = || forwarding::lend(&house.bridge, house.index, false, false).expect("forwarding");
    for name in ["@lent", "eth1"] {
        lab.ip(&format!("link set {} down", if name == "eth1" { "@lent" } else { "eth1" }));
        lab.ip(&format!("link set {} name {name} up", if name == "eth1" { "@lent" } else { "eth1" }));
        lend();
        assert_eq!((of(name), forwarding::is_guarded().expect("the table")), ("1".into(), true));
        wait_for("its route", 10, || seen_from("guest", "10.78.0.1:80"));
        assert_eq!(seen_from("lan", "10.78.0.1:80"), None, "{name} is still lent alone");
    }
    lab.ip("-n other link del o0");
    lab.ip("link add eth1 type veth peer name o0 netns other");
    lab.ip("link set eth1 up");
    lab.ip("addr add 10.78.0.2/24 dev eth1");
    lab.ip("-n other addr add 10.78.0.1/24 dev o0");
    lab.ip("-n other link set o0 up");
    lab.ip("-n other route add default via 10.78.0.2");
    lend();
    assert_eq!((of("eth1"), forwarding::is_guarded().expect("the table")), ("1".into(), true));
    wait_for("the way to the other", 10, || seen_from("guest", "10.78.0.1:80"));
    assert_eq!(seen_from("lan", "10.78.0.1:80"), None, "the host is no router");
    // Somebody empties what guards it.
    run("nft", "flush chain inet kvmb forward");
    assert!(!forwarding::is_guarded().expect("the table"));
    forwarding::lend(&house.bridge, house.index, false, true).expect("forwarding");
    assert!(forwarding::is_guarded().expect("the table"));

    // Docker, or an admin.
    set("ipv4/ip_forward", "1");
    lend();
    assert_eq!(seen_from("lan", "10.78.0.1:80").as_deref(), Some("10.77.0.1"), "nothing of ours is in the way");
    forwarding::take_back(house.index).expect("forwarding");
    assert_eq!((all(), of("eth0")), (("1".into(), "1".into()), "1".into()), "it is not ours to turn off");
    // It has another eth1 by now.
    lab.ends_here();
    house.ends(&[]);
    set("ipv4/ip_forward", "0");
}

#[test]
fn the_switches_are_as_before() {
    let Some(lab) = Lab::with_address() else { return };
    lab.ip("link add eth1 type ifb");
    set("ipv4/conf/eth1/forwarding", "1");
    set("ipv6/conf/eth1/forwarding", "1");
    let switches = || {
        ["ipv4", "ipv6"].map(|family| {
            ["all", "default", "eth0", "eth1", "lo"].map(|name| setting(&format!("{family}/conf/{name}/forwarding")))
        })
    };
    let before = switches();
    let Some(house) = House::new(&lab, true, &[]) else { return };
    assert_ne!(switches(), before);
    house.ends(&[]);
    assert_eq!(switches(), before);
}

#[test]
fn a_subnet_is_clear_of_all_routes_and_a_port_of_all_servers() {
    let Some(lab) = Lab::with_address() else { return };
    let mut netlink = Netlink::open().expect("a socket");
    let mut taken = || gateway::taken(&mut netlink, None).expect("networks");
    let net = |text: &str| text.parse::<Ipv4Net>().expect("a network");
    assert_eq!(is_free(net("10.77.0.0/24"), &taken()), Err(net("10.77.0.0/24")));
    assert!(is_free(net("10.77.5.0/24"), &taken()).is_ok(), "the default route takes nothing");
    // As VPNs push them; the second is in a table of its own.
    lab.ip("route add 0.0.0.0/1 via 10.77.0.9");
    lab.ip("route add 128.0.0.0/1 via 10.77.0.9");
    assert!(is_free(net("10.77.5.0/24"), &taken()).is_ok());
    lab.ip("route add 10.0.0.0/8 via 10.77.0.9 table 77");
    assert!(is_free(net("10.77.5.0/24"), &taken()).is_err());
    assert_eq!(choose(&taken(), None, [7; 4]).expect("a subnet").address().octets()[0], 172);
    lab.ip("link add eth1 type ifb");
    lab.ip("addr add 192.168.44.1/24 dev eth1");
    assert!(is_free(net("192.168.44.0/24"), &taken()).is_err(), "its link is down");
    let index = lab.a_link("eth1")["ifindex"].as_u64().map(|index| index as u32);
    let own = Netlink::open().and_then(|mut netlink| netlink.networks(index)).expect("networks");
    assert!(is_free(net("192.168.44.0/24"), &own).is_ok(), "its own is not another's");

    let port = |text: &str| gateway::reserve(&text.parse().expect("a port")).map_err(|error| error.to_string());
    let (ssh, all) = (port("tcp:2222:22").expect("it is free"), port("tcp:[::]:2222:22"));
    assert!(all.is_ok(), "IPv6 has ports of its own");
    assert!(port("tcp:0.0.0.0:2222:22").expect_err("taken").contains("ss -ltnp sport = 2222"));
    assert!(TcpListener::bind("127.0.0.1:2222").is_err(), "nobody else gets it");
    drop(ssh);
    assert!(port("udp:10.1.2.3:53:53").expect_err("not the host's").contains("that the host has"));
    assert!(dnsmasq::version(&run("dnsmasq", "--version")).is_some());
}
