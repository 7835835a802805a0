//! A running rack: the topology built, a BGP daemon on every machine, pods on the nodes.
//!
//! [`Plan`] says what to build, [`Rack`] holds it. Every check names the machine and the thing that
//! is missing, and carries the daemon's log or the kernel's routes as evidence.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::json;

use crate::cabling;
use crate::cni::{Plugin, Pod, Runtime};
use crate::daemon::{Kind, Running, Speaker};
use crate::failure::{Context, Failure, Result};
use crate::kernel;
use crate::machine::Host;
use crate::probe::Endpoint;
use crate::topology::{Expected, Family, Machine, POD_CIDRS, Role, Topology};
use crate::wait;

/// How long sessions and routes may take before it is a failure.
pub const CONVERGENCE: Duration = Duration::from_secs(30);

/// What to build.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The drawing.
    pub topology: Topology,
    /// Daemon on the nodes.
    pub node: Kind,
    /// Daemon on the ToRs.
    pub tor: Kind,
    /// Who makes the pods.
    pub plugin: Plugin,
    /// Last changes to what a machine's BGP must do.
    pub adjust: fn(&mut Speaker),
}

impl Plan {
    /// The drawing with these daemons; pods by our plugin, or by the reference one where the nodes
    /// do not run our agent.
    pub fn new(topology: Topology, node: Kind, tor: Kind) -> Self {
        let plugin = if node == Kind::Podroute {
            Plugin::Podroute
        } else {
            Plugin::Reference
        };
        Self {
            topology,
            node,
            tor,
            plugin,
            adjust: |_| {},
        }
    }

    /// The plan with this last change to each machine's BGP.
    #[must_use]
    pub fn adjusted(mut self, adjust: fn(&mut Speaker)) -> Self {
        self.adjust = adjust;
        self
    }
}

/// The running rack.
#[derive(Debug)]
pub struct Rack {
    /// What was asked for.
    pub plan: Plan,
    /// Machines by name.
    pub hosts: BTreeMap<&'static str, Host>,
    /// Daemons by machine.
    pub daemons: BTreeMap<&'static str, Running>,
    /// Pods, in order of nodes.
    pub pods: Vec<Pod>,
}

impl Rack {
    /// Makes machines and cables; nothing runs yet.
    pub fn build(plan: Plan) -> Result<Self> {
        let hosts = cabling::build(&plan.topology)?;
        if plan.node != Kind::Podroute {
            for node in plan.topology.nodes() {
                cabling::enable_forwarding(&hosts[node.name])?;
            }
        }
        Ok(Self {
            plan,
            hosts,
            daemons: BTreeMap::new(),
            pods: Vec::new(),
        })
    }

    /// Builds the rack, starts every daemon and waits for all sessions and routes.
    pub fn converged(plan: Plan) -> Result<Self> {
        let mut rack = Self::build(plan)?;
        rack.start_daemons()?;
        rack.wait_sessions()?;
        rack.wait_routes()?;
        Ok(rack)
    }

    /// Starts the daemon of every machine.
    pub fn start_daemons(&mut self) -> Result<()> {
        for machine in &self.plan.topology.machines {
            let kind = if machine.role == Role::Node {
                self.plan.node
            } else {
                self.plan.tor
            };
            let running = Running::start(kind, &self.hosts[machine.name], &self.speaker(machine))?;
            self.daemons.insert(machine.name, running);
        }
        Ok(())
    }

    /// What a machine's BGP was asked to do.
    pub fn speaker(&self, machine: &Machine) -> Speaker {
        let mut speaker = Speaker::of(&self.plan.topology, machine);
        (self.plan.adjust)(&mut speaker);
        speaker
    }

    /// The machine's host.
    pub fn host(&self, name: &str) -> &Host {
        self.hosts
            .get(name)
            .unwrap_or_else(|| panic!("no machine {name}"))
    }

    /// The machine's daemon.
    pub fn daemon(&mut self, name: &str) -> &mut Running {
        self.daemons
            .get_mut(name)
            .unwrap_or_else(|| panic!("no daemon on {name}"))
    }

    /// Waits until every session of every machine is Established; answers how many ends there are.
    pub fn wait_sessions(&mut self) -> Result<usize> {
        let mut ends = 0;
        for (name, running) in &mut self.daemons {
            let what = format!("sessions of {name} ({})", running.kind.name());
            let sessions = wait::until(CONVERGENCE, &what, || {
                running.check_alive()?;
                let sessions = running.sessions()?;
                match sessions.iter().find(|session| !session.established) {
                    None => Ok(sessions),
                    Some(down) => wait::not_yet(format!("session with {} is {}", down.remote, down.state)),
                }
            });
            ends += sessions.map_err(|f| running.with_logs(f))?.len();
        }
        Ok(ends)
    }

    /// Waits until every kernel has the routes that BGP must bring; answers how many there are.
    pub fn wait_routes(&mut self) -> Result<usize> {
        let mut count = 0;
        for machine in &self.plan.topology.machines {
            let expected = self.plan.topology.expected(machine);
            count += expected.len();
            let host = &self.hosts[machine.name];
            let what = format!("routes in the kernel of {}", machine.name);
            wait::until(CONVERGENCE, what, || self.check_routes(machine, &expected))
                .map_err(|f| f.evidence(format!("routes of {}", machine.name), kernel::dump(host)))
                .map_err(|f| match self.daemons.get(machine.name) {
                    Some(running) => running.with_logs(f),
                    None => f,
                })?;
        }
        Ok(count)
    }

    /// Checks once that these routes are in the machine's kernel.
    pub fn check_routes(&self, machine: &Machine, expected: &[Expected]) -> Result<()> {
        let host = &self.hosts[machine.name];
        let mut routes = kernel::routes(host, Family::V4)?;
        routes.extend(kernel::routes(host, Family::V6)?);
        let ours = self
            .daemons
            .get(machine.name)
            .is_some_and(|d| d.kind == Kind::Podroute);
        for want in expected {
            let Some(route) = routes.iter().find(|route| route.prefix == want.prefix) else {
                return wait::not_yet(format!("no route to {}", want.prefix));
            };
            let gateways: Vec<IpAddr> = route
                .next_hops
                .iter()
                .filter_map(|(gateway, _)| *gateway)
                .collect();
            let allowed = self.gateway_addresses(want)?;
            if gateways.is_empty() || !gateways.iter().all(|gateway| allowed.contains(gateway)) {
                return wait::not_yet(format!(
                    "{} goes via {gateways:?} and not via {} ({})",
                    want.prefix, want.gateway, want.via
                ));
            }
            if ours && route.protocol != kernel::PROTO_AGENT {
                return wait::not_yet(format!("{} has protocol {}", want.prefix, route.protocol));
            }
        }
        for block in &machine.blocks {
            match routes.iter().find(|route| route.prefix == *block) {
                Some(route) if route.kind == "unreachable" => {}
                Some(route) => return wait::not_yet(format!("own block {block} is {}", route.kind)),
                None => return wait::not_yet(format!("no unreachable route for own block {block}")),
            }
        }
        Ok(())
    }

    /// A next hop may be written as the global or the link-local address of the same interface.
    fn gateway_addresses(&self, want: &Expected) -> Result<Vec<IpAddr>> {
        let via = self.plan.topology.machine(want.via);
        for port in &via.ports {
            if self.plan.topology.address(port, Family::of(want.gateway)) == want.gateway {
                return kernel::addresses(&self.hosts[want.via], port.ifname);
            }
        }
        Err(Failure::new(format!(
            "{} is no address of {}",
            want.gateway, want.via
        )))
    }

    /// Writes the file that the agent would write for the CNI plugin, for nodes that run another daemon.
    pub fn write_node_json(&self, node: &str) -> Result<()> {
        let topology = &self.plan.topology;
        let machine = topology.machine(node);
        let facts = json!({
            "version": 1,
            "node": node,
            "blocks": machine.blocks,
            "podCIDRs": POD_CIDRS,
            "mtu": 1500,
            "nodeAddresses": Family::BOTH.map(|family| topology.uplink(machine, family)),
        });
        let dir = self.host(node).run_file("podroute");
        std::fs::create_dir_all(&dir).context(dir.display())?;
        std::fs::write(dir.join("node.json"), facts.to_string()).context("node.json")
    }

    /// Creates `count` pods on every node by executing the CNI plugin, nodes in parallel.
    pub fn add_pods(&mut self, count: usize) -> Result<()> {
        let nodes: Vec<&Machine> = self.plan.topology.nodes().collect();
        if self.plan.plugin == Plugin::Podroute && self.plan.node != Kind::Podroute {
            nodes
                .iter()
                .try_for_each(|node| self.write_node_json(node.name))?;
        }
        let created = std::thread::scope(|scope| {
            let jobs: Vec<_> = nodes
                .iter()
                .map(|node| {
                    (
                        Runtime::new(&self.hosts[node.name], node, self.plan.plugin),
                        node.name,
                    )
                })
                .map(|(runtime, node)| scope.spawn(move || create(&runtime, node, count)))
                .collect();
            let done = jobs
                .into_iter()
                .map(|job| job.join().unwrap_or_else(|_| Err(Failure::new("panic"))));
            done.collect::<Result<Vec<_>>>()
        })?;
        self.pods.extend(created.into_iter().flatten());
        Ok(())
    }

    /// The runtime of a node.
    pub fn runtime(&self, node: &str) -> Runtime {
        Runtime::new(
            self.host(node),
            self.plan.topology.machine(node),
            self.plan.plugin,
        )
    }

    /// Every pod as a source and target of probes.
    pub fn pod_endpoints(&self) -> Vec<Endpoint> {
        let endpoint = |pod: &Pod| Endpoint {
            name: pod.name.clone(),
            addresses: pod.addresses.values().copied().collect(),
            seen_as: Vec::new(),
        };
        self.pods.iter().map(endpoint).collect()
    }

    /// Every node as a source and target of probes; towards its own pods it may use any address.
    pub fn node_endpoints(&self) -> Result<Vec<Endpoint>> {
        let endpoint = |node: &Machine| {
            let addresses: Vec<IpAddr> = Family::BOTH
                .iter()
                .map(|family| self.plan.topology.uplink(node, *family))
                .collect();
            let mut seen_as = addresses.clone();
            if self.plan.plugin == Plugin::Reference {
                // ptp gives the node's end of each pod's cable an address of the block.
                let text = self.hosts[node.name].ip("-o addr show")?;
                let words = text.split_whitespace().filter_map(|word| word.split('/').next());
                seen_as.extend(words.filter_map(|word| word.parse::<IpAddr>().ok()));
            }
            Ok(Endpoint {
                name: node.name.to_owned(),
                addresses,
                seen_as,
            })
        };
        self.plan.topology.nodes().map(endpoint).collect()
    }

    /// Lets every daemon outlive this process.
    pub fn leave_running(&mut self) {
        let processes = self
            .daemons
            .values_mut()
            .flat_map(|running| &mut running.processes);
        processes.for_each(crate::process::Daemon::leave_running);
    }
}

fn create(runtime: &Runtime, node: &str, count: usize) -> Result<Vec<Pod>> {
    let letters = "abcdefghijklmnopqrstuvwxyz".chars();
    letters
        .take(count)
        .map(|letter| runtime.add_pod(&format!("{node}-pod-{letter}")))
        .collect()
}
