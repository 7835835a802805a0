//! The lab that a page describes in a comment, in namespaces of its own.
//!
//! ```text
//! <!-- lab
//! link: node-1 eth0 192.0.2.11/24 | node-2 eth0 192.0.2.12/24 | tor-a eth0 192.0.2.1/24
//! route: node-1 default via 192.0.2.1
//! pods: node-1 node-2
//! -->
//! ```
//!
//! Two ends of a link are a cable, more are a switch. A pod is the namespace `pod` of its machine, made by a CNI ADD.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::pages::Page;

/// A condition that does not come within this time never comes.
const LONGEST_WAIT: Duration = Duration::from_secs(90);

/// A program in mount, network and process namespaces of its own. All that it started ends with it.
pub(crate) fn in_namespaces(program: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["-mnpf", "--kill-child", "--mount-proc", "--", program]);
    command
}

/// What the comment says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) machines: Vec<String>,
    pub(crate) pods: Vec<String>,
    topology: String,
}

impl Plan {
    /// The plan of a page, if it has one.
    pub(crate) fn of(page: &Page) -> Option<Self> {
        let (_, rest) = page.text.split_once("<!-- lab\n")?;
        let (comment, _) = rest.split_once("-->").unwrap();
        let mut plan = Self::default();
        for line in comment.lines() {
            match line
                .split_once(": ")
                .unwrap_or_else(|| panic!("{}: {line}", page.name))
            {
                ("link", ends) => plan.link(ends),
                ("route", route) => {
                    let (machine, route) = route.split_once(' ').unwrap();
                    let _ = writeln!(plan.topology, "ip -n {machine} route add {route}");
                }
                ("pods", names) => plan.pods = names.split_whitespace().map(str::to_owned).collect(),
                (word, _) => panic!("{}: the lab has no '{word}'", page.name),
            }
        }
        Some(plan)
    }

    fn link(&mut self, ends: &str) {
        let ends: Vec<Vec<&str>> = ends
            .split('|')
            .map(|end| end.split_whitespace().collect())
            .collect();
        for end in &ends {
            if !self.machines.iter().any(|known| known == end[0]) {
                self.machines.push(end[0].to_owned());
                let _ = writeln!(self.topology, "machine {}", end[0]);
            }
        }
        if let [one, other] = ends.as_slice() {
            let _ = writeln!(
                self.topology,
                "cable {} {} {} {}",
                one[0], one[1], other[0], other[1]
            );
        } else {
            let switch = format!("switch{}", self.topology.len());
            let _ = writeln!(self.topology, "switch {switch}");
            for end in &ends {
                let _ = writeln!(self.topology, "port {switch} {} {}", end[0], end[1]);
            }
        }
        for end in &ends {
            let _ = writeln!(self.topology, "address {}", end.join(" "));
        }
    }
}

/// A lab that is up. It ends when this is dropped.
pub(crate) struct Lab {
    work: PathBuf,
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    count: usize,
}

impl Lab {
    pub(crate) fn start(plan: &Plan, name: &str) -> Self {
        let work = std::env::temp_dir().join(format!("podroute-page-{name}-{}", std::process::id()));
        let bin = work.join("bin");
        fs::create_dir_all(&bin).unwrap();
        for name in ["podroute", "podroute-cni", "podroute-ipam"] {
            std::os::unix::fs::symlink(lab::bins::find(name).unwrap(), bin.join(name)).unwrap();
        }
        fs::write(work.join("topology.sh"), &plan.topology).unwrap();
        fs::write(work.join("lab.sh"), include_str!("page_lab.sh")).unwrap();
        let stderr = fs::File::create(work.join("lab.log")).unwrap();
        let mut child = in_namespaces("bash")
            .arg(work.join("lab.sh"))
            .env("WORK", &work)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let orders = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut lab = Self {
            work,
            child,
            orders,
            answers,
            count: 0,
        };
        let ready = lab.answer();
        assert_eq!(ready, "ready", "{}", lab.log());
        lab
    }

    fn log(&self) -> String {
        fs::read_to_string(self.work.join("lab.log")).unwrap_or_default()
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the lab ended: {}", self.log());
        line.trim_end().to_owned()
    }

    /// Runs a script on a machine: whether it succeeded, and all its output.
    pub(crate) fn run(&mut self, machine: &str, script: &str) -> (bool, String) {
        self.count += 1;
        let id = self.count;
        let text = format!(
            "export PATH={}/bin:/usr/sbin:/usr/bin:/sbin:/bin\n{script}\n",
            self.work.display()
        );
        fs::write(self.work.join(format!("cmd-{id}")), text).unwrap();
        let orders = self.orders.as_mut().unwrap();
        writeln!(orders, "{machine} {id}").unwrap();
        orders.flush().unwrap();
        let status = self.answer();
        let out = fs::read(self.work.join(format!("out-{id}"))).unwrap_or_default();
        (status == "0", String::from_utf8_lossy(&out).into_owned())
    }

    /// Runs a script that must succeed.
    pub(crate) fn must(&mut self, machine: &str, script: &str) -> String {
        let (good, out) = self.run(machine, script);
        assert!(good, "on {machine}: {script}\n{out}");
        out
    }

    /// Runs a script until its outcome is as wanted.
    pub(crate) fn until(
        &mut self,
        machine: &str,
        script: &str,
        wanted: impl Fn(bool, &str) -> bool,
    ) -> Result<String, String> {
        let start = Instant::now();
        loop {
            let (good, out) = self.run(machine, script);
            if wanted(good, &out) {
                return Ok(out);
            }
            if start.elapsed() > LONGEST_WAIT {
                return Err(out);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Writes a file on a machine.
    pub(crate) fn write(&mut self, machine: &str, path: &str, text: &str) {
        self.must(
            machine,
            &format!("cat >{path} <<'END-OF-FILE'\n{text}END-OF-FILE"),
        );
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.work);
    }
}
