//! Tables on the terminal: one look for all commands, and the colours of states.

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, LineStyle, Table, presets};
use plateau_common::trial::TrialState;

use crate::output::Output;

/// A table being filled.
pub struct Columns {
    table: Table,
}

impl Columns {
    /// A table with these headings.
    pub fn new(output: &Output, headings: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING.header_separator(LineStyle::none().fill('─').junction('─')));
        table.set_content_arrangement(ContentArrangement::Dynamic);
        if output.colors_stdout() {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(headings.iter().map(|heading| Cell::new(heading).add_attribute(Attribute::Bold)));
        Columns { table }
    }

    /// Adds a row.
    pub fn push(&mut self, cells: Vec<Cell>) {
        self.table.add_row(cells);
    }

    /// The table as text, without trailing blanks.
    pub fn render(&self) -> String {
        let lines: Vec<String> =
            self.table.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
        lines.join("\n")
    }
}

/// A cell of text.
pub fn text(value: impl ToString) -> Cell {
    Cell::new(value.to_string())
}

/// A cell holding a number.
pub fn number(value: impl ToString) -> Cell {
    Cell::new(value.to_string()).set_alignment(CellAlignment::Right)
}

/// A trial's state in its colour.
pub fn trial_state(state: TrialState) -> Cell {
    let color = match state {
        TrialState::Pending => Color::DarkGrey,
        TrialState::Leased => Color::Cyan,
        TrialState::Running => Color::Blue,
        TrialState::Completed => Color::Green,
        TrialState::Diverged => Color::Magenta,
        TrialState::Failed | TrialState::Quarantined => Color::Red,
        TrialState::Cancelled => Color::Yellow,
    };
    Cell::new(state.name()).fg(color)
}

/// A sweep's state in its colour.
pub fn sweep_state(name: &str) -> Cell {
    let color = match name {
        "active" => Color::Blue,
        "finished" => Color::Green,
        "paused" => Color::Yellow,
        _ => Color::Red,
    };
    Cell::new(name).fg(color)
}
