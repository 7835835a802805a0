//! Policies in three languages: podroute, FRR and BIRD let the same routes through, with the same attributes.
//!
//! Each daemon stands in a chain of its own with the same addresses: a sender of another AS, and behind the daemon an observer with two
//! sessions, of another AS and of the daemon's own AS. The latter shows LOCAL_PREF and what else does not leave the AS.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use lab::daemon::{Kind, bird, frr, podroute};
use lab::ensure;
use lab::failure::{Failure, Result};
use lab::machine::Host;
use lab::process::Daemon;
use lab::rack::CONVERGENCE;
use lab::wait;

use super::cases::{Case, Direction, Passes, ROUTES, Sent};
use super::{Routes, bird_peer, observed};

/// Runs the cases one after the other, the daemons side by side, up to the first that differs.
pub(super) fn compare(cases: &[Case]) -> Result<()> {
    let chains = [Kind::Podroute, Kind::Frr, Kind::Bird].map(Chain::new);
    let chains = chains.into_iter().collect::<Result<Vec<Chain>>>()?;
    cases.iter().try_for_each(|case| compare_one(case, &chains))
}

fn compare_one(case: &Case, chains: &[Chain]) -> Result<()> {
    let results: Vec<Result<Observed>> = std::thread::scope(|scope| {
        let running: Vec<_> = chains
            .iter()
            .map(|chain| scope.spawn(|| chain.routes_with(case)))
            .collect();
        let joined = running.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined
            .map(|result| result.unwrap_or_else(|_| Err(Failure::new("a thread of the comparison ended"))))
            .collect()
    });
    let results = results.into_iter().collect::<Result<Vec<Observed>>>()?;
    let [own, of_frr, of_bird] = results.as_slice() else {
        return Err(Failure::new("not three daemons"));
    };
    let mut differing = differences("eBGP, FRR", &own.external, &of_frr.external);
    differing += &differences("iBGP, FRR", &own.internal, &of_frr.internal);
    differing += &differences("eBGP, BIRD", &own.external, &of_bird.external);
    differing += &differences("iBGP, BIRD", &own.internal, &of_bird.internal);
    ensure!(differing.is_empty(), "{}:\n{differing}", case.key);
    Ok(())
}

fn differences(beside: &str, own: &Routes, other: &Routes) -> String {
    let differing = own
        .iter()
        .filter(|(prefix, attributes)| other.get(*prefix) != Some(attributes));
    differing.fold(String::new(), |mut text, (prefix, attributes)| {
        let _ = writeln!(
            text,
            "  {prefix}: {attributes:?}, {beside}: {:?}",
            other.get(prefix)
        );
        text
    })
}

/// What the observer has.
struct Observed {
    external: Routes,
    internal: Routes,
}

struct Chain {
    kind: Kind,
    dut: Host,
    observer: Host,
    _neighbors: Vec<Daemon>,
}

impl Chain {
    fn new(kind: Kind) -> Result<Self> {
        let name = |role: &str| format!("{}-{role}", kind.name());
        let [dut, sender, observer] = ["dut", "sender", "observer"].map(|role| Host::create(&name(role)));
        let (dut, sender, observer) = (dut?, sender?, observer?);
        for (link, other, network) in [
            ("to-sender", &sender, "192.0.2"),
            ("to-observer", &observer, "198.51.100"),
        ] {
            dut.ip(&format!(
                "link add {link} type veth peer name eth0 netns {}",
                other.name()
            ))?;
            dut.ip(&format!("addr add {network}.1/24 dev {link}"))?;
            dut.ip(&format!("link set {link} up"))?;
            other.ip(&format!("addr add {network}.2/24 dev eth0"))?;
            other.ip("link set eth0 up")?;
        }
        // BIRD finds a session by the other's address: the two have different ones.
        observer.ip("addr add 198.51.100.3/24 dev eth0")?;
        dut.ip("addr add 198.51.100.4/24 dev to-observer")?;
        // BIRD takes no route whose next hop lies in no network of its own.
        observer.ip("addr add 192.0.2.200/24 dev eth0")?;
        for host in [&dut, &sender, &observer] {
            host.ip("link set lo up")?;
        }
        let mut neighbors = bird::start_with(&sender, &sender_config())?;
        neighbors.extend(bird::start_with(&observer, OBSERVER)?);
        Ok(Self {
            kind,
            dut,
            observer,
            _neighbors: neighbors,
        })
    }

    /// What the observer gets from the daemon with this policy.
    fn routes_with(&self, case: &Case) -> Result<Observed> {
        let during = |failure: Failure| failure.during(format_args!("{}: {}", case.key, self.kind.name()));
        let daemons = match self.kind {
            Kind::Frr => frr::start_with(&self.dut, &frr_config(case), "").map_err(during)?,
            Kind::Bird => bird::start_with(&self.dut, &bird_config(case)).map_err(during)?,
            _ => vec![podroute::start_with(&self.dut, &podroute_config(case)).map_err(during)?],
        };
        let (external, internal) = (case.expected(Direction::Export), case.expected(Direction::Import));
        let what = format!("{}: the routes that {} lets through", case.key, self.kind.name());
        let settled = wait::until(CONVERGENCE, what, || {
            let seen = Observed {
                external: observed(&self.observer, "outer")?,
                internal: observed(&self.observer, "inner")?,
            };
            for (session, routes, wanted) in [
                ("eBGP", &seen.external, &external),
                ("iBGP", &seen.internal, &internal),
            ] {
                let prefixes: BTreeSet<&str> = routes.keys().map(String::as_str).collect();
                ensure!(prefixes == *wanted, "{session}: {prefixes:?}, not {wanted:?}");
            }
            Ok(seen)
        });
        let seen = settled.map_err(|failure| match daemons.last() {
            Some(daemon) => daemon.with_log(failure),
            None => failure,
        })?;
        drop(daemons);
        // The next case begins without routes of this one.
        wait::until(CONVERGENCE, "the observer without routes", || {
            let left = [
                observed(&self.observer, "outer")?,
                observed(&self.observer, "inner")?,
            ];
            ensure!(left.iter().all(BTreeMap::is_empty), "{left:?}");
            Ok(())
        })?;
        Ok(seen)
    }
}

impl Case {
    /// What passes the policies up to this direction's.
    fn expected(&self, up_to: Direction) -> BTreeSet<&'static str> {
        let all = ROUTES.iter().map(|sent| sent.prefix);
        if self.direction == Direction::Export && up_to == Direction::Import {
            return all.collect();
        }
        let named = |text: &'static str| -> BTreeSet<&'static str> { text.split_whitespace().collect() };
        match self.passes {
            Passes::All => all.collect(),
            Passes::Only(these) => named(these),
            Passes::AllBut(these) => {
                let these = named(these);
                all.filter(|prefix| !these.contains(prefix)).collect()
            }
        }
    }

    /// The names of the policies of both directions: this case's, and one that accepts.
    fn names(&self, all: &'static str) -> [&'static str; 2] {
        match self.direction {
            Direction::Import => ["tested", all],
            Direction::Export => [all, "tested"],
        }
    }
}

const OBSERVER: &str = "\
log stderr all;
router id 10.0.0.3;
protocol device {}
ipv4 table outside;
ipv4 table inside;
protocol bgp outer {
  local 198.51.100.2 as 65003;
  neighbor 198.51.100.1 as 64512;
  direct;
  connect delay time 1;
  connect retry time 1;
  error wait time 1, 2;
  graceful restart off;
  ipv4 { table outside; import all; export none; };
}
protocol bgp inner {
  local 198.51.100.3 as 64512;
  neighbor 198.51.100.4 as 64512;
  direct;
  connect delay time 1;
  connect retry time 1;
  error wait time 1, 2;
  graceful restart off;
  ipv4 { table inside; import all; export none; };
}
";

fn sender_config() -> String {
    let mut routes = String::new();
    let mut export = String::new();
    for sent in ROUTES {
        let _ = writeln!(
            routes,
            "  route {} unreachable {{ {}}};",
            sent.prefix,
            attributes(sent)
        );
        // BIRD sends a MED to another AS only where the export filter sets it.
        if let Some(med) = sent.med {
            let _ = writeln!(export, "  if net = {} then bgp_med = {med};", sent.prefix);
        }
    }
    format!(
        "log stderr all;\nrouter id 10.0.0.2;\nprotocol device {{}}\nfilter send {{\n{export}  accept;\n}}\n\
         protocol static own {{\n  ipv4;\n{routes}}}\n{}",
        bird_peer(
            "dut",
            "192.0.2.2 as 65001",
            "192.0.2.1 as 64512",
            "import none; export filter send;"
        )
    )
}

fn attributes(sent: &Sent) -> String {
    let mut then = String::new();
    for asn in sent.path.split_whitespace().rev() {
        let _ = write!(then, "bgp_path.prepend({asn}); ");
    }
    for (list, values) in [
        ("bgp_community", sent.communities),
        ("bgp_large_community", sent.large),
        ("bgp_ext_community", sent.ext),
    ] {
        for value in values.split_whitespace() {
            let _ = write!(then, "{list}.add(({})); ", value.replace(':', ","));
        }
    }
    if sent.incomplete {
        then.push_str("bgp_origin = ORIGIN_INCOMPLETE; ");
    }
    then
}

fn podroute_config(case: &Case) -> String {
    let [import, export] = case.names("accept-all");
    format!(
        "apiVersion: podroute/v1\ncluster: {{asn: 64512}}\nnode: {{name: dut, routerId: 10.0.0.1}}\nfib: off\n{}\
         peers:\n\
         - {{name: sender, address: 192.0.2.2, asn: 65001, import: {import}, export: reject-all, timers: {{connectRetry: 200ms}}}}\n\
         - {{name: outer, address: 198.51.100.2, asn: 65003, import: reject-all, export: {export}, timers: {{connectRetry: 200ms}}}}\n\
         - {{name: inner, address: 198.51.100.3, localAddress: 198.51.100.4, asn: 64512, import: reject-all, export: accept-all, timers: {{connectRetry: 200ms}}}}\n",
        case.podroute
    )
}

fn frr_config(case: &Case) -> String {
    let [import, export] = case.names("all");
    format!(
        "log stdout informational\n{}\nroute-map all permit 10\nroute-map none deny 10\n\
         router bgp 64512\n bgp router-id 10.0.0.1\n\
         neighbor 192.0.2.2 remote-as 65001\n neighbor 192.0.2.2 timers connect 1\n\
         neighbor 198.51.100.2 remote-as 65003\n neighbor 198.51.100.2 timers connect 1\n\
         neighbor 198.51.100.2 advertisement-interval 0\n\
         neighbor 198.51.100.3 remote-as 64512\n neighbor 198.51.100.3 timers connect 1\n neighbor 198.51.100.3 update-source 198.51.100.4\n\
         neighbor 198.51.100.3 advertisement-interval 0\n\
         address-family ipv4 unicast\n\
         neighbor 192.0.2.2 route-map {import} in\n  neighbor 192.0.2.2 route-map none out\n\
         neighbor 198.51.100.2 route-map none in\n  neighbor 198.51.100.2 route-map {export} out\n\
         neighbor 198.51.100.3 route-map none in\n",
        case.frr
    )
}

fn bird_config(case: &Case) -> String {
    let [import, export] = case.names("everything");
    let peers = [
        (
            "sender",
            "192.0.2.1 as 64512",
            "192.0.2.2 as 65001",
            format!("import filter {import}; export none;"),
        ),
        (
            "outer",
            "198.51.100.1 as 64512",
            "198.51.100.2 as 65003",
            format!("import none; export filter {export};"),
        ),
        (
            "inner",
            "198.51.100.4 as 64512",
            "198.51.100.3 as 64512",
            "import none; export all;".to_owned(),
        ),
    ];
    let peers = peers.map(|(name, local, remote, channel)| bird_peer(name, local, remote, &channel));
    format!(
        "log stderr all;\nrouter id 10.0.0.1;\nprotocol device {{}}\nfilter everything {{ accept; }}\nfilter tested {{\n{}\n}}\n{}",
        case.bird,
        peers.concat()
    )
}
