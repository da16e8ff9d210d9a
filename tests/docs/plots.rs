//! The plots of `docs/fairness.md`, made by the queue that dispatches, under a clock of its own; drawn by hand.
//!
//! `just plots` writes them anew. Otherwise they are compared with what the queue does now: a change of its behaviour is
//! a change of the pictures.

use std::fmt::Write as _;
use std::fs;

use selvedge::flow::fair::{Ageing, AgentQueue, Charge};
use selvedge::flow::tasks::Slot;

const SLOTS: usize = 20;
const LENGTH: u64 = 20;
/// Normal, in order of arrival.
const RANK: u8 = 3;

/// Slots, and who has them, in milliseconds.
struct Sim {
    queue: AgentQueue,
    now: u64,
    order: u64,
    /// End, tenant, charge.
    running: Vec<(u64, u32, u64, Charge)>,
    weights: Vec<u32>,
    started: Vec<Vec<u64>>,
}

impl Sim {
    fn new(weights: &[u32]) -> Self {
        let (queue, started) = (AgentQueue::default(), vec![Vec::new(); weights.len()]);
        Self { queue, now: 0, order: 0, running: Vec::new(), weights: weights.to_vec(), started }
    }

    fn submit(&mut self, tenant: u32, tasks: u64) {
        for _ in 0..tasks {
            self.queue.push(tenant, (RANK, self.order), Slot(self.order as u32), 1);
            self.order += 1;
        }
        self.queue.set_open(tenant, true, true);
    }

    /// Gives free slots away; the first ones get tasks that end in turn, so that slots are not free all at once.
    fn dispatch(&mut self) {
        while self.running.len() < SLOTS {
            let Some((tenant, slot)) = self.queue.next(Ageing::default()) else { break };
            let weight = self.weights[tenant as usize];
            let charge = self.queue.start(tenant, (RANK, u64::from(slot.0)), weight);
            self.queue.set_open(tenant, true, true);
            let begun = self.started.iter().map(Vec::len).sum::<usize>();
            let length = if begun < SLOTS { begun as u64 + 1 } else { LENGTH };
            self.started[tenant as usize].push(self.now);
            self.running.push((self.now + length, tenant, length, charge));
        }
    }

    /// A millisecond passes.
    fn tick(&mut self) {
        self.dispatch();
        self.now += 1;
        let (ended, running) = self.running.drain(..).partition(|(end, ..)| *end <= self.now);
        self.running = running;
        for (_, tenant, length, charge) in ended {
            self.queue.settle(tenant, charge, Some(length), self.weights[tenant as usize]);
            self.queue.set_open(tenant, true, true);
        }
    }

    fn held(&self, tenant: u32) -> usize {
        self.running.iter().filter(|(_, who, ..)| *who == tenant).count()
    }
}

/// A line of a plot.
struct Series {
    name: &'static str,
    colour: &'static str,
    points: Vec<(f64, f64)>,
}

/// How an axis maps to the picture.
struct Axis {
    name: &'static str,
    from: f64,
    to: f64,
    log: bool,
    ticks: Vec<(f64, &'static str)>,
}

impl Axis {
    fn at(&self, value: f64) -> f64 {
        let scale = |v: f64| if self.log { v.max(self.from).log10() } else { v };
        (scale(value) - scale(self.from)) / (scale(self.to) - scale(self.from))
    }
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

fn svg(title: &str, x: &Axis, y: &Axis, series: &[Series]) -> String {
    let px = |v: f64| LEFT + x.at(v) * (WIDTH - LEFT - RIGHT);
    let py = |v: f64| HEIGHT - BOTTOM - y.at(v) * (HEIGHT - TOP - BOTTOM);
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"14\">{title}</text>\n"
    );
    let mut put = |line: String| {
        out.push_str(&line);
        out.push('\n');
    };
    for (value, text) in &x.ticks {
        let at = px(*value);
        put(format!("<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\" stroke=\"#ddd\"/>"));
        put(format!("<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>", bottom + 18.0));
    }
    for (value, text) in &y.ticks {
        let at = py(*value);
        put(format!("<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>"));
        let (x, y) = (LEFT - 8.0, at + 4.0);
        put(format!("<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{text}</text>"));
    }
    let middle = f64::midpoint(LEFT, right);
    put(format!("<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>", HEIGHT - 10.0, x.name));
    let (at, up) = (16.0, f64::midpoint(TOP, bottom));
    put(format!(
        "<text x=\"{at}\" y=\"{up}\" text-anchor=\"middle\" transform=\"rotate(-90 {at} {up})\">{}</text>",
        y.name
    ));
    for (n, line) in series.iter().enumerate() {
        let mut points = String::new();
        for (a, b) in &line.points {
            let _ = write!(points, "{:.1},{:.1} ", px(*a), py(*b));
        }
        let colour = line.colour;
        put(format!(
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
            points.trim_end()
        ));
        let (x, y) = (right + 10.0, TOP + 14.0 + 20.0 * n as f64);
        put(format!("<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{}</text>", line.name));
    }
    out + "</svg>\n"
}

/// Weights 1, 2 and 4; the last has work only between the tenth and the twentieth second.
fn shares_over_time() -> String {
    const WINDOW: u64 = 500;
    let mut sim = Sim::new(&[1, 2, 4]);
    let mut points = vec![Vec::new(); 3];
    let mut held = [0usize; 3];
    while sim.now < 30_000 {
        let greedy = [true, true, (10_000..20_000).contains(&sim.now)];
        for tenant in 0..3u32 {
            if greedy[tenant as usize] && sim.queue.queued_of(tenant) < SLOTS {
                sim.submit(tenant, SLOTS as u64);
            }
        }
        sim.dispatch();
        (0..3).for_each(|tenant| held[tenant as usize] += sim.held(tenant));
        sim.tick();
        if sim.now.is_multiple_of(WINDOW) {
            let all: usize = held.iter().sum();
            for (tenant, held) in held.iter_mut().enumerate() {
                let share = *held as f64 / all as f64 * 100.0;
                points[tenant].push((sim.now as f64 / 1e3, share));
                *held = 0;
            }
        }
    }
    let mut points = points.into_iter();
    let mut line = |name, colour| Series { name, colour, points: points.next().unwrap() };
    let series = [line("weight 1", "#1f77b4"), line("weight 2", "#2ca02c"), line("weight 4", "#d62728")];
    let x = Axis {
        name: "seconds; the third tenant has work from 10 to 20",
        from: 0.0,
        to: 30.0,
        log: false,
        ticks: vec![(0.0, "0"), (10.0, "10"), (20.0, "20"), (30.0, "30")],
    };
    let y = Axis {
        name: "part of 20 slots, %",
        from: 0.0,
        to: 100.0,
        log: false,
        ticks: vec![(0.0, "0"), (33.333, "1/3"), (66.667, "2/3"), (57.143, "4/7"), (14.286, "1/7")],
    };
    svg("Shares follow weights among those who have work", &x, &y, &series)
}

/// The slowest start of 20 tasks behind so many of another tenant, in milliseconds.
fn slowest_wait(backlog: u64) -> u64 {
    let mut sim = Sim::new(&[1, 1]);
    sim.submit(0, backlog + SLOTS as u64);
    // The slots are taken, and free in turn.
    (0..2 * LENGTH + 7).for_each(|_| sim.tick());
    let came = sim.now;
    sim.submit(1, SLOTS as u64);
    while sim.started[1].len() < SLOTS {
        sim.tick();
    }
    sim.started[1].iter().map(|at| at - came).max().unwrap()
}

fn wait_against_backlog() -> String {
    let backlogs = [50u64, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000];
    let of = |wait: &dyn Fn(u64) -> f64| backlogs.iter().map(|n| (*n as f64, wait(*n))).collect::<Vec<_>>();
    let slots = SLOTS as u64;
    let series = [
        Series { name: "one shared FIFO", colour: "#d62728", points: of(&|n| (n * LENGTH / slots) as f64) },
        // Ten slots of its own: the second ten start when the first have ended.
        Series { name: "a fixed half each", colour: "#1f77b4", points: of(&|_| LENGTH as f64) },
        Series { name: "Selvedge", colour: "#2ca02c", points: of(&|n| slowest_wait(n) as f64) },
    ];
    let ticks = vec![(100.0, "100"), (1_000.0, "1,000"), (10_000.0, "10,000"), (100_000.0, "100,000")];
    let x = Axis { name: "tasks of the other tenant in front", from: 50.0, to: 200_000.0, log: true, ticks };
    let ticks =
        vec![(10.0, "10"), (100.0, "100"), (1_000.0, "1 s"), (10_000.0, "10 s"), (100_000.0, "100 s")];
    let y = Axis { name: "slowest wait of 20 tasks, ms", from: 10.0, to: 300_000.0, log: true, ticks };
    svg("20 tasks of 20 ms behind another tenant's, 20 slots", &x, &y, &series)
}

#[test]
fn the_plots_are_what_the_queue_does() {
    for (name, now) in [("shares.svg", shares_over_time()), ("wait.svg", wait_against_backlog())] {
        let path = format!("{}/docs/plots/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("SELVEDGE_UPDATE_DOCS").is_some() {
            fs::create_dir_all(format!("{}/docs/plots", env!("CARGO_MANIFEST_DIR"))).unwrap();
            fs::write(&path, &now).unwrap();
        }
        let known = fs::read_to_string(&path).unwrap_or_default();
        assert!(known == now, "docs/plots/{name} shows something else; `just plots` writes it anew");
    }
}

#[test]
fn what_waits_behind_two_hundred_thousand_waits_no_longer_than_behind_fifty() {
    let (few, many) = (slowest_wait(50), slowest_wait(200_000));
    assert_eq!(few, many);
    assert!(many <= 2 * LENGTH, "{many} ms");
}
