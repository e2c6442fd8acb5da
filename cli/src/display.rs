//! Shows progress: bars on a terminal, plain lines every few seconds elsewhere, JSON events for programs.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{Output, OutputMode};
use crate::progress::Snapshot;

/// Time between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A progress display; what it looks like depends on who is looking.
pub struct Display {
    output: Output,
    /// Options naming the coordinator, for commands that are suggested.
    options: String,
    started: Instant,
    kind: Kind,
}

enum Kind {
    Bar(ProgressBar),
    Lines { last: Option<(Instant, String)> },
    Events,
    Nothing,
}

impl Display {
    /// A display for this output; `options` name the coordinator in suggested commands.
    pub fn new(output: &Output, options: String) -> Self {
        let kind = match output.mode() {
            OutputMode::Json => Kind::Events,
            OutputMode::Quiet => Kind::Nothing,
            OutputMode::Table if io::stderr().is_terminal() => Kind::Bar(bar(output)),
            OutputMode::Table => Kind::Lines { last: None },
        };
        Display { output: *output, options, started: Instant::now(), kind }
    }

    /// Shows the present state.
    pub fn show(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let elapsed = self.started.elapsed().as_secs_f64();
        match &mut self.kind {
            Kind::Nothing => {}
            Kind::Events => self.output.event(snapshot.to_json())?,
            Kind::Bar(bar) => {
                bar.set_length(snapshot.total_steps.max(1));
                bar.set_position(snapshot.done_steps);
                bar.set_prefix(snapshot.name.clone());
                let mut message = format!("{}\n  {}", snapshot.counts_text(), snapshot.speed_text());
                if let Some(failure) = snapshot.failure_text(&self.options) {
                    message.push_str(&format!("\n  {failure}"));
                }
                bar.set_message(message);
            }
            Kind::Lines { last } => {
                let due = last.as_ref().is_none_or(|(when, _)| when.elapsed() >= LINE_EVERY)
                    || snapshot.has_ended();
                if due {
                    let failure = snapshot.failure_text(&self.options);
                    let told = last.take().map(|(_, told)| told).unwrap_or_default();
                    self.output.note(&snapshot.line(elapsed));
                    if let Some(failure) = failure.as_ref().filter(|failure| **failure != told) {
                        self.output.note(failure);
                    }
                    *last = Some((Instant::now(), failure.unwrap_or_default()));
                }
            }
        }
        Ok(())
    }

    /// Says something beside the progress.
    pub fn note(&self, text: &str) {
        self.announcer()(text);
    }

    /// Says things beside the progress while the display itself is in use elsewhere.
    pub fn announcer(&self) -> impl Fn(&str) + use<> {
        let output = self.output;
        let bar = match &self.kind {
            Kind::Bar(bar) => Some(bar.clone()),
            _ => None,
        };
        move |text| match &bar {
            Some(bar) => bar.println(text),
            None => output.note(text),
        }
    }

    /// Leaves the last state standing.
    pub fn finish(&self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.abandon();
        }
    }
}

fn bar(output: &Output) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr_with_hz(8));
    let template = if output.colors_stderr() {
        "{prefix:.bold} {wide_bar:.green/dim} {percent:>3}%  {elapsed}\n  {msg}"
    } else {
        "{prefix} {wide_bar} {percent:>3}%  {elapsed}\n  {msg}"
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("━╸─"));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
