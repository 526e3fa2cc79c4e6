//! The table, and the same figures as JSON.

use super::timing::{Times, Way};
use serde_json::{Map, Value, json};
use std::path::Path;

/// What is measured, as it is going to be printed.
#[derive(Default)]
pub struct Report {
    times: Vec<String>,
    counts: Vec<String>,
    figures: Map<String, Value>,
}

impl Report {
    /// A work, our way first.
    pub fn ways(&mut self, work: &str, ways: &[Way]) {
        for way in ways {
            self.figure(work, way.name, &way.times);
        }
        let [ours, others @ ..] = ways else { return };
        for other in others {
            self.compare(work, (ours.name, &ours.times), (other.name, &other.times));
        }
    }

    pub fn compare(&mut self, work: &str, ours: (&str, &Times), other: (&str, &Times)) {
        let ratio = ours.1.median() / other.1.median();
        println!("{work}: {} {}, {} {}: {ratio:.2}", ours.0, ours.1, other.0, other.1);
        let runs = if ours.1.len() == other.1.len() { ours.1.len().to_string() } else { "?".to_owned() };
        self.times
            .push(format!("| {work}, {} | {} | {ratio:.2} | {} | {} | {runs} |", ours.0, other.0, ours.1, other.1));
    }

    /// What something costs beyond what is needed anyway.
    pub fn added(&mut self, work: &str, ways: &[Way], base: &str) {
        let of = |name: &str| ways.iter().find(|way| way.name == name).map_or(f64::NAN, |way| way.times.median());
        let (base_time, ours) = (of(base), &ways[0]);
        let own = ours.times.median() - base_time;
        for other in ways[1..].iter().filter(|way| way.name != base) {
            let theirs = other.times.median() - base_time;
            println!("{work}: {} {own:.2}, {} {theirs:.2}: {:.2}", ours.name, other.name, own / theirs);
            self.times.push(format!(
                "| {work}, {} | {} | {:.2} | {own:.2} | {theirs:.2} | {} |",
                ours.name,
                other.name,
                own / theirs,
                ours.times.len()
            ));
        }
    }

    /// A way that there is not.
    pub fn missing(&mut self, work: &str, ours: &str, other: &str, why: &str) {
        println!("{work}, {ours}, {other}: {why}");
        self.times.push(format!("| {work}, {ours} | {other} | | {why} | | |"));
    }

    pub fn figure(&mut self, work: &str, way: &str, times: &Times) {
        let figures = json!({
            "runs": times.len(), "median": times.median(), "q1": times.quantile(0.25), "q3": times.quantile(0.75),
            "least": times.quantile(0.0), "most": times.quantile(1.0),
        });
        self.set(work, way, figures);
    }

    /// What does not depend on the machine's mood.
    pub fn count(&mut self, what: &str, value: impl ToString, bound: &str) {
        let value = value.to_string();
        println!("{what}: {value} ({bound})");
        self.counts.push(format!("| {what} | {value} | {bound} |"));
        // A number where it is one.
        self.set("counts", what, value.parse::<u64>().map_or_else(|_| json!(value), |number| json!(number)));
    }

    pub fn set(&mut self, work: &str, way: &str, value: Value) {
        let entry = self.figures.entry(work).or_insert_with(|| json!({}));
        entry[way] = value;
    }

    fn table(&self, machine: &str) -> String {
        format!(
            "{machine} Times in ms until what is executed is there: median (quartiles).\n\n\
             | work | beside | ours / theirs | ours | theirs | runs of each |\n|---|---|---|---|---|---|\n{}\n\n\
             | | measured | bound |\n|---|---|---|\n{}\n\n{}",
            self.times.join("\n"),
            self.counts.join("\n"),
            super::asked::table(&self.figures)
        )
    }

    /// Writes everything into the folder.
    pub fn write(mut self, folder: &Path, machine: &str, plot: &str) -> std::io::Result<()> {
        let table = self.table(machine);
        println!("\n{table}");
        self.set("machine", "is", json!(machine));
        super::page::put(folder, "bench", &table)?;
        std::fs::write(folder.join("performance.json"), format!("{:#}\n", Value::Object(self.figures)))?;
        if plot.is_empty() { Ok(()) } else { std::fs::write(folder.join("ports.svg"), plot) }
    }
}
