//! Pages with a lab: their files are put in place, their daemons started, their commands run, and the outputs compared.
//!
//! `DOCS_WRITE=1` writes the outputs into the pages instead, as they are when they do not change any more.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::blocks::{Block, blocks};
use crate::page_lab::{Lab, Plan};
use crate::pages::{self, Page};

/// Pages with a lab, one test each below.
const WITH_LAB: &[&str] = &[
    "docs/designs/as-per-node.md",
    "docs/designs/as-per-rack.md",
    "docs/designs/full-mesh.md",
    "docs/designs/multi-cluster.md",
    "docs/designs/reflectors.md",
    "docs/designs/route-server.md",
    "docs/designs/unnumbered.md",
    "docs/how-it-works.md",
    "docs/operations.md",
    "docs/questions.md",
    "docs/reference/cli.md",
    "docs/reference/kernel-objects.md",
    "docs/troubleshooting.md",
];

#[test]
fn as_per_node() {
    run_page("docs/designs/as-per-node.md");
}

#[test]
fn as_per_rack() {
    run_page("docs/designs/as-per-rack.md");
}

#[test]
fn full_mesh() {
    run_page("docs/designs/full-mesh.md");
}

#[test]
fn multi_cluster() {
    run_page("docs/designs/multi-cluster.md");
}

#[test]
fn reflectors() {
    run_page("docs/designs/reflectors.md");
}

#[test]
fn route_server() {
    run_page("docs/designs/route-server.md");
}

#[test]
fn unnumbered() {
    run_page("docs/designs/unnumbered.md");
}

#[test]
fn how_it_works() {
    run_page("docs/how-it-works.md");
}

#[test]
fn operations() {
    run_page("docs/operations.md");
}

#[test]
fn questions() {
    run_page("docs/questions.md");
}

#[test]
fn reference_cli() {
    run_page("docs/reference/cli.md");
}

#[test]
fn reference_kernel_objects() {
    run_page("docs/reference/kernel-objects.md");
}

#[test]
fn troubleshooting() {
    run_page("docs/troubleshooting.md");
}

#[test]
fn every_page_with_a_lab_has_a_test() {
    let has_comment = |page: &Page| page.text.lines().any(|line| line.starts_with("<!-- lab"));
    let found = pages::all().into_iter().filter(has_comment);
    let names: Vec<String> = found.map(|page| page.name).collect();
    assert_eq!(names, WITH_LAB);
}

/// Whether the blocks of a page are run.
pub(crate) fn has_lab(page: &Page) -> bool {
    WITH_LAB.contains(&page.name.as_str())
}

/// The page with the files of a page's lab: itself, or the one that `<!-- lab of PAGE -->` names.
fn source(page: &Page) -> Page {
    match page.text.split_once("<!-- lab of ") {
        Some((_, rest)) => pages::page(rest.split_once(" -->").unwrap().0),
        None => pages::page(&page.name),
    }
}

fn run_page(name: &str) {
    if !nix::unistd::geteuid().is_root() {
        println!("LEFT OUT: it needs root");
        return;
    }
    let page = pages::page(name);
    let source = source(&page);
    let files = blocks(&source);
    let routers: Vec<&str> = ["bird", "frr"]
        .into_iter()
        .filter(|router| {
            files
                .iter()
                .any(|block| block.language == *router && !block.machines().is_empty())
        })
        .collect();
    let mut written = BTreeMap::new();
    let variants = if routers.is_empty() { vec![""] } else { routers };
    for router in variants {
        if router_is_missing(router) {
            println!("LEFT OUT: {router} is not installed");
            continue;
        }
        let plan = Plan::of(&source).unwrap();
        let label = format!(
            "{}-{router}",
            name.rsplit('/').next().unwrap().trim_end_matches(".md")
        );
        let mut lab = Lab::start(&plan, &label);
        bring_up(&mut lab, &plan, &files, router);
        follow(&mut lab, &page, router, &mut written);
    }
    if !written.is_empty() {
        rewrite(&page, &written);
    }
}

/// On Debian as root the lab's daemons are installed: there a missing one is a failure.
fn router_is_missing(router: &str) -> bool {
    let program = match router {
        "bird" => "/usr/sbin/bird",
        "frr" => "/usr/lib/frr/bgpd",
        _ => return false,
    };
    let missing = !std::path::Path::new(program).exists();
    let required = std::env::var("LAB_REQUIRE").is_ok_and(|value| !value.is_empty());
    assert!(!missing || !required, "{program} is not installed");
    missing
}

/// Files and daemons: routers first, then agents, then pods. The agents start one after the other, that of the page's first
/// machine last: whoever it connects to listens, so that it has no failed attempt to show.
fn bring_up(lab: &mut Lab, plan: &Plan, files: &[Block], router: &str) {
    for block in files.iter().filter(|block| block.language == router) {
        for (index, machine) in block.machines().into_iter().enumerate() {
            let swaps = block.mark("swap").filter(|_| index > 0).unwrap_or_default();
            start_router(lab, machine, router, &swapped(&block.text, swaps));
        }
    }
    let mut agents = Vec::new();
    for block in files.iter().filter(|block| block.language == "yaml") {
        for machine in block.machines() {
            let replaces = files.iter().find(|other| other.mark("replaces") == Some(machine));
            let text = for_machine(&block.text, machine, replaces.map(|other| other.text.as_str()));
            lab.write(machine, "/etc/podroute/podroute.yaml", &text);
            agents.push(machine.to_owned());
        }
    }
    for machine in agents.iter().rev() {
        start_agent(lab, machine);
    }
    for machine in &plan.pods {
        let add = "test -e /run/podroute/node.json && { ip netns add pod 2>/dev/null; echo \
            '{\"cniVersion\":\"1.0.0\",\"name\":\"pods\",\"type\":\"podroute-cni\"}' | CNI_COMMAND=ADD CNI_CONTAINERID=a \
            CNI_NETNS=/run/netns/pod CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin /opt/cni/bin/podroute-cni; }";
        let made = lab.until(machine, add, |good, _| good);
        made.unwrap_or_else(|out| panic!("no pod on {machine}: {out}\n{}", agent_log(lab, machine)));
    }
}

/// The file of the first machine as it is on the second: `OLD>NEW` exchanged, for each word of `swaps`.
fn swapped(text: &str, swaps: &str) -> String {
    swaps.split_whitespace().fold(text.to_owned(), |text, swap| {
        let (one, other) = swap.split_once('>').unwrap();
        text.replace(one, "\0").replace(other, one).replace('\0', other)
    })
}

/// Starts an agent and waits until it answers; then it accepts connections of peers.
fn start_agent(lab: &mut Lab, machine: &str) {
    lab.must(machine, "podroute check /etc/podroute/podroute.yaml");
    lab.must(
        machine,
        "setsid podroute run --config /etc/podroute/podroute.yaml >/run/podroute.log 2>&1 </dev/null &",
    );
    let up = lab.until(machine, "podroute show peers", |good, _| good);
    up.unwrap_or_else(|out| panic!("podroute on {machine}: {out}\n{}", agent_log(lab, machine)));
}

fn agent_log(lab: &mut Lab, machine: &str) -> String {
    lab.run(machine, "cat /run/podroute.log").1
}

fn start_router(lab: &mut Lab, machine: &str, router: &str, config: &str) {
    if router == "bird" {
        lab.write(machine, "/etc/bird/bird.conf", config);
        lab.must(machine, "bird -c /etc/bird/bird.conf");
        return;
    }
    lab.write(machine, "/run/frr/frr.conf", config);
    let common = "-d -u root -g root -z /run/frr/zserv.api";
    lab.must(machine, &format!("/usr/lib/frr/zebra {common} -P 0 -f /dev/null"));
    let up = lab.until(machine, "test -S /run/frr/zserv.api", |good, _| good);
    up.unwrap_or_else(|out| panic!("zebra on {machine}: {out}"));
    lab.must(machine, &format!("/usr/lib/frr/bgpd {common} -P 0 -f /dev/null"));
    let up = lab.until(machine, "vtysh -c 'show bgp summary'", |good, _| good);
    up.unwrap_or_else(|out| panic!("bgpd on {machine}: {out}"));
    lab.must(machine, "vtysh -f /run/frr/frr.conf");
}

/// The file of node-1 as it is on another machine: the section `node` is that of the block that replaces it, or has the other
/// number in names, blocks, labels and AS numbers.
fn for_machine(text: &str, machine: &str, replaces: Option<&str>) -> String {
    let number = machine.strip_prefix("node-").unwrap_or("1");
    let mut inside = false;
    let mut out = String::new();
    for line in text.lines() {
        let is_top = !line.starts_with([' ', '-', '#']);
        if is_top {
            inside = line.starts_with("node:");
            if let (true, Some(section)) = (inside, replaces) {
                out.push_str(section);
            }
        }
        if inside && replaces.is_some() {
            continue;
        }
        let line = if inside {
            line.replace("node-1", &format!("node-{number}"))
                .replace("10.244.1.", &format!("10.244.{number}."))
                .replace("10:244:1:", &format!("10:244:{number}:"))
                .replace("4200000001", &format!("420000000{number}"))
                .replace("192.0.2.11", &format!("192.0.2.1{number}"))
        } else {
            line.to_owned()
        };
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// A command of a console block, with the output that the page shows.
#[derive(Debug)]
struct Step {
    command: String,
    output: String,
}

fn steps(block: &Block) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block.text.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => steps.push(Step {
                command: command.to_owned(),
                output: String::new(),
            }),
            None => {
                let step = steps
                    .last_mut()
                    .unwrap_or_else(|| panic!("output without a command: {line}"));
                step.output.push_str(line);
                step.output.push('\n');
            }
        }
    }
    steps
}

/// Runs the blocks of a page in their order.
fn follow(lab: &mut Lab, page: &Page, router: &str, written: &mut BTreeMap<usize, String>) {
    let write = std::env::var("DOCS_WRITE").is_ok_and(|value| !value.is_empty());
    for block in blocks(page) {
        if block.mark("not-run").is_some() || block.mark("router").is_some_and(|wanted| wanted != router) {
            continue;
        }
        let place = format!("{}:{}", page.name, block.line + 1);
        for machine in block.machines() {
            match block.language.as_str() {
                "sh" => {
                    let (good, out) = lab.run(machine, &format!("set -e\n{}", block.text));
                    assert!(good, "{place} on {machine}:\n{out}\n{}", agent_log(lab, machine));
                }
                "console" => {
                    let once = block.mark("once").is_some();
                    let mut text = String::new();
                    for step in steps(&block) {
                        let shown = match (once, write) {
                            (true, _) => lab.run(machine, &step.command).1,
                            (false, true) => settled(lab, machine, &step),
                            (false, false) => awaited(lab, machine, &step),
                        };
                        if !write && normalised(&shown) != normalised(&step.output) {
                            let log = agent_log(lab, machine);
                            panic!(
                                "{}",
                                difference(&step, &shown, &format!("{place} on {machine}"), &log)
                            );
                        }
                        let _ = write!(text, "$ {}\n{}", step.command, trimmed(&shown));
                    }
                    if write {
                        written.insert(block.line, text);
                    }
                }
                _ => {}
            }
        }
    }
}

/// Runs a command until it shows what the page shows; or what it showed last.
fn awaited(lab: &mut Lab, machine: &str, step: &Step) -> String {
    let wanted = normalised(&step.output);
    let outcome = lab.until(machine, &step.command, |_, out| normalised(out) == wanted);
    outcome.unwrap_or_else(|out| out)
}

fn difference(step: &Step, shown: &str, place: &str, log: &str) -> String {
    let Step { command, output } = step;
    format!("{place}: {command}\nthe page shows:\n{output}\nnow it is:\n{shown}\n{log}")
}

/// What a command shows when it has shown the same for some time.
fn settled(lab: &mut Lab, machine: &str, step: &Step) -> String {
    let mut last = String::new();
    let mut same = 0;
    while same < 25 {
        let (_, out) = lab.run(machine, &step.command);
        same = if normalised(&out) == normalised(&last) {
            same + 1
        } else {
            0
        };
        last = out;
        std::thread::sleep(Duration::from_millis(200));
    }
    last
}

/// Without white space at the ends of lines.
fn trimmed(text: &str) -> String {
    text.lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

fn rewrite(page: &Page, written: &BTreeMap<usize, String>) {
    let mut out = String::new();
    let mut skip = false;
    for (number, line) in page.text.lines().enumerate() {
        if skip && line.trim_start().starts_with("```") {
            skip = false;
        }
        if !skip {
            out.push_str(line);
            out.push('\n');
        }
        if let Some(text) = written.get(&number) {
            out.push_str(text);
            skip = true;
        }
    }
    std::fs::write(pages::repository().join(&page.name), out).unwrap();
}

/// An output without what differs from run to run: times, white space.
fn normalised(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let words = line
            .split_whitespace()
            .map(|word| if is_time(word) { "TIME" } else { word });
        words.collect::<Vec<_>>().join(" ")
    });
    let kept: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    kept.join("\n")
}

/// `12s`, `1m02s`, `0.031`, `12:34:56.789`, with brackets or commas around.
fn is_time(word: &str) -> bool {
    let word = word.trim_matches(|c: char| !c.is_alphanumeric());
    let starts = word.starts_with(|c: char| c.is_ascii_digit());
    let units = ["ms", "s", "m", "h", "d"];
    let letters = word.trim_start_matches(|c: char| !c.is_ascii_alphabetic());
    let has_unit = units.iter().any(|unit| word.ends_with(unit)) && !letters.is_empty();
    let only = |allowed: &str| word.chars().all(|c| c.is_ascii_digit() || allowed.contains(c));
    starts && ((has_unit && only(".msdh")) || (word.matches(':').count() == 2 && only(":.")))
}

#[test]
fn times_do_not_matter() {
    assert_eq!(normalised("tor-a  up 12s\n"), normalised("tor-a up  1m02s"));
    assert_eq!(
        normalised("via 192.0.2.1 [n 10:01:02.345]"),
        normalised("via 192.0.2.1 [n 11:01:02.345]")
    );
    assert_ne!(normalised("10.244.1.0/24"), normalised("10.244.2.0/24"));
    assert_ne!(normalised("AS 64512"), normalised("AS 64513"));
}
