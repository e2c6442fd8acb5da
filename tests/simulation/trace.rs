//! What happened in a simulation, line by line: every HTTP/2 frame that an agent or client sent or received, and every
//! event that coordinator and agents log, each with its simulated time.
//!
//! A simulation runs in one thread, so its trace belongs to the thread.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::sync::Once;

use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Begins a trace in this thread.
pub fn begin() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(Recorder);
        // Fails where a test binary has a subscriber already; this one has none.
        let _ = tracing::subscriber::set_global_default(subscriber);
    });
    LINES.with_borrow_mut(Vec::clear);
}

/// Adds a line.
pub fn record(text: fmt::Arguments<'_>) {
    let at = turmoil::sim_elapsed().unwrap_or_default().as_millis();
    LINES.with_borrow_mut(|lines| lines.push(format!("{at:>8} {text}")));
}

/// Ends the trace and gives it.
pub fn take() -> Vec<String> {
    LINES.with_borrow_mut(std::mem::take)
}

/// The last lines so far, for a failure's report.
pub fn last(count: usize) -> Vec<String> {
    let logged = |line: &&String| !line.contains(" frame ");
    LINES.with_borrow(|lines| {
        let mut last: Vec<String> = lines.iter().rev().filter(logged).take(count).cloned().collect();
        last.reverse();
        last
    })
}

struct Recorder;

impl<S: tracing::Subscriber> Layer<S> for Recorder {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target().starts_with("plateau")
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut text = String::new();
        event.record(&mut Fields(&mut text));
        let metadata = event.metadata();
        record(format_args!("{} {}{text}", metadata.level(), metadata.target()));
    }
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // The folder of a simulation is another at each run, and so is the text of what lies there.
        if !matches!(field.name(), "data" | "folder") {
            let _ = write!(self.0, " {}={value:?}", field.name());
        }
    }
}

/// Follows one direction of a connection and records its frames. The bytes of headers are left out: they hold the date by
/// the wall clock of the machine that simulates.
pub struct Frames {
    name: String,
    buffer: Vec<u8>,
    /// Bytes of the greeting that a client sends first.
    greeting: usize,
}

const HEAD: usize = 9;
const DATA: u8 = 0;
const GREETING: usize = 24;

impl Frames {
    /// `name` says whose connection and which direction.
    pub fn new(name: String, from_client: bool) -> Self {
        Frames { name, buffer: Vec::new(), greeting: if from_client { GREETING } else { 0 } }
    }

    /// Takes the next bytes.
    pub fn follow(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < self.greeting {
            return;
        }
        self.buffer.drain(..std::mem::take(&mut self.greeting));
        while let [a, b, c, kind, flags, s1, s2, s3, s4, rest @ ..] = self.buffer.as_slice() {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let Some(payload) = rest.get(..length) else { return };
            let stream = u32::from_be_bytes([*s1, *s2, *s3, *s4]);
            let name = &self.name;
            match *kind {
                DATA => record(format_args!(
                    "{name} frame data {flags} {stream} {length} {}",
                    &blake3::hash(payload).to_hex()[..16]
                )),
                kind => record(format_args!("{name} frame {kind} {flags} {stream}")),
            }
            self.buffer.drain(..HEAD + length);
        }
    }
}
