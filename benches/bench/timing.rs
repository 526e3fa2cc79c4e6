//! Time from before a program is started until what it becomes is there: its first byte on standard output. Not until it
//! ends: the kernel takes 10 to 20 ms to close a TAP, whoever made it.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What the kernel does after a TAP has gone is over by then, and not paid for by who comes next.
const PAUSE: Duration = Duration::from_millis(4);

/// A program that is there.
pub struct Ready {
    child: Child,
    pub took: Duration,
}

/// Starts a program and waits until it is there.
pub fn start(command: Command) -> Ready {
    let begun = Instant::now();
    let mut child = spawn(command);
    wait_for_byte(&mut child);
    Ready { child, took: begun.elapsed() }
}

/// Starts all of them, and tells how long it took until the last one was there.
pub fn start_all(commands: Vec<Command>) -> (Vec<Ready>, Duration) {
    let begun = Instant::now();
    let mut children: Vec<Child> = commands.into_iter().map(spawn).collect();
    children.iter_mut().for_each(wait_for_byte);
    let took = begun.elapsed();
    (children.into_iter().map(|child| Ready { child, took }).collect(), took)
}

fn spawn(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn wait_for_byte(child: &mut Child) {
    let mut byte = [0];
    let mut out = child.stdout.take().expect("a pipe");
    if out.read_exact(&mut byte).is_err() {
        panic!("a program ended before it was there: {:?}", child.wait());
    }
    // It may go on writing: QEMU's version, QMP.
    child.stdout = Some(out);
}

impl Ready {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// For one that is only to stay: its output is not needed any more.
    pub fn without_output(mut self) -> Self {
        self.child.stdout = None;
        self
    }

    pub fn end(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Lets it end by itself, when its input ends.
    pub fn leave(mut self) {
        self.child.stdin = None;
        let _ = self.child.wait();
    }
}

/// Kills all of them, and then waits for them.
pub fn end_all(mut all: Vec<Ready>) {
    for ready in &mut all {
        let _ = ready.child.kill();
    }
    all.into_iter().for_each(Ready::end);
}

/// One way to do some work.
pub struct Way<'a> {
    pub name: &'static str,
    command: Box<dyn Fn() -> Command + 'a>,
    after: Box<dyn Fn() + 'a>,
    pub times: Times,
}

impl<'a> Way<'a> {
    pub fn new(name: &'static str, command: impl Fn() -> Command + 'a) -> Self {
        Self { name, command: Box::new(command), after: Box::new(|| ()), times: Times::default() }
    }

    /// What is to be tidied up after each time.
    pub fn after(mut self, after: impl Fn() + 'a) -> Self {
        self.after = Box::new(after);
        self
    }
}

/// Has the ways take turns, each time another one first, and in both directions, so that none comes always after the same
/// other one. One turn before the others is not counted.
pub fn take_turns(ways: &mut [Way], runs: usize) {
    for run in 0..=runs {
        for turn in 0..ways.len() {
            let at = (turn + run) % ways.len();
            let at = if (run / ways.len()) % 2 == 0 { at } else { ways.len() - 1 - at };
            let way = &mut ways[at];
            let ready = start((way.command)());
            let took = ready.took;
            ready.end();
            (way.after)();
            sleep(PAUSE);
            if run > 0 {
                way.times.add(took);
            }
        }
    }
}

/// Times of the same work, in milliseconds.
#[derive(Default, Clone)]
pub struct Times(Vec<f64>);

impl Times {
    pub fn add(&mut self, took: Duration) {
        let took = took.as_secs_f64() * 1000.0;
        let at = self.0.partition_point(|other| *other < took);
        self.0.insert(at, took);
    }

    pub fn of(times: &[f64]) -> Self {
        let mut times = times.to_vec();
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    /// The value below which this part of them is; between two of them in proportion.
    pub fn quantile(&self, part: f64) -> f64 {
        let at = self.0.len().saturating_sub(1) as f64 * part;
        let value = |at: f64| self.0.get(at as usize).copied().unwrap_or(f64::NAN);
        let (low, high) = (value(at.floor()), value(at.ceil()));
        low + (high - low) * at.fract()
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = if self.median() >= 100.0 { 0 } else { 2 };
        let [low, median, high] = [0.25, 0.5, 0.75].map(|part| self.quantile(part));
        write!(out, "{median:.digits$} ({low:.digits$} to {high:.digits$})")
    }
}
